//! What a lab leaves on the machine, and how it goes: when the lab is dropped, when a signal ends the
//! process (Ctrl-C), or, after a SIGKILL, when the next lab is built.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::{self, exit},
    sync::{
        Mutex, Once, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{
    Host, huge_pages,
    namespace::{self, Namespace},
};

/// Where labs have their directories: some of their files are too large for a file system in memory.
const DIRECTORIES: &str = "/var/tmp";
/// How the directories of unnamed labs begin; `PID.NUMBER` follows.
const PREFIX: &str = "shunt-lab.";

/// Those of this process.
static FOOTPRINTS: Mutex<Vec<Footprint>> = Mutex::new(Vec::new());
/// Read by who makes namespaces, written by who removes all: nothing is made after that.
static ENDING: RwLock<()> = RwLock::new(());
/// Whether a signal ends this process.
static HAS_SIGNAL: AtomicBool = AtomicBool::new(false);

/// The names of a lab's namespaces, and its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footprint {
    /// What the names of its namespaces begin with.
    name: String,
    dir: PathBuf,
}

impl Footprint {
    /// One that no other lab has, neither of this process nor of another.
    pub(super) fn unique() -> Footprint {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let footprint = Footprint::of_process(&format!("{}.{number}", process::id()));
            // An earlier process with this id may have been killed.
            if !footprint.dir.exists() {
                return footprint;
            }
        }
    }

    fn of_process(id: &str) -> Footprint {
        Footprint {
            name: format!("shunt-{id}"),
            dir: Path::new(DIRECTORIES).join(format!("{PREFIX}{id}")),
        }
    }

    /// That of the lab which users play with: namespaces that are easy to type.
    pub(super) fn for_users() -> Footprint {
        Footprint { name: "shunt".to_owned(), dir: Path::new(DIRECTORIES).join("shunt-lab") }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn namespace(&self, host: Host) -> Namespace {
        Namespace::named(format!("{}-{}", self.name, host.name()))
    }

    /// Makes the directory. From here on, all that is made goes when this process ends.
    pub(super) fn begin(&self) -> Begun {
        remove_signalled();
        lock(&FOOTPRINTS).push(self.clone());
        let ending = ENDING.read().unwrap_or_else(PoisonError::into_inner);
        // It must not exist: in this place, another user may have made it.
        let made = fs::DirBuilder::new().mode(0o700).create(&self.dir);
        made.unwrap_or_else(|error| panic!("{}: {error}", self.dir.display()));
        Begun { _ending: ending }
    }

    /// Leaves what was made to whoever comes.
    pub(super) fn leave(&self) {
        lock(&FOOTPRINTS).retain(|each| each != self);
    }

    /// Ends all processes in the lab's namespaces, and removes those and all else.
    pub(super) fn remove(&self) {
        namespace::remove(&Host::ALL.map(|host| self.namespace(host)));
        huge_pages::restore(&self.dir);
        if is_ours(&self.dir) {
            let _ = fs::remove_dir_all(&self.dir);
        }
        self.leave();
    }
}

/// While this lives, a signal waits with its removing until what is being made is there.
pub(super) struct Begun {
    _ending: RwLockReadGuard<'static, ()>,
}

/// Removes what processes left that were killed.
pub(super) fn remove_stale() {
    let Ok(entries) = fs::read_dir(DIRECTORIES) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let pid = id.split_once('.').and_then(|(pid, _)| pid.parse::<u32>().ok());
        let is_stale = pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if is_stale && is_ours(&entry.path()) {
            Footprint::of_process(id).remove();
        }
    }
}

fn is_ours(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == 0)
}

/// Has a thread wait for the signals that end this process, and remove all labs first.
fn remove_signalled() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut signals =
            Signals::new([SIGINT, SIGTERM, SIGHUP]).expect("signals that can be caught");
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let _ending = ENDING.write().unwrap_or_else(PoisonError::into_inner);
                HAS_SIGNAL.store(true, Ordering::SeqCst);
                let footprints = lock(&FOOTPRINTS).clone();
                footprints.iter().for_each(Footprint::remove);
                exit(128 + signal);
            }
        });
    });
}

/// Does not return when a signal ends this process: what fails from then on is the signal's doing, and
/// this process must not end before all is removed.
pub(super) fn wait_if_ending() {
    while HAS_SIGNAL.load(Ordering::SeqCst) {
        thread::park();
    }
}

fn lock(footprints: &Mutex<Vec<Footprint>>) -> std::sync::MutexGuard<'_, Vec<Footprint>> {
    footprints.lock().unwrap_or_else(PoisonError::into_inner)
}
