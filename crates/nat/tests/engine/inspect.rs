//! Looking at connections, and ending some, a part at a time.

use shunt_nat::{
    ConnectionFilter, ConnectionInfo, ConnectionKind, ConnectionState, Cursor, Origin, ServerId,
    ServiceId,
};
use shunt_packet::ipv4::protocol;

use crate::harness::*;

const DNS: &str = "192.168.1.100:53";

fn client(number: u16) -> String {
    format!("192.168.1.{}:{}", 200 + number % 4, 40_000 + number)
}

/// Forty TCP connections to two servers, of which the first ten are established, two of UDP, one through
/// SNAT.
fn director() -> Director {
    let services = [rr(VIP, &[RS1, RS2]), over_udp(rr(DNS, &[RS1]))];
    let mut director = Director::new(&services, &[snat(1024..=65_535)]);
    for number in 0..40 {
        let real = if number % 2 == 0 { RS1 } else { RS2 };
        match number {
            ..10 => director.handshake(&client(number), VIP, real),
            _ => drop(director.outside(tcp(&client(number), VIP).syn()).translated()),
        }
    }
    for number in 0..2 {
        let _ = director.outside(udp(&client(number), DNS)).translated();
    }
    let _ = director.inside(udp(HOST, REMOTE)).translated();
    director
}

/// All that a filter admits, looked for so many records at a time, on pages of that length.
fn list(director: &Director, filter: &ConnectionFilter, budget: usize) -> Vec<ConnectionInfo> {
    let (mut cursor, mut all) = (Cursor::default(), Vec::new());
    loop {
        let mut page = Vec::with_capacity(7);
        let room = page.capacity();
        let engine = director.engine();
        let is_over = engine.list(director.now(), filter, &mut cursor, budget, &mut page);
        assert!(page.len() <= room.min(budget), "{}", page.len());
        all.append(&mut page);
        if is_over {
            return all;
        }
    }
}

fn count(director: &Director, filter: &ConnectionFilter) -> usize {
    let all = list(director, filter, 5);
    let (mut cursor, mut counted) = (Cursor::default(), 0);
    let engine = director.engine();
    while !engine.count_connections(director.now(), filter, &mut cursor, 3, &mut counted) {}
    assert_eq!(counted, all.len() as u64);
    all.len()
}

#[test]
fn every_connection_is_met_once_whatever_the_budget() {
    let director = director();
    for budget in [1, 2, 7, 64, usize::MAX] {
        let mut all = list(&director, &ConnectionFilter::default(), budget);
        all.sort_by_key(|info| (info.protocol, info.client));
        all.dedup();
        assert_eq!(all.len(), 43, "{budget}");
    }
}

#[test]
fn filters_admit_what_all_of_them_say() {
    let director = director();
    let any = ConnectionFilter::default;
    let of = |filter| count(&director, &filter);
    let (web, dns) = (Some(ServiceId(0)), Some(ServiceId(1)));
    assert_eq!(of(ConnectionFilter { service: web, ..any() }), 40);
    assert_eq!(of(ConnectionFilter { service: dns, ..any() }), 2);
    assert_eq!(of(ConnectionFilter { server: Some(ServerId(1)), ..any() }), 20);
    assert_eq!(of(ConnectionFilter { origin: Some(Origin::Snat), ..any() }), 1);
    assert_eq!(of(ConnectionFilter { origin: Some(Origin::Passthrough), ..any() }), 0);
    assert_eq!(of(ConnectionFilter { protocol: Some(protocol::UDP), ..any() }), 3);
    let client = Some("192.168.1.200/32".parse().unwrap());
    assert_eq!(of(ConnectionFilter { client, service: web, ..any() }), 10);
    let established = Some(ConnectionState::Established);
    assert_eq!(of(ConnectionFilter { state: established, ..any() }), 10);
    assert_eq!(of(ConnectionFilter { state: established, client, ..any() }), 3);
    let at = |endpoint| Some(socket(endpoint));
    assert_eq!(of(ConnectionFilter { dialled: at(DNS), ..any() }), 2);
    assert_eq!(of(ConnectionFilter { dialled: at("192.168.1.100:0"), ..any() }), 42);
}

#[test]
fn what_is_said_of_a_connection() {
    let mut director = director();
    director.wait_seconds(9);
    let filter = ConnectionFilter { origin: Some(Origin::Snat), ..Default::default() };
    let [info] = list(&director, &filter, 10).try_into().unwrap();
    let behind = socket("192.168.1.100:50000");
    let seconds = std::time::Duration::from_secs;
    assert_eq!(
        info,
        ConnectionInfo {
            protocol: protocol::UDP,
            kind: ConnectionKind::Snat,
            state: ConnectionState::UdpOneWay,
            client: socket(HOST),
            dialled: socket(REMOTE),
            seen_as: behind,
            real: socket(REMOTE),
            silent_for: seconds(9),
            timeout: seconds(30),
        }
    );
    assert_eq!(info.expires_in(), seconds(21));
    let long = ConnectionFilter { silent_for: Some(seconds(10)), ..filter };
    assert_eq!(count(&director, &long), 0);
    director.wait_seconds(1);
    assert_eq!(count(&director, &long), 1);
}

#[test]
fn the_occupancy_follows_every_connection() {
    let mut director = director();
    let states = |director: &Director| {
        let occupancy = director.engine().table().occupancy();
        let all: Vec<_> = occupancy.iter().filter(|(_, count)| *count > 0).collect();
        all
    };
    use ConnectionState::{Established, SynRecv, UdpOneWay};
    assert_eq!(states(&director), [(SynRecv, 30), (Established, 10), (UdpOneWay, 3)]);
    director.outside(tcp(&client(0), VIP).fin().ack(1)).translated();
    let close_wait = (ConnectionState::CloseWait, 1);
    assert_eq!(states(&director), [(SynRecv, 30), (Established, 9), close_wait, (UdpOneWay, 3)]);
    director.wait_seconds(100_000);
    assert_eq!(states(&director), []);
}

#[test]
fn killed_connections_are_gone_and_both_ends_are_told() {
    let mut director = director();
    director.sent.clear();
    let filter = ConnectionFilter { server: Some(ServerId(1)), ..Default::default() };
    let (mut killed, mut cursor) = (0, Cursor::default());
    let mut turns = 1;
    while !director.kill(&filter, &mut cursor, 10, &mut killed) {
        turns += 1;
    }
    assert_eq!((killed, turns), (20, 5), "43 records, 10 at a time");
    assert_eq!(director.counters().killed, 20);
    assert_eq!(count(&director, &filter), 0);
    assert_eq!(director.current(), [20, 0, 2], "the others live");
    assert_eq!(director.sent.len(), 10, "five were established: the others have nothing to reset");
}
