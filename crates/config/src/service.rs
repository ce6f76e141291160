//! `[[service]]` and `[[service.server]]`.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};
use strum::{Display, IntoStaticStr, VariantArray};

use crate::{OnUnknown, Timeouts, VirtualEndpoint};

/// The transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How a new connection gets its server; the names are those of IPVS (ipvsadm(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Scheduler {
    /// Round robin: each server in turn.
    Rr,
    /// Weighted round robin: each server in turn, as often as its weight says.
    Wrr,
    /// Least connections.
    Lc,
    /// Least connections for its weight.
    Wlc,
    /// Shortest expected delay: least connections for its weight, the new one included.
    Sed,
    /// Never queue: an idle server if there is one, otherwise as `sed`.
    Nq,
    /// Source hashing: the client's address decides.
    Sh,
    /// Destination hashing: the virtual address decides.
    Dh,
    /// Maglev hashing: the client's address decides, and few clients move when servers change.
    Mh,
    /// Locality-based least connections: one server for each virtual address, until it is
    /// overloaded.
    Lblc,
    /// As `lblc`, with a set of servers for each virtual address.
    Lblcr,
    /// Failover: the server with the highest weight.
    Fo,
    /// Overflow: the server with the highest weight that has fewer connections than its weight.
    Ovf,
    /// Power of two choices: of two servers drawn at random, the one with fewer connections
    /// for its weight.
    Twos,
}

/// Key `scheduler-flags`: a list of `"sh-fallback"`, `"sh-port"` with scheduler `sh`, and of
/// `"mh-fallback"`, `"mh-port"` with `mh`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// Flag `…-fallback`: where the hashed server cannot take connections another one does,
    /// instead of none.
    pub fallback: bool,
    /// Flag `…-port`: the client's port is hashed along with its address.
    pub port: bool,
}

/// How packets reach the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Display, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum ForwardingMode {
    /// Destination NAT: servers see the client's address, and the director is their gateway.
    Nat,
    /// Destination and source NAT: servers see a local address of the director.
    #[strum(serialize = "full-nat")]
    FullNat,
}

/// What clients dial, and who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// Key `protocol`, a word or a list, by default TCP alone: at least one, each once.
    pub protocols: Vec<Protocol>,
    /// Key `vip`, a string or a list, required: at least one, disjoint. All of them are scheduled
    /// as one. Services of one protocol may only share ports where one encloses the other; the
    /// narrower wins.
    pub endpoints: Vec<VirtualEndpoint>,
    /// Key `scheduler`, required.
    pub scheduler: Scheduler,
    /// Key `scheduler-flags`, by default none.
    pub scheduler_flags: SchedulerFlags,
    /// Key `mode`, by default [`ForwardingMode::Nat`]. With [`ForwardingMode::FullNat`] there is
    /// at least one [`LocalAddress`](crate::LocalAddress).
    pub mode: ForwardingMode,
    /// Key `server`, in the order of the file, addresses unique. A service without servers (and
    /// without `fallback`) refuses connections.
    pub servers: Vec<RealServer>,
    /// Key `fallback`, by default none: takes connections when no server can, and otherwise gets
    /// none. It is no server of this service.
    pub fallback: Option<FallbackServer>,
    /// Keys `persistence` and `persistence-mask`, by default none: further connections of a client
    /// go to the same server.
    pub persistence: Option<Persistence>,
    /// Key `one-packet`, by default `false`: every packet is scheduled on its own. UDP alone, and
    /// not with [`ForwardingMode::FullNat`].
    pub one_packet: bool,
    /// Key `drain-timeout`, by default none: how long the connections of a server that was drained
    /// or removed may still live, one removed along with this service among them.
    pub drain_timeout: Option<Duration>,
    /// Key `mss-clamp`, by default none: bytes, 536 to 9176, to which the MSS option (RFC 9293
    /// §3.7.1) of TCP SYN packets in both directions is lowered.
    pub mss_clamp: Option<u16>,
    /// Key `on-unknown`, by default that of [`Nat`](crate::Nat).
    pub on_unknown: Option<OnUnknown>,
    /// Key `reset-on-expiry`, by default that of [`Nat`](crate::Nat).
    pub reset_on_expiry: Option<bool>,
    /// Key `timeouts`: the global ones with what this service changes; `None` if it doesn't.
    pub timeouts: Option<Timeouts>,
}

impl VirtualService {
    /// The vport, if all endpoints have the same one.
    pub fn port(&self) -> Option<u16> {
        let (first, others) = self.endpoints.split_first()?;
        first.port().filter(|_| others.iter().all(|other| other.ports == first.ports))
    }

    /// Whether `other`, of another service file, is this service with what may have changed: both
    /// have the same first protocol and the same first endpoint.
    pub fn is_same(&self, other: &VirtualService) -> bool {
        self.protocols.first() == other.protocols.first()
            && self.endpoints.first() == other.endpoints.first()
    }
}

/// Displays as protocols and endpoints: `tcp+udp 192.0.2.1:53, 192.0.2.2:53`.
impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocols: Vec<_> =
            self.protocols.iter().map(|protocol| protocol.to_string()).collect();
        let endpoints: Vec<_> = self.endpoints.iter().map(ToString::to_string).collect();
        write!(f, "{} {}", protocols.join("+"), endpoints.join(", "))
    }
}

/// A server inside.
///
/// Displays as the file writes its address: `192.0.2.1:80`, or `192.0.2.1` without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RealServer {
    /// Key `address`: RIP.
    pub ip: Ipv4Addr,
    /// Key `address`: rport. `None` is the vport that was dialled; a service with a single vport
    /// has it here instead.
    pub port: Option<u16>,
    /// Key `weight`, by default 1: its share of new connections; 0 gets none.
    pub weight: u16,
    /// Key `upper`, by default 0 (none): connections at which it gets no new ones.
    pub upper_threshold: u32,
    /// Key `lower`, by default 0 (none), at most `upper`: connections below which a server that
    /// reached `upper` gets new ones again.
    pub lower_threshold: u32,
}

impl RealServer {
    /// Where a connection to `vport` goes.
    pub fn endpoint(&self, vport: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, self.port.unwrap_or(vport))
    }

    /// Whether `other`, of the same service in another service file, is this server with what may
    /// have changed.
    pub fn is_same(&self, other: &RealServer) -> bool {
        (self.ip, self.port) == (other.ip, other.port)
    }
}

impl fmt::Display for RealServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display_address(self.ip, self.port, f)
    }
}

/// The server that a service falls back on.
///
/// Displays as the file writes it: `192.0.2.1:80`, or `192.0.2.1` without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FallbackServer {
    /// RIP.
    pub ip: Ipv4Addr,
    /// rport; `None` as in [`RealServer::port`].
    pub port: Option<u16>,
}

impl FallbackServer {
    /// Where a connection to `vport` goes.
    pub fn endpoint(&self, vport: u16) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip, self.port.unwrap_or(vport))
    }
}

impl fmt::Display for FallbackServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display_address(self.ip, self.port, f)
    }
}

fn display_address(ip: Ipv4Addr, port: Option<u16>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match port {
        Some(port) => write!(f, "{ip}:{port}"),
        None => write!(f, "{ip}"),
    }
}

/// How long a client keeps its server, and which clients count as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// Key `persistence`: how long a client without new connections keeps its server. `true` is
    /// [`Persistence::DEFAULT_TIMEOUT`].
    pub timeout: Duration,
    /// Key `persistence-mask`, a netmask or a prefix length, by default 32: clients whose addresses
    /// agree in so many leading bits, 1 to 32, are one.
    pub mask: u8,
}

impl Persistence {
    /// What `persistence = true` means, as in IPVS.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(360);
}
