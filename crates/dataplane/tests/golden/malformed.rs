//! What is not what it claims to be, and what nobody may send: dropped in silence, each under its own
//! reason.

use shunt_dataplane::DropReason;
use shunt_testkit::{Packet, mac};

use crate::{
    case::Case,
    network::{
        CLIENT, DIP, Frame, Host, INSIDE_MAC, OTHER_VIP, OUTSIDE_MAC, RS1, SNAT_ADDRESS, VIP,
    },
};

/// Every one of the frames is dropped for the reason, and nothing leaves.
fn dropped(reason: DropReason, frames: impl IntoIterator<Item = (&'static str, Frame)>) {
    let (descriptions, frames): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
    let case = Case::new(descriptions.join("; "));
    let packets = frames.len() as u64;
    frames.into_iter().fold(case, Case::arrives).drops(reason, packets).run();
}

const HTTP: &str = "192.168.1.100:80";

fn syn() -> Frame {
    CLIENT.sends(Packet::tcp("192.168.1.200:4000", HTTP).syn())
}

fn datagram() -> Frame {
    CLIENT.sends(Packet::udp("192.168.1.200:4000", "192.168.1.100:53").payload("data"))
}

fn from(source: &'static str) -> Frame {
    CLIENT.sends(Packet::udp(&format!("{source}:4000"), "192.168.1.100:53"))
}

fn to(destination: &str) -> Frame {
    CLIENT.sends(Packet::udp("192.168.1.200:4000", &format!("{destination}:53")))
}

/// A packet to the VIP with these bytes where a transport header should be.
fn transport(protocol: u8, bytes: &[u8]) -> Frame {
    CLIENT.sends(Packet::raw(CLIENT.address, VIP, protocol).payload(bytes))
}

#[test]
fn ethernet() {
    dropped(
        DropReason::RuntFrame,
        [
            ("one byte", syn().with(|bytes| bytes.truncate(1))),
            ("13 bytes", syn().with(|bytes| bytes.truncate(13))),
        ],
    );
    dropped(
        DropReason::NotForUs,
        [
            ("another's MAC", CLIENT.sends_as(0x0800, mac(77), vec![0; 46])),
            ("IPv4 to all", syn().with(|bytes| bytes[..6].fill(0xff))),
            (
                "IPv4 to a group",
                syn().with(|bytes| bytes[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 5])),
            ),
            ("IPv6 to a group", CLIENT.sends_as(0x86dd, [0x33, 0x33, 0, 0, 0, 1], vec![0x60; 46])),
            (
                "another's ARP",
                CLIENT.asks_for(VIP).with(|bytes| bytes[..6].copy_from_slice(&mac(77))),
            ),
        ],
    );
    dropped(
        DropReason::UnknownEtherType,
        [
            ("IPv6", CLIENT.sends_as(0x86dd, OUTSIDE_MAC, vec![0x60; 46])),
            ("an 802.3 length", CLIENT.sends_as(46, OUTSIDE_MAC, vec![0x42; 46])),
        ],
    );
}

#[test]
fn sizes() {
    let udp = |len: usize| {
        Packet::udp("192.168.1.200:4000", "192.168.1.100:53").payload(vec![7; len - 28])
    };
    dropped(
        DropReason::Oversized,
        [
            ("9000 bytes, which take several mbufs", CLIENT.sends(udp(9000))),
            ("a byte more than MTU and tag", CLIENT.sends(udp(1505))),
            ("a byte more than the inside's", RS1.sends_as(0x0800, INSIDE_MAC, vec![0; 1405])),
        ],
    );
}

#[test]
fn ipv4() {
    dropped(
        DropReason::Ipv4Truncated,
        [
            ("nothing behind the Ethernet header", syn().cut(0)),
            ("19 bytes", syn().cut(19)),
            ("60 bytes of header in 40", syn().byte(0, 0x4f)),
        ],
    );
    dropped(
        DropReason::Ipv4Version,
        [("version 6", syn().byte(0, 0x65)), ("version 0", syn().byte(0, 0x05))],
    );
    dropped(
        DropReason::Ipv4HeaderLength,
        [("IHL 4", syn().byte(0, 0x44)), ("IHL 0", syn().byte(0, 0x40))],
    );
    dropped(
        DropReason::Ipv4TotalLength,
        [
            ("shorter than the header", syn().byte(3, 19).header_checksum()),
            ("none", syn().byte(3, 0).header_checksum()),
            ("a byte more than came", syn().byte(3, 41).header_checksum()),
            ("64 KiB", syn().byte(2, 0xff).header_checksum()),
            ("less came than was sent", syn().cut(39)),
        ],
    );
    dropped(
        DropReason::Ipv4Checksum,
        [
            ("another TTL", syn().byte(8, 63)),
            ("no checksum", syn().byte(10, 0).byte(11, 0)),
            (
                "wrong in the options",
                CLIENT
                    .sends(Packet::tcp("192.168.1.200:4000", HTTP).syn().options(&[1, 1, 1, 0]))
                    .byte(21, 0),
            ),
        ],
    );
}

#[test]
fn transport_headers() {
    dropped(
        DropReason::TcpTruncated,
        [("19 bytes of TCP", transport(6, &[0; 19])), ("no TCP at all", transport(6, &[]))],
    );
    dropped(
        DropReason::TcpDataOffset,
        [
            ("data offset 4", syn().byte(32, 0x40)),
            ("data offset 15 in a header of 20 bytes", syn().byte(32, 0xf0)),
        ],
    );
    dropped(
        DropReason::UdpTruncated,
        [("7 bytes of UDP", transport(17, &[0; 7])), ("no UDP at all", transport(17, &[]))],
    );
    dropped(
        DropReason::UdpLength,
        [
            ("UDP length 7", datagram().byte(25, 7)),
            ("UDP length 0", datagram().byte(25, 0)),
            ("a UDP length that is longer than the packet", datagram().byte(25, 13)),
        ],
    );
    dropped(
        DropReason::IcmpTruncated,
        [("7 bytes of ICMP", transport(1, &[8, 0, 0, 0, 0, 0, 0])), ("none", transport(1, &[]))],
    );
}

#[test]
fn sources_that_no_host_has() {
    dropped(
        DropReason::MartianSource,
        [
            ("this network", from("0.0.0.0")),
            ("this network's host", from("0.1.2.3")),
            ("loopback", from("127.0.0.1")),
            ("a multicast group", from("224.0.0.1")),
            ("class E", from("240.0.0.1")),
            ("everybody", from("255.255.255.255")),
            ("everybody outside", from("192.168.1.255")),
            ("everybody inside", from("192.168.2.255")),
            ("a network", from("192.168.2.0")),
            ("the VIP itself", from(VIP)),
            ("another VIP", from(OTHER_VIP)),
            ("the SNAT address", from(SNAT_ADDRESS)),
            ("the DIP", from(DIP)),
            ("a real server, from outside", from("192.168.2.210")),
            ("any host inside, from outside", from("192.168.2.77")),
        ],
    );
}

#[test]
fn destinations_that_are_no_host() {
    dropped(
        DropReason::NotUnicast,
        [
            ("everybody", to("255.255.255.255")),
            ("everybody outside", to("192.168.1.255")),
            ("everybody inside", to("192.168.2.255")),
            ("the inside network", to("192.168.2.0")),
            ("a multicast group", to("224.0.0.5")),
        ],
    );
}

#[test]
fn destinations_that_no_host_has() {
    let of = |side: &Host, destination: &'static str| {
        side.sends(
            Packet::tcp(&format!("{}:4000", side.address), &format!("{destination}:80")).syn(),
        )
    };
    dropped(
        DropReason::MartianDestination,
        [
            ("this network, from outside", of(&CLIENT, "0.0.0.0")),
            ("this network's host, from outside", of(&CLIENT, "0.5.5.5")),
            ("loopback, from outside", of(&CLIENT, "127.0.0.1")),
            ("class E, from outside", of(&CLIENT, "240.0.0.9")),
            ("this network, from inside", of(&RS1, "0.0.0.0")),
            ("loopback, from inside", of(&RS1, "127.1.2.3")),
            ("the last of class E, from inside", of(&RS1, "255.255.255.254")),
        ],
    );
}

#[test]
fn options() {
    let with = |destination: &str, options: &[u8]| {
        CLIENT.sends(Packet::tcp("192.168.1.200:4000", destination).syn().options(options))
    };
    dropped(
        DropReason::SourceRoute,
        [
            ("loose, to a service", with(HTTP, &[131, 7, 4, 192, 168, 2, 210, 0])),
            ("strict, to a service", with(HTTP, &[1, 137, 7, 4, 192, 168, 2, 210])),
            ("used up", with("192.168.2.210:22", &[131, 7, 8, 192, 168, 2, 210, 0])),
            ("to us", with("192.168.2.200:22", &[131, 3, 4, 0])),
        ],
    );
    dropped(
        DropReason::Ipv4Options,
        [
            ("a length of 0", with(HTTP, &[148, 0, 0, 0])),
            ("a length of 1", with(HTTP, &[148, 1, 0, 0])),
            ("a length beyond the header", with(HTTP, &[7, 5, 4, 0])),
            ("a kind alone", with(HTTP, &[1, 1, 1, 7])),
            ("to us", with("192.168.2.200:22", &[148, 0, 0, 0])),
        ],
    );
}

#[test]
fn arp() {
    let arp = || CLIENT.asks_for(VIP);
    let with = |at: usize, value: u8| arp().byte(at, value);
    dropped(
        DropReason::MalformedArp,
        [
            ("27 bytes", arp().cut(27)),
            ("none", arp().cut(0)),
            ("not for Ethernet", with(1, 6)),
            ("not for IPv4", with(2, 0x86)),
            ("addresses of 8 bytes", with(4, 8)),
            ("addresses of 16 bytes", with(5, 16)),
            ("neither request nor reply", with(7, 3)),
        ],
    );
}
