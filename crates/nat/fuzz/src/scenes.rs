//! Short stories in which each feature of the engine plays a part: the seeds of `sequence`, and what
//! the director of `frame` has been through.

use crate::{
    endpoints::ENDPOINTS,
    steps::{Answer, Built, Burst, Change, Error, Raw, Replay, Step, Steps, Wait},
};

const FIN_ACK: u8 = 0x11;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const SYN_ACK: u8 = 0x12;
/// A SYN that announces a maximum segment size.
const SYN_MSS: u8 = 0x42;

const TCP: u8 = 0;
const UDP: u8 = 3;
const UNCHECKSUMMED: u8 = 4;
const ECHO_REQUEST: u8 = 5;

const CLIENT: &str = "192.168.1.200:40000";
const CLIENT2: &str = "192.168.1.201:40000";
const REMOTE: &str = "203.0.113.7:443";
const HOST: &str = "192.168.2.50:50000";
const RS1: &str = "192.168.2.210:80";

/// Their names and steps.
#[must_use]
pub fn scenes() -> Vec<(&'static str, Steps)> {
    let scene = |name, steps: Vec<Vec<Step>>| (name, Steps(steps.concat()));
    vec![
        scene("nat", vec![handshake(CLIENT, "192.168.1.100:80", SYN_MSS), close()]),
        scene("port-mapping", vec![handshake(CLIENT, "192.168.1.100:8080", SYN)]),
        scene("snat", vec![handshake(HOST, REMOTE, SYN), handshake(RS1, REMOTE, SYN)]),
        scene("snat-echo", vec![tell(ECHO_REQUEST, HOST, REMOTE), answer(0), error(3, 0)]),
        scene("hairpin", vec![handshake(HOST, "192.168.1.100:80", SYN)]),
        scene(
            "full-nat",
            vec![
                handshake(CLIENT, "192.168.1.100:81", SYN_MSS),
                tell(UDP, CLIENT, "192.168.1.100:82"),
                answer(0),
            ],
        ),
        scene("one-packet", vec![tell(UDP, CLIENT, "192.168.1.100:53"), answer(0)]),
        scene("port-range", vec![tell(UNCHECKSUMMED, CLIENT2, "192.168.1.100:5009"), answer(0)]),
        scene(
            "persistence",
            vec![
                handshake(CLIENT2, "192.168.1.100:443", SYN),
                tell(UDP, CLIENT2, "192.168.1.101:7"),
                change(4, 0),
                tell(UDP, "192.168.1.201:0", "192.168.1.100:9000"),
            ],
        ),
        scene(
            "refused",
            vec![
                tell_tcp(SYN, CLIENT, "192.168.1.100:83"),
                tell_tcp(ACK, CLIENT, "192.168.1.100:85"),
                tell_tcp(SYN, CLIENT, "192.168.1.100:84"),
                tell_tcp(RST, CLIENT2, "192.168.1.100:80"),
            ],
        ),
        scene(
            "schedulers",
            vec![
                tell_tcp(SYN, CLIENT, "192.168.1.100:85"),
                tell_tcp(SYN, CLIENT, "192.168.1.100:86"),
                tell_tcp(SYN, CLIENT, "192.168.1.100:87"),
                tell(UDP, CLIENT, "192.168.1.100:88"),
                change(9, 0),
                tell_tcp(SYN, CLIENT2, "192.168.1.100:87"),
            ],
        ),
        scene("passthrough", vec![tell_tcp(SYN, REMOTE, HOST), answer(SYN_ACK), answer(ACK)]),
        scene(
            "icmp-errors",
            vec![
                tell(UDP, CLIENT, "192.168.1.100:88"),
                error(2, 0),
                tell(UDP, CLIENT, "192.168.1.100:88"),
                answer(0),
                error(3, 5),
            ],
        ),
        scene(
            "fast-path",
            vec![
                handshake(CLIENT, "192.168.1.100:80", SYN),
                answer(ACK),
                tell(UDP, CLIENT, "192.168.1.100:88"),
                answer(0),
                burst(4),
                tell_tcp(ACK, CLIENT, "192.168.1.100:80"),
                tell(UDP, CLIENT, "192.168.1.100:88"),
                answer(0),
                tell_tcp(FIN_ACK, CLIENT, "192.168.1.100:80"),
                change(0, 15),
                burst(2),
                tell(UDP, CLIENT, "192.168.1.100:88"),
                answer(0),
            ],
        ),
        scene("fragments", vec![fragments([1, 0, 2]), answer(0), fragments([0, 0, 1])]),
        scene(
            "resets",
            vec![
                handshake(CLIENT, "192.168.1.100:80", SYN),
                answer_off(RST, 0xff),
                vec![Step::Replay(Replay { which: 1, at: 33, change: RST, how: 1 })],
            ],
        ),
        scene(
            "raw",
            vec![vec![
                Step::Raw(Raw { how: 1, bytes: built(TCP, SYN, CLIENT, "192.168.1.100:80") }),
                Step::Raw(Raw { how: 2, bytes: vec![0x45; 40] }),
            ]],
        ),
        scene(
            "changes",
            vec![
                handshake(CLIENT, "192.168.1.100:80", SYN),
                tell_tcp(SYN, HOST, REMOTE),
                change(0, 8),
                change(0, 14),
                answer(SYN_ACK),
                vec![Step::Wait(Wait { count: 31, unit: 1, budget: u8::MAX })],
                change(0, 8),
                handshake(CLIENT2, "192.168.1.100:443", SYN),
                change(4, 11),
                answer(ACK),
                change(4, 11),
                change(0, 14),
            ],
        ),
        scene(
            "silence",
            vec![
                handshake(CLIENT, "192.168.1.100:80", SYN),
                vec![Step::Wait(Wait { count: 14, unit: 3, budget: 0 })],
                vec![Step::Wait(Wait { count: 2, unit: 3, budget: u8::MAX })],
            ],
        ),
        scene("full-table", full_table()),
    ]
}

/// The place of an endpoint of the stage.
fn place(endpoint: &str) -> u8 {
    let endpoint = endpoint.parse().expect("an endpoint");
    let place = ENDPOINTS.iter().position(|known| *known == endpoint);
    place.unwrap_or_else(|| panic!("{endpoint} is not on the stage")) as u8
}

fn packet(kind: u8, flags: u8, src: &str, dst: &str) -> Built {
    Built { src: place(src), dst: place(dst), kind, flags, length: 5, ..Built::default() }
}

fn built(kind: u8, flags: u8, src: &str, dst: &str) -> Vec<u8> {
    packet(kind, flags, src, dst).packet().0
}

fn tell(kind: u8, src: &str, dst: &str) -> Vec<Step> {
    vec![Step::Built(packet(kind, 0, src, dst))]
}

fn tell_tcp(flags: u8, src: &str, dst: &str) -> Vec<Step> {
    vec![Step::Built(packet(TCP, flags, src, dst))]
}

fn answer(flags: u8) -> Vec<Step> {
    answer_off(flags, 0)
}

fn answer_off(flags: u8, off: u8) -> Vec<Step> {
    vec![Step::Answer(Answer { to: 0, flags, off })]
}

fn error(kind: u8, from: u8) -> Vec<Step> {
    vec![Step::Error(Error { about: 0, kind, from, quoted: 48 })]
}

fn change(place: u8, to: u8) -> Vec<Step> {
    vec![Step::Change(Change { place, to })]
}

fn burst(packets: u8) -> Vec<Step> {
    vec![Step::Burst(Burst { count: packets - 1 })]
}

fn handshake(src: &str, dst: &str, syn: u8) -> Vec<Step> {
    [tell_tcp(syn, src, dst), answer(SYN_ACK), answer(ACK)].concat()
}

fn close() -> Vec<Step> {
    [answer(FIN_ACK), answer(FIN_ACK), answer(ACK)].concat()
}

/// As many answered datagrams as the table has room for, and then some who need a source port.
fn full_table() -> Vec<Vec<Step>> {
    const CLIENTS: [&str; 6] =
        [CLIENT, "192.168.1.200:40001", CLIENT2, "192.168.1.201:0", REMOTE, "203.0.113.7:1024"];
    const VIRTUAL: [&str; 2] = ["192.168.1.100:5000", "192.168.1.100:5009"];
    let conversation = |client, vip| [tell(UDP, client, vip), answer(0)].concat();
    let conversations = VIRTUAL.iter().flat_map(|vip| CLIENTS.map(|from| conversation(from, vip)));
    let late = [(CLIENT, "192.168.1.100:81"), (HOST, "192.168.1.100:80"), (HOST, REMOTE)];
    conversations.chain(late.map(|(src, dst)| tell_tcp(SYN, src, dst))).collect()
}

/// Thirds of a datagram.
fn fragments(order: [u8; 3]) -> Vec<Step> {
    let whole = packet(UDP, 0, CLIENT, "192.168.1.100:88");
    let third = |third: u8| {
        let part = [0x02, 0x22, 0x40][usize::from(third)];
        Step::Built(Built { length: 90, part, identification: 1, ..whole })
    };
    order.map(third).to_vec()
}
