//! TCP's states and timeouts, from the first SYN to the end.

use std::time::Duration;

use shunt_nat::{
    ConnectionState::{
        self, Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent, TimeWait, Udp,
    },
    EngineCounters, Reply,
};
use shunt_testkit::Packet;

use crate::harness::*;

fn web() -> Director {
    Director::new(&[rr(VIP, &[RS1])], &[])
}

/// The client sends a segment that `flags` makes.
#[track_caller]
fn client(director: &mut Director, flags: impl Fn(Packet) -> Packet) {
    director.outside(flags(tcp(CLIENT, VIP))).leaves_as(flags(tcp(CLIENT, RS1)));
}

/// The server sends a segment that `flags` makes.
#[track_caller]
fn server(director: &mut Director, flags: impl Fn(Packet) -> Packet) {
    director.inside(flags(tcp(RS1, CLIENT))).leaves_as(flags(tcp(VIP, CLIENT)));
}

fn syn(packet: Packet) -> Packet {
    packet.syn()
}

fn ack(packet: Packet) -> Packet {
    packet.ack(1)
}

fn syn_ack(packet: Packet) -> Packet {
    packet.syn().ack(1)
}

fn fin(packet: Packet) -> Packet {
    packet.fin().ack(1)
}

fn rst(packet: Packet) -> Packet {
    packet.rst()
}

/// Who sends, and what.
type Sends = fn(&mut Director, fn(Packet) -> Packet);

/// A state that a service's connection can be in.
struct Stage {
    state: ConnectionState,
    /// How long it may be silent there.
    seconds: u64,
    /// Brings a connection there.
    reach: fn(&mut Director),
}

const STAGES: [Stage; 7] = [
    Stage { state: SynRecv, seconds: 60, reach: |director| client(director, syn) },
    Stage { state: Established, seconds: 900, reach: establish },
    Stage {
        state: FinWait,
        seconds: 120,
        reach: |director| {
            establish(director);
            server(director, fin);
        },
    },
    Stage {
        state: TimeWait,
        seconds: 120,
        reach: |director| {
            establish(director);
            server(director, fin);
            client(director, fin);
        },
    },
    Stage {
        state: Close,
        seconds: 10,
        reach: |director| {
            establish(director);
            server(director, rst);
        },
    },
    Stage {
        state: CloseWait,
        seconds: 60,
        reach: |director| {
            establish(director);
            client(director, fin);
        },
    },
    Stage {
        state: LastAck,
        seconds: 30,
        reach: |director| {
            establish(director);
            client(director, fin);
            server(director, fin);
        },
    },
];

/// The states in which both ends are done with a connection.
const CLOSING: [ConnectionState; 3] = [TimeWait, Close, LastAck];

fn establish(director: &mut Director) {
    director.handshake(CLIENT, VIP, RS1);
}

#[test]
fn the_client_closes_first() {
    let mut director = web();
    for (who, flags, expected) in [
        (client as Sends, syn as fn(Packet) -> Packet, SynRecv),
        (server, syn_ack, SynRecv),
        (client, ack, Established),
        (server, ack, Established),
        (client, fin, CloseWait),
        (server, ack, CloseWait),
        (server, fin, LastAck),
        (client, ack, Close),
    ] {
        who(&mut director, flags);
        assert_eq!(director.state(), expected);
    }
    director.wait(Duration::from_secs(10) + SLACK);
    let server = director.server(0);
    assert_eq!((server.connections, server.active, server.inactive), (1, 0, 0));
    assert_eq!(director.counters(), EngineCounters { opened: 1, expired: 1, ..Default::default() });
}

#[test]
fn only_a_clients_plain_acknowledgment_of_an_answer_establishes() {
    let mut director = web();
    for (who, flags) in [
        (client as Sends, syn as fn(Packet) -> Packet),
        (client, ack),
        (client, fin),
        (server, syn_ack),
        (server, ack),
        (client, syn_ack),
        (client, |packet| packet),
    ] {
        who(&mut director, flags);
        assert_eq!(director.state(), SynRecv);
    }
    client(&mut director, ack);
    assert_eq!(director.state(), Established);
}

#[test]
fn the_server_closes_first() {
    let mut director = web();
    director.handshake(CLIENT, VIP, RS1);
    server(&mut director, fin);
    assert_eq!(director.state(), FinWait);
    client(&mut director, ack);
    assert_eq!(director.state(), FinWait, "the client may go on sending");
    client(&mut director, fin);
    assert_eq!(director.state(), TimeWait);
    server(&mut director, ack);
    assert_eq!(director.state(), TimeWait);
    director.wait(Duration::from_secs(120) + SLACK);
    assert_eq!(director.current(), [0]);
}

#[test]
fn each_state_lasts_as_long_as_ipvs_says() {
    for Stage { state, seconds, reach } in STAGES {
        let mut director = web();
        reach(&mut director);
        assert_eq!(director.state(), state);
        assert_eq!(director.remaining(), Duration::from_secs(seconds), "{state:?}");

        director.wait(Duration::from_secs(seconds) - Duration::from_millis(1));
        assert_eq!(director.state(), state, "not before its time");
        director.wait(SLACK);
        assert_eq!(director.current(), [0], "{state:?}");
        assert_eq!(director.counters().expired, 1);
    }
}

#[test]
fn a_packet_of_either_side_keeps_a_connection_alive() {
    let mut director = web();
    director.handshake(CLIENT, VIP, RS1);
    for sends in [client as Sends, server] {
        director.wait_seconds(899);
        sends(&mut director, ack);
        assert_eq!(director.remaining(), Duration::from_secs(900));
    }
    director.wait(Duration::from_secs(900) + SLACK);
    assert_eq!(director.current(), [0]);
}

#[test]
fn a_reset_closes_in_any_state() {
    for Stage { state, reach, .. } in STAGES {
        for sends in [client as Sends, server] {
            let mut director = web();
            reach(&mut director);
            sends(&mut director, rst);
            assert_eq!(director.state(), Close, "from {state:?}");
            assert_eq!(director.remaining(), Duration::from_secs(10));
        }
    }
}

#[test]
fn an_expired_connection_is_forgotten() {
    let mut director = web();
    director.handshake(CLIENT, VIP, RS1);
    director.wait(Duration::from_secs(900) + SLACK);
    director.outside(tcp(CLIENT, VIP).ack(1)).is_answered_by(Reply::Reset);
    director.inside(tcp(RS1, CLIENT).ack(1)).is_answered_by(Reply::Reset);
}

#[test]
fn a_client_may_reuse_the_port_of_a_closed_connection() {
    for Stage { state, reach, .. } in STAGES.iter().filter(|stage| CLOSING.contains(&stage.state)) {
        let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
        reach(&mut director);
        director.handshake(CLIENT, VIP, RS2);
        assert_eq!(director.current(), [0, 1], "from {state:?}");
        let expected = EngineCounters { opened: 2, replaced: 1, ..Default::default() };
        assert_eq!(director.counters(), expected);
    }
}

#[test]
fn a_syn_does_not_disturb_a_living_connection() {
    for Stage { state, reach, .. } in STAGES.iter().filter(|stage| !CLOSING.contains(&stage.state))
    {
        let mut director = Director::new(&[rr(VIP, &[RS1, RS2])], &[]);
        reach(&mut director);
        client(&mut director, syn);
        assert_eq!((director.state(), director.current()), (*state, vec![1, 0]));
    }
}

#[test]
fn a_syn_that_opens_nothing_ends_nothing() {
    let mut director = web();
    director.handshake(CLIENT, VIP, RS1);
    client(&mut director, fin);
    server(&mut director, fin);
    let reply = Reply::TimeExceeded;
    director.outside(tcp(CLIENT, VIP).syn().ttl(1)).is_answered_by(reply);
    client(&mut director, ack);
    assert_eq!((director.state(), director.counters().replaced), (Close, 0));
}

#[test]
fn a_server_dials_out_from_the_port_of_a_closed_connection() {
    let mut director = web();
    director.handshake(CLIENT, VIP, RS1);
    server(&mut director, rst);
    director.inside(tcp(RS1, CLIENT).syn()).is_punted();
    assert_eq!(director.state(), Close);
}

#[test]
fn udp_has_one_state() {
    let mut director = Director::new(&[over_udp(rr(VIP, &[RS1]))], &[]);
    director.outside(udp(CLIENT, VIP)).leaves_as(udp(CLIENT, RS1));
    director.inside(udp(RS1, CLIENT)).leaves_as(udp(VIP, CLIENT));
    assert_eq!((director.state(), director.remaining().as_secs()), (Udp, 300));
    director.wait(Duration::from_secs(300) + SLACK);
    assert_eq!(director.counters(), EngineCounters { opened: 1, expired: 1, ..Default::default() });
}

#[test]
fn an_outbound_handshake() {
    let mut director = Director::new(&[], &[snat(50_000..=60_000)]);
    let behind = "192.168.1.100:50000";
    director.inside(tcp(HOST, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
    assert_eq!((director.state(), director.remaining().as_secs()), (SynSent, 120));
    director.outside(tcp(REMOTE, behind).syn().ack(1)).leaves_as(tcp(REMOTE, HOST).syn().ack(1));
    assert_eq!(director.state(), SynSent);
    director.inside(tcp(HOST, REMOTE).ack(1)).leaves_as(tcp(behind, REMOTE).ack(1));
    assert_eq!((director.state(), director.remaining().as_secs()), (Established, 900));
    director.outside(tcp(REMOTE, behind).rst()).leaves_as(tcp(REMOTE, HOST).rst());
    director.wait(Duration::from_secs(10) + SLACK);
    assert_eq!(director.counters(), EngineCounters { opened: 1, expired: 1, ..Default::default() });
}
