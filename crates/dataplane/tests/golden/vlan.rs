//! 802.1Q: dropped, or passed from port to port untouched.

use shunt_dataplane::{DropReason, PipelineCounters};
use shunt_nat::Side;
use shunt_testkit::{Packet, mac};

use crate::{
    case::Case,
    network::{CLIENT, Frame, OUTSIDE_MAC, RS1, VIP},
};

/// A tagged packet from a host, with bytes behind it that an untagged one would lose.
fn tagged(len: usize) -> Vec<u8> {
    let packet = Packet::udp("192.168.1.200:9", "192.168.1.100:53").bytes();
    let mut bytes = [&[0x20, 0x2a, 0x08, 0x00][..], &packet].concat();
    bytes.resize(len - 14, 0xee);
    bytes
}

#[test]
fn dropped_unless_you_say_so() {
    Case::new("C-VLAN and S-VLAN tags, on either port, whomever they are for")
        .arrives(CLIENT.sends_as(0x8100, OUTSIDE_MAC, tagged(64)))
        .arrives(CLIENT.sends_as(0x88a8, mac(77), tagged(64)))
        .arrives(RS1.sends_as(0x8100, [0xff; 6], tagged(64)))
        .drops(DropReason::Vlan, 3)
        .run();
}

#[test]
fn a_priority_tag_is_no_vlan() {
    let ask = |seq| Packet::udp("192.168.1.200:9", "192.168.1.100:53").payload([seq]);
    let told = |seq| Packet::udp("192.168.1.200:9", "192.168.2.210:5353").payload([seq]).ttl(63);
    let with_priority = |bytes: &mut Vec<u8>| drop(bytes.splice(12..12, [0x81, 0, 0xe0, 0]));
    for keys in ["", r#"vlan = "pass""#] {
        Case::new("802.1Q: VLAN ID 0 names a priority; IPv4 and ARP with it are taken as they are")
            .port_keys(keys)
            .arrives(CLIENT.sends(ask(1)).with(with_priority))
            .arrives(CLIENT.sends(ask(2)).with(with_priority))
            .arrives(CLIENT.asks_for(VIP).with(with_priority))
            .leaves(RS1.gets(told(1)))
            .leaves(RS1.gets(told(2)))
            .leaves(CLIENT.is_told_of(VIP))
            .pipeline(PipelineCounters { arp_replies: 1, ..PipelineCounters::default() })
            .opens(1)
            .run();
    }
}

#[test]
fn passed_on_untouched() {
    let to_inside = CLIENT.sends_as(0x8100, mac(77), tagged(100));
    let to_all = CLIENT.sends_as(0x88a8, [0xff; 6], tagged(64));
    let to_outside = RS1.sends_as(0x8100, OUTSIDE_MAC, tagged(1418));
    let at = |side, frame: &Frame| Frame { side, bytes: frame.bytes.clone() };
    Case::new("byte for byte, and whatever does not fit the other port is dropped")
        .port_keys(r#"vlan = "pass""#)
        .arrives(to_inside.clone())
        .arrives(to_all.clone())
        .arrives(CLIENT.sends_as(0x8100, mac(77), tagged(1418)))
        .arrives(CLIENT.sends_as(0x8100, mac(77), tagged(1419)))
        .arrives(to_outside.clone())
        .leaves(at(Side::Inside, &to_inside))
        .leaves(at(Side::Inside, &to_all))
        .leaves(at(Side::Inside, &CLIENT.sends_as(0x8100, mac(77), tagged(1418))))
        .leaves(at(Side::Outside, &to_outside))
        .drops(DropReason::TooBig, 1)
        .pipeline(PipelineCounters { vlan_passed: 4, ..PipelineCounters::default() })
        .run();
}
