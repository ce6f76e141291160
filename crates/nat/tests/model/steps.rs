//! What happens to a director.

use std::net::{Ipv4Addr, SocketAddrV4};

use proptest::{prelude::*, sample::select};
use shunt_nat::{Direction, Side};

use crate::{
    changes::{Change, change},
    connection::{RESET_WINDOW, SEGMENT_WINDOW},
    flow::Flow,
    packet::{Cut, Shape},
    setup::{CLIENTS, HOSTS, INSIDE, NOWHERE, OUTSIDE, PORTS},
    wire::{ACK, FIN, ICMP, RST, SYN, TCP, UDP},
};

/// Connections are numbered, and the numbers wrap: there always is one.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A packet between any hosts.
    Packet { side: Side, flow: Flow, is_request: bool, shape: Shape },
    /// Several packets, each from the next port, so that ports and table run out.
    Flood { side: Side, flow: Flow, shape: Shape, count: u16 },
    /// A packet of a connection that lives. Its sequence number is relative to what its receiver
    /// expects. Echo requests go in and replies go out, unless `is_odd`.
    Follow { connection: usize, direction: Direction, is_odd: bool, shape: Shape },
    /// An ICMP message about a packet that left and could not go on. Of the packet, `quoted` bytes are
    /// quoted. `from` sends it, or the one to whom the packet went.
    Error {
        connection: usize,
        direction: Direction,
        kind: u8,
        quoted: usize,
        from: Option<Ipv4Addr>,
        quoted_shape: Shape,
        shape: Shape,
    },
    /// One about the last packet that left, whether it belongs to a connection or not.
    ErrorAboutLast { kind: u8, from: Option<Ipv4Addr>, shape: Shape },
    /// Time passes, and nobody looks who was silent for too long.
    Wait { millis: u64 },
    /// Silent connections end; no more than so many are looked at.
    Expire { budget: Option<usize> },
    /// The rules change.
    Change(Box<Change>),
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Boxed, because these types are too large for the stack.
    let step = prop_oneof![
        8 => packet().boxed(),
        1 => flood().boxed(),
        8 => follow().boxed(),
        1 => error().boxed(),
        1 => error_about_last().boxed(),
        1 => millis().prop_map(|millis| Step::Wait { millis }),
        1 => prop::option::weighted(0.3, 0usize..4).prop_map(|budget| Step::Expire { budget }),
        1 => change().boxed().prop_map(|change| Step::Change(Box::new(change))),
    ];
    prop::collection::vec(step, 1..400)
}

fn millis() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..4_000, 4 => 4_000u64..40_000, 1 => 40_000u64..2_000_000]
}

fn packet() -> impl Strategy<Value = Step> {
    let client = || prop_oneof![Just(CLIENTS[0]), select(&CLIENTS[..])];
    let host = || select(&HOSTS[..]);
    let own = || prop_oneof![4 => select(&OUTSIDE[..]), 1 => select(&INSIDE[..])];
    let arrival = prop_oneof![
        8 => (Just(Side::Outside), client(), own()),
        5 => (Just(Side::Inside), host(), client()),
        3 => (Just(Side::Inside), host(), own()),
        1 => (Just(Side::Inside), select(&INSIDE[..]), own()),
        2 => (Just(Side::Outside), client(), host()),
        1 => (select(vec![Side::Inside, Side::Outside]), anyone(), anyone()),
    ];
    let protocol =
        prop_oneof![6 => Just(TCP), 4 => Just(UDP), 2 => Just(ICMP), 2 => select(vec![47, 50, 51])];
    let port = || prop_oneof![Just(PORTS[0]), select(&PORTS[..])];
    let ports = (port(), port());
    (arrival, protocol, ports, any::<bool>(), shape(opening_flags())).prop_map(
        |((side, src, dst), protocol, (src_port, dst_port), is_request, shape)| {
            let flow = Flow {
                protocol,
                src: SocketAddrV4::new(src, src_port),
                dst: SocketAddrV4::new(dst, dst_port),
            };
            Step::Packet { side, flow, is_request, shape }
        },
    )
}

fn flood() -> impl Strategy<Value = Step> {
    (packet(), 1u16..24).prop_map(|(step, count)| match step {
        Step::Packet { side, flow, shape, .. } => Step::Flood { side, flow, shape, count },
        other => other,
    })
}

fn follow() -> impl Strategy<Value = Step> {
    (connection(), direction(), prop::bool::weighted(0.1), shape(flags())).prop_map(
        |(connection, direction, is_odd, shape)| Step::Follow {
            connection,
            direction,
            is_odd,
            shape,
        },
    )
}

fn error() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![6 => select(vec![3u8, 4, 11, 12]), 1 => select(vec![0u8, 5, 8, 13])];
    let quoted = prop_oneof![3 => Just(usize::MAX), 2 => 0usize..60, 2 => Just(28)];
    let from = prop::option::of(anyone());
    let shapes = (shape(flags()), shape(flags()));
    (connection(), direction(), kind, quoted, from, shapes).prop_map(
        |(connection, direction, kind, quoted, from, (quoted_shape, shape))| Step::Error {
            connection,
            direction,
            kind,
            quoted,
            from,
            quoted_shape,
            shape,
        },
    )
}

fn error_about_last() -> impl Strategy<Value = Step> {
    (select(vec![3u8, 11]), prop::option::of(anyone()), shape(flags()))
        .prop_map(|(kind, from, shape)| Step::ErrorAboutLast { kind, from, shape })
}

/// The oldest one often, so that it gets far.
fn connection() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 0usize..64]
}

fn anyone() -> impl Strategy<Value = Ipv4Addr> {
    let all = [&CLIENTS[..], &HOSTS, &OUTSIDE, &INSIDE, &[NOWHERE]].concat();
    select(all)
}

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Inbound, Direction::Outbound])
}

fn opening_flags() -> impl Strategy<Value = u8> {
    prop_oneof![6 => Just(SYN), 1 => flags()]
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        6 => Just(ACK),
        3 => Just(SYN | ACK),
        3 => Just(FIN | ACK),
        2 => Just(SYN),
        2 => Just(RST),
        1 => Just(RST | ACK),
        1 => any::<u8>(),
    ]
}

prop_compose! {
    fn shape(flags: impl Strategy<Value = u8>)(
        flags in flags,
        sequence in numbers(),
        acknowledgment in numbers(),
        tcp_options in options(),
        has_udp_checksum in prop::bool::weighted(0.8),
        ip_options in prop_oneof![9 => Just(vec![]), 1 => Just(vec![7, 7, 4, 0, 0, 0, 0, 0])],
        ttl in prop_oneof![15 => Just(64u8), 1 => 0u8..3],
        payload in 0u8..60,
        cut in prop::option::weighted(0.15, cut()),
        damage in prop_oneof![
            9 => Just(vec![]),
            1 => prop::collection::vec((place(), 1u8..), 1..3),
        ],
    ) -> Shape {
        Shape {
            flags,
            sequence,
            acknowledgment,
            tcp_options,
            has_udp_checksum,
            ip_options,
            ttl,
            payload,
            cut,
            damage,
        }
    }
}

/// Anywhere; lengths and the protocol often.
fn place() -> impl Strategy<Value = u8> {
    prop_oneof![2 => 0u8..64, 1 => select(vec![0u8, 3, 3, 9, 25, 32])]
}

/// Sequence numbers at all borders of windows.
fn numbers() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0u32..3,
        1 => select(vec![RESET_WINDOW - 1, RESET_WINDOW, (1 << 31) - 1, 1 << 31, u32::MAX]),
        1 => select(vec![
            SEGMENT_WINDOW - 1,
            SEGMENT_WINDOW,
            1u32.wrapping_sub(SEGMENT_WINDOW),
            0u32.wrapping_sub(SEGMENT_WINDOW),
        ]),
        1 => any::<u32>(),
    ]
}

/// No options, a maximum segment size, one at an odd place, and what no honest sender makes.
fn options() -> impl Strategy<Value = Vec<u8>> {
    let segment_size = vec![2, 4, 5, 180];
    let odd = vec![1, 2, 4, 35, 0, 1, 1, 0];
    prop_oneof![
        3 => Just(vec![]),
        2 => Just(segment_size),
        1 => Just(odd),
        1 => prop::collection::vec(any::<[u8; 4]>(), 0..4).prop_map(|words| words.concat()),
        1 => prop::collection::vec(0u8..6, 8..=8),
    ]
}

/// Parts that meet, that overlap, that no honest sender makes.
fn cut() -> impl Strategy<Value = Cut> {
    let range = prop_oneof![
        4 => Just((0, 24, true)),
        3 => Just((3, 16, true)),
        3 => Just((5, 1000, false)),
        2 => Just((3, 1000, false)),
        1 => (0u16..7, 0usize..40, any::<bool>()),
        1 => (8180u16..8192, 0usize..40, any::<bool>()),
    ];
    (0u8..2, range).prop_map(|(id, (offset, length, more))| Cut { id, offset, length, more })
}
