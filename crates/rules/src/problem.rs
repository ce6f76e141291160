//! What is wrong with rules: which value, and why.

use std::{fmt, net::IpAddr, ops::RangeInclusive, time::Duration};

use ipnet::IpNet;

use crate::{Protocol, Scheduler, ServerIdentity, Timeouts, VirtualEndpoint, VirtualService};

/// A value that is wrong, in itself or beside others.
///
/// Displays as one line for people: `service web, server 10.0.0.1:80, lower threshold: …`. By the
/// [`Location`], a program that made the rules from a file or a request finds what to point at there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {reason}")]
pub struct Problem {
    /// The value.
    pub location: Location,
    /// The other value, if it takes two.
    pub related: Option<Location>,
    /// What is the matter.
    pub reason: Reason,
}

impl Problem {
    /// What to do instead.
    #[must_use]
    pub fn help(&self) -> String {
        self.reason.help()
    }
}

/// A value of [`Rules`](crate::Rules).
///
/// Displays as people name it: `service web, server 10.0.0.1:80`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// Of a service.
    Service {
        /// Which one, counted from 0.
        index: usize,
        /// Its name.
        name: String,
        /// What of it.
        part: ServicePart,
    },
    /// Of an SNAT rule.
    Snat {
        /// Which one, counted from 0.
        index: usize,
        /// Its hosts.
        from: IpNet,
        /// What of it.
        part: SnatPart,
    },
    /// Of a local address.
    LocalAddress {
        /// Which one, counted from 0.
        index: usize,
        /// The address.
        address: IpAddr,
        /// What of it.
        part: LocalAddressPart,
    },
    /// The hairpin address.
    Hairpin(LocalAddressPart),
    /// A timeout of the defaults, by its name.
    Timeout(&'static str),
}

/// A value of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServicePart {
    /// Its name.
    Name,
    /// All protocols.
    Protocols,
    /// A protocol, counted from 0.
    Protocol(usize),
    /// All endpoints.
    Endpoints,
    /// An endpoint, counted from 0.
    Endpoint(usize),
    /// The scheduler's flags.
    SchedulerFlags,
    /// The slots of Maglev's table.
    SchedulerSlots,
    /// The forwarding mode.
    Mode,
    /// Something about a server.
    Server {
        /// Which one, counted from 0.
        index: usize,
        /// The server.
        server: ServerIdentity,
        /// What of it.
        part: ServerPart,
    },
    /// Something about the fallback server.
    Fallback(ServerPart),
    /// For how long a client keeps its server.
    PersistenceTimeout,
    /// Which clients count as one.
    PersistencePrefix,
    /// Whether datagrams are scheduled one by one.
    OnePacket,
    /// For how long connections of drained servers live.
    DrainTimeout,
    /// The largest TCP segment.
    MssLimit,
    /// A timeout, by its name.
    Timeout(&'static str),
}

/// A value of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerPart {
    /// Its address or its port.
    Address,
    /// The upper threshold.
    UpperThreshold,
    /// The lower threshold.
    LowerThreshold,
}

/// A value of an SNAT rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnatPart {
    /// Whose connections.
    From,
    /// All addresses that the outside sees.
    Addresses,
    /// One of them, counted from 0.
    Address(usize),
    /// The source ports; those of one address, counted from 0, are at fault.
    Ports(usize),
}

/// A value of a local address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LocalAddressPart {
    /// The address.
    Address,
    /// The ports.
    Ports,
}

impl Location {
    /// A JSON pointer (RFC 6901) to the value in rules that are written as JSON with the names of
    /// their fields: `/services/2/servers/0/address`.
    #[must_use]
    pub fn pointer(&self) -> String {
        match self {
            Location::Service { index, part, .. } => {
                format!("/services/{index}/{}", part.pointer())
            }
            Location::Snat { index, part, .. } => match part {
                SnatPart::From => format!("/snat/{index}/from"),
                SnatPart::Addresses => format!("/snat/{index}/to"),
                SnatPart::Address(address) => format!("/snat/{index}/to/{address}"),
                SnatPart::Ports(_) => format!("/snat/{index}/ports"),
            },
            Location::LocalAddress { index, part, .. } => {
                format!("/local_addresses/{index}/{}", part.field())
            }
            Location::Hairpin(part) => format!("/hairpin/{}", part.field()),
            Location::Timeout(name) => format!("/defaults/timeouts/{}", name.replace('-', "_")),
        }
    }
}

impl ServicePart {
    fn pointer(&self) -> String {
        let field = match self {
            ServicePart::Protocol(index) => return format!("protocols/{index}"),
            ServicePart::Endpoint(index) => return format!("endpoints/{index}"),
            ServicePart::Server { index, part, .. } => {
                return format!("servers/{index}/{}", part.field());
            }
            ServicePart::Fallback(part) => return format!("fallback/{}", part.field()),
            ServicePart::Timeout(name) => return format!("timeouts/{}", name.replace('-', "_")),
            ServicePart::Name => "name",
            ServicePart::Protocols => "protocols",
            ServicePart::Endpoints => "endpoints",
            ServicePart::SchedulerFlags => "scheduler_flags",
            ServicePart::SchedulerSlots => "scheduler_slots",
            ServicePart::Mode => "mode",
            ServicePart::PersistenceTimeout => "persistence/timeout",
            ServicePart::PersistencePrefix => "persistence/prefix_len",
            ServicePart::OnePacket => "one_packet",
            ServicePart::DrainTimeout => "drain_timeout",
            ServicePart::MssLimit => "mss_limit",
        };
        field.to_owned()
    }
}

impl ServerPart {
    fn field(self) -> &'static str {
        match self {
            ServerPart::Address => "address",
            ServerPart::UpperThreshold => "upper_threshold",
            ServerPart::LowerThreshold => "lower_threshold",
        }
    }
}

impl LocalAddressPart {
    fn field(self) -> &'static str {
        match self {
            LocalAddressPart::Address => "address",
            LocalAddressPart::Ports => "ports",
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Service { name, part, .. } => write!(f, "service {name}, {part}"),
            Location::Snat { from, part, .. } => {
                let part = match part {
                    SnatPart::From => return write!(f, "SNAT of {from}"),
                    SnatPart::Addresses | SnatPart::Address(_) => "addresses",
                    SnatPart::Ports(_) => "ports",
                };
                write!(f, "SNAT of {from}, {part}")
            }
            Location::LocalAddress { address, part, .. } => match part {
                LocalAddressPart::Address => write!(f, "local address {address}"),
                LocalAddressPart::Ports => write!(f, "local address {address}, ports"),
            },
            Location::Hairpin(_) => f.write_str("hairpin address"),
            Location::Timeout(name) => write!(f, "timeout {name}"),
        }
    }
}

impl fmt::Display for ServicePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server_part = |f: &mut fmt::Formatter<'_>, part: &ServerPart| match part {
            ServerPart::Address => Ok(()),
            ServerPart::UpperThreshold => f.write_str(", upper threshold"),
            ServerPart::LowerThreshold => f.write_str(", lower threshold"),
        };
        match self {
            ServicePart::Server { server, part, .. } => {
                write!(f, "server {server}")?;
                server_part(f, part)
            }
            ServicePart::Fallback(part) => {
                f.write_str("fallback")?;
                server_part(f, part)
            }
            ServicePart::Timeout(name) => write!(f, "timeout {name}"),
            ServicePart::Name => f.write_str("name"),
            ServicePart::Protocols | ServicePart::Protocol(_) => f.write_str("protocol"),
            ServicePart::Endpoints | ServicePart::Endpoint(_) => f.write_str("endpoint"),
            ServicePart::SchedulerFlags => f.write_str("scheduler flags"),
            ServicePart::SchedulerSlots => f.write_str("scheduler slots"),
            ServicePart::Mode => f.write_str("mode"),
            ServicePart::PersistenceTimeout => f.write_str("persistence"),
            ServicePart::PersistencePrefix => f.write_str("persistence mask"),
            ServicePart::OnePacket => f.write_str("one-packet"),
            ServicePart::DrainTimeout => f.write_str("drain timeout"),
            ServicePart::MssLimit => f.write_str("MSS clamp"),
        }
    }
}

/// Why a value can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The data path has no IPv6 yet.
    #[error("{0} is an IPv6 address; IPv6 is not supported yet")]
    Ipv6(IpAddr),
    /// As [`Reason::Ipv6`], of a network.
    #[error("{0} is an IPv6 network; IPv6 is not supported yet")]
    Ipv6Network(IpNet),
    /// No host can have the address.
    #[error("{address} is {why}")]
    NotAHost {
        /// The address.
        address: IpAddr,
        /// What it is instead.
        why: String,
        /// The network of which it is the first or the last.
        net: Option<IpNet>,
    },
    /// The address is a router's.
    #[error("{0} is the gateway of a route")]
    IsGateway(IpAddr),
    /// The address is a real server's.
    #[error("{0} is the address of a real server")]
    IsServer(IpAddr),

    /// Names have to fit a URL, a label of a metric and a command line.
    #[error("`{0}` is no name for a service")]
    Name(String),
    /// Names are unique.
    #[error("another service is called `{0}`")]
    NameTaken(String),
    /// A service is dialled by at least one protocol.
    #[error("the service has no protocol")]
    NoProtocol,
    /// Protocols are unique within a service.
    #[error("protocol `{0}` is written twice")]
    ProtocolTwice(Protocol),
    /// A service has at least one endpoint.
    #[error("the service has no endpoint")]
    NoEndpoint,
    /// No port, or one of them is 0.
    #[error("{}-{} is no range of ports", .0.start(), .0.end())]
    Ports(RangeInclusive<u16>),
    /// Clients couldn't tell which of two endpoints of a service they dialled.
    #[error("{0} is in this service already")]
    EndpointTwice(VirtualEndpoint),
    /// As [`Reason::EndpointTwice`], for a part of the ports.
    #[error("{endpoint} overlaps {other} of this service")]
    EndpointOverlaps {
        /// The endpoint.
        endpoint: VirtualEndpoint,
        /// The one before it.
        other: VirtualEndpoint,
    },
    /// Two services have an endpoint in common.
    #[error("a second {protocol} service on {endpoint}")]
    ServiceTwice {
        /// What both have in common.
        protocol: Protocol,
        /// The endpoint.
        endpoint: VirtualEndpoint,
    },
    /// Two services have ports in common, and none of them is within the other.
    #[error("{endpoint} overlaps {other} of another {protocol} service")]
    ServicesOverlap {
        /// What both have in common.
        protocol: Protocol,
        /// The endpoint.
        endpoint: VirtualEndpoint,
        /// The other service's.
        other: VirtualEndpoint,
    },
    /// The director answers for VIPs outside.
    #[error(
        "{address} is in the inside network {net}; the director answers for it on the outside port only"
    )]
    VirtualIsInside {
        /// The address.
        address: IpAddr,
        /// Its network.
        net: IpNet,
    },
    /// Whoever takes any port expects the connections of a client to meet on one server, as in IPVS.
    #[error("{0} takes any port, which needs `persistence`")]
    AnyPort(VirtualEndpoint),
    /// Flags of hashing with a scheduler that doesn't hash.
    #[error("scheduler `{0}` has no flags")]
    SchedulerFlags(Scheduler),
    /// Slots are of Maglev's table.
    #[error("`scheduler-slots` is for scheduler `mh`; this service has `{0}`")]
    SlotsWithoutTable(Scheduler),
    /// Maglev's permutations need a prime.
    #[error(
        "`scheduler-slots` is {0}; it can be a prime of {least} to {most}",
        least = VirtualService::SLOTS.start(),
        most = VirtualService::SLOTS.end()
    )]
    Slots(u32),
    /// Each server has to get a slot.
    #[error("{slots} slots are fewer than the {servers} servers")]
    FewSlots {
        /// How many slots.
        slots: u32,
        /// How many servers.
        servers: usize,
    },
    /// Full-NAT needs a source.
    #[error("mode `full-nat` needs an address for the servers to see")]
    NoLocalAddress,
    /// TCP needs connections.
    #[error("`one-packet` is for UDP alone; a TCP connection has more packets")]
    OnePacketTcp,
    /// Full-NAT needs connections.
    #[error("`one-packet` keeps no connection, without which no reply finds its way in `full-nat`")]
    OnePacketFullNat,
    /// Without a connection, a server's packet must be enough to know which endpoint it answers for.
    #[error("`one-packet` needs a `vip` of one address and one port")]
    OnePacketEndpoints,
    /// There is nothing to drain.
    #[error("`one-packet` keeps no connections, so there are none to drain")]
    OnePacketDrains,
    /// RFC 9293, section 3.7.1, and the largest MTU of a port.
    #[error(
        "`mss-clamp` is {0}; it can be {least} to {most}",
        least = VirtualService::MSS_LIMITS.start(),
        most = VirtualService::MSS_LIMITS.end()
    )]
    MssLimit(u16),
    /// UDP has no MSS.
    #[error("`mss-clamp` is for TCP; this service is UDP alone")]
    MssWithoutTcp,
    /// No such prefix.
    #[error("/{len} is no prefix of clients; it can be 1 to {longest}")]
    PersistencePrefix {
        /// Its length.
        len: u8,
        /// The longest that there can be.
        longest: u8,
    },
    /// No such duration.
    #[error("a duration is {:?}; it can be 1s to 7d", .0)]
    Duration(Duration),

    /// Nobody listens on port 0.
    #[error("port 0 cannot be used")]
    PortZero,
    /// A server is another host.
    #[error("server {0} is an address of the director itself")]
    ServerIsDirector(IpAddr),
    /// Packets to the server would leave outside.
    #[error("server {address} is reached through the outside port ({})", way(net))]
    ServerOutside {
        /// Its address.
        address: IpAddr,
        /// The route to it.
        net: IpNet,
        /// A network inside.
        inside: Option<IpNet>,
    },
    /// Packets to the server would go nowhere.
    #[error("no inside port reaches server {address}")]
    ServerUnreachable {
        /// Its address.
        address: IpAddr,
        /// A network inside.
        inside: Option<IpNet>,
    },
    /// A service has each server once.
    #[error("server {0} is in this service already")]
    ServerTwice(ServerIdentity),
    /// A fallback is for when the servers can't.
    #[error("fallback {0} is a server of this service")]
    FallbackIsServer(ServerIdentity),
    /// A lower threshold needs an upper one.
    #[error("`lower` is {0} without an `upper`")]
    LowerAlone(u32),
    /// The lower threshold is to be below the upper one.
    #[error("`lower` is {lower}, above `upper`, which is {upper}")]
    LowerAboveUpper {
        /// The lower one.
        lower: u32,
        /// The upper one.
        upper: u32,
    },

    /// A network is written without host bits.
    #[error("{0} is a host in a network, not a network")]
    HostBits(IpNet),
    /// SNAT is for hosts inside.
    #[error("{from} overlaps the outside network {outside}")]
    SnatOutside {
        /// The rule's network.
        from: IpNet,
        /// The network outside.
        outside: IpNet,
        /// A network inside.
        inside: Option<IpNet>,
    },
    /// No two rules cover the same host.
    #[error("{from} overlaps {other} of another rule")]
    SnatOverlaps {
        /// The rule's network.
        from: IpNet,
        /// The other rule's.
        other: IpNet,
    },
    /// The outside has to see something.
    #[error("the rule has no address for the outside to see")]
    NoSnatAddress,
    /// Addresses are unique within a rule.
    #[error("{0} is in this rule already")]
    SnatAddressTwice(IpAddr),
    /// The outside doesn't reach an address inside.
    #[error("{0} is an address of the inside port, which the outside doesn't reach")]
    SnatAddressInside(IpAddr),
    /// A reply to the one could not be told from a request to the other.
    #[error("source ports {}-{} {} of the service on {endpoint}", .ports.start(), .ports.end(), taken(endpoint))]
    SourcePortsTaken {
        /// The source ports.
        ports: RangeInclusive<u16>,
        /// The service's endpoint.
        endpoint: VirtualEndpoint,
    },
    /// Servers reply to a local address.
    #[error("{address} is {}; servers reply to it", not_inside(*outside))]
    LocalNotInside {
        /// The address.
        address: IpAddr,
        /// Its network outside, if there it is.
        outside: Option<IpNet>,
        /// A network inside.
        inside: Option<IpNet>,
    },
    /// Port ranges on one local address are disjoint.
    #[error("{local} overlaps {other}")]
    LocalAddressesOverlap {
        /// The address and its ports.
        local: VirtualEndpoint,
        /// Those of the one before it.
        other: VirtualEndpoint,
    },
}

impl Reason {
    /// What to do instead.
    #[must_use]
    pub fn help(&self) -> String {
        let help = match self {
            Reason::Ipv6(_) => "write an IPv4 address, as in `192.168.1.100`",
            Reason::Ipv6Network(_) => "write an IPv4 network, as in `192.168.2.0/24`",
            Reason::NotAHost { net: Some(net), .. } => return hosts(*net),
            Reason::NotAHost { .. } => "write the address of one host, as in `192.168.1.100`",
            Reason::IsGateway(_) | Reason::IsServer(_) => "write an address that no other host has",

            Reason::Name(_) => {
                "write 1 to 63 letters, digits, `.`, `_`, `:` and `-`, a letter or digit first"
            }
            Reason::NameTaken(_) => {
                "write another name; logs and commands tell services apart by it"
            }
            Reason::NoProtocol => "protocol is `tcp`, `udp` or both",
            Reason::ProtocolTwice(_) => "write each protocol once",
            Reason::NoEndpoint => "write what clients dial, as in `192.168.1.100:80`",
            Reason::Ports(_) => "write the first and the last port, of 1 to 65535",
            Reason::EndpointTwice(_) | Reason::EndpointOverlaps { .. } => "write each port once",
            Reason::ServiceTwice { .. } => {
                "put the servers of both into one service, or write another `vip`"
            }
            Reason::ServicesOverlap { .. } => {
                "write ports that are apart, or one range within the other: the narrower wins"
            }
            Reason::VirtualIsInside { .. } => {
                "write an address of an outside network, or add this one to the inside port's \
                 `addresses`"
            }
            Reason::AnyPort(endpoint) => {
                return format!(
                    "add `persistence`, or write the ports, as in `{}`",
                    VirtualEndpoint { address: endpoint.address, ports: 8000..=8999 }
                );
            }
            Reason::SchedulerFlags(_) => "leave them out, or take scheduler `sh` or `mh`",
            Reason::SlotsWithoutTable(_) => "leave it out, or take scheduler `mh`",
            Reason::Slots(slots) => {
                return format!("write a prime, as in `{}`", nearest_prime(*slots));
            }
            Reason::FewSlots { servers, .. } => {
                let servers = u32::try_from(*servers).unwrap_or(u32::MAX);
                return format!(
                    "leave it out for as many as are good, or write `{}`",
                    nearest_prime(servers.saturating_mul(100))
                );
            }
            Reason::NoLocalAddress => {
                "add a `[[nat.local-address]]` with an `address` inside, the DIP if need be"
            }
            Reason::OnePacketTcp => "leave it out, or write `protocol = \"udp\"`",
            Reason::OnePacketFullNat => "leave it out, or write `mode = \"nat\"`",
            Reason::OnePacketEndpoints => "write a service for each endpoint",
            Reason::OnePacketDrains => "leave `drain-timeout` out",
            Reason::MssLimit(_) => {
                "write bytes of payload: 1460 fills an MTU of 1500, 1360 leaves room for a tunnel"
            }
            Reason::MssWithoutTcp => "leave it out, or write `protocol = \"tcp\"`",
            Reason::PersistencePrefix { .. } => "write the length of the prefix, as in `24`",
            Reason::Duration(_) => "write a time between these",

            Reason::PortZero => "write a port of 1 to 65535",
            Reason::ServerIsDirector(_) => "write the address of a host behind the inside port",
            Reason::ServerOutside { inside: Some(net), .. }
            | Reason::ServerUnreachable { inside: Some(net), .. } => {
                return format!(
                    "write an address in {net}, or add a `[[route]]` to the server via a router in it"
                );
            }
            Reason::ServerOutside { .. } | Reason::ServerUnreachable { .. } => {
                "add a `[[route]]` to the server via a router inside"
            }
            Reason::ServerTwice(_) => {
                "keep one of the two; give it more `weight` if it should get more connections"
            }
            Reason::FallbackIsServer(_) => {
                "write a host that is no server here; one that says sorry, say"
            }
            Reason::LowerAlone(_) => "write both, as in `upper = 1000, lower = 800`, or neither",
            Reason::LowerAboveUpper { upper, .. } => {
                return format!("write `lower = {upper}` or less");
            }

            Reason::HostBits(net) => {
                return format!("write `{}` for the network", net.trunc());
            }
            Reason::SnatOutside { inside: Some(net), .. } => {
                return format!("write the network of the hosts inside, as in `{net}`");
            }
            Reason::SnatOutside { .. } => "write the network of the hosts inside",
            Reason::SnatOverlaps { .. } => "keep one rule per inside network",
            Reason::NoSnatAddress => "write at least one",
            Reason::SnatAddressTwice(_) => "write each address once",
            Reason::SnatAddressInside(_) => {
                "write an address of the outside port, or a free one that is routed to it"
            }
            Reason::SourcePortsTaken { ports, endpoint } => return other_ports(ports, endpoint),
            Reason::LocalNotInside { inside: Some(net), .. } => {
                return format!("write a free address in {net}, or the inside port's own");
            }
            Reason::LocalNotInside { .. } => "write an address of the inside port",
            Reason::LocalAddressesOverlap { .. } => "write each address once, or other `ports`",
        };
        help.to_owned()
    }
}

fn way(net: &IpNet) -> String {
    if net.prefix_len() == 0 { "the default route".to_owned() } else { net.to_string() }
}

fn not_inside(outside: Option<IpNet>) -> String {
    match outside {
        Some(net) => format!("in the outside network {net}"),
        None => "in no network that the inside port is connected to".to_owned(),
    }
}

fn taken(endpoint: &VirtualEndpoint) -> String {
    match endpoint.port() {
        Some(vport) => format!("include port {vport}"),
        None => "overlap the ports".to_owned(),
    }
}

/// Which addresses hosts of a network have, but for those at its ends.
fn hosts(net: IpNet) -> String {
    let mut hosts = net.hosts();
    match (hosts.next(), hosts.next_back()) {
        (Some(first), Some(last)) => format!("hosts of {net} have {first} to {last}"),
        _ => format!("write an address of {net}"),
    }
}

/// The longer of the two parts of `ports` beside those of an endpoint, if there is one.
fn other_ports(ports: &RangeInclusive<u16>, taken: &VirtualEndpoint) -> String {
    let (first, last) = (ports.start(), ports.end());
    let below = taken.ports.start().saturating_sub(*first);
    let above = last.saturating_sub(*taken.ports.end());
    if taken.is_any_port() {
        format!("write another address; the service has every port of {}", taken.address)
    } else if below == 0 && above == 0 {
        "write ports that no service has, as in `ports = \"32768-60999\"`".to_owned()
    } else if below >= above {
        format!("write `ports = \"{first}-{}\"`", taken.ports.start() - 1)
    } else {
        format!("write `ports = \"{}-{last}\"`", taken.ports.end() + 1)
    }
}

/// A prime that a table may have for slots, not below a number if there is one.
fn nearest_prime(number: u32) -> u32 {
    let number = number.clamp(*VirtualService::SLOTS.start(), *VirtualService::SLOTS.end());
    (number..=*VirtualService::SLOTS.end())
        .find(|number| VirtualService::may_have_slots(*number))
        .unwrap_or(*VirtualService::SLOTS.end())
}

/// Whether connections may live for so long.
pub(crate) fn check_duration(duration: Duration) -> Result<(), Reason> {
    if Timeouts::LIMITS.contains(&duration) { Ok(()) } else { Err(Reason::Duration(duration)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn the_longer_part_of_the_ports_is_offered() {
        let help = |ports: RangeInclusive<u16>, taken: RangeInclusive<u16>| {
            let address = Ipv4Addr::new(192, 0, 2, 1).into();
            other_ports(&ports, &VirtualEndpoint { address, ports: taken })
        };
        assert_eq!(help(1..=1023, 80..=80), "write `ports = \"81-1023\"`");
        assert_eq!(help(1024..=65535, 60000..=65535), "write `ports = \"1024-59999\"`");
        assert_eq!(help(1024..=65535, 1..=2000), "write `ports = \"2001-65535\"`");
        assert!(help(80..=80, 80..=80).contains("no service has"));
        assert!(help(8000..=8999, 7000..=9000).contains("no service has"));
        assert!(help(1024..=65535, 1..=65535).contains("another address"));
    }

    #[test]
    fn primes_are_offered_within_the_limits() {
        for (number, prime) in [(0, 251), (252, 257), (65536, 65537), (u32::MAX, 131_071)] {
            assert_eq!(nearest_prime(number), prime);
        }
    }
}
