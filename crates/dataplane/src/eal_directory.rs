//! The directory that EAL makes for the files of a process, `/var/run/dpdk/PREFIX`, and that it leaves
//! behind.
//!
//! A director makes and locks its own before EAL starts and removes it when it ends. What directors that
//! were killed left is removed by the next one: nobody has locked that, and its process is gone.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process,
};

use tracing::debug;

use crate::lock_file::{Attempt, lock_directory, make_private, runtime_directory};

/// What the prefixes of all directors begin with; their process's number follows.
const PREFIX: &str = "shunt-";

/// Removes its directory when it goes.
pub(crate) struct EalDirectory {
    prefix: String,
    /// `None` where there is no place for one, which EAL can do without.
    directory: Option<(PathBuf, File)>,
}

impl EalDirectory {
    /// Removes the directories of directors that are dead, and makes one for this process.
    pub(crate) fn make() -> EalDirectory {
        let prefix = format!("{PREFIX}{}", process::id());
        let directory = runtime_directory("/var/run/dpdk", "dpdk", "/tmp/dpdk").and_then(|all| {
            make_private(&all)?;
            remove_dead(&all, Path::new("/proc"));
            lock_own(&all.join(&prefix))
        });
        if let Err(error) = &directory {
            debug!("no directory of our own for EAL: {error}");
        }
        EalDirectory { prefix, directory: directory.ok() }
    }

    /// EAL's `--file-prefix`.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl Drop for EalDirectory {
    fn drop(&mut self) {
        if let Some((directory, _lock)) = &self.directory {
            // What can't be removed now, the next director removes.
            let _ = fs::remove_dir_all(directory);
        }
    }
}

fn lock_own(directory: &Path) -> io::Result<(PathBuf, File)> {
    make_private(directory)?;
    match lock_directory(directory)? {
        Attempt::Locked(lock) => Ok((directory.to_owned(), lock)),
        Attempt::Taken => Err(io::ErrorKind::ResourceBusy.into()),
    }
}

/// Removes what directors left whose processes are not among those of `processes`.
fn remove_dead(all: &Path, processes: &Path) {
    for entry in fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let is_number = !process.is_empty() && process.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || processes.join(process).exists() {
            continue;
        }
        // Its process may be in another namespace for processes, where its number means something.
        if let Ok(Attempt::Locked(_lock)) = lock_directory(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_dead_is_removed() {
        let all = tempfile::tempdir().unwrap();
        let processes = tempfile::tempdir().unwrap();
        for name in ["shunt-1", "shunt-2", "shunt-3", "shunt-x", "rte", "shunt-"] {
            fs::create_dir(all.path().join(name)).unwrap();
            fs::write(all.path().join(name).join("config"), "").unwrap();
        }
        fs::create_dir(processes.path().join("2")).unwrap();
        let locked = lock_directory(&all.path().join("shunt-3")).unwrap();
        assert!(matches!(locked, Attempt::Locked(_)));

        let left = || {
            let names = fs::read_dir(all.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names.join(" ")
        };
        remove_dead(all.path(), processes.path());
        assert_eq!(left(), "rte shunt- shunt-2 shunt-3 shunt-x", "2 runs, and 3 is locked");
        drop(locked);
        remove_dead(all.path(), processes.path());
        assert_eq!(left(), "rte shunt- shunt-2 shunt-x");
    }

    #[test]
    fn its_own_goes_with_it() {
        let all = tempfile::tempdir().unwrap();
        let path = all.path().join("shunt-7");
        let directory = lock_own(&path).unwrap();
        fs::write(path.join("mp_socket"), "").unwrap();
        let own = EalDirectory { prefix: "shunt-7".to_owned(), directory: Some(directory) };
        assert!(matches!(lock_directory(&path).unwrap(), Attempt::Taken));
        drop(own);
        assert!(!path.exists());
    }
}
