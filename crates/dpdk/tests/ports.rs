//! Ports on virtual devices: packets go in and come out, and every mbuf comes back.

mod support;

use std::fs;
use std::path::Path;

use shunt_dpdk::{BURST, Burst, Error, Port, PortConfig, PortId, RxOffloads, TxOffloads};
use support::{assert_all_free, burst, contents, eal, pool};

#[test]
fn a_file_goes_through_net_pcap_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    // All lengths that fit a buffer once, so that more than one burst is needed.
    let packets: Vec<Vec<u8>> =
        (0..100usize).map(|i| (0..14 + i * 15).map(|j| (i * 7 + j) as u8).collect()).collect();
    write_pcap(&input, &packets);
    let pool = pool("pcap", 2048);
    let devargs = format!("net_pcap0,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let id = eal().attach_vdev(&devargs).unwrap();

    let (port, mut rx, mut tx) = Port::start(eal(), id, &PortConfig::default(), &pool).unwrap();
    let (mut burst, mut received, mut bursts) = (Burst::new(), Vec::new(), 0);
    while rx[0].receive(&mut burst) > 0 {
        assert!(burst.iter().all(|mbuf| mbuf.port() == id && mbuf.segments() == 1));
        received.extend(contents(&burst));
        let count = burst.len();
        assert_eq!(tx[0].send(&mut burst), count);
        assert!(burst.is_empty());
        bursts += 1;
    }
    assert_eq!((bursts, &received), (4, &packets));
    let stats = port.stats();
    let bytes: usize = packets.iter().map(Vec::len).sum();
    assert_eq!((stats.ipackets, stats.opackets), (100, 100));
    assert_eq!((stats.ibytes, stats.obytes), (bytes as u64, bytes as u64));
    assert_eq!((stats.ierrors, stats.oerrors, stats.imissed, stats.rx_nombuf), (0, 0, 0, 0));

    // The port runs, and cannot be pulled away, as long as one of its queues is there.
    drop((port, rx));
    let error = eal().detach_vdev("net_pcap0").unwrap_err();
    assert_eq!(error.to_string(), "rte_eal_hotplug_remove: Device or resource busy (errno 16)");
    drop(tx);
    assert_eq!(PortId::by_name("net_pcap0"), None);
    eal().detach_vdev("net_pcap0").unwrap();

    assert_eq!(read_pcap(&output), packets);
    assert_all_free(&pool);
}

#[test]
fn a_packet_larger_than_a_buffer_is_a_chain() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
    let large: Vec<u8> = (0..9014u32).map(|i| i as u8).collect();
    write_pcap(&input, std::slice::from_ref(&large));
    let pool = pool("chain", 2048);
    let devargs = format!("net_pcap1,rx_pcap={},tx_pcap={}", input.display(), output.display());
    let id = eal().attach_vdev(&devargs).unwrap();
    let (port, mut rx, mut tx) = Port::start(eal(), id, &PortConfig::default(), &pool).unwrap();

    let mut burst = Burst::new();
    assert_eq!(rx[0].receive(&mut burst), 1);
    let mbuf = &mut burst.as_mut_slice()[0];
    assert_eq!((mbuf.len(), mbuf.segments()), (9014, 5));
    assert_eq!(mbuf.data(), &large[..2048]);
    // The ends of the data are in different segments: only the front can be changed.
    assert!(mbuf.append(1).is_none());
    assert!(!mbuf.truncate(100));
    assert!(mbuf.adjust(14));
    assert_eq!((mbuf.len(), mbuf.data()), (9000, &large[14..2048]));
    assert_eq!(mbuf.prepend(4).map(|front| front.len()), Some(4));
    mbuf.data_mut()[..4].copy_from_slice(&large[10..14]);
    assert_eq!(mbuf.len(), 9004);
    assert_eq!(tx[0].send(&mut burst), 1);

    drop((port, rx, tx));
    eal().detach_vdev("net_pcap1").unwrap();
    assert_eq!(read_pcap(&output), [&large[10..]]);
    assert_all_free(&pool);
}

#[test]
fn what_a_full_queue_refuses_stays_in_order() {
    // net_ring hands what it sends to its own receive side, through a ring of 1024 slots.
    let pool = pool("ring", 4095);
    let id = eal().attach_vdev("net_ring0").unwrap();
    let (port, mut rx, mut tx) = Port::start(eal(), id, &PortConfig::default(), &pool).unwrap();
    let numbered = |from: u32| burst(&pool, (from..from + 32).map(u32::to_be_bytes));

    let (mut sent, mut refused) = (0, Burst::new());
    while refused.is_empty() {
        refused = numbered(sent);
        sent += tx[0].send(&mut refused) as u32;
        assert!(sent < 2000, "the ring is never full");
    }
    let expected: Vec<_> = (sent..(sent / 32 + 1) * 32).map(u32::to_be_bytes).collect();
    assert_eq!(contents(&refused), expected);
    assert_eq!(pool.in_use(), sent + refused.len() as u32);
    assert_eq!(tx[0].send(&mut refused), 0);
    assert_eq!(contents(&refused), expected);

    // A burst with little room takes little, behind what it has.
    let mut burst = numbered(0);
    drop(burst.drain().nth(28));
    assert!(burst.is_empty());
    for mbuf in refused.drain() {
        burst.push(mbuf).unwrap();
    }
    let kept = burst.len();
    assert_eq!(rx[0].receive(&mut burst), BURST - kept);
    assert_eq!(rx[0].receive(&mut burst), 0);
    let mut received = contents(&burst).split_off(kept);
    burst.clear();
    while rx[0].receive(&mut burst) > 0 {
        received.extend(contents(&burst));
        burst.clear();
    }
    assert_eq!(received, (0..sent).map(u32::to_be_bytes).collect::<Vec<_>>());
    assert_eq!(port.stats().opackets, u64::from(sent));

    drop((port, rx, tx));
    eal().detach_vdev("net_ring0").unwrap();
    assert_all_free(&pool);
}

#[test]
fn net_null_receives_without_end_and_swallows() {
    let pool = pool("null", 1023);
    let id = eal().attach_vdev("net_null0,size=60").unwrap();
    let config = PortConfig { rx_queues: 2, tx_queues: 2, ..PortConfig::default() };
    let (port, rx, mut tx) = Port::start(eal(), id, &config, &pool).unwrap();
    assert_eq!((rx.len(), tx.len()), (2, 2));
    assert!(rx.iter().map(|queue| (queue.port(), queue.queue())).eq([(id, 0), (id, 1)]));
    assert!(tx.iter().map(|queue| (queue.port(), queue.queue())).eq([(id, 0), (id, 1)]));

    // Each queue on a thread of its own, as workers have them.
    let polled = rx.into_iter().map(|mut rx| {
        std::thread::spawn(move || {
            let mut burst = Burst::new();
            let count = (0..100).map(|_| {
                burst.clear();
                rx.receive(&mut burst)
            });
            count.sum::<usize>()
        })
    });
    let polled: Vec<_> = polled.collect();
    for thread in polled {
        assert_eq!(thread.join().unwrap(), 3200);
    }
    for tx in &mut tx {
        assert_eq!(tx.send(&mut burst(&pool, ["one", "two"])), 2);
    }
    let stats = port.stats();
    assert_eq!((stats.ipackets, stats.opackets), (6400, 4));

    drop((port, tx));
    eal().detach_vdev("net_null0").unwrap();
    assert_all_free(&pool);
}

#[test]
fn a_port_says_what_it_is() {
    let pool = pool("info", 1023);
    let id = eal().attach_vdev("net_null1").unwrap();
    assert_eq!(PortId::by_name("net_null1"), Some(id));
    assert!(PortId::iter().any(|port| port == id) && PortId::count() >= 1);
    let info = id.info().unwrap();
    assert_eq!((info.name.as_str(), info.driver.as_str()), ("net_null1", "net_null"));
    assert!(info.max_rx_queues >= 1 && info.max_tx_queues >= 1);
    assert!(!info.rx_offloads.contains(RxOffloads::IP_CHECKSUM));
    assert!(!info.tx_offloads.contains(TxOffloads::TCP_CHECKSUM));

    let config = PortConfig { mtu: 1400, ..PortConfig::default() };
    let (mut port, rx, tx) = Port::start(eal(), id, &config, &pool).unwrap();
    assert_eq!((port.id(), port.mtu()), (id, 1400));
    assert!(port.link().up);
    // net_null makes up a locally administered unicast address.
    assert_eq!(port.mac()[0] & 3, 2);
    // net_null takes every packet, and cannot do otherwise.
    port.set_promiscuous(true).unwrap();
    let error = port.set_promiscuous(false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rte_eth_promiscuous_disable: Operation not supported (errno 95)"
    );

    let again = Port::start(eal(), id, &config, &pool).unwrap_err();
    assert_eq!(again.to_string(), "rte_eth_dev_configure: Device or resource busy (errno 16)");
    drop((port, rx, tx));
    assert_eq!(id.info().unwrap_err().call, "rte_eth_dev_info_get");
    eal().detach_vdev("net_null1").unwrap();
    assert_all_free(&pool);
}

#[test]
fn a_port_that_refuses_can_be_asked_again() {
    let pool = pool("refuse", 1023);
    let id = eal().attach_vdev("net_null2").unwrap();
    let start = |config| Port::start(eal(), id, &config, &pool);
    let default = PortConfig::default;
    let refused = Error { call: "rte_eth_dev_configure", errno: 22 };

    let tx_offloads = TxOffloads::IP_CHECKSUM | TxOffloads::VLAN_INSERT;
    assert_eq!(start(PortConfig { tx_offloads, ..default() }).unwrap_err(), refused);
    let rx_offloads = RxOffloads::IP_CHECKSUM;
    assert_eq!(start(PortConfig { rx_offloads, ..default() }).unwrap_err(), refused);
    assert_eq!(start(PortConfig { rx_queues: 2000, ..default() }).unwrap_err(), refused);
    drop(start(default()).unwrap());

    eal().detach_vdev("net_null2").unwrap();
    assert_all_free(&pool);
}

#[test]
fn a_bad_vdev_is_an_error_with_a_reason() {
    // Which errno it is depends on the driver and on DPDK's release.
    for devargs in ["net_nonsense0", "net_pcap9,rx_pcap=/nonexistent/in.pcap", "net_null\0"] {
        let error = eal().attach_vdev(devargs).unwrap_err();
        assert_eq!((error.call, error.errno > 0), ("rte_dev_probe", true), "{devargs}: {error}");
        let text = error.to_string();
        assert!(text.starts_with("rte_dev_probe: ") && text.contains("(errno "), "{text}");
        assert!(!text.contains("Unknown error"), "{text}");
    }
    assert_eq!(PortId::by_name("net_pcap9"), None);
}

// The classic libpcap format in this machine's byte order: a header of 24 bytes, then records with
// a header of 16 (seconds, fraction, captured length, original length).

fn write_pcap(file: &Path, packets: &[Vec<u8>]) {
    const ETHERNET: u32 = 1;
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4, u32::from_ne_bytes([2, 0, 4, 0]), 0, 0, 65535, ETHERNET] {
        bytes.extend(word.to_ne_bytes());
    }
    for packet in packets {
        for word in [0, 0, packet.len() as u32, packet.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(packet);
    }
    fs::write(file, bytes).unwrap();
}

fn read_pcap(file: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(file).unwrap();
    let (mut rest, mut packets) = (&bytes[24..], Vec::new());
    while let Some((header, tail)) = rest.split_at_checked(16) {
        let (packet, tail) =
            tail.split_at(u32::from_ne_bytes(header[8..12].try_into().unwrap()) as usize);
        packets.push(packet.to_vec());
        rest = tail;
    }
    assert!(rest.is_empty(), "{} ends in the middle of a header", file.display());
    packets
}
