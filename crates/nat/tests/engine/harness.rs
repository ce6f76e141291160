//! The language of these tests: a director with a clock of its own, the hosts around it, and what
//! can be said of a packet that was sent to it.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use shunt_nat::{
    Connection, ConnectionFilter, ConnectionState, Cursor, DropReason, Engine, EngineConfig,
    EngineCounters, Instant, Reply, RulesetBuilder, ServerCounters, ServiceCounters, Side,
    Topology, Verdict, scheduler::Disruption,
};
use shunt_packet::{ipv4::Ipv4Packet, tcp::RESET_LEN};
use shunt_rules::{
    LocalAddress, Protocol, RealServer, Rules,
    Scheduler::{RoundRobin, WeightedRoundRobin},
    SnatRule, VirtualEndpoint, VirtualService,
};
use shunt_testkit::{Packet, describe, ethernet, mac, verify_checksums};

use crate::invariants;

pub(crate) const CLIENT: &str = "192.168.1.200:40000";
pub(crate) const VIP: &str = "192.168.1.100:80";
pub(crate) const RS1: &str = "192.168.2.210:80";
pub(crate) const RS2: &str = "192.168.2.220:80";
/// An inside host that is no real server.
pub(crate) const HOST: &str = "192.168.2.50:50000";
/// A host of the wide world, beyond the default route.
pub(crate) const REMOTE: &str = "203.0.113.7:443";
/// The director's address outside, as SNAT uses it.
pub(crate) const OUTSIDE_ADDRESS: &str = "192.168.1.100";
pub(crate) const INSIDE_ADDRESS: &str = "192.168.2.200";

/// How late the table may notice that a connection's time is up.
pub(crate) const SLACK: Duration = Duration::from_millis(2048);

pub(crate) fn tcp(src: &str, dst: &str) -> Packet {
    Packet::tcp(src, dst)
}

pub(crate) fn udp(src: &str, dst: &str) -> Packet {
    Packet::udp(src, dst)
}

/// The address of an endpoint.
pub(crate) fn host(endpoint: &str) -> &str {
    endpoint.split_once(':').expect("an endpoint").0
}

/// A TCP service that gives its servers turns.
pub(crate) fn rr(vip: &str, servers: &[&str]) -> VirtualService {
    let servers: Vec<_> = servers.iter().map(|server| (*server, 1)).collect();
    VirtualService { scheduler: RoundRobin, ..wrr(vip, &servers) }
}

/// A TCP service that spreads by weight.
pub(crate) fn wrr(vip: &str, servers: &[(&str, u16)]) -> VirtualService {
    let servers = servers.iter().map(|(endpoint, weight)| real(endpoint, *weight)).collect();
    VirtualService::new(Protocol::Tcp, socket(vip), WeightedRoundRobin, servers)
}

/// An endpoint.
pub(crate) fn socket(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

/// A real server.
pub(crate) fn real(endpoint: &str, weight: u16) -> RealServer {
    RealServer::new(socket(endpoint), weight)
}

/// An address and the ports on it that clients may dial.
pub(crate) fn endpoint(address: &str, ports: std::ops::RangeInclusive<u16>) -> VirtualEndpoint {
    VirtualEndpoint { address: address.parse().unwrap(), ports }
}

/// An address of the director's with ports to use.
pub(crate) fn local(address: &str, ports: std::ops::RangeInclusive<u16>) -> LocalAddress {
    LocalAddress { address: address.parse().unwrap(), ports }
}

/// The same service over UDP.
pub(crate) fn over_udp(service: VirtualService) -> VirtualService {
    VirtualService { protocols: vec![Protocol::Udp], ..service }
}

/// Inside hosts of 192.168.2.0/24 go out behind the outside address, with these source ports.
pub(crate) fn snat(ports: std::ops::RangeInclusive<u16>) -> SnatRule {
    SnatRule {
        from: "192.168.2.0/24".parse().unwrap(),
        to: vec![OUTSIDE_ADDRESS.parse().unwrap()],
        ports,
    }
}

/// Services as rules have them.
pub(crate) fn services(services: &[VirtualService]) -> Vec<Arc<VirtualService>> {
    services.iter().cloned().map(Arc::new).collect()
}

/// A service of the rules, to be changed.
pub(crate) fn edit(rules: &mut Rules, service: usize) -> &mut VirtualService {
    Arc::make_mut(&mut rules.services[service])
}

/// Rules of services and SNAT rules alone.
pub(crate) fn rules_of(services: &[VirtualService], snat: &[SnatRule]) -> Rules {
    Rules { services: self::services(services), snat: snat.to_vec(), ..Rules::default() }
}

/// 192.168.1.0/24 and the default route lie outside, 192.168.2.0/24 inside; one own address each.
pub(crate) struct Lab;

impl Topology for Lab {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        [OUTSIDE_ADDRESS, INSIDE_ADDRESS].contains(&address.to_string().as_str())
    }

    fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
        match address.octets() {
            [192, 168, 2, _] => Some(Side::Inside),
            _ => Some(Side::Outside),
        }
    }
}

/// An engine between two networks.
pub(crate) struct Director {
    engine: Engine,
    builder: RulesetBuilder,
    rules: Rules,
    steps: usize,
    now: Instant,
    /// Resets that the engine has sent of its own accord, IPv4 packets.
    pub(crate) sent: Vec<Vec<u8>>,
}

impl Director {
    pub(crate) fn new(services: &[VirtualService], rules: &[SnatRule]) -> Director {
        Director::with_capacity(64, services, rules)
    }

    pub(crate) fn with_capacity(
        capacity: u32,
        services: &[VirtualService],
        rules: &[SnatRule],
    ) -> Director {
        let rules = rules_of(services, rules);
        Director::with_config(&Director::config(capacity), &rules)
    }

    /// What these tests run an engine with unless they say otherwise.
    pub(crate) fn config(capacity: u32) -> EngineConfig {
        EngineConfig { capacity, secret: [11, 22, 33, 44] }
    }

    /// A director that does all that `rules` says.
    pub(crate) fn with_rules(rules: &Rules) -> Director {
        Director::with_config(&Director::config(64), rules)
    }

    pub(crate) fn with_config(config: &EngineConfig, rules: &Rules) -> Director {
        let mut builder = RulesetBuilder::new(7, 1);
        let ruleset = builder.build(rules, Instant::default(), |_| 0).unwrap().rulesets.remove(0);
        let engine = Engine::new(config, ruleset).expect("memory");
        // A clock's start means nothing; an odd one shows who thinks that it does.
        let now = Instant::from_millis(987_654_321);
        let mut director =
            Director { engine, builder, rules: rules.clone(), steps: 0, now, sent: Vec::new() };
        director.wait(Duration::ZERO);
        director
    }

    /// A packet arrives on the outside port.
    #[track_caller]
    pub(crate) fn outside(&mut self, packet: impl Into<Vec<u8>>) -> Outcome<'_> {
        self.receive(Side::Outside, packet.into())
    }

    /// A packet arrives on the inside port.
    #[track_caller]
    pub(crate) fn inside(&mut self, packet: impl Into<Vec<u8>>) -> Outcome<'_> {
        self.receive(Side::Inside, packet.into())
    }

    #[track_caller]
    pub(crate) fn receive(&mut self, side: Side, arrived: Vec<u8>) -> Outcome<'_> {
        let opened = self.engine.counters().opened;
        let mut left = arrived.clone();
        let mut packet = Ipv4Packet::parse(&mut left).expect("a sound IPv4 header");
        let verdict = self.engine.process(self.now, side, &mut packet, &Lab);
        match verdict {
            Verdict::Translate(translation) => {
                translation.apply(&mut packet);
                assert_eq!(packet.header.dst(), translation.destination());
            }
            Verdict::Forward => {}
            _ => {
                assert_eq!(left, arrived, "a packet that is not sent on is left as it came");
                assert_eq!(self.engine.counters().opened, opened, "{verdict:?} opens nothing");
            }
        }
        self.check();
        Outcome { director: self, side, arrived, left, verdict }
    }

    /// Lets time pass, and silent connections end.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.wait_with_budget(time, usize::MAX);
    }

    pub(crate) fn wait_seconds(&mut self, seconds: u64) {
        self.wait(Duration::from_secs(seconds));
    }

    /// Lets time pass, but looks at no more than `budget` records for silent ones.
    pub(crate) fn wait_with_budget(&mut self, time: Duration, budget: usize) {
        self.now = self.now + time;
        let sent = &mut self.sent;
        self.engine.expire(self.now, budget, |reset| sent.push(reset.to_vec()));
        self.check();
    }

    /// A client's whole TCP handshake with the service at `vip`, which gives it the server `real`.
    #[track_caller]
    pub(crate) fn handshake(&mut self, client: &str, vip: &str, real: &str) {
        self.outside(tcp(client, vip).syn()).leaves_as(tcp(client, real).syn());
        self.inside(tcp(real, client).syn().ack(1)).leaves_as(tcp(vip, client).syn().ack(1));
        self.outside(tcp(client, vip).ack(1)).leaves_as(tcp(client, real).ack(1));
    }

    /// Changes the rules. Returns what that did to services with Maglev hashing.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Rules)) -> Vec<Disruption> {
        change(&mut self.rules);
        let mut update = self.builder.build(&self.rules, self.now, |_| 0).unwrap();
        self.engine.replace_rules(update.rulesets.remove(0));
        self.check();
        update.disruptions.into_iter().map(|(_, disruption)| disruption).collect()
    }

    /// Changes the weight of a server, counted through all services.
    pub(crate) fn set_weight(&mut self, server: usize, weight: u16) {
        self.change(|rules| {
            let mut all = rules
                .services
                .iter_mut()
                .map(Arc::make_mut)
                .flat_map(|service| service.servers.iter_mut().chain(&mut service.fallback));
            all.nth(server).expect("a server").weight = weight;
        });
    }

    /// Ends connections that the filter admits, looking at no more than `budget` records. Returns whether
    /// all were looked at.
    pub(crate) fn kill(
        &mut self,
        filter: &ConnectionFilter,
        cursor: &mut Cursor,
        budget: usize,
        killed: &mut u64,
    ) -> bool {
        let Director { engine, sent, now, .. } = self;
        let send = |reset: &[u8; RESET_LEN]| sent.push(reset.to_vec());
        let is_over = engine.kill(*now, filter, cursor, budget, killed, send);
        self.check();
        is_over
    }

    pub(crate) fn connections(&self) -> Vec<&Connection> {
        self.engine.table().iter().collect()
    }

    /// The state of the only connection.
    #[track_caller]
    pub(crate) fn state(&self) -> ConnectionState {
        match self.connections()[..] {
            [connection] => connection.state(),
            _ => panic!("not one connection\n{}", self.dump()),
        }
    }

    /// How long the only connection may stay silent.
    pub(crate) fn remaining(&self) -> Duration {
        self.connections()[0].remaining(self.now)
    }

    pub(crate) fn counters(&self) -> EngineCounters {
        self.engine.counters()
    }

    pub(crate) fn service(&self, service: usize) -> ServiceCounters {
        self.engine.service_counters().nth(service).unwrap()
    }

    pub(crate) fn server(&self, server: usize) -> ServerCounters {
        self.engine.server_counters().nth(server).unwrap()
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Connections that each server has now.
    pub(crate) fn current(&self) -> Vec<u64> {
        self.engine.server_counters().map(|server| server.current()).collect()
    }

    /// Checks the [`invariants`] after a step: after every one while the table is small, else as
    /// often as the tests stay quick.
    #[track_caller]
    fn check(&mut self) {
        const QUICK: usize = 32;
        self.steps += 1;
        if self.steps.is_multiple_of(1 + self.engine.table().len() / QUICK) {
            let result = invariants::check(&self.engine, &self.rules, self.now);
            result.unwrap_or_else(|error| panic!("{error}\n{}", self.dump()));
        }
    }

    /// Everything that a failed test's reader wants to know.
    fn dump(&self) -> String {
        use shunt_nat::Direction::{Inbound, Outbound};
        let shown = self.connections().into_iter().take(30);
        let connections = shown.map(|connection| {
            let (kind, state) = (connection.kind(), connection.state());
            let (inbound, outbound) = (connection.key(Inbound), connection.key(Outbound));
            let left = connection.remaining(self.now);
            format!("  {kind:?} {state:?} {left:?}: {inbound:?} | {outbound:?}\n")
        });
        format!(
            "{} connections, of which:\n{}{:?}\n{:?}\n{:?}",
            self.connections().len(),
            connections.collect::<String>(),
            self.engine.counters(),
            self.engine.service_counters().collect::<Vec<_>>(),
            self.engine.server_counters().collect::<Vec<_>>(),
        )
    }
}

/// What became of a packet.
#[must_use = "say what must become of the packet"]
pub(crate) struct Outcome<'a> {
    director: &'a Director,
    side: Side,
    arrived: Vec<u8>,
    left: Vec<u8>,
    pub(crate) verdict: Verdict,
}

impl Outcome<'_> {
    /// It was translated into exactly `expected`.
    #[track_caller]
    pub(crate) fn leaves_as(&self, expected: impl Into<Vec<u8>>) {
        assert!(matches!(self.verdict, Verdict::Translate(_)), "{}", self.story());
        self.assert_left(&expected.into());
    }

    /// It is an ICMP error, and was translated into exactly `expected`.
    #[track_caller]
    pub(crate) fn is_passed_on_as(&self, expected: impl Into<Vec<u8>>) {
        assert_eq!(self.verdict, Verdict::Forward, "{}", self.story());
        self.assert_left(&expected.into());
    }

    /// It was translated into something, which this returns.
    #[track_caller]
    pub(crate) fn translated(self) -> Vec<u8> {
        assert!(matches!(self.verdict, Verdict::Translate(_)), "{}", self.story());
        verify(&self.left).unwrap_or_else(|error| panic!("{error}: {}", self.story()));
        self.left
    }

    #[track_caller]
    pub(crate) fn is_answered_by(&self, reply: Reply) {
        assert_eq!(self.verdict, Verdict::Reply(reply), "{}", self.story());
    }

    #[track_caller]
    pub(crate) fn is_dropped_for(&self, reason: DropReason) {
        assert_eq!(self.verdict, Verdict::Drop(reason), "{}", self.story());
    }

    #[track_caller]
    pub(crate) fn is_punted(&self) {
        assert_eq!(self.verdict, Verdict::Punt, "{}", self.story());
    }

    #[track_caller]
    fn assert_left(&self, expected: &[u8]) {
        assert!(self.left == expected, "expected {}\n{}", show(expected), self.story());
        verify(&self.left).unwrap_or_else(|error| panic!("{error}: {}", self.story()));
    }

    fn story(&self) -> String {
        format!(
            "\narrived {:?}: {}\nverdict {:?}\nleft {}\n{}",
            self.side,
            show(&self.arrived),
            self.verdict,
            show(&self.left),
            self.director.dump(),
        )
    }

    /// What left, or would have.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.left
    }
}

/// Recomputes all checksums of an IPv4 packet.
pub(crate) fn verify(packet: &[u8]) -> Result<(), String> {
    verify_checksums(&framed(packet))
}

fn show(packet: &[u8]) -> String {
    format!("{}\n    {packet:02x?}", describe(&framed(packet)))
}

fn framed(packet: &[u8]) -> Vec<u8> {
    ethernet(mac(1), mac(2), 0x0800, packet)
}
