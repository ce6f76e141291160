//! Parsing and checksums.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput};
use shunt_packet::{
    checksum::{Delta, Sum},
    ethernet::EthernetHeader,
    ipv4::Ipv4Packet,
    plain::PlainPacket,
    tcp::TcpHeader,
    udp::UdpHeader,
};
use shunt_testkit::{Packet, mac};

const CLIENT: &str = "198.51.100.7:40000";
const VIP: &str = "192.168.1.100:80";

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    parsing(&mut criterion);
    checksums(&mut criterion);
    criterion.final_summary();
}

fn frame(packet: &Packet) -> Vec<u8> {
    packet.frame(mac(1), mac(2))
}

/// From a frame to a transport header, with all checks but the checksums.
fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    let mut udp = frame(&Packet::udp(CLIENT, VIP).payload([0; 18]));
    group.bench_function("udp", |bencher| {
        bencher.iter(|| {
            let (_, payload) = EthernetHeader::split(black_box(&mut udp)).expect("a frame");
            let packet = Ipv4Packet::parse(payload).expect("a packet");
            UdpHeader::parse(packet.payload).expect("a datagram").dst_port()
        });
    });
    group.bench_function("plain-udp", |bencher| {
        bencher.iter(|| {
            let (_, payload) = EthernetHeader::split(black_box(&mut udp)).expect("a frame");
            PlainPacket::parse(payload).expect("a plain packet").header.dst()
        });
    });
    let mut tcp = frame(&Packet::tcp(CLIENT, VIP).ack(1).payload([0; 6]));
    group.bench_function("tcp", |bencher| {
        bencher.iter(|| {
            let (_, payload) = EthernetHeader::split(black_box(&mut tcp)).expect("a frame");
            let packet = Ipv4Packet::parse(payload).expect("a packet");
            TcpHeader::parse(packet.payload).expect("a segment").dst_port()
        });
    });
    group.finish();
}

/// What is done for every packet, and what is never done on the fast path.
fn checksums(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    let mut header = Packet::udp(CLIENT, VIP).bytes();
    group.bench_function("ipv4-header", |bencher| {
        let packet = Ipv4Packet::parse(&mut header).expect("a packet");
        bencher.iter(|| assert!(black_box(&packet).checksum_is_sound()));
    });
    let sum = |bytes: &[u8]| Sum::ZERO.bytes(bytes);
    let delta = Delta::between(sum(&[192, 168, 1, 100]), sum(&[192, 168, 2, 210]));
    group.bench_function("delta", |bencher| {
        bencher.iter(|| black_box(delta).apply(black_box(0x1234)));
    });
    for length in [64, 1460] {
        let bytes = vec![0x5a; length];
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("sum", length), |bencher| {
            bencher.iter(|| sum(black_box(&bytes)).checksum());
        });
    }
    group.finish();
}
