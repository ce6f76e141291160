//! Clamping the maximum segment size that the ends of a service's connections announce.

use etherparse::{TcpHeader, TcpOptionElement::*};

use shunt_rules::VirtualService;
use shunt_testkit::Packet;

use crate::harness::*;

/// A segment that announces this MSS among other options.
fn segment(src: &str, dst: &str, mss: u16, change: impl Fn(&mut TcpHeader)) -> Packet {
    let port = |endpoint: &str| endpoint.split_once(':').unwrap().1.parse().unwrap();
    let address = |endpoint: &str| host(endpoint).parse::<std::net::Ipv4Addr>().unwrap().octets();
    let mut header = TcpHeader::new(port(src), port(dst), 1000, 64_240);
    header
        .set_options(&[
            Noop,
            MaximumSegmentSize(mss),
            SelectiveAcknowledgementPermitted,
            WindowScale(7),
        ])
        .unwrap();
    change(&mut header);
    header.checksum = header.calc_checksum_ipv4_raw(address(src), address(dst), b"").unwrap();
    let mut bytes = Vec::new();
    header.write(&mut bytes).unwrap();
    Packet::raw(host(src), host(dst), 6).payload(bytes)
}

fn syn(src: &str, dst: &str, mss: u16) -> Packet {
    segment(src, dst, mss, |tcp| tcp.syn = true)
}

fn syn_ack(src: &str, dst: &str, mss: u16) -> Packet {
    segment(src, dst, mss, |tcp| {
        tcp.syn = true;
        tcp.ack = true;
    })
}

fn ack(src: &str, dst: &str, mss: u16) -> Packet {
    segment(src, dst, mss, |tcp| tcp.ack = true)
}

fn limited() -> VirtualService {
    VirtualService { mss_limit: Some(1400), ..rr(VIP, &[RS1]) }
}

#[test]
fn both_ends_are_held_to_the_limit() {
    let mut director = Director::new(&[limited()], &[]);
    director.outside(syn(CLIENT, VIP, 1460)).leaves_as(syn(CLIENT, RS1, 1400));
    director.outside(syn(CLIENT, VIP, 1460)).leaves_as(syn(CLIENT, RS1, 1400));
    director.inside(syn_ack(RS1, CLIENT, 8960)).leaves_as(syn_ack(VIP, CLIENT, 1400));
}

#[test]
fn what_is_below_it_or_no_syn_stays_as_it_is() {
    let mut director = Director::new(&[limited()], &[]);
    for mss in [536, 1399, 1400] {
        director.outside(syn(CLIENT, VIP, mss)).leaves_as(syn(CLIENT, RS1, mss));
        director.inside(syn_ack(RS1, CLIENT, mss)).leaves_as(syn_ack(VIP, CLIENT, mss));
    }
    director.outside(ack(CLIENT, VIP, 1460)).leaves_as(ack(CLIENT, RS1, 1460));
    director.inside(ack(RS1, CLIENT, 1460)).leaves_as(ack(VIP, CLIENT, 1460));
    director.outside(tcp(CLIENT, VIP).syn()).leaves_as(tcp(CLIENT, RS1).syn());
}

#[test]
fn others_may_announce_what_they_like() {
    let other = "192.168.1.100:8080";
    let mut director = Director::new(&[limited(), rr(other, &[RS2])], &[snat(1024..=65_535)]);
    director.outside(syn(CLIENT, other, 1460)).leaves_as(syn(CLIENT, RS2, 1460));
    director.inside(syn_ack(RS2, CLIENT, 1460)).leaves_as(syn_ack(other, CLIENT, 1460));
    let behind = "192.168.1.100:50000";
    director.inside(syn(HOST, REMOTE, 1460)).leaves_as(syn(behind, REMOTE, 1460));
}

#[test]
fn the_checksum_is_right_whatever_is_announced() {
    for mss in (1401..=u16::MAX).step_by(97) {
        let mut director = Director::new(&[limited()], &[]);
        director.outside(syn(CLIENT, VIP, mss)).leaves_as(syn(CLIENT, RS1, 1400));
    }
}
