//! What holds whatever happens, checked after every step of every test.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    net::IpAddr,
};

use shunt_nat::{
    Connection, ConnectionKind, ConnectionState,
    Direction::{self, Inbound, Outbound},
    Engine, EngineCounters, FlowKey, Instant, ServerId, ServiceId,
};
use shunt_packet::ipv4::{Ipv4Packet, protocol};
use shunt_rules::{LocalAddress, Rules};

/// Says which invariant does not hold, if one doesn't. Takes time in proportion to the table.
pub(crate) fn check(engine: &Engine, rules: &Rules, now: Instant) -> Result<(), String> {
    counters_balance(engine)?;
    servers_are_accounted_for(engine)?;
    pools_are_accounted_for(engine, rules)?;
    clients_keep_servers_of_their_service(engine, now)?;
    for connection in engine.table().iter() {
        let found = keys_are_its_own(engine, connection)
            .and_then(|()| server_is_its_services(engine, connection))
            .and_then(|()| translations_are_inverses(connection));
        found.map_err(|error| format!("{error}: {:?}", connection.key(Inbound)))?;
    }
    Ok(())
}

fn equal<T>(what: &str, counted: &T, there: &T) -> Result<(), String>
where
    T: PartialEq + Debug,
{
    if counted == there { Ok(()) } else { Err(format!("{what}: {counted:?}, not {there:?}")) }
}

fn counters_balance(engine: &Engine) -> Result<(), String> {
    let table = engine.table();
    let EngineCounters { opened, expired, replaced, evicted, rescheduled, drained, killed, .. } =
        engine.counters();
    equal("records", &table.len(), &table.iter().count())?;
    let not_ended = opened - expired - replaced - evicted - rescheduled - drained - killed;
    equal("opened and not ended", &not_ended, &(table.len() as u64))?;
    // What removed servers were given is forgotten with them.
    let by_service: u64 = engine.service_counters().map(|service| service.connections).sum();
    let by_server: u64 = engine.server_counters().map(|server| server.connections).sum();
    match by_server <= by_service {
        true => Ok(()),
        false => equal("connections by server and by service", &by_server, &by_service),
    }
}

/// Active and inactive connections are those in the table, and the thresholds follow.
fn servers_are_accounted_for(engine: &Engine) -> Result<(), String> {
    let mut in_table = vec![(0, 0); engine.server_counters().count()];
    for connection in engine.table().iter() {
        if let ConnectionKind::Service(_, ServerId(server)) = connection.kind() {
            let (active, inactive) = &mut in_table[server as usize];
            let is_active = connection.state() == ConnectionState::Established;
            *(if is_active { active } else { inactive }) += 1;
        }
    }
    let counted: Vec<_> =
        engine.server_counters().map(|server| (server.active, server.inactive)).collect();
    equal("active and inactive", &counted, &in_table)?;

    for (_, options, servers) in engine.rules().services() {
        let configured = options.servers.iter().chain(&options.fallback);
        for (server, real) in servers.iter().zip(configured) {
            let limit = match real.upper_threshold {
                0 => u32::MAX,
                limit => limit,
            };
            if server.connections() >= limit && !server.is_overloaded() {
                return Err(format!("{} is not overloaded", server.endpoint()));
            }
        }
    }
    Ok(())
}

/// Endpoints in use are those of the connections in the table.
fn pools_are_accounted_for(engine: &Engine, rules: &Rules) -> Result<(), String> {
    let mut in_table: BTreeMap<IpAddr, u64> = BTreeMap::new();
    for connection in engine.table().iter() {
        let has_source = connection.kind() == ConnectionKind::Snat || connection.is_full_nat();
        if has_source {
            *in_table.entry((*connection.key(Outbound).dst().ip()).into()).or_default() += 1;
        }
    }
    let in_use = |addresses: BTreeSet<IpAddr>| -> u64 {
        addresses.iter().filter_map(|address| in_table.get(address)).sum()
    };
    let of = |local: &[LocalAddress]| in_use(local.iter().map(|local| local.address).collect());
    let snat = rules.snat.iter().map(|rule| in_use(rule.to.iter().copied().collect())).collect();
    let counted = engine.rules().snat_usage().map(|usage| usage.in_use).collect::<Vec<_>>();
    equal("SNAT endpoints", &counted, &snat)?;
    let (local, hairpin) = (engine.rules().local_usage(), engine.rules().hairpin_usage());
    equal("local endpoints", &local.in_use, &of(&rules.local_addresses))?;
    equal("hairpin endpoints", &hairpin.in_use, &of(rules.hairpin.as_slice()))
}

/// The services that have a server: one, or none if nobody has its number.
fn service_of(engine: &Engine, server: ServerId) -> Option<ServiceId> {
    let rules = engine.rules();
    let listed = rules.services().flat_map(|(id, _, servers)| servers.iter().map(move |s| (id, s)));
    let mut all = listed.chain(rules.retired_servers());
    all.find(|(_, known)| known.id() == server).map(|(service, _)| service)
}

fn clients_keep_servers_of_their_service(engine: &Engine, now: Instant) -> Result<(), String> {
    for (service, client, server) in engine.rules().kept_servers(now) {
        if service_of(engine, server) != Some(service) {
            return Err(format!("{client} keeps a server of another service"));
        }
    }
    Ok(())
}

/// Both keys lead to this connection: no other has one of them, and the index is whole.
fn keys_are_its_own(engine: &Engine, connection: &Connection) -> Result<(), String> {
    for direction in [Inbound, Outbound] {
        let key = connection.key(direction);
        let (id, found) = engine.table().lookup(&key).ok_or_else(|| format!("{key:?} is lost"))?;
        let is_ambiguous = connection.key(Inbound) == connection.key(Outbound);
        if !std::ptr::eq(engine.table().get(id), connection)
            || (found != direction && !is_ambiguous)
        {
            return Err(format!("{key:?} is another's"));
        }
    }
    Ok(())
}

fn server_is_its_services(engine: &Engine, connection: &Connection) -> Result<(), String> {
    let ConnectionKind::Service(service, server) = connection.kind() else { return Ok(()) };
    equal("service of the server", &service_of(engine, server), &Some(service))
}

/// What comes in, is answered, and has its answer go out, is the answer that its sender expects; the
/// same the other way round; and not a bit of a checksum is lost.
fn translations_are_inverses(connection: &Connection) -> Result<(), String> {
    for direction in [Inbound, Outbound] {
        let there = packet(&connection.key(direction), direction);
        let answer = turned_round(&translated(&there, connection, direction));
        let expected = packet(&connection.key(direction.opposite()), direction.opposite());
        equal("endpoints", &endpoints(&answer), &endpoints(&expected))?;
        let back = turned_round(&translated(&answer, connection, direction.opposite()));
        equal("there and back", &back, &there)?;
    }
    Ok(())
}

fn translated(packet: &[u8], connection: &Connection, direction: Direction) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let mut view = Ipv4Packet::parse(&mut bytes).expect("a sound IPv4 header");
    connection.translation(direction).apply(&mut view);
    bytes
}

/// A bare packet with this key. Its checksums stand for any.
fn packet(key: &FlowKey, direction: Direction) -> Vec<u8> {
    const CHECKSUM: [u8; 2] = [0x12, 0x34];
    let (src, dst) = (key.src(), key.dst());
    let ports = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    let transport = match (key.protocol(), direction) {
        (protocol::TCP, _) => {
            [&ports[..], &[0; 8], &[5 << 4, 0, 0, 0], &CHECKSUM, &[0; 2]].concat()
        }
        (protocol::UDP, _) => [&ports[..], &[0, 8], &CHECKSUM].concat(),
        (protocol::ICMP, Inbound) => [&[8, 0], &CHECKSUM[..], &ports[..2], &[0; 2]].concat(),
        (protocol::ICMP, Outbound) => [&[0, 0], &CHECKSUM[..], &ports[2..], &[0; 2]].concat(),
        _ => ports,
    };
    let length = 20 + transport.len() as u8;
    let header = [0x45, 0, 0, length, 0, 0, 0, 0, 64, key.protocol(), CHECKSUM[0], CHECKSUM[1]];
    [&header, &src.ip().octets()[..], &dst.ip().octets(), &transport].concat()
}

/// What the receiver of a packet answers: source and destination are exchanged, and an echo request
/// becomes a reply. Checksums cover the same words still, but for ICMP's, which is of no matter here.
fn turned_round(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    bytes[12..16].copy_from_slice(&packet[16..20]);
    bytes[16..20].copy_from_slice(&packet[12..16]);
    if packet[9] == protocol::ICMP {
        bytes[20] = 8 - packet[20];
    } else {
        bytes[20..22].copy_from_slice(&packet[22..24]);
        bytes[22..24].copy_from_slice(&packet[20..22]);
    }
    bytes
}

/// Addresses, and ports or an echo's type and identifier.
fn endpoints(packet: &[u8]) -> Vec<u8> {
    let transport = if packet[9] == protocol::ICMP {
        [&packet[20..21], &packet[24..26]].concat()
    } else {
        packet[20..24].to_vec()
    };
    [&packet[12..20], &transport].concat()
}
