//! Checksums in hardware and in software give the same frames. net_tap takes the hardware's part: it
//! advertises the offloads, checks what comes in and fills in what goes out. Its TAPs live in a
//! network namespace that ends with the test, which talks to their kernel sides.

mod kernel_side;

use std::{
    thread::sleep,
    time::{Duration, Instant as StdInstant},
};

use kernel_side::{PacketSocket, enter_new_network_namespace};
use shunt_config::Config;
use shunt_dataplane::{DirectorParts, DropReason, Report};
use shunt_dpdk::Eal;
use shunt_nat::Instant;
use shunt_testkit::{Packet, arp_request, describe, mac, verify_checksums};

const CLIENT: [u8; 6] = mac(1);
const SERVER: [u8; 6] = mac(11);
const OUTSIDE: [u8; 6] = mac(0xe);
const INSIDE: [u8; 6] = mac(0xf);

/// What arrives at one side, and what must leave on the other.
struct Row {
    description: &'static str,
    arrives: Vec<u8>,
    leaves: Vec<Vec<u8>>,
}

/// From the client to the director, from the director to the server.
fn inbound(description: &'static str, arrives: &Packet, leaves: &Packet) -> Row {
    inbound_in_fragments(description, arrives, std::slice::from_ref(leaves))
}

fn inbound_in_fragments(description: &'static str, arrives: &Packet, leaves: &[Packet]) -> Row {
    let leaves = leaves.iter().map(|packet| packet.frame(INSIDE, SERVER)).collect();
    Row { description, arrives: arrives.frame(CLIENT, OUTSIDE), leaves }
}

/// From the server to the director, from the director to the client.
fn outbound(description: &'static str, arrives: &Packet, leaves: &Packet) -> Row {
    let (arrives, leaves) = (arrives.frame(SERVER, INSIDE), leaves.frame(OUTSIDE, CLIENT));
    Row { description, arrives, leaves: vec![leaves] }
}

const CLIENT_PORT: &str = "192.168.1.200:4000";
const HTTP: &str = "192.168.1.100:8080";
const SERVER_HTTP: &str = "192.168.2.210:80";
const DNS: &str = "192.168.1.100:53";
const SERVER_DNS: &str = "192.168.2.210:5353";

fn inbound_rows() -> Vec<Row> {
    let tcp = |dst| Packet::tcp(CLIENT_PORT, dst);
    let udp = |dst| Packet::udp(CLIENT_PORT, dst);
    let options = [0x94, 4, 0, 0];
    let (question, answer) = zero_checksum();
    let ping = || Packet::echo_request("192.168.1.200", "192.168.2.210", 7, 1).payload("odd");
    let routed = || Packet::udp(CLIENT_PORT, "192.168.2.210:9").payload("not translated");
    let large = |dst| udp(dst).dont_fragment(false).payload([0xa5; 1472]);
    vec![
        inbound("SYN", &tcp(HTTP).syn(), &tcp(SERVER_HTTP).syn().ttl(63)),
        inbound(
            "a SYN whose MSS is clamped",
            &tcp(HTTP).syn().mss(1460),
            &tcp(SERVER_HTTP).syn().mss(1360).ttl(63),
        ),
        inbound(
            "an odd payload",
            &tcp(HTTP).ack(1).payload("odd"),
            &tcp(SERVER_HTTP).ack(1).payload("odd").ttl(63),
        ),
        inbound(
            "a full segment, with IP options",
            &tcp(HTTP).ack(1).payload([0xa5; 1356]).options(&options),
            &tcp(SERVER_HTTP).ack(1).payload([0xa5; 1356]).options(&options).ttl(63),
        ),
        inbound("UDP", &udp(DNS).payload("even"), &udp(SERVER_DNS).payload("even").ttl(63)),
        inbound("odd UDP", &udp(DNS).payload("odd"), &udp(SERVER_DNS).payload("odd").ttl(63)),
        inbound("empty UDP", &udp(DNS), &udp(SERVER_DNS).ttl(63)),
        inbound(
            "UDP without a checksum",
            &udp(DNS).unchecksummed().payload("odd"),
            &udp(SERVER_DNS).unchecksummed().payload("odd").ttl(63),
        ),
        inbound("a UDP checksum that comes out as zero", &question, &answer),
        inbound_in_fragments(
            "a datagram that is cut for the inside",
            &large(DNS),
            &[0..1376, 1376..1480].map(|range| large(SERVER_DNS).ttl(63).part(range)),
        ),
        inbound(
            "a first fragment",
            &large(DNS).id(2).part(0..800),
            &large(SERVER_DNS).id(2).ttl(63).part(0..800),
        ),
        inbound(
            "the fragment behind it",
            &large(DNS).id(2).part(800..1480),
            &large(SERVER_DNS).id(2).ttl(63).part(800..1480),
        ),
        inbound("routed ICMP", &ping(), &ping().ttl(63)),
        inbound("routed UDP", &routed(), &routed().ttl(63)),
    ]
}

fn outbound_rows() -> Vec<Row> {
    vec![
        outbound(
            "an answer",
            &Packet::tcp(SERVER_HTTP, CLIENT_PORT).syn().ack(1001),
            &Packet::tcp(HTTP, CLIENT_PORT).syn().ack(1001).ttl(63),
        ),
        outbound(
            "UDP's answer",
            &Packet::udp(SERVER_DNS, CLIENT_PORT).payload("odd"),
            &Packet::udp(DNS, CLIENT_PORT).payload("odd").ttl(63),
        ),
    ]
}

/// A datagram whose checksum, once translated, is zero, which goes over the wire as 0xffff (RFC 768).
fn zero_checksum() -> (Packet, Packet) {
    (0..=u16::MAX)
        .map(|word| {
            let datagram = |dst| Packet::udp(CLIENT_PORT, dst).payload(word.to_be_bytes());
            (datagram(DNS), datagram(SERVER_DNS).ttl(63))
        })
        .find(|(_, translated)| translated.bytes()[26..28] == [0xff, 0xff])
        .expect("every sum has a word that makes it zero")
}

/// A TCP segment that was corrupted on its way, and the same behind the director.
fn corrupted() -> Row {
    let mut row = inbound(
        "a wrong TCP checksum",
        &Packet::tcp(CLIENT_PORT, HTTP).ack(1).payload("data"),
        &Packet::tcp(CLIENT_PORT, SERVER_HTTP).ack(1).payload("data").ttl(63),
    );
    for frame in [&mut row.arrives].into_iter().chain(&mut row.leaves) {
        *frame.last_mut().expect("data") ^= 0x40;
    }
    row
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn hardware_and_software_give_the_same_frames() {
    enter_new_network_namespace();
    let args = ["--no-huge", "--no-pci", "--no-shconf", "--no-telemetry", "-m", "64"];
    let eal = Eal::init(&args).expect("EAL starts without huge pages");

    let (report, corrupted_left) = exchange(&eal, "hardware");
    assert_eq!(report.drops.get(DropReason::TransportChecksum), 1, "{report}");
    assert_eq!(corrupted_left, None, "hardware finds a wrong checksum on arrival");

    let (report, corrupted_left) = exchange(&eal, "software");
    assert_eq!(report.drops.get(DropReason::TransportChecksum), 0, "{report}");
    let left = corrupted_left.expect("software leaves it to the server to find a wrong checksum");
    assert_eq!(corrupted().leaves, [&*left], "{}", describe(&left));
    assert!(verify_checksums(&left).is_err(), "a wrong checksum stays wrong");
}

/// Plays all rows with checksums done in one way. Returns the director's report, and what it made of
/// the corrupted segment.
fn exchange(eal: &Eal, checksum: &str) -> (Report, Option<Vec<u8>>) {
    let devices = [("outside", OUTSIDE), ("inside", INSIDE)].map(|(name, mac)| {
        let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
        (format!("net_tap_{name}"), format!("net_tap_{name},iface={name},mac={mac}"))
    });
    for (_, devargs) in &devices {
        eal.attach_vdev(devargs).expect("a TAP");
    }
    let text = service_file([&devices[0].1, &devices[1].1], checksum);
    let config = Config::parse("tap.toml", &text).unwrap_or_else(|errors| panic!("{errors}"));
    let mut director = DirectorParts::open(eal, &config).expect("a director on two TAPs");
    let outside = PacketSocket::open("outside");
    let inside = PacketSocket::open("inside");

    // Everybody makes themselves known; the answer tells when.
    outside.send(&arp_request(CLIENT, "192.168.1.200", "192.168.1.100"));
    inside.send(&arp_request(SERVER, "192.168.2.210", "192.168.2.200"));
    while director.workers()[0].counters().arp_replies < 2 {
        turn(&mut director);
    }
    for (rows, from, to) in
        [(inbound_rows(), &outside, &inside), (outbound_rows(), &inside, &outside)]
    {
        for Row { description, arrives, leaves } in rows {
            from.send(&arrives);
            for expected in leaves {
                let left = await_frame(&mut director, to)
                    .unwrap_or_else(|| panic!("{checksum}: {description}: nothing left"));
                assert_eq!(verify_checksums(&left), Ok(()), "{checksum}: {description}");
                assert_eq!(left, expected, "{checksum}: {description}: {}", describe(&left));
            }
        }
    }
    outside.send(&corrupted().arrives);
    let corrupted_left = await_frame(&mut director, &inside);

    drop((outside, inside));
    let report = director.close(&config);
    assert_eq!((report.mbufs.available, report.mbufs.missing()), (report.mbufs.size, 0));
    for (name, _) in &devices {
        eal.detach_vdev(name).expect("a TAP that nobody uses");
    }
    (report, corrupted_left)
}

/// Polls until an IPv4 packet leaves the director on this side, or for half a second.
fn await_frame(director: &mut DirectorParts, side: &PacketSocket) -> Option<Vec<u8>> {
    let deadline = StdInstant::now() + Duration::from_millis(500);
    while StdInstant::now() < deadline {
        turn(director);
        let is_packet = |frame: &Vec<u8>| {
            [OUTSIDE, INSIDE].iter().any(|mac| frame[6..12] == *mac) && frame[12..14] == [8, 0]
        };
        if let Some(frame) = std::iter::from_fn(|| side.receive()).find(is_packet) {
            return Some(frame);
        }
    }
    None
}

/// One poll, and time for the kernel.
fn turn(director: &mut DirectorParts) {
    director.workers()[0].poll(Instant::default());
    sleep(Duration::from_millis(1));
}

fn service_file([outside, inside]: [&str; 2], checksum: &str) -> String {
    format!(
        r#"
        [dpdk]
        no-huge = true
        mbufs = 1024

        [[port]]
        name = "outside"
        role = "outside"
        device = "{outside}"
        addresses = ["192.168.1.100/24"]
        rx-descriptors = 64
        tx-descriptors = 64
        checksum = "{checksum}"

        [[port]]
        name = "inside"
        role = "inside"
        device = "{inside}"
        addresses = ["192.168.2.200/24"]
        mtu = 1400
        rx-descriptors = 64
        tx-descriptors = 64
        checksum = "{checksum}"

        [[service]]
        protocol = "tcp"
        vip = "{HTTP}"
        scheduler = "rr"
        mss-clamp = 1360
        server = [{{ address = "{SERVER_HTTP}" }}]

        [[service]]
        protocol = "udp"
        vip = "{DNS}"
        scheduler = "rr"
        server = [{{ address = "{SERVER_DNS}" }}]
        "#
    )
}
