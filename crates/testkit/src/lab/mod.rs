//! The lab: a client, a director and two real servers in network namespaces of this machine.
//!
//! ```text
//! client                 director                     switch               rs1, rs2
//! client0 ────────────── outside0 │ inside0 ───────── director ┐
//! 192.168.1.200          .1.100   │ .2.200                 br0 ├── rs1 ─── server0 192.168.2.210
//!                                                              └── rs2 ─── server0 192.168.2.220
//! ```
//!
//! [`Lab::builder`] builds it: the namespaces, their wires, an nginx on each host, a DNS server and
//! a UDP echo server on the real servers. [`Lab::start_director`] starts the director under test,
//! [`Lab::capture`] tcpdump, [`Lab::show`] any program on any host.
//!
//! It needs root, and two CPUs. Each lab has names of its own, so that any number of them can be there
//! at once. All goes when the lab is dropped, also by a panic, which has the lab print first what its
//! hosts know; and when SIGINT, SIGTERM or SIGHUP ends the process. When SIGKILL does, the kernel kills
//! what the process had started, and the next lab removes the rest.
//!
//! A lab belongs to the thread that built it: what it started ends with that thread at the latest.

mod actions;
mod builder;
mod capture;
mod configuration;
mod director;
pub mod experiments;
mod footprint;
mod huge_pages;
mod namespace;
mod network;
mod process;
mod servers;
mod state;
mod transcript;

use std::{
    cell::Cell,
    fs::File,
    net::Ipv4Addr,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

pub use builder::{Builder, remove_users_lab};
pub use capture::{Capture, Frames, IcmpError};
pub use configuration::{Configuration, nft_round_robin};
pub use director::Summary;
pub use process::Process;
pub use transcript::{Style, note, quote, styled, use_colors};

use director::Shunt;
use footprint::Footprint;
use namespace::Lifetime;

/// The client's address.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 200);
/// The client's second address, where an experiment needs two clients.
pub const CLIENT2: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 201);
/// What clients dial; the director's address on the outside.
pub const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 100);
/// The director's address on the inside, the servers' gateway.
pub const DIP: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 200);
/// What servers of full-NAT services see.
pub const LIP: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 201);
/// The first real server's address.
pub const RS1: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 210);
/// The second real server's address.
pub const RS2: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 220);
/// The address of the host behind the client.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The address of the host behind rs1.
pub const DEEP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

/// 256 MB of packet buffers and 96 MB of connections, and room for the EAL's own.
const HUGE_MIB: usize = 384;
/// How often conditions are looked at.
const POLL: Duration = Duration::from_millis(10);

/// A host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Outside.
    Client,
    /// Between both sides.
    Director,
    /// Connects the director's inside port and the real servers.
    Switch,
    /// The first real server.
    Rs1,
    /// The second real server.
    Rs2,
    /// Behind the client, which then is a router; see [`Builder::further_hosts`].
    Far,
    /// Behind rs1, which then is a router; see [`Builder::further_hosts`].
    Deep,
}

impl Host {
    /// All of them.
    pub const ALL: [Host; 7] =
        [Host::Client, Host::Director, Host::Switch, Host::Rs1, Host::Rs2, Host::Far, Host::Deep];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Host::Client => "client",
            Host::Director => "director",
            Host::Switch => "switch",
            Host::Rs1 => "rs1",
            Host::Rs2 => "rs2",
            Host::Far => "far",
            Host::Deep => "deep",
        }
    }

    /// The interface towards the director.
    ///
    /// # Panics
    /// For the director and the switch, which have several.
    #[must_use]
    pub fn nic(self) -> &'static str {
        match self {
            Host::Client => "client0",
            Host::Rs1 | Host::Rs2 => "server0",
            Host::Far => "far0",
            Host::Deep => "deep0",
            Host::Director | Host::Switch => panic!("{} has several interfaces", self.name()),
        }
    }

    /// The address of that interface.
    ///
    /// # Panics
    /// For the director and the switch.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        match self {
            Host::Client => CLIENT,
            Host::Rs1 => RS1,
            Host::Rs2 => RS2,
            Host::Far => FAR,
            Host::Deep => DEEP,
            Host::Director | Host::Switch => panic!("{} is no end host", self.name()),
        }
    }
}

/// The DPDK driver of the director's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// `net_af_packet`.
    AfPacket,
    /// `net_af_xdp`.
    AfXdp,
    /// `net_tap`.
    Tap,
}

impl Device {
    /// All of them.
    pub const ALL: [Device; 3] = [Device::AfPacket, Device::AfXdp, Device::Tap];

    /// As users name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Device::AfPacket => "af_packet",
            Device::AfXdp => "af_xdp",
            Device::Tap => "tap",
        }
    }

    /// Whether fragments come through it: the kernel puts those together that `net_af_packet` would
    /// see.
    #[must_use]
    pub fn passes_fragments(self) -> bool {
        self != Device::AfPacket
    }
}

/// Who is the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Director {
    /// Shunt, on ports of that device, with one worker or two; the second one shares its CPU with the
    /// control plane.
    Shunt(Device, usize),
    /// Linux with nftables, as a control: shows that the experiments themselves are right.
    Kernel,
}

/// Network namespaces, what runs in them, and a director.
#[derive(Debug)]
pub struct Lab {
    kind: Director,
    binary: PathBuf,
    has_huge_pages: bool,
    lifetime: Lifetime,
    captures: Cell<usize>,
    // In this order they end.
    running: Option<Running>,
    servers: Vec<(Host, Process)>,
    site: Site,
    _locks: Vec<File>,
}

/// The director that runs.
#[derive(Debug)]
struct Running {
    configuration: Configuration,
    shunt: Option<Shunt>,
}

/// Removes what was built.
#[derive(Debug)]
struct Site(Footprint);

impl Drop for Site {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// What a program did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status; 128 and the number of the signal that killed it.
    pub status: i32,
    /// All that it printed, on standard output and error, without the space around it.
    pub text: String,
    /// The same, byte by byte.
    pub bytes: Vec<u8>,
}

/// Looks at a condition until it holds; false when it does not within that time.
pub fn wait_until(timeout: Duration, condition: impl FnMut() -> bool) -> bool {
    let holds = poll_until(timeout, condition);
    footprint::wait_if_ending();
    holds
}

/// The same, for who removes labs while a signal ends this process.
fn poll_until(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL);
    }
}
