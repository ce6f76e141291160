//! Pools, packets and bursts: what is taken comes back, and bytes stay what they are.

mod support;

use shunt_dpdk::{
    BURST, Burst, ChecksumStatus, L4, Mempool, MempoolConfig, RxChecksum, TxChecksum,
};
use support::{assert_all_free, burst, contents, eal, pool};

#[test]
fn a_pool_gives_out_exactly_its_mbufs() {
    let pool = pool("exact", 100);
    assert_all_free(&pool);
    let mbufs: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    assert_eq!(mbufs.len(), 100);
    assert_eq!((pool.available(), pool.in_use()), (0, 100));
    assert!(pool.alloc().is_none());
    drop(mbufs);
    assert_all_free(&pool);
}

#[test]
fn an_mbuf_is_freed_by_any_thread() {
    let pool = pool("threads", 64);
    let mbufs: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
    std::thread::spawn(move || drop(mbufs)).join().unwrap();
    assert_all_free(&pool);
}

#[test]
fn a_pool_that_cannot_be_says_why() {
    let first = Mempool::new(eal(), &MempoolConfig::new("twice", 63)).unwrap();
    let error = Mempool::new(eal(), &MempoolConfig::new("twice", 63)).unwrap_err();
    assert_eq!(error.to_string(), "rte_pktmbuf_pool_create: File exists (errno 17)");
    assert_all_free(&first);

    let config = MempoolConfig { cache: 63, ..MempoolConfig::new("cache", 63) };
    let error = Mempool::new(eal(), &config).unwrap_err();
    assert_eq!(error.to_string(), "rte_pktmbuf_pool_create: Invalid argument (errno 22)");

    let error = Mempool::new(eal(), &MempoolConfig::new("too large", 1 << 20)).unwrap_err();
    assert_eq!(error.to_string(), "rte_pktmbuf_pool_create: Cannot allocate memory (errno 12)");
}

#[test]
fn a_packet_grows_and_shrinks_at_both_ends() {
    let pool = pool("ends", 1);
    let mut mbuf = pool.alloc().unwrap();
    assert_eq!((mbuf.len(), mbuf.segments(), mbuf.data()), (0, 1, &[][..]));
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (128, 2048));

    mbuf.append(6).unwrap().copy_from_slice(b"packet");
    mbuf.prepend(2).unwrap().copy_from_slice(b"a ");
    assert_eq!((mbuf.len(), mbuf.data()), (8, &b"a packet"[..]));
    assert_eq!((mbuf.headroom(), mbuf.tailroom()), (126, 2042));

    assert!(mbuf.truncate(5));
    assert!(mbuf.adjust(2));
    assert_eq!((mbuf.len(), mbuf.data()), (3, &b"pac"[..]));
    mbuf.data_mut()[2] = b'n';
    assert_eq!(mbuf.append(1).unwrap().len(), 1);
    mbuf.data_mut()[3] = b'e';
    assert_eq!(mbuf.data(), b"pane");

    // What does not fit changes nothing.
    assert!(mbuf.append(2045).is_none());
    assert!(mbuf.prepend(129).is_none());
    assert!(!mbuf.truncate(5));
    assert!(!mbuf.adjust(5));
    assert_eq!((mbuf.len(), mbuf.data()), (4, &b"pane"[..]));

    // What just fits does.
    assert!(mbuf.append(2044).is_some());
    assert!(mbuf.prepend(128).is_some());
    assert_eq!((mbuf.len(), mbuf.headroom(), mbuf.tailroom()), (2176, 0, 0));
    assert!(mbuf.adjust(2176));
    assert_eq!((mbuf.len(), mbuf.headroom(), mbuf.tailroom()), (0, 2176, 0));
    drop(mbuf);
    assert_all_free(&pool);

    // Whoever comes next finds nothing of it.
    let mbuf = pool.alloc().unwrap();
    assert_eq!((mbuf.len(), mbuf.headroom(), mbuf.tailroom()), (0, 128, 2048));
}

#[test]
fn offload_requests_leave_the_packet_alone() {
    let pool = pool("offload", 1);
    let mut burst = burst(&pool, [b"checksum"]);
    let mbuf = &mut burst.as_mut_slice()[0];
    let unknown = RxChecksum { ip: ChecksumStatus::Unknown, l4: ChecksumStatus::Unknown };
    assert_eq!((mbuf.rx_checksum(), mbuf.rx_vlan_stripped()), (unknown, None));
    let checksum = TxChecksum { l2_len: 14, l3_len: 20, ip: true, l4: Some(L4::Udp) };
    mbuf.request_tx_checksum(checksum);
    assert_eq!(mbuf.rx_checksum(), unknown);
    mbuf.clear_offload();
    assert_eq!(mbuf.rx_checksum(), unknown);
    assert_eq!((mbuf.data(), mbuf.headroom(), mbuf.tailroom()), (&b"checksum"[..], 128, 2040));
    drop(burst);
    assert_all_free(&pool);
}

#[test]
fn a_burst_takes_32_and_hands_back_the_next() {
    let pool = pool("full", 40);
    let mut burst = Burst::new();
    assert!(burst.is_empty() && !burst.is_full());
    for _ in 0..BURST {
        burst.push(pool.alloc().unwrap()).unwrap();
    }
    assert!(burst.is_full());
    let mut extra = pool.alloc().unwrap();
    extra.append(1);
    let extra = burst.push(extra).unwrap_err();
    assert_eq!((extra.len(), burst.len(), pool.in_use()), (1, 32, 33));
    drop(extra);
    assert_eq!(pool.in_use(), 32);
    burst.clear();
    assert!(burst.is_empty());
    assert_all_free(&pool);
}

#[test]
fn a_dropped_burst_frees_its_packets_to_their_own_pools() {
    let (one, two) = (pool("one", 20), pool("two", 20));
    let mut burst = Burst::new();
    for pool in [&one, &two, &two, &one, &two] {
        burst.push(pool.alloc().unwrap()).unwrap();
    }
    assert_eq!((one.in_use(), two.in_use()), (2, 3));
    drop(burst);
    assert_all_free(&one);
    assert_all_free(&two);
}

#[test]
fn draining_yields_packets_in_order_and_frees_the_rest() {
    let pool = pool("drain", 40);
    let mut burst = burst(&pool, ["a", "b", "c", "d", "e"]);
    for mbuf in &mut burst {
        mbuf.data_mut()[0] -= b'a' - b'A';
    }
    assert_eq!(contents(&burst), ["A", "B", "C", "D", "E"].map(str::as_bytes));

    let mut drain = burst.drain();
    assert_eq!(drain.len(), 5);
    let (first, second) = (drain.next().unwrap(), drain.next().unwrap());
    drop(drain);
    assert_eq!((first.data(), second.data()), (&b"A"[..], &b"B"[..]));
    assert_eq!((burst.len(), pool.in_use()), (0, 2));

    burst.push(second).unwrap();
    burst.push(first).unwrap();
    assert_eq!(burst.drain().map(|mbuf| mbuf.data()[0]).collect::<Vec<_>>(), b"BA");
    assert_all_free(&pool);
}

#[test]
fn a_forgotten_drain_leaks_and_does_no_worse() {
    let pool = pool("forgotten", 8);
    let mut burst = burst(&pool, ["a", "b"]);
    std::mem::forget(burst.drain());
    assert!(burst.is_empty());
    drop(burst);
    assert_eq!(pool.in_use(), 2);
}
