//! Packets that lie about themselves, and those that random bytes make.

use proptest::{prelude::*, sample::Index};
use shunt_nat::{DropReason, EngineCounters, Side};
use shunt_packet::{Malformed, ipv4::Ipv4Packet};
use shunt_testkit::Packet;

use crate::{harness::*, properties};

/// `packet` with one byte changed; offsets count from the IPv4 header.
fn with(packet: &Packet, at: usize, value: u8) -> Vec<u8> {
    let mut bytes = packet.bytes();
    bytes[at] = value;
    bytes
}

fn web() -> Director {
    Director::new(&[rr(VIP, &[RS1]), over_udp(rr(VIP, &[RS1]))], &[snat(1024..=65_535)])
}

#[test]
fn malformed_transport_headers_are_dropped_by_reason() {
    let (src, dst) = ("192.168.1.200", "192.168.1.100");
    let stump = |protocol, length| Packet::raw(src, dst, protocol).payload(vec![0; length]).bytes();
    let syn = tcp(CLIENT, VIP).syn().payload("data");
    let datagram = udp(CLIENT, VIP).payload("data");
    let mut director = web();
    for (packet, reason) in [
        (stump(6, 0), Malformed::TcpTruncated),
        (stump(6, 19), Malformed::TcpTruncated),
        (with(&syn, 32, 0x40), Malformed::TcpDataOffset),
        (with(&syn, 32, 0x70), Malformed::TcpDataOffset),
        (with(&syn, 32, 0xf0), Malformed::TcpDataOffset),
        (stump(17, 0), Malformed::UdpTruncated),
        (stump(17, 7), Malformed::UdpTruncated),
        (with(&datagram, 25, 7), Malformed::UdpLength),
        (with(&datagram, 25, 13), Malformed::UdpLength),
        (with(&datagram, 24, 0xff), Malformed::UdpLength),
    ] {
        director.outside(packet).is_dropped_for(DropReason::Malformed(reason));
    }
    assert_eq!(director.counters(), EngineCounters::default());
}

#[test]
fn bytes_after_the_datagram_are_not_part_of_it() {
    let mut director = web();
    let padded = |src, dst| {
        let mut bytes = udp(src, dst).payload("data").bytes();
        bytes.extend_from_slice(&[0xaa; 7]);
        bytes
    };
    director.outside(padded(CLIENT, VIP)).leaves_as(padded(CLIENT, RS1));
    assert_eq!(director.service(1).traffic.in_bytes, 32, "the padding is the link's");
}

#[test]
fn a_payload_beyond_the_udp_length_is_carried_along() {
    let mut director = web();
    let trailing = |src, dst| {
        let datagram = udp(src, dst).payload("data").bytes();
        let payload = [&datagram[20..], b"more"].concat();
        Packet::raw(host(src), host(dst), 17).payload(payload)
    };
    director.outside(trailing(CLIENT, VIP)).leaves_as(trailing(CLIENT, RS1));
}

#[test]
fn a_flood_from_one_endpoint_to_many_and_from_many_to_one_is_found_again() {
    let services: Vec<_> = (1..=400)
        .map(|port| {
            over_udp(rr(&format!("192.168.1.100:{port}"), &[&format!("192.168.2.210:{port}")]))
        })
        .collect();
    let mut director = Director::with_capacity(800, &services, &[]);
    let pairs = (1..=400)
        .map(|port| (CLIENT.to_string(), port))
        .chain((1..=399).map(|n| (format!("192.168.1.1:{n}"), 7)));
    for (client, port) in pairs {
        let (vip, real) = (format!("192.168.1.100:{port}"), format!("192.168.2.210:{port}"));
        director.outside(udp(&client, &vip)).leaves_as(udp(&client, &real));
        director.inside(udp(&real, &client)).leaves_as(udp(&vip, &client));
    }
    assert_eq!(director.connections().len(), 799);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        protocol in prop::sample::select(vec![1u8, 6, 17, 47]),
        header in any::<bool>(),
        outside in any::<bool>(),
    ) {
        // Mostly something that gets past the IPv4 header.
        if header && bytes.len() >= 20 {
            let total = (bytes.len() as u16).to_be_bytes();
            bytes[..4].copy_from_slice(&[0x45, 0, total[0], total[1]]);
            bytes[6..8].fill(0);
            bytes[9] = protocol;
        }
        let mut director = properties::director();
        if Ipv4Packet::parse(&mut bytes).is_ok() {
            let side = if outside { Side::Outside } else { Side::Inside };
            let _ = director.receive(side, bytes);
        }
    }

    /// A conversation in which bytes get damaged: nothing panics, no counter goes wrong, and what
    /// arrived sound leaves sound.
    #[test]
    fn damaged_packets_do_no_harm(
        packets in prop::collection::vec(
            (properties::packet(), prop::collection::vec((any::<Index>(), any::<u8>()), 0..3), any::<Index>(), 0u8..8),
            1..40,
        ),
    ) {
        let mut director = properties::director();
        for ((side, mut bytes), changes, cut, how) in packets {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if how == 0 {
                bytes.truncate(cut.index(bytes.len()));
            }
            if Ipv4Packet::parse(&mut bytes).is_err() {
                continue;
            }
            let was_sound = verify(&bytes).is_ok();
            let outcome = director.receive(side, bytes);
            if was_sound {
                prop_assert_eq!(verify(outcome.bytes()), Ok(()));
            }
        }
    }
}
