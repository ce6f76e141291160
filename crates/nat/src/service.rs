//! What the engine is told to do, as a service file or a test says it.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::RangeInclusive,
    time::Duration,
};

use ipnet::Ipv4Net;

use crate::{
    scheduler::{SchedulerFlags, SchedulerKind},
    state::Timeouts,
};

/// All that an engine does.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Virtual services.
    pub services: Vec<VirtualService>,
    /// Outbound SNAT. The first rule that covers a host counts.
    pub snat: Vec<SnatRule>,
    /// The source endpoints of full-NAT.
    pub local_addresses: Vec<LocalAddress>,
    /// The source address, and its ports, for inside hosts that dial a virtual service (hairpin):
    /// their server would otherwise answer them directly. `None` refuses them.
    pub hairpin: Option<LocalAddress>,
    /// What applies to connections of no service.
    pub other: OtherConnections,
}

/// Connections of no service: those of SNAT rules, and what is passed through.
#[derive(Clone, Debug, Default)]
pub struct OtherConnections {
    /// How long they may be silent.
    pub timeouts: Timeouts,
    /// What becomes of TCP segments in mid-stream that belong to no connection and no service.
    pub on_unknown: OnUnknown,
    /// Whether both ends of an established TCP connection are told when it ends for being silent.
    pub reset_on_expiry: bool,
}

/// A virtual service: what clients dial, and who answers.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// IANA numbers of the transport protocols.
    pub protocols: Vec<u8>,
    /// What clients dial. Several are scheduled as one, like IPVS's firewall-mark services.
    pub endpoints: Vec<VirtualEndpoint>,
    /// How connections are spread.
    pub scheduler: SchedulerKind,
    /// The scheduler's options.
    pub scheduler_flags: SchedulerFlags,
    /// What is translated.
    pub mode: ForwardingMode,
    /// The real servers.
    pub servers: Vec<RealServer>,
    /// Whether a client keeps its server.
    pub persistence: Option<Persistence>,
    /// Every UDP datagram is scheduled by itself, and no connection is kept (IPVS's `--ops`). Needs a
    /// single endpoint with a single port, whose source the servers' datagrams get.
    pub one_packet: bool,
    /// Who answers when no server can.
    pub fallback: Option<RealServer>,
    /// The largest TCP segment that the ends may agree on, in bytes.
    pub mss_limit: Option<u16>,
    /// What becomes of TCP segments in mid-stream without a connection.
    pub on_unknown: OnUnknown,
    /// Whether both ends are told when an established TCP connection ends for being silent.
    pub reset_on_expiry: bool,
    /// How long connections may be silent.
    pub timeouts: Timeouts,
    /// For how long connections live on when their server gets weight 0, or it or the service is
    /// removed; what is there after it is ended, and TCP connections are reset at both ends. `None`
    /// lets them live until they end by themselves, as IPVS does.
    pub drain_timeout: Option<Duration>,
}

impl VirtualService {
    /// A plain service of one endpoint: NAT, no persistence, the default timeouts.
    #[must_use]
    pub fn new(
        protocol: u8,
        endpoint: SocketAddrV4,
        scheduler: SchedulerKind,
        servers: Vec<RealServer>,
    ) -> VirtualService {
        VirtualService {
            protocols: vec![protocol],
            endpoints: vec![VirtualEndpoint::from(endpoint)],
            scheduler,
            scheduler_flags: SchedulerFlags::default(),
            mode: ForwardingMode::Nat,
            servers,
            persistence: None,
            one_packet: false,
            fallback: None,
            mss_limit: None,
            on_unknown: OnUnknown::Reset,
            reset_on_expiry: false,
            timeouts: Timeouts::default(),
            drain_timeout: None,
        }
    }
}

/// A virtual address and the ports on it that are dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualEndpoint {
    /// VIP.
    pub address: Ipv4Addr,
    /// The vports.
    pub ports: RangeInclusive<u16>,
}

impl From<SocketAddrV4> for VirtualEndpoint {
    fn from(endpoint: SocketAddrV4) -> VirtualEndpoint {
        VirtualEndpoint { address: *endpoint.ip(), ports: endpoint.port()..=endpoint.port() }
    }
}

/// A real server of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// RIP.
    pub address: Ipv4Addr,
    /// rport; `None` is the port that the client dialled.
    pub port: Option<u16>,
    /// Its share of the connections; 0 is none.
    pub weight: u16,
    /// No new connections from this many on; 0 is no limit.
    pub upper_threshold: u32,
    /// New connections again below this many; 0 is three quarters of the upper threshold.
    pub lower_threshold: u32,
}

impl RealServer {
    /// A server without thresholds.
    #[must_use]
    pub fn new(endpoint: SocketAddrV4, weight: u16) -> RealServer {
        RealServer {
            address: *endpoint.ip(),
            port: Some(endpoint.port()),
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }
}

/// What is translated on the way to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingMode {
    /// The destination: the server sees the client's address, and its way back leads through the
    /// director.
    Nat,
    /// The source, too: the server sees a local address of the director's, and can be anywhere.
    FullNat,
}

/// A client keeps the server that it was given (IPVS's `-p` and `-M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// For how long after its last connection.
    pub timeout: Duration,
    /// Clients whose addresses agree in this many bits count as one.
    pub prefix_len: u8,
}

/// What becomes of a TCP segment in mid-stream that belongs to no connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnknown {
    /// It is answered by a reset, so that its sender tries again.
    #[default]
    Reset,
    /// It is dropped in silence.
    Drop,
}

/// Hosts of `from` reach the outside behind the addresses of `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnatRule {
    /// Which inside hosts.
    pub from: Ipv4Net,
    /// The outside addresses that they share; a host keeps to one while it has free ports.
    pub to: Vec<Ipv4Addr>,
    /// The source ports, and echo identifiers, that they may be given on each.
    pub ports: RangeInclusive<u16>,
}

/// An address of the director's, and the source ports that it may use there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// LIP.
    pub address: Ipv4Addr,
    /// The lports.
    pub ports: RangeInclusive<u16>,
}
