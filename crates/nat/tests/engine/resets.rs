//! Resets: which are believed, which the director sends of its own accord, and what becomes of
//! segments that belong to no connection.

use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use shunt_nat::{
    ConnectionState::{Close, CloseWait, Established, FinWait, LastAck, SynRecv, SynSent},
    Direction::Inbound,
    DropReason, Reply,
};
use shunt_rules::{Defaults, ForwardingMode, OnUnknown, Rules, VirtualService};

use crate::harness::*;

/// How far beyond what is expected a reset is believed.
const WINDOW: u32 = 1 << 20;

/// A handshake after which the server expects `client_next`, and the client `server_next`.
#[track_caller]
fn establish(director: &mut Director, client_next: u32, server_next: u32) {
    let syn = |src, dst| tcp(src, dst).syn().seq(client_next.wrapping_sub(1));
    let answer = |src, dst| tcp(src, dst).syn().seq(server_next.wrapping_sub(1)).ack(client_next);
    let ack = |src, dst| tcp(src, dst).seq(client_next).ack(server_next);
    director.outside(syn(CLIENT, VIP)).leaves_as(syn(CLIENT, RS1));
    director.inside(answer(RS1, CLIENT)).leaves_as(answer(VIP, CLIENT));
    director.outside(ack(CLIENT, VIP)).leaves_as(ack(CLIENT, RS1));
    assert_eq!(director.state(), Established);
}

/// The client resets the connection; whether the director believes it.
#[track_caller]
fn client_resets(director: &mut Director, sequence: u32) -> bool {
    let before = director.counters().out_of_window_resets;
    let reset = |src, dst| tcp(src, dst).rst().seq(sequence);
    director.outside(reset(CLIENT, VIP)).leaves_as(reset(CLIENT, RS1));
    believed(director, before)
}

/// The server does.
#[track_caller]
fn server_resets(director: &mut Director, sequence: u32) -> bool {
    let before = director.counters().out_of_window_resets;
    let reset = |src, dst| tcp(src, dst).rst().seq(sequence);
    director.inside(reset(RS1, CLIENT)).leaves_as(reset(VIP, CLIENT));
    believed(director, before)
}

#[track_caller]
fn believed(director: &Director, disbelieved_before: u64) -> bool {
    let is_believed = director.state() == Close;
    let disbelieved = director.counters().out_of_window_resets - disbelieved_before;
    assert_eq!(disbelieved, u64::from(!is_believed));
    is_believed
}

fn web() -> Director {
    Director::new(&[rr(VIP, &[RS1])], &[])
}

#[test]
fn a_reset_is_believed_in_the_window_of_what_is_expected() {
    for (offset, is_believed) in [
        (0, true),
        (1, true),
        (WINDOW - 1, true),
        (WINDOW, false),
        (u32::MAX, false),
        (1 << 31, false),
    ] {
        // Where sequence numbers wrap is of no matter.
        for next in [9000, 0, 1, u32::MAX, u32::MAX - WINDOW + 1, 1 << 31, (1 << 31) - 1] {
            let mut director = web();
            establish(&mut director, next, 5000);
            let sequence = next.wrapping_add(offset);
            assert_eq!(client_resets(&mut director, sequence), is_believed, "{next} + {offset}");

            let mut director = web();
            establish(&mut director, 5000, next);
            assert_eq!(server_resets(&mut director, sequence), is_believed, "{next} + {offset}");
        }
    }
}

#[test]
fn a_disbelieved_reset_changes_nothing_but_is_passed_on() {
    let mut director = web();
    establish(&mut director, 9000, 5000);
    assert!(!client_resets(&mut director, 8999));
    assert!(!server_resets(&mut director, 4999));
    assert_eq!((director.state(), director.remaining().as_secs()), (Established, 900));
    assert_eq!(director.service(0).traffic.in_packets, 3);
    assert!(client_resets(&mut director, 9000), "the right one is believed still");
}

#[test]
fn acknowledgments_move_the_window() {
    let mut director = web();
    establish(&mut director, u32::MAX - 10, 5000);
    // The server acknowledges beyond the wrap; a late duplicate does not turn the clock back.
    for acknowledged in [u32::MAX, 7, u32::MAX - 3] {
        director
            .inside(tcp(RS1, CLIENT).ack(acknowledged))
            .leaves_as(tcp(VIP, CLIENT).ack(acknowledged));
    }
    assert!(!client_resets(&mut director, 6));
    assert!(client_resets(&mut director, 7));
}

#[test]
fn the_senders_own_acknowledgments_do_not_move_its_window() {
    let mut director = web();
    establish(&mut director, 9000, 5000);
    director.outside(tcp(CLIENT, VIP).ack(1_000_000)).leaves_as(tcp(CLIENT, RS1).ack(1_000_000));
    assert!(!server_resets(&mut director, 5000));
    assert!(client_resets(&mut director, 9000));
}

/// A segment from somebody who knows addresses and ports, and guesses the rest (RFC 5961, section 5).
#[test]
fn a_fin_is_believed_where_its_numbers_are_near_what_is_expected() {
    const NEAR: u32 = (1 << 24) - 1;
    const FAR: u32 = 1 << 24;
    let numbers = [
        (0, true),
        (NEAR, true),
        (0u32.wrapping_sub(NEAR), true),
        (FAR, false),
        (0u32.wrapping_sub(FAR), false),
        (1 << 31, false),
    ];
    for (offset, is_near) in numbers {
        for (other_offset, is_other_near) in numbers {
            for (next, other) in [(9000, 5000), (u32::MAX, 0), (1 << 31, u32::MAX)] {
                let (sequence, ack) = (offset.wrapping_add(next), other_offset.wrapping_add(other));
                let fin = |src, dst| tcp(src, dst).fin().seq(sequence).ack(ack);
                let expected = is_near && is_other_near;
                let mut client = web();
                establish(&mut client, next, other);
                client.outside(fin(CLIENT, VIP)).leaves_as(fin(CLIENT, RS1));
                assert_eq!(client.state() == CloseWait, expected, "{offset:x} {other_offset:x}");
                let mut server = web();
                establish(&mut server, other, next);
                server.inside(fin(RS1, CLIENT)).leaves_as(fin(VIP, CLIENT));
                assert_eq!(server.state() == FinWait, expected, "{offset:x} {other_offset:x}");
                for director in [client, server] {
                    let disbelieved = director.counters().out_of_window_fins;
                    assert_eq!(disbelieved, u64::from(!expected));
                    assert_eq!(director.remaining().as_secs() == 900, !expected);
                }
            }
        }
    }
}

#[test]
fn a_fin_that_acknowledges_nothing_is_not_believed() {
    let mut director = web();
    establish(&mut director, 9000, 5000);
    let fin = |src, dst| tcp(src, dst).fin().seq(9000);
    director.outside(fin(CLIENT, VIP)).leaves_as(fin(CLIENT, RS1));
    assert_eq!(director.state(), Established);
}

#[test]
fn guessed_acknowledgments_move_no_window() {
    let mut director = web();
    establish(&mut director, 9000, 5000);
    let segment = |src, dst, seq, ack| tcp(src, dst).seq(seq).ack(ack);
    // Far ahead; and near, from where the server can't be.
    for (sequence, ack) in [(77_777_777, 1 << 30), (77_777_777, 10_000)] {
        director
            .inside(segment(RS1, CLIENT, sequence, ack))
            .leaves_as(segment(VIP, CLIENT, sequence, ack));
        assert_eq!(director.connections()[0].expected(Inbound), Some(9000));
    }
    // A guess that was lucky is found out by the next segment from where the server is.
    for (sequence, ack, expected) in
        [(5001, 9000 + (1 << 25), 9000 + (1 << 25)), (5000, 9100, 9100)]
    {
        director
            .inside(segment(RS1, CLIENT, sequence, ack))
            .leaves_as(segment(VIP, CLIENT, sequence, ack));
        assert_eq!(director.connections()[0].expected(Inbound), Some(expected));
    }
    assert!(client_resets(&mut director, 9100));
}

/// The last acknowledgment ends a connection that both ends have closed: a guessed one does not.
#[test]
fn a_guessed_acknowledgment_ends_nothing() {
    let mut director = web();
    establish(&mut director, 9000, 5000);
    let fin = |src, dst, seq, ack| tcp(src, dst).fin().seq(seq).ack(ack);
    director.outside(fin(CLIENT, VIP, 9000, 5000)).leaves_as(fin(CLIENT, RS1, 9000, 5000));
    director.inside(fin(RS1, CLIENT, 5000, 9001)).leaves_as(fin(VIP, CLIENT, 5000, 9001));
    let ack = |src, dst, seq| tcp(src, dst).seq(seq).ack(5001);
    for (sequence, state) in [(1 << 28, LastAck), (9001, Close)] {
        director.outside(ack(CLIENT, VIP, sequence)).leaves_as(ack(CLIENT, RS1, sequence));
        assert_eq!(director.state(), state);
    }
}

#[test]
fn an_unfinished_handshake_is_reset_by_any() {
    for sequence in [0, 1, u32::MAX] {
        let mut director = web();
        director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
        let refusal = |src, dst| tcp(src, dst).rst().seq(sequence).ack(1001);
        director.inside(refusal(RS1, CLIENT)).leaves_as(refusal(VIP, CLIENT));
        assert_eq!(director.state(), Close);

        let mut director = web();
        director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
        let answer = |src, dst| tcp(src, dst).syn().ack(1001);
        director.inside(answer(RS1, CLIENT)).leaves_as(answer(VIP, CLIENT));
        assert_eq!(director.state(), SynRecv);
        assert!(client_resets(&mut director, sequence));

        let mut director = Director::new(&[], &[snat(1024..=65_535)]);
        let behind = "192.168.1.100:50000";
        director.inside(tcp(HOST, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
        assert_eq!(director.state(), SynSent);
        director.outside(refusal(REMOTE, behind)).leaves_as(refusal(REMOTE, HOST));
        assert_eq!((director.state(), director.counters().out_of_window_resets), (Close, 0));
    }
}

#[test]
fn a_handshake_begun_anew_counts_anew() {
    let mut director = web();
    let syn = |src, dst| tcp(src, dst).syn().seq(2_000_000);
    let answer = |src, dst| tcp(src, dst).syn().ack(2_000_001);
    director.outside(syn(CLIENT, VIP)).leaves_as(syn(CLIENT, RS1));
    director.inside(answer(RS1, CLIENT)).leaves_as(answer(VIP, CLIENT));
    // The client has given up and tries again, with lower sequence numbers.
    establish(&mut director, 1000, 5000);
    assert!(!client_resets(&mut director, 2_000_001));
    assert!(client_resets(&mut director, 1000));
}

/// A reset that the director sent of its own accord.
#[derive(Debug, PartialEq, Eq)]
struct Sent {
    src: String,
    dst: String,
    sequence: u32,
}

fn sent(src: &str, dst: &str, sequence: u32) -> Sent {
    Sent { src: src.into(), dst: dst.into(), sequence }
}

/// What the director has sent since the last time.
fn sent_by(director: &mut Director) -> Vec<Sent> {
    let read = |packet: Vec<u8>| {
        verify(&packet).unwrap();
        let parsed = SlicedPacket::from_ip(&packet).unwrap();
        let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
            (&parsed.net, &parsed.transport)
        else {
            panic!("{packet:02x?} is no TCP segment")
        };
        assert!(tcp.rst() && !tcp.syn() && !tcp.fin() && !tcp.ack());
        let (src, dst) = (ip.header().source_addr(), ip.header().destination_addr());
        assert!(ip.header().ttl() > 1);
        sent(
            &format!("{src}:{}", tcp.source_port()),
            &format!("{dst}:{}", tcp.destination_port()),
            tcp.sequence_number(),
        )
    };
    std::mem::take(&mut director.sent).into_iter().map(read).collect()
}

const EXPIRED: Duration = Duration::from_millis(900_000 + 2048);

fn announced(service: VirtualService) -> VirtualService {
    VirtualService { reset_on_expiry: Some(true), ..service }
}

#[test]
fn both_ends_are_told_when_a_silent_connection_ends() {
    let mut director = Director::new(&[announced(rr(VIP, &[RS1]))], &[]);
    establish(&mut director, 9000, 5000);
    let data = |src, dst| tcp(src, dst).seq(9000).ack(6000).payload([0; 10]);
    director.outside(data(CLIENT, VIP)).leaves_as(data(CLIENT, RS1));
    let answer = |src, dst| tcp(src, dst).seq(6000).ack(9010);
    director.inside(answer(RS1, CLIENT)).leaves_as(answer(VIP, CLIENT));
    director.wait_seconds(899);
    assert_eq!(sent_by(&mut director), []);
    director.wait_seconds(4);
    assert_eq!(sent_by(&mut director), [sent(CLIENT, RS1, 9010), sent(VIP, CLIENT, 6000)]);
    assert_eq!(director.counters().expired, 1);
    director.wait(EXPIRED);
    assert_eq!(sent_by(&mut director), [], "once is enough");
}

#[test]
fn each_end_is_told_by_the_one_that_it_knows() {
    let mapped = "192.168.1.100:8080";
    let service = announced(rr(mapped, &[RS1]));
    let mut director = Director::new(std::slice::from_ref(&service), &[]);
    director.handshake(CLIENT, mapped, RS1);
    director.wait(EXPIRED);
    assert_eq!(sent_by(&mut director), [sent(CLIENT, RS1, 1), sent(mapped, CLIENT, 1)]);

    let rules = Rules {
        services: services(&[VirtualService { mode: ForwardingMode::FullNat, ..service }]),
        local_addresses: vec![local(INSIDE_ADDRESS, 60_000..=60_000)],
        ..Rules::default()
    };
    let mut director = Director::with_rules(&rules);
    let seen_as = "192.168.2.200:60000";
    director.outside(tcp(CLIENT, mapped).syn()).leaves_as(tcp(seen_as, RS1).syn());
    director.inside(tcp(RS1, seen_as).syn().ack(7)).leaves_as(tcp(mapped, CLIENT).syn().ack(7));
    director.outside(tcp(CLIENT, mapped).ack(8)).leaves_as(tcp(seen_as, RS1).ack(8));
    director.wait(EXPIRED);
    assert_eq!(sent_by(&mut director), [sent(seen_as, RS1, 7), sent(mapped, CLIENT, 8)]);
}

#[test]
fn nobody_is_told_of_other_ends() {
    type Step = fn(&mut Director);
    let endings: [Step; 6] = [
        |director| drop(director.outside(tcp(CLIENT, VIP).syn()).translated()),
        // The server never answered: there is no connection that could end.
        |director| {
            let _ = director.outside(tcp(CLIENT, VIP).syn()).translated();
            let _ = director.outside(tcp(CLIENT, VIP).ack(1)).translated();
        },
        |director| {
            director.handshake(CLIENT, VIP, RS1);
            let _ = director.inside(tcp(RS1, CLIENT).fin().ack(1)).translated();
        },
        |director| {
            director.handshake(CLIENT, VIP, RS1);
            let _ = director.outside(tcp(CLIENT, VIP).fin().ack(1)).translated();
        },
        |director| {
            director.handshake(CLIENT, VIP, RS1);
            let _ = director.outside(tcp(CLIENT, VIP).rst()).translated();
        },
        |director| {
            let _ = director.outside(udp(CLIENT, VIP)).translated();
            let _ = director.inside(udp(RS1, CLIENT)).translated();
        },
    ];
    for (at, reach) in endings.into_iter().enumerate() {
        let web = announced(rr(VIP, &[RS1]));
        let mut director = Director::new(&[web.clone(), over_udp(web)], &[]);
        reach(&mut director);
        director.wait(EXPIRED);
        assert_eq!((director.counters().expired, sent_by(&mut director)), (1, vec![]), "{at}");
    }
}

#[test]
fn nobody_is_told_if_the_service_says_so() {
    let defaults = Defaults { reset_on_expiry: true, ..Defaults::default() };
    let silent = VirtualService { reset_on_expiry: Some(false), ..rr(VIP, &[RS1]) };
    for (service, told) in [(silent, 0), (rr(VIP, &[RS1]), 2)] {
        let rules = Rules { defaults, ..rules_of(&[service], &[]) };
        let mut director = Director::with_rules(&rules);
        establish(&mut director, 9000, 5000);
        director.wait(EXPIRED);
        assert_eq!((director.counters().expired, sent_by(&mut director).len()), (1, told));
    }
}

#[test]
fn connections_of_no_service_follow_the_director() {
    let mut rules = Rules {
        services: services(&[announced(rr(VIP, &[RS1]))]),
        snat: vec![snat(1024..=65_535)],
        ..Rules::default()
    };
    let behind = "192.168.1.100:50000";
    for is_wanted in [false, true] {
        rules.defaults.reset_on_expiry = is_wanted;
        let mut director = Director::with_rules(&rules);
        director.inside(tcp(HOST, REMOTE).syn()).leaves_as(tcp(behind, REMOTE).syn());
        let answer = |src, dst| tcp(src, dst).syn().ack(30);
        director.outside(answer(REMOTE, behind)).leaves_as(answer(REMOTE, HOST));
        director.inside(tcp(HOST, REMOTE).ack(40)).leaves_as(tcp(behind, REMOTE).ack(40));
        director.wait(EXPIRED);
        let expected = [sent(behind, REMOTE, 30), sent(REMOTE, HOST, 40)];
        assert_eq!(sent_by(&mut director), if is_wanted { &expected[..] } else { &[] });

        director.outside(tcp(CLIENT, HOST).syn()).leaves_as(tcp(CLIENT, HOST).syn());
        let answer = |src, dst| tcp(src, dst).syn().ack(50);
        director.inside(answer(HOST, CLIENT)).leaves_as(answer(HOST, CLIENT));
        director.outside(tcp(CLIENT, HOST).ack(60)).leaves_as(tcp(CLIENT, HOST).ack(60));
        director.wait(EXPIRED);
        let expected = [sent(CLIENT, HOST, 50), sent(HOST, CLIENT, 60)];
        assert_eq!(sent_by(&mut director), if is_wanted { &expected[..] } else { &[] });
    }
}

#[test]
fn strays_may_be_dropped_in_silence() {
    let other = "192.168.1.100:8080";
    let silent = VirtualService { on_unknown: Some(OnUnknown::Drop), ..rr(VIP, &[RS1]) };
    let loud = VirtualService { on_unknown: Some(OnUnknown::Reset), ..rr(other, &[RS1]) };
    let mut rules = Rules {
        services: services(&[silent, loud]),
        snat: vec![snat(1024..=65_535)],
        ..Rules::default()
    };
    let reason = DropReason::UnknownConnection;
    let mut director = Director::with_rules(&rules);
    for stray in [tcp(CLIENT, VIP).ack(1), tcp(CLIENT, VIP).syn().ack(1), tcp(CLIENT, VIP).rst()] {
        director.outside(stray).is_dropped_for(reason);
    }
    director.outside(tcp(CLIENT, other).ack(1)).is_answered_by(Reply::Reset);
    director.inside(tcp(HOST, REMOTE).ack(1)).is_answered_by(Reply::Reset);

    rules.defaults.on_unknown = OnUnknown::Drop;
    let mut director = Director::with_rules(&rules);
    director.inside(tcp(HOST, REMOTE).ack(1)).is_dropped_for(reason);
    director.outside(tcp(CLIENT, other).ack(1)).is_answered_by(Reply::Reset);
}
