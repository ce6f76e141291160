//! What the main lcore sees of workers and asks of them, while they are alive: counters, connections, the
//! state of servers.
//!
//! The director is driven by hand; frames are handed to the worker that owns them, and net_pcap writes
//! down what leaves.

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    sync::atomic::{AtomicU32, Ordering},
};

use shunt_config::Config;
use shunt_dataplane::{ConnectionWalk, DirectorParts, DropReason, Owners};
use shunt_nat::{
    AdminState, ConnectionFilter, ConnectionInfo, ConnectionState, Health, Instant, Origin,
    ServerCounters, ServerId, ServiceId, Side, Traffic,
};
use shunt_testkit::{Packet, arp_reply, ethernet, pcap, verify_checksums};
use tempfile::TempDir;

use crate::{
    network::{CLIENT, DIP, Host, RS1, RS2, VIP},
    stage::eal,
};

const HTTP: &str = "192.168.1.100:80";
const HTTPS: &str = "192.168.1.100:443";
const SERVERS: [(&Host, &str); 2] = [(&RS1, "192.168.2.210:8080"), (&RS2, "192.168.2.220:8080")];
/// Entries of the owners' table where no card has one.
const ENTRIES: usize = 128;

/// A director on two devices, and the peers around it.
struct Stage {
    director: DirectorParts,
    config: Config,
    owners: Owners,
    number: u32,
    devargs: [String; 2],
    directory: TempDir,
    now: Instant,
}

/// The services of the rules: each at its VIP and port, with its servers and their weights.
fn service(vip: &str, servers: &[(&str, u16)]) -> String {
    let server = |(address, weight): &(&str, u16)| {
        format!("{{ address = \"{address}\", weight = {weight} }}")
    };
    let servers: Vec<_> = servers.iter().map(server).collect();
    let servers = servers.join(", ");
    format!("[[service]]\nvip = \"{vip}\"\nscheduler = \"rr\"\nserver = [{servers}]\n")
}

/// A service of both servers.
fn both(vip: &str) -> String {
    service(vip, &SERVERS.map(|(_, server)| (server, 1)))
}

impl Stage {
    fn set(workers: usize, rules: &str) -> Stage {
        static STAGES: AtomicU32 = AtomicU32::new(0);
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let devargs = ["outside", "inside"].map(|side| {
            let queue = |queue| {
                let file = |what| directory.path().join(format!("{what}-{side}-{queue}.pcap"));
                let [rx, tx] = ["rx", "tx"].map(file);
                pcap::write(&rx, &[]);
                format!(",rx_pcap={},tx_pcap={}", rx.display(), tx.display())
            };
            let queues: String = (0..workers).map(queue).collect();
            format!("net_pcap_control_{side}_{number}{queues}")
        });
        for device in &devargs {
            eal().attach_vdev(device).expect("a device");
        }
        let text = text(&devargs, workers, rules);
        let config =
            Config::parse("control.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
        // Fewer than a service file can have: pools live as long as EAL.
        let mut with_few = config.clone();
        with_few.dpdk.mbufs = 512;
        let director = DirectorParts::open(eal(), &with_few).expect("a director");
        let owners = Owners::new(ENTRIES, workers);
        let now = Instant::default();
        let mut stage = Stage { director, config, owners, number, devargs, directory, now };
        for (host, own) in [(&CLIENT, VIP), (&RS1, DIP), (&RS2, DIP)] {
            for worker in 0..workers {
                let mac = stage.mac(host.side);
                let answer = arp_reply(host.mac, host.address, mac, own);
                assert!(stage.director.workers()[worker].inject(now, host.side, &answer));
            }
        }
        stage.director.poll(now);
        stage
    }

    fn mac(&mut self, side: Side) -> [u8; 6] {
        self.director.workers()[0].macs()[side as usize].0
    }

    /// A packet arrives at the worker that owns what this client opens.
    fn arrives(&mut self, from: &Host, client: &str, packet: &Packet) {
        let client: SocketAddrV4 = client.parse().expect("an endpoint");
        let owner = usize::from(self.owners.owner(*client.ip(), client.port()).0);
        let frame = ethernet(from.mac, self.mac(from.side), 0x0800, &packet.bytes());
        let now = self.now;
        assert!(self.director.workers()[owner].inject(now, from.side, &frame));
        self.director.poll(now);
    }

    /// A client opens a connection, and whichever server gets it answers: three packets of 40 bytes, two
    /// of them from the client.
    fn connects(&mut self, client: &str, vip: &str) -> SocketAddrV4 {
        self.arrives(&CLIENT, client, &Packet::tcp(client, vip).seq(100).syn());
        let real = self.connection(client).real;
        let (server, rport) = SERVERS
            .into_iter()
            .find(|(_, server)| real.to_string() == **server)
            .expect("one of the servers");
        let answer = Packet::tcp(rport, client).seq(900).syn().ack(101);
        self.arrives(server, client, &answer);
        self.arrives(&CLIENT, client, &Packet::tcp(client, vip).seq(101).ack(901));
        real
    }

    /// The connection of a client.
    fn connection(&mut self, client: &str) -> ConnectionInfo {
        let of_client = |info: &&ConnectionInfo| info.client.to_string() == client;
        let all = self.listed(ConnectionFilter::default());
        *all.iter().find(of_client).expect("a connection")
    }

    fn listed(&mut self, filter: ConnectionFilter) -> Vec<ConnectionInfo> {
        let (mut walk, mut all) = (ConnectionWalk::new(filter), Vec::new());
        while let Some(page) =
            self.director.next_connections(self.now, &mut walk).expect("workers that answer")
        {
            assert!(!page.is_empty());
            all.extend(page);
        }
        all
    }

    fn count(&mut self, filter: ConnectionFilter) -> u64 {
        self.director.count_connections(self.now, &filter).expect("workers that answer")
    }

    fn kill(&mut self, filter: ConnectionFilter) -> u64 {
        self.director.kill_connections(self.now, &filter).expect("workers that answer")
    }

    fn changes_to(&mut self, rules: &str) {
        let text = text(&self.devargs, self.director.workers().len(), rules);
        let changed = self.config.parse_change("changed.toml", &text);
        self.config = changed.unwrap_or_else(|errors| panic!("{errors}"));
        self.director.apply(self.now, &self.config).expect("rules that can be built");
    }

    fn service(&self, vip: &str) -> ServiceId {
        let mut services = self.director.control().services();
        let service = services.find(|service| service.rules.to_string().ends_with(vip));
        service.expect("a service").id
    }

    /// A service's servers by their addresses: what was counted, and whether they were removed.
    fn servers(&self, vip: &str) -> BTreeMap<String, (ServerId, ServerCounters, bool)> {
        let servers = self.director.control().servers(self.service(vip));
        let described = servers.map(|server| {
            let port = server.rules.port.expect("a port of its own");
            let endpoint = format!("{}:{port}", server.rules.address);
            (endpoint, (server.id, server.counters, server.is_removed))
        });
        described.collect()
    }

    fn server(&self, vip: &str, address: &str) -> ServerId {
        self.servers(vip)[address].0
    }

    /// The director ends; returns the frames that left, outside first.
    fn strike(self) -> [Vec<Vec<u8>>; 2] {
        let Stage { mut director, config, number, directory, .. } = self;
        let workers = director.workers().len();
        assert_eq!(director.close(&config).mbufs.missing(), 0);
        ["outside", "inside"].map(|side| {
            let device = format!("net_pcap_control_{side}_{number}");
            eal().detach_vdev(&device).expect("a device that nobody uses");
            let file = |queue| directory.path().join(format!("tx-{side}-{queue}.pcap"));
            (0..workers).flat_map(|queue| pcap::read(&file(queue))).collect()
        })
    }
}

fn text([outside, inside]: &[String; 2], workers: usize, rules: &str) -> String {
    let lcores: Vec<_> = (1..=workers).collect();
    format!(
        r#"
        [dpdk]
        no-huge = true
        worker-lcores = {lcores:?}

        [[port]]
        name = "outside"
        role = "outside"
        device = "{outside}"
        addresses = ["{VIP}/24"]
        rx-descriptors = 64
        tx-descriptors = 64

        [[port]]
        name = "inside"
        role = "inside"
        device = "{inside}"
        addresses = ["{DIP}/24"]
        rx-descriptors = 64
        tx-descriptors = 64

        [nat]
        connections = 1024

        {rules}
        "#
    )
}

/// The endpoint of a client that opens its connection as the `number`th.
fn client(number: u16) -> String {
    format!("{}:{}", CLIENT.address, 4000 + number)
}

/// What a handshake comes to.
fn handshakes(number: u64) -> Traffic {
    Traffic {
        in_packets: 2 * number,
        in_bytes: 80 * number,
        out_packets: number,
        out_bytes: 40 * number,
    }
}

/// What a server has counted that took so many connections, all of them established still.
fn took(number: u32) -> ServerCounters {
    ServerCounters {
        connections: number.into(),
        traffic: handshakes(number.into()),
        active: number,
        inactive: 0,
    }
}

#[test]
fn counters_are_seen_while_packets_flow() {
    let mut stage = Stage::set(1, &(both(HTTP) + &both(HTTPS)));
    for number in 0..3 {
        stage.connects(&client(number), HTTP);
    }
    let servers = stage.servers(HTTP);
    assert_eq!(servers[SERVERS[0].1].1, took(2));
    assert_eq!(servers[SERVERS[1].1].1, took(1));

    // A segment each way: what is counted is the IP packet.
    let (first, server) = (client(0), SERVERS[0].1);
    let ask = Packet::tcp(&first, HTTP).seq(101).ack(901).payload("ask");
    stage.arrives(&CLIENT, &first, &ask);
    let answer = Packet::tcp(server, &first).seq(901).ack(104).payload("answers");
    stage.arrives(&RS1, &first, &answer);
    let mut expected = took(2);
    expected.traffic.in_packets += 1;
    expected.traffic.in_bytes += 43;
    expected.traffic.out_packets += 1;
    expected.traffic.out_bytes += 47;
    assert_eq!(stage.servers(HTTP)[server].1, expected);
    assert_eq!(stage.servers(HTTPS)[server].1, took(0), "the same host, but another service");

    let services: Vec<_> = stage.director.control().services().collect();
    let [http, https] = &services[..] else { panic!("{services:?}") };
    assert_eq!((http.counters.connections, http.counters.refused), (3, 0));
    assert_eq!(http.counters.traffic.in_bytes, 3 * 80 + 43, "of all servers");
    assert_eq!(http.counters.traffic.out_packets, 3 + 1);
    assert_eq!(https.counters.connections, 0);
    assert!(!http.is_removed && !https.is_removed);
    stage.strike();
}

#[test]
fn a_worker_shows_how_it_is() {
    let mut stage = Stage::set(1, &both(HTTP));
    stage.connects(&client(0), HTTP);
    stage.arrives(&CLIENT, &client(1), &Packet::tcp(&client(1), HTTP).syn());
    stage.arrives(&CLIENT, &client(2), &Packet::tcp(&client(2), "192.168.1.100:81").syn());

    let workers = stage.director.control().workers();
    let [worker] = &workers[..] else { panic!("one worker") };
    let drops: Vec<_> = worker.drops.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(drops, [(DropReason::Refused, 1)]);
    assert_eq!((worker.connections(), worker.capacity), (2, 1024));
    let states: Vec<_> = worker.states.iter().copied().filter(|(_, count)| *count > 0).collect();
    assert_eq!(states.len(), 2);
    for state in [ConnectionState::Established, ConnectionState::SynRecv] {
        assert!(states.contains(&(state, 1)), "{states:?}");
    }
    assert_eq!((worker.engine.opened, worker.engine.killed), (2, 0));
    assert_eq!((worker.pipeline.resets, worker.pipeline.arp_learned), (1, 3));
    // Two SYNs and an ACK to the servers, and to the client a SYN-ACK and the reset for the third.
    let sent = worker.ports.map(|port| port.tx_packets);
    let arp = worker.pipeline.arp_requests + worker.pipeline.arp_replies;
    assert_eq!(sent.iter().sum::<u64>(), 3 + 2 + arp);
    stage.strike();
}

#[test]
fn all_connections_are_listed_once() {
    const CONNECTIONS: u16 = 60;
    let mut stage = Stage::set(2, &both(HTTP));
    let opened: BTreeMap<_, _> = (0..CONNECTIONS)
        .map(|number| (client(number), stage.connects(&client(number), HTTP)))
        .collect();
    let shares = stage.director.control().workers();
    assert!(shares.iter().all(|worker| worker.connections() > 0), "both have some");

    let listed = stage.listed(ConnectionFilter::default());
    assert_eq!(listed.len(), usize::from(CONNECTIONS), "each once");
    let found: BTreeMap<_, _> =
        listed.iter().map(|info| (info.client.to_string(), info.real)).collect();
    assert_eq!(found, opened);
    for info in &listed {
        assert_eq!(info.dialled.to_string(), HTTP);
        assert_eq!(info.seen_as, info.client, "a server sees the client itself");
        assert_eq!((info.protocol, info.state), (6, ConnectionState::Established));
    }
    assert_eq!(stage.count(ConnectionFilter::default()), CONNECTIONS.into());

    // By each part of a filter.
    let of_first = |info: &&ConnectionInfo| info.real.to_string() == SERVERS[0].1;
    let number_of_first = listed.iter().filter(of_first).count() as u64;
    let all = ConnectionFilter::default();
    let by = |stage: &mut Stage, filter| {
        let listed = stage.listed(filter).len() as u64;
        assert_eq!(stage.count(filter), listed, "{filter:?}");
        listed
    };
    let server = Some(stage.server(HTTP, SERVERS[0].1));
    assert_eq!(by(&mut stage, ConnectionFilter { server, ..all }), number_of_first);
    let of_all = ConnectionFilter {
        service: Some(stage.service(HTTP)),
        origin: Some(Origin::Service),
        protocol: Some(6),
        client: Some("192.168.1.0/24".parse().expect("a network")),
        dialled: Some(HTTP.parse().expect("an endpoint")),
        state: Some(ConnectionState::Established),
        ..all
    };
    assert_eq!(by(&mut stage, of_all), CONNECTIONS.into());
    for of_none in [
        ConnectionFilter { origin: Some(Origin::Snat), ..of_all },
        ConnectionFilter { protocol: Some(17), ..of_all },
        ConnectionFilter { client: Some("192.168.2.0/24".parse().expect("a network")), ..of_all },
        ConnectionFilter { dialled: Some(HTTPS.parse().expect("an endpoint")), ..of_all },
        ConnectionFilter { state: Some(ConnectionState::SynRecv), ..of_all },
    ] {
        assert_eq!(by(&mut stage, of_none), 0, "{of_none:?}");
    }
    stage.strike();
}

#[test]
fn both_ends_are_told_when_a_connection_is_killed() {
    const EACH: u16 = 20;
    let mut stage = Stage::set(2, &(both(HTTP) + &both(HTTPS)));
    for number in 0..EACH {
        stage.connects(&client(2 * number), HTTP);
        stage.connects(&client(2 * number + 1), HTTPS);
    }
    let before = stage.director.control().workers();
    let service = Some(stage.service(HTTP));
    let all = ConnectionFilter::default();
    assert_eq!(stage.kill(ConnectionFilter { service, ..all }), EACH.into());
    assert_eq!(stage.kill(ConnectionFilter { service, ..all }), 0, "once");
    stage.director.poll(stage.now);

    let left = stage.listed(all);
    assert_eq!(left.len(), usize::from(EACH));
    assert!(left.iter().all(|info| info.dialled.to_string() == HTTPS));
    for (_, counters, _) in stage.servers(HTTP).values() {
        assert_eq!((counters.active, counters.inactive), (0, 0));
        assert_eq!(counters.connections, u64::from(EACH) / 2, "it had them");
    }
    let after = stage.director.control().workers();
    let added = |of: fn(&shunt_dataplane::WorkerStatus) -> u64| {
        after.iter().map(of).sum::<u64>() - before.iter().map(of).sum::<u64>()
    };
    assert_eq!(added(|worker| worker.engine.killed), EACH.into());
    assert_eq!(added(|worker| worker.pipeline.resets), 2 * u64::from(EACH));

    // The server's side is told by the client's endpoint, the client by the VIP.
    let is_reset = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame[14 + 20 + 13] & 4 != 0;
    let ports = |frame: &Vec<u8>| [34, 36].map(|at| u16::from_be_bytes([frame[at], frame[at + 1]]));
    let killed: Vec<_> = (0..EACH).map(|number| 4000 + 2 * number).collect();
    let [outside, inside] = stage.strike();
    for (frames, to) in [(outside, Side::Outside), (inside, Side::Inside)] {
        let resets: Vec<_> = frames.iter().filter(is_reset).collect();
        resets.iter().for_each(|frame| verify_checksums(frame).expect("right checksums"));
        let mut clients: Vec<_> = resets
            .iter()
            .map(|frame| match (to, ports(frame)) {
                (Side::Outside, [80, client]) | (Side::Inside, [client, 8080]) => client,
                (side, ports) => panic!("a reset from and to {ports:?} {side:?}"),
            })
            .collect();
        clients.sort_unstable();
        assert_eq!(clients, killed, "{to:?}");
    }
}

#[test]
fn the_state_of_a_server_takes_effect_at_once() {
    let mut stage = Stage::set(2, &both(HTTP));
    let mut numbers = 0..;
    let mut opens = |stage: &mut Stage| -> Vec<String> {
        let eight = numbers.by_ref().take(8);
        let mut reals: Vec<_> =
            eight.map(|number| stage.connects(&client(number), HTTP).to_string()).collect();
        reals.sort();
        reals.dedup();
        reals
    };
    let [first, second] = SERVERS.map(|(_, server)| server);
    assert_eq!(opens(&mut stage), [first, second]);
    let number = stage.server(HTTP, first);
    let set = |stage: &Stage, health, admin| {
        let server = stage.director.control().server(number).expect("a server");
        server.set_health(health);
        server.set_admin(admin);
    };
    set(&stage, Health::Down, AdminState::Enabled);
    assert_eq!(opens(&mut stage), [second], "it is down");
    set(&stage, Health::Up, AdminState::Enabled);
    assert_eq!(opens(&mut stage), [first, second]);
    for state in [AdminState::Draining, AdminState::Disabled] {
        set(&stage, Health::Up, state);
        assert_eq!(opens(&mut stage), [second], "{state:?}");
    }
    set(&stage, Health::Up, AdminState::Enabled);
    assert_eq!(opens(&mut stage), [first, second]);
    stage.strike();
}

#[test]
fn counters_outlive_a_change() {
    let [first, second] = SERVERS.map(|(_, server)| server);
    let mut stage = Stage::set(1, &both(HTTP));
    for number in 0..4 {
        stage.connects(&client(number), HTTP);
    }
    let of_service = |stage: &Stage| {
        let mut services = stage.director.control().services();
        services.next().expect("a service").counters
    };
    let before = of_service(&stage);
    assert_eq!((before.connections, before.traffic), (4, handshakes(4)));

    // The service is edited: a server's weight, and its options.
    let edited = service(HTTP, &[(first, 3), (second, 1)]) + "timeouts = { established = 600 }\n";
    stage.changes_to(&edited);
    assert_eq!(of_service(&stage), before);
    assert_eq!(stage.servers(HTTP)[first].1, took(2));
    assert_eq!(stage.servers(HTTP)[second].1, took(2));

    // A server is removed, while it has connections.
    stage.changes_to(&service(HTTP, &[(first, 1)]));
    assert_eq!(of_service(&stage), before);
    let (_, counters, is_removed) = stage.servers(HTTP)[second];
    assert!(is_removed, "it is shown as long as it has some");
    assert_eq!(counters, took(2));

    // They go, and the next change forgets it.
    let server = Some(stage.server(HTTP, second));
    assert_eq!(stage.kill(ConnectionFilter { server, ..ConnectionFilter::default() }), 2);
    for weight in [2, 1] {
        stage.changes_to(&service(HTTP, &[(first, weight)]));
        assert_eq!(of_service(&stage), before, "what it had counted is its service's");
    }
    assert!(!stage.servers(HTTP).contains_key(second));
    stage.connects(&client(4), HTTP);
    let after = of_service(&stage);
    assert_eq!((after.connections, after.traffic), (5, handshakes(5)));

    // It comes back as another one.
    stage.changes_to(&both(HTTP));
    assert_eq!(stage.servers(HTTP)[second].1, took(0));
    assert_eq!(of_service(&stage), after);
    stage.strike();
}
