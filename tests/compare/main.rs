//! Shunt against Linux: the same programs talk through a director that is Shunt and through one
//! that is Linux with nftables ([`traffic`]), and what passes the client and the servers is compared
//! field by field. These comparisons need root and half a minute each, so that `cargo test` leaves
//! them out, and `sudo scripts/test` runs them; `sudo scripts/lab compare` runs one.
//! `SHUNT_BINARY` names another build of `shunt` to test, `SHUNT_CAPTURES` a directory for what is
//! captured.
//!
//! # What may differ
//!
//! Between any two runs, because hosts choose it anew or because it depends on timing:
//!
//! - MAC addresses;
//! - the IPv4 identification;
//! - initial sequence numbers: sequence and acknowledgment numbers count from them;
//! - the values of TCP timestamps;
//! - how a TCP stream is cut into segments, what is sent twice, which bytes are acknowledged when,
//!   windows after the SYN's, PSH: a stream is compared as its bytes, its first and its last segments;
//! - in the data: the time in HTTP's `Date`, and the one that ping puts in front;
//! - how often the same ICMP error is sent about one connection.
//!
//! Between Linux and Shunt, in packets that the director sends on its own behalf:
//!
//! - DF: Shunt's are atomic and have the identification 0 (RFC 6864, section 4.1); Linux numbers
//!   them and lets others cut them;
//! - the TTL of the packet that `host unreachable` quotes: Shunt quotes what arrived, Linux has
//!   counted down by the time that ARP gives up.
//!
//! Between Linux and Shunt, in what becomes of packets; these flows *must* differ, so that the list is
//! right:
//!
//! - What a service's server sends when its connection is gone: Linux passes a FIN, a reset and an
//!   ICMP error on with the server's own address, which the client doesn't know, and takes data for a
//!   connection that the server opens, which SNAT translates. Shunt resets the server, and the client
//!   hears nothing (`late-packets`).
//! - ICMP errors in fragments, which no router sends: Linux puts them together and translates them.
//!   Shunt puts nothing together that isn't for itself, and drops them.
//! - Destinations in 0.0.0.0/8 but 0.0.0.0: Linux has counted them as hosts' since 5.3, and says that it
//!   has no route. Shunt drops them in silence, as it does 0.0.0.0 and 127.0.0.0/8: they can't be
//!   destinations (RFC 6890, table 1).
//!
//! All else is the same: addresses, ports (those that SNAT chooses, too: both keep the host's own),
//! TTL, TOS, DF, IPv4 and TCP options, where fragments are cut, ICMP types, codes, MTUs and quotes,
//! data; and every checksum is right.

mod capture;
mod description;
mod icmp;
mod stream;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use shunt_testkit::lab::{Device, Director, Lab};

use capture::Capture;
use description::{Description, differences};

/// They take turns, so that programs are answered in time.
static TURN: Mutex<()> = Mutex::new(());

/// What there is to say about each capture, by its name.
type Descriptions = BTreeMap<String, Description>;

fn shunt_does_as_linux_on(device: Device) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let captures = env::var_os("SHUNT_CAPTURES").map(PathBuf::from);
    let captures = captures.as_deref().unwrap_or(temporary.path());
    let passes_fragments = device.passes_fragments();
    let linux = traffic_through(Director::Kernel, passes_fragments, &captures.join("linux"));
    let shunt =
        traffic_through(Director::Shunt(device, 1), passes_fragments, &captures.join("shunt"));
    assert!(linux.keys().eq(shunt.keys()), "captures of the same traffic");
    assert!(!linux.is_empty(), "captures");

    let flows: usize = linux.values().map(Description::len).sum();
    let mut wanted: BTreeSet<String> = traffic::of(passes_fragments)
        .flat_map(|traffic| {
            traffic.differs.iter().map(|flow| format!("{} on {flow}", traffic.name))
        })
        .collect();
    let mut found = Vec::new();
    for (name, linux) in &linux {
        for (flow, difference) in differences(linux, &shunt[name]) {
            let flow = format!("{name}: {flow}");
            if !wanted.remove(&flow) {
                found.push(format!("{flow}{difference}\n"));
            }
        }
    }
    found.extend(
        wanted.into_iter().map(|flow| format!("{flow}\n  is the same, and should differ\n")),
    );
    println!("\ncompared: {} captures, {flows} flows on net_{}", linux.len(), device.name());
    if !found.is_empty() {
        let captures = captures.display().to_string();
        if env::var_os("SHUNT_CAPTURES").is_none() {
            let _ = temporary.keep();
        }
        panic!(
            "{} flows differ; the captures are in {captures}\n\n{}",
            found.len(),
            found.join("\n")
        );
    }
}

/// Sends all traffic through a director, and leaves what was captured in a directory, too.
fn traffic_through(director: Director, passes_fragments: bool, to: &Path) -> Descriptions {
    fs::create_dir_all(to).expect("a directory for captures");
    println!("\n{director:?}");
    let binary = env::var_os("SHUNT_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_shunt").into());
    let mut lab = Lab::builder(director, PathBuf::from(binary)).further_hosts().build();
    let mut descriptions = Descriptions::new();
    // The same for both: what one director can't get, the other doesn't either.
    for traffic in traffic::of(passes_fragments) {
        for (host, frames) in traffic.send(&mut lab, to) {
            let description = Description::of(&Capture::of(frames.frames()));
            descriptions.insert(format!("{} on {}", traffic.name, host.name()), description);
        }
    }
    lab.stop_director();
    descriptions
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn af_packet() {
    shunt_does_as_linux_on(Device::AfPacket);
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn af_xdp() {
    shunt_does_as_linux_on(Device::AfXdp);
}

#[test]
#[ignore = "needs root: sudo scripts/test"]
fn tap() {
    shunt_does_as_linux_on(Device::Tap);
}

/// The comparison itself: it has to find what is wrong, and nothing else.
mod of_the_comparison {
    use super::{Capture, Description, differences};
    use shunt_testkit::{Packet, mac};

    const CLIENT: &str = "192.168.1.200:4000";
    const VIP: &str = "192.168.1.100:80";

    fn frames(packets: &[Packet]) -> Vec<Vec<u8>> {
        packets.iter().map(|packet| packet.frame(mac(1), mac(2))).collect()
    }

    fn compare(linux: &[Packet], shunt: &[Packet]) -> Vec<String> {
        let [linux, shunt] =
            [linux, shunt].map(|packets| Description::of(&Capture::of(&frames(packets))));
        texts(&linux, &shunt)
    }

    fn texts(linux: &Description, shunt: &Description) -> Vec<String> {
        differences(linux, shunt).into_iter().map(|(flow, text)| flow + &text).collect()
    }

    /// A request and its answer.
    fn web(isn: u32, change: impl Fn(Packet) -> Packet) -> Vec<Packet> {
        let request = || change(Packet::tcp(CLIENT, VIP));
        let answer = || change(Packet::tcp(VIP, CLIENT));
        vec![
            request().syn().seq(isn),
            answer().syn().seq(7).ack(isn + 1),
            request().seq(isn + 1).ack(8).payload("GET /"),
            answer().seq(8).ack(isn + 6).payload("Date: today\r\nrs1"),
            request().fin().seq(isn + 6).ack(24),
            answer().fin().seq(24).ack(isn + 7),
        ]
    }

    #[test]
    fn the_same_is_the_same() {
        let one = web(1000, |packet| packet);
        let mut other = web(u32::MAX - 3000, |packet| packet.id(77));
        assert_eq!(compare(&one, &one), [""; 0]);
        // The request comes in two parts, the first of them twice.
        let [first, last] = [("GE", 0), ("T /", 2)].map(|(part, at)| {
            Packet::tcp(CLIENT, VIP).seq(u32::MAX - 2999 + at).ack(8).payload(part)
        });
        other.splice(2..3, [first.clone(), first, last]);
        other[5] =
            Packet::tcp(VIP, CLIENT).seq(8).ack(u32::MAX - 2994).payload("Date: never\r\nrs1");
        assert_eq!(compare(&one, &other), [""; 0]);
    }

    #[test]
    fn every_other_field_counts() {
        let one = web(1000, |packet| packet);
        let is_found = |what: &str, other: &[Packet]| {
            assert!(!compare(&one, other).is_empty(), "{what}");
        };
        is_found("TTL", &web(1000, |packet| packet.ttl(63)));
        is_found("DF", &web(1000, |packet| packet.dont_fragment(false)));
        is_found("IPv4 options", &web(1000, |packet| packet.options(&[1, 1, 1, 0])));
        is_found("the window of a SYN", &web(1000, |packet| packet.window(1)));
        is_found("FIN", &one[..5]);
        is_found("data", &[&one[..3], &one[4..]].concat());
        is_found("a whole direction", &one[..1]);
        let reset = Packet::tcp(VIP, CLIENT).rst().seq(25);
        is_found("a reset", &[&one[..], &[reset]].concat());
        let elsewhere = Packet::udp(CLIENT, "192.168.1.100:53").payload("?");
        is_found("another flow", &[&one[..], &[elsewhere]].concat());
    }

    #[test]
    fn wrong_checksums_count() {
        let right = frames(&web(1000, |packet| packet));
        let mut wrong = right.clone();
        *wrong[3].last_mut().unwrap() ^= 1;
        let [right, wrong] = [right, wrong].map(|frames| Description::of(&Capture::of(&frames)));
        let found = texts(&right, &wrong).concat();
        assert!(found.contains("TCP checksum"), "{found}");
    }

    #[test]
    fn fragments_are_put_together_and_their_cuts_count() {
        let whole = Packet::udp(CLIENT, VIP).payload(vec![5; 600]).dont_fragment(false);
        let bytes = whole.bytes();
        let cut = |at: usize| {
            let part = |range: &[u8], offset: usize, more| {
                Packet::raw("192.168.1.200", "192.168.1.100", 17)
                    .fragment((offset / 8) as u16, more)
                    .payload(range)
            };
            let data = &bytes[20..];
            // The last one overtakes the first.
            vec![part(&data[at..], at, false), part(&data[..at], 0, true)]
        };
        assert_eq!(compare(&cut(200), &cut(200)), [""; 0]);
        assert!(!compare(&cut(200), &cut(400)).is_empty(), "other fragments");
        assert!(!compare(&cut(200), &[whole]).is_empty(), "no fragments");
        assert!(!compare(&cut(200), &cut(200)[..1]).is_empty(), "a fragment missing");
    }

    #[test]
    fn quotes_must_be_what_was_sent() {
        let sent = Packet::udp(CLIENT, VIP).payload("question");
        let error = |quote: Vec<u8>| {
            let kind = etherparse::Icmpv4Type::DestinationUnreachable(
                etherparse::icmpv4::DestUnreachableHeader::Port,
            );
            Packet::icmp("192.168.1.100", "192.168.1.200", kind).ttl(63).payload(quote)
        };
        let faithful = [sent.clone(), error(sent.bytes())];
        let mut changed = sent.bytes();
        changed[30] ^= 1;
        assert_eq!(compare(&faithful, &faithful), [""; 0]);
        let found = compare(&faithful, &[sent.clone(), error(changed)]).concat();
        assert!(found.contains("byte 30"), "{found}");
        let shorter = error(sent.bytes()[..28].to_vec());
        assert!(!compare(&faithful, &[sent, shorter]).is_empty(), "a shorter quote");
    }
}
