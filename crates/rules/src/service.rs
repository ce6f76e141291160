use std::{fmt, net::SocketAddr, ops::RangeInclusive, time::Duration};

use strum::{Display, EnumString, IntoStaticStr, VariantArray};

use crate::{
    Defaults, RealServer, Scheduler, SchedulerFlags, TimeoutOverrides, Timeouts, VirtualEndpoint,
};

/// The transport protocol of a service.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Its IANA number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

/// What is translated on the way to a server.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum ForwardingMode {
    /// `nat`: the destination. The server sees the client's address, and its way back leads through
    /// the director.
    #[default]
    Nat,
    /// `full-nat`: the source, too. The server sees a local address of the director's, and can be
    /// anywhere.
    FullNat,
}

/// What becomes of a TCP segment, addressed to a service or from one of its servers, that neither opens
/// a connection nor belongs to one.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum OnUnknown {
    /// It is answered by a reset (RFC 9293, section 3.5.2), so that its sender tries again.
    #[default]
    Reset,
    /// It is dropped and counted.
    Drop,
}

/// What becomes of a packet that a real server sends from the endpoint of a service, outwards, when it
/// belongs to no connection (any more): an answer that was too slow, a segment after the timeout, an ICMP
/// error about what was translated. The client would not know the server's own address.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
pub enum LatePackets {
    /// A TCP segment is treated as the service's [`OnUnknown`] says, all else is dropped and counted.
    #[default]
    OnUnknown,
    /// It is dropped and counted.
    Drop,
    /// The server gets a TCP reset, so that it gives the connection up; all else is dropped and counted.
    Reset,
    /// It is treated like a packet of any other inside host: SNAT applies if a rule covers the server,
    /// else it leaves with the server's own address.
    Forward,
}

impl LatePackets {
    /// All there are.
    pub const ALL: &[LatePackets] = LatePackets::VARIANTS;
}

/// What becomes of packets whose sender chose their way by an option (RFC 791: loose and strict source
/// route).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum SourceRoutes {
    /// They are dropped and counted (RFC 7126, sections 4.3 and 4.4).
    #[default]
    Drop,
    /// They are treated like any other, and leave with the option as it came: the director is no stop on
    /// the route.
    Forward,
}

/// A client keeps the server that it was given (IPVS's `-p` and `-M`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Persistence {
    /// For how long after its last connection.
    pub timeout: Duration,
    /// Clients whose addresses agree in so many leading bits, 1 to 32 (128), count as one.
    pub prefix_len: u8,
}

impl Persistence {
    /// For how long a client keeps its server where nothing is said, as in IPVS: 360 s.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(360);
}

/// A virtual service: what clients dial, and who answers.
///
/// Displays as protocols and endpoints: `tcp+udp 192.0.2.1:53, 192.0.2.2:53`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// What operators call it: 1 to 63 letters, digits, `.`, `_`, `:` and `-`, a letter or digit first; unique. By default what its identity says: `tcp-192.0.2.1-80`.
    pub name: String,
    /// At least one, each once.
    pub protocols: Vec<Protocol>,
    /// What clients dial: at least one, disjoint. Several are scheduled as one, like IPVS's
    /// firewall-mark services. Services of one protocol may share ports only where one endpoint encloses
    /// the other; the narrower wins.
    pub endpoints: Vec<VirtualEndpoint>,
    /// How connections are spread.
    pub scheduler: Scheduler,
    /// The scheduler's options.
    pub scheduler_flags: SchedulerFlags,
    /// Slots of the table of scheduler `mh`: a prime of 251 to 131071, and at least one for each server; `None` chooses by the number of servers.
    pub scheduler_slots: Option<u32>,
    /// What is translated.
    pub mode: ForwardingMode,
    /// The real servers, addresses unique. A service without servers (and without `fallback`) refuses
    /// connections.
    pub servers: Vec<RealServer>,
    /// Who answers when no server can, and otherwise gets nothing.
    pub fallback: Option<RealServer>,
    /// Whether a client keeps its server.
    pub persistence: Option<Persistence>,
    /// Every UDP datagram is scheduled by itself, and no connection is kept (IPVS's `--ops`). Needs a
    /// single endpoint with a single port, whose source the servers' datagrams get.
    pub one_packet: bool,
    /// For how long connections live on when their server gets weight 0, or it or the service is
    /// removed; what is there after it is ended, and TCP connections are reset at both ends. `None`
    /// lets them live until they end by themselves, as IPVS does.
    pub drain_timeout: Option<Duration>,
    /// The largest TCP segment that the ends may agree on, in bytes (RFC 9293, section 3.7.1).
    pub mss_limit: Option<u16>,
    /// What becomes of TCP segments in mid-stream without a connection; `None` is the default's.
    pub on_unknown: Option<OnUnknown>,
    /// Whether both ends are told when an established TCP connection ends for being silent; `None` is
    /// the default's.
    pub reset_on_expiry: Option<bool>,
    /// How long connections may be silent, where that is not the default's.
    pub timeouts: TimeoutOverrides,
}

impl VirtualService {
    /// What [`VirtualService::mss_limit`] can be, in bytes: 536 is what every host must take (RFC 9293,
    /// section 3.7.1), 9176 fills a port's largest MTU.
    pub const MSS_LIMITS: RangeInclusive<u16> = 536..=9176;

    /// Within what [`VirtualService::scheduler_slots`] can be a prime.
    pub const SLOTS: RangeInclusive<u32> = 251..=131_071;

    /// Whether [`VirtualService::scheduler_slots`] can be so many, which are a prime within
    /// [`VirtualService::SLOTS`].
    #[must_use]
    pub fn may_have_slots(slots: u32) -> bool {
        Self::SLOTS.contains(&slots)
            && (2..).take_while(|d| d * d <= slots).all(|divisor| !slots.is_multiple_of(divisor))
    }

    /// A plain service of one endpoint: NAT, no persistence, the default timeouts and name.
    #[must_use]
    pub fn new(
        protocol: Protocol,
        endpoint: impl Into<SocketAddr>,
        scheduler: Scheduler,
        servers: Vec<RealServer>,
    ) -> VirtualService {
        let mut service = VirtualService {
            name: String::new(),
            protocols: vec![protocol],
            endpoints: vec![VirtualEndpoint::from(endpoint.into())],
            scheduler,
            scheduler_flags: SchedulerFlags::default(),
            scheduler_slots: None,
            mode: ForwardingMode::Nat,
            servers,
            fallback: None,
            persistence: None,
            one_packet: false,
            drain_timeout: None,
            mss_limit: None,
            on_unknown: None,
            reset_on_expiry: None,
            timeouts: TimeoutOverrides::default(),
        };
        service.name = service.default_name();
        service
    }

    /// The name that it has if it is given none.
    #[must_use]
    pub fn default_name(&self) -> String {
        self.identity().map_or_else(String::new, |identity| identity.default_name())
    }

    /// The vport, if all endpoints have the same one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let (first, others) = self.endpoints.split_first()?;
        first.port().filter(|_| others.iter().all(|other| other.ports == first.ports))
    }

    /// Its servers, the fallback last.
    pub fn all_servers(&self) -> impl Iterator<Item = &RealServer> {
        self.servers.iter().chain(&self.fallback)
    }

    /// The timeouts of its connections.
    #[must_use]
    pub fn timeouts(&self, defaults: &Defaults) -> Timeouts {
        self.timeouts.over(defaults.timeouts)
    }

    /// What becomes of its TCP segments in mid-stream without a connection.
    #[must_use]
    pub fn on_unknown(&self, defaults: &Defaults) -> OnUnknown {
        self.on_unknown.unwrap_or(defaults.on_unknown)
    }

    /// Whether both ends are told when one of its established TCP connections ends for being silent.
    #[must_use]
    pub fn reset_on_expiry(&self, defaults: &Defaults) -> bool {
        self.reset_on_expiry.unwrap_or(defaults.reset_on_expiry)
    }
}

impl fmt::Display for VirtualService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, protocol) in self.protocols.iter().enumerate() {
            write!(f, "{}{protocol}", if index == 0 { "" } else { "+" })?;
        }
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if index == 0 { " " } else { ", " })?;
        }
        Ok(())
    }
}
