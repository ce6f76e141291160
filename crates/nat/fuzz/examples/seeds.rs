//! Writes `seeds/`, what the fuzz targets start from: the scenes, the frames that occur in them, and
//! service files of the configuration's own tests.
//!
//! `cargo run --example seeds`, in the directory of this package.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use arbitrary::Unstructured;
use shunt_nat_fuzz::{Director, Steps, scenes};

/// More wrong files, and more frames of a scene, make the fuzzer no cleverer.
const WRONG_FILES: usize = 40;
const FRAMES_OF_SCENE: usize = 4;

fn main() -> io::Result<()> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let seeds = package.join("seeds");
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let directory = seeds.join(target);
        fs::create_dir_all(&directory)?;
        fs::write(directory.join(name), bytes)
    };

    let mut everything = Steps(vec![]);
    for (name, steps) in scenes() {
        let bytes = steps.to_bytes();
        let read = Unstructured::new(&bytes).arbitrary::<Steps>().expect("steps");
        assert_eq!(read.to_bytes(), bytes, "{name} is read as something else");
        write("sequence", name, &bytes)?;
        for (number, frame) in frames(&steps).into_iter().enumerate() {
            write("frame", &format!("{name}-{number}"), &frame)?;
        }
        everything.0.extend(steps.0);
    }
    write("sequence", "everything", &everything.to_bytes())?;

    let tests = package.join("../../config/tests");
    let mut files = listing(&tests.join("good"))?;
    files.push(package.join("../../../examples/lvs-nat.toml"));
    let wrong = listing(&tests.join("bad"))?;
    let every = wrong.len().div_ceil(WRONG_FILES);
    files.extend(wrong.into_iter().step_by(every));
    for file in files {
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        write("service_file", name, &fs::read(&file)?)?;
    }
    Ok(())
}

/// Frames of different kinds that arrive in a scene, with `frame`'s first byte.
fn frames(steps: &Steps) -> Vec<Vec<u8>> {
    let mut director = Director::new();
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for step in &steps.0 {
        director.step(step);
        let Some((side, frame)) = director.last_frame() else { continue };
        let input = [&[side as u8], &frame[..]].concat();
        if !frames.contains(&input) {
            frames.push(input);
        }
    }
    frames.truncate(FRAMES_OF_SCENE);
    frames
}

fn listing(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    files.sort();
    Ok(files)
}
