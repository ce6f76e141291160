//! Locks on files that go with the process, however it ends: the kernel drops them (`flock(2)`).

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// The user that this process is.
pub(crate) fn user() -> io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

/// The directory for files of a running program: `root` for root; for others `name` below
/// `$XDG_RUNTIME_DIR`, or `fallback` where there is none.
pub(crate) fn runtime_directory(root: &str, name: &str, fallback: &str) -> io::Result<PathBuf> {
    match (user()?, std::env::var_os("XDG_RUNTIME_DIR")) {
        (0, _) => Ok(PathBuf::from(root)),
        (_, Some(directory)) => Ok(Path::new(&directory).join(name)),
        (_, None) => Ok(PathBuf::from(fallback)),
    }
}

/// Makes a directory that only this user may write to, if there is none. One that another user has
/// made is refused.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != user()? {
        return Err(io::Error::other(format!(
            "{} is another user's, or no directory",
            directory.display()
        )));
    }
    Ok(())
}

/// What became of an attempt to lock a file or a directory.
pub(crate) enum Attempt {
    /// It is ours, as long as this is open.
    Locked(File),
    /// Another process has it.
    Taken,
}

/// Locks a file, which is made if there is none. The lock is of the file that is at `path` when this
/// returns, though others may have removed one meanwhile.
pub(crate) fn lock_file(path: &Path) -> io::Result<Attempt> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    lock(path, || options.open(path))
}

/// Locks a directory that is there.
pub(crate) fn lock_directory(path: &Path) -> io::Result<Attempt> {
    lock(path, || File::open(path))
}

fn lock(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<Attempt> {
    loop {
        let file = open()?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Attempt::Taken),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let ours = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                return Ok(Attempt::Locked(file));
            }
            // Its owner has removed it between the opening and the locking.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}
