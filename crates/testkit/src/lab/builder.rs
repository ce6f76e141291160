//! How a lab is built.

use std::{cell::Cell, env, fs::File, path::PathBuf, thread};

use super::{
    Director, HUGE_MIB, Host, Lab, Site,
    footprint::{self, Footprint},
    huge_pages,
    namespace::{self, Lifetime},
};

/// Benchmarks hold it alone, labs hold it together: while one measures, nobody else may run.
const MACHINE_LOCK: &str = "/run/shunt-lab.lock";
/// The lab that users play with has fixed names: held while it is built, run or removed.
const USERS_LOCK: &str = "/run/shunt-lab.user.lock";

/// Programs that a lab runs, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 14] = [
    ("ip", "iproute2"),
    ("setpriv", "util-linux"),
    ("sysctl", "procps"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("nginx", "nginx"),
    ("dnsmasq", "dnsmasq-base"),
    ("dig", "bind9-dnsutils"),
    ("traceroute", "traceroute"),
    ("tcpdump", "tcpdump"),
    ("wrk", "wrk"),
    ("socat", "socat"),
    ("nft", "nftables"),
];

/// Builds a [`Lab`].
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    director: Director,
    binary: PathBuf,
    has_huge_pages: bool,
    has_further_hosts: bool,
    footprint: Footprint,
    lifetime: Lifetime,
}

impl Lab {
    /// A lab with that director, which runs that build of `shunt`. It is built by
    /// [`build`](Builder::build).
    pub fn builder(director: Director, binary: impl Into<PathBuf>) -> Builder {
        Builder {
            director,
            binary: binary.into(),
            has_huge_pages: true,
            has_further_hosts: false,
            footprint: Footprint::unique(),
            lifetime: Lifetime::OfItsParent,
        }
    }
}

impl Builder {
    /// Without huge pages even if the machine has some.
    pub fn huge_pages(self, wanted: bool) -> Builder {
        Builder { has_huge_pages: wanted, ..self }
    }

    /// Turns the client and rs1 into routers, with a host behind a narrow link of each:
    ///
    /// ```text
    /// far0 ─── client ─── director ─── rs1 ─── deep0
    /// 10.1.0.2    1300       1500         1500    1300 10.2.0.2
    /// ```
    pub fn further_hosts(self) -> Builder {
        Builder { has_further_hosts: true, ..self }
    }

    /// The one lab that users play with, in place of any before it: its namespaces have the names
    /// `shunt-HOST`.
    pub fn for_users(self) -> Builder {
        Builder { footprint: Footprint::for_users(), ..self }
    }

    /// The lab is to be [left](Lab::leave).
    pub fn outlives_process(self) -> Builder {
        Builder { lifetime: Lifetime::Unlimited, ..self }
    }

    /// Builds the lab.
    ///
    /// # Panics
    /// When something can't be made, and says what.
    #[must_use]
    pub fn build(self) -> Lab {
        let is_for_users = self.footprint == Footprint::for_users();
        let locks = prepare(is_for_users);
        if let Director::Shunt(_, workers) = self.director {
            assert!(matches!(workers, 1 | 2), "one worker or two, not {workers}");
            let is_there = self.binary.is_file();
            assert!(
                is_there,
                "no {} to run: cargo build --release, or name another",
                self.binary.display()
            );
        }
        if is_for_users {
            self.footprint.remove();
        }

        let site = Site(self.footprint);
        let begun = site.0.begin();
        let has_huge_pages = self.director != Director::Kernel
            && self.has_huge_pages
            && huge_pages::reserve(HUGE_MIB, site.0.dir());
        if self.has_huge_pages && !has_huge_pages && self.director != Director::Kernel {
            println!("this machine gives no {HUGE_MIB} MB of huge pages: going on without");
        }
        let mut lab = Lab {
            kind: self.director,
            binary: self.binary,
            has_huge_pages,
            lifetime: self.lifetime,
            captures: Cell::new(0),
            running: None,
            servers: Vec::new(),
            site,
            _locks: locks,
        };
        lab.network_up();
        lab.servers = lab.servers_up(&[Host::Client, Host::Rs1, Host::Rs2]);
        if self.has_further_hosts {
            lab.further_hosts_up();
            let mut more = lab.servers_up(&[Host::Deep]);
            lab.servers.append(&mut more);
        }
        drop(begun);
        lab
    }
}

/// What has to be there before anything is made; the locks that a lab holds.
fn prepare(is_for_users: bool) -> Vec<File> {
    assert!(
        rustix::process::geteuid().is_root(),
        "the lab makes network namespaces, which needs root: sudo scripts/test runs all such tests, \
         sudo scripts/lab those of the lab"
    );
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    assert!(
        cpus >= 2,
        "the director polls a core of its own: the lab needs 2, this machine has {cpus}"
    );
    let dirs: Vec<PathBuf> = env::split_paths(&namespace::search_path()).collect();
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| !dirs.iter().any(|dir| dir.join(program).exists()))
        .map(|&(_, package)| package)
        .collect();
    assert!(missing.is_empty(), "programs are missing: sudo apt-get install {}", missing.join(" "));

    let machine = File::create(MACHINE_LOCK).expect("a lock in /run");
    let is_free = machine.try_lock_shared().is_ok();
    assert!(is_free, "a benchmark or a virtual machine is at work: wait for it, or end it");
    let mut locks = vec![machine];
    if is_for_users {
        locks.push(lock_for_users());
    }
    footprint::remove_stale();
    locks
}

fn lock_for_users() -> File {
    let users = File::create(USERS_LOCK).expect("a lock in /run");
    assert!(users.try_lock().is_ok(), "another scripts/lab is at work: wait for it, or end it");
    users
}

/// Removes the lab that users play with, and all that runs in it.
///
/// # Panics
/// When another process is at work with it.
pub fn remove_users_lab() {
    let _lock = lock_for_users();
    Footprint::for_users().remove();
}
