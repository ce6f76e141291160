//! How much memory this process can have.
//!
//! Linux gives out more memory than it has and kills whoever uses it. So what a director is going to use
//! is held against what there is before it starts: in the machine (`MemAvailable`), and within the limit of
//! each control group that the process is in, of either version (containers, `MemoryMax=` of systemd).

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// Memory that is left, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Available {
    pub(crate) bytes: u64,
    pub(crate) scope: MemoryScope,
}

/// What bounds memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryScope {
    /// The machine has no more.
    Machine,
    /// A control group must not have more.
    ControlGroup(PathBuf),
}

impl fmt::Display for MemoryScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryScope::Machine => write!(f, "on this machine"),
            MemoryScope::ControlGroup(path) => {
                write!(f, "within the limit of the control group {}", path.display())
            }
        }
    }
}

/// The least that any of them leaves; `None` where the kernel says nothing.
pub(crate) fn available() -> Option<Available> {
    available_by(Path::new("/proc"))
}

fn available_by(proc: &Path) -> Option<Available> {
    let machine = field(&proc.join("meminfo"), "MemAvailable:")
        .map(|kib| Available { bytes: kib << 10, scope: MemoryScope::Machine });
    let groups = control_groups(proc);
    machine.into_iter().chain(groups).min_by_key(|available| available.bytes)
}

/// What the limits of the process's control groups leave.
fn control_groups(proc: &Path) -> Vec<Available> {
    let read = |file| fs::read_to_string(proc.join("self").join(file)).unwrap_or_default();
    let (groups, mounts) = (read("cgroup"), read("mountinfo"));
    let mut all = Vec::new();
    for line in groups.lines() {
        // HIERARCHY:CONTROLLERS:PATH; version 2 has one hierarchy, 0, and names no controllers.
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let version = match controllers {
            "" => &V2,
            _ if controllers.split(',').any(|controller| controller == "memory") => &V1,
            _ => continue,
        };
        for mount in mounts.lines().filter_map(|line| Mount::parse(line, version)) {
            all.extend(mount.groups(path).filter_map(|group| version.left(&group)));
        }
    }
    all
}

/// The files of a version of control groups.
struct Version {
    file_system: &'static str,
    /// What the mount's options have to name.
    option: Option<&'static str>,
    limit: &'static str,
    usage: &'static str,
    /// Of `memory.stat`: pages of files, which the kernel gives up when it needs room.
    reclaimable: [&'static str; 2],
}

const V2: Version = Version {
    file_system: "cgroup2",
    option: None,
    limit: "memory.max",
    usage: "memory.current",
    reclaimable: ["active_file", "inactive_file"],
};

const V1: Version = Version {
    file_system: "cgroup",
    option: Some("memory"),
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: ["total_active_file", "total_inactive_file"],
};

impl Version {
    /// What a group's limit leaves, if it has one.
    fn left(&self, group: &Path) -> Option<Available> {
        let number = |file| -> Option<u64> {
            fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
        };
        // Without a limit it is "max", or in version 1 a number that no machine has.
        let (limit, usage) = (number(self.limit)?, number(self.usage)?);
        let stat = group.join("memory.stat");
        let reclaimable: u64 = self.reclaimable.iter().filter_map(|key| field(&stat, key)).sum();
        let bytes = limit.saturating_sub(usage.saturating_sub(reclaimable));
        Some(Available { bytes, scope: MemoryScope::ControlGroup(group.to_owned()) })
    }
}

/// A mount of control groups.
struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    at: PathBuf,
}

impl Mount {
    /// Reads a line of `/proc/self/mountinfo`, if it is about that version.
    fn parse(line: &str, version: &Version) -> Option<Mount> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut file_system = file_system.split(' ');
        let kind = file_system.next()?;
        let options = file_system.nth(1)?;
        let is_it = kind == version.file_system
            && version.option.is_none_or(|option| options.split(',').any(|o| o == option));
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        is_it.then(|| Mount { root: root.into(), at: at.into() })
    }

    /// A group and those that it is in, as far as the mount shows them.
    fn groups(&self, path: &str) -> impl Iterator<Item = PathBuf> + use<'_> {
        // In a container, the root of the mount is mostly the process's own group.
        let below = Path::new(path).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let below = below.to_owned();
        let depth = below.components().count();
        (0..=depth).map(move |up| {
            let part: PathBuf = below.components().take(depth - up).collect();
            if part.as_os_str().is_empty() { self.at.clone() } else { self.at.join(part) }
        })
    }
}

/// The number behind a key, in a file of keys and numbers.
fn field(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if words.next()? == key { words.next()?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A made-up /proc and /sys, which go with the value.
    struct System(tempfile::TempDir);

    impl System {
        fn new(cgroup: &str, mountinfo: &str, groups: &[(&str, &str)]) -> System {
            let system = System(tempfile::tempdir().unwrap());
            let root = system.0.path().to_str().unwrap();
            system.write("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n");
            system.write("proc/self/cgroup", cgroup);
            system.write("proc/self/mountinfo", &mountinfo.replace("ROOT", root));
            for (file, content) in groups {
                system.write(file, content);
            }
            system
        }

        fn write(&self, file: &str, content: &str) {
            let path = self.0.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn available(&self) -> (u64, String) {
            let Available { bytes, scope } = available_by(&self.0.path().join("proc")).unwrap();
            (bytes, scope.to_string().replace(self.0.path().to_str().unwrap(), ""))
        }
    }

    #[test]
    fn a_machine_without_groups_has_what_it_has() {
        let system = System::new("", "", &[]);
        assert_eq!(system.available(), (4 * GIB, "on this machine".to_owned()));
    }

    #[test]
    fn the_tightest_limit_of_version_2_counts() {
        let files = [
            ("sys/memory.stat", "anon 1\n"),
            ("sys/a/memory.max", "2147483648\n"),
            ("sys/a/memory.current", "1610612736\n"),
            ("sys/a/memory.stat", "anon 1\ninactive_file 268435456\nactive_file 268435456\n"),
            ("sys/a/b/memory.max", "max\n"),
            ("sys/a/b/memory.current", "5\n"),
        ];
        let mounts = "30 24 0:26 / ROOT/sys rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let system = System::new("0::/a/b\n", mounts, &files);
        let group = "within the limit of the control group /sys/a".to_owned();
        assert_eq!(system.available(), (GIB, group), "pages of files don't count");
    }

    #[test]
    fn version_1_and_a_group_that_is_mounted_as_root() {
        let files = [
            ("sys/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/memory.usage_in_bytes", "1073741824\n"),
            ("sys/pod/memory.limit_in_bytes", "1073741824\n"),
            ("sys/pod/memory.usage_in_bytes", "1073741824\n"),
            ("sys/pod/memory.stat", "total_inactive_file 4096\n"),
        ];
        let cgroup = "5:cpu,cpuacct:/x\n4:memory:/docker/1/pod\n";
        let mounts = "30 24 0:26 / ROOT/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      31 24 0:27 /docker/1 ROOT/sys rw - cgroup cgroup rw,memory\n";
        let system = System::new(cgroup, mounts, &files);
        let group = "within the limit of the control group /sys/pod".to_owned();
        assert_eq!(system.available(), (4096, group));
        // Its own root, under which the path means nothing.
        let system = System::new("4:memory:/\n", mounts, &files[2..]);
        assert_eq!(system.available().0, 4 * GIB);
    }
}
