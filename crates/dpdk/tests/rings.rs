//! Rings: packets go from one thread to another, in order, and none is lost.

mod support;

use std::thread;

use shunt_dpdk::{Burst, ring};
use support::{assert_all_free, burst, contents, eal, pool};

#[test]
fn a_full_ring_takes_no_more_and_an_empty_one_gives_nothing() {
    let pool = pool("small ring", 64);
    let (mut producer, mut consumer) = ring(eal(), 6).unwrap();
    let mut received = Burst::new();
    assert_eq!(consumer.dequeue(&mut received), 0);

    let mut sent = burst(&pool, ["a", "b", "c", "d"]);
    assert_eq!((producer.enqueue(&mut sent), sent.len()), (4, 0));
    let mut sent = burst(&pool, ["e", "f", "g", "h"]);
    assert_eq!(producer.enqueue(&mut sent), 2);
    assert_eq!(contents(&sent), ["g", "h"].map(str::as_bytes));
    assert_eq!(producer.enqueue(&mut sent), 0);

    assert_eq!(consumer.dequeue(&mut received), 6);
    assert_eq!(contents(&received), ["a", "b", "c", "d", "e", "f"].map(str::as_bytes));
    assert_eq!((producer.enqueue(&mut sent), consumer.dequeue(&mut received)), (2, 2));
    assert_eq!(contents(&received)[6..], ["g", "h"].map(str::as_bytes));
    drop(received);
    assert_all_free(&pool);
}

#[test]
fn what_is_left_in_a_ring_is_freed_with_its_last_end() {
    let pool = pool("left in ring", 64);
    let (mut producer, consumer) = ring(eal(), 64).unwrap();
    for _ in 0..20 {
        producer.enqueue(&mut burst(&pool, ["a", "b"]));
    }
    drop(producer);
    assert_eq!(pool.in_use(), 40);
    drop(consumer);
    assert_all_free(&pool);
}

#[test]
fn two_threads_keep_the_order() {
    const PACKETS: u32 = 200_000;
    let pool = pool("two threads", 1023);
    let (mut producer, mut consumer) = ring(eal(), 128).unwrap();
    let senders_pool = pool.clone();
    let sender = thread::spawn(move || {
        let (mut next, mut sent) = (0, Burst::new());
        while next < PACKETS || !sent.is_empty() {
            while next < PACKETS && !sent.is_full() {
                let Some(mut mbuf) = senders_pool.alloc() else { break };
                mbuf.append(4).unwrap().copy_from_slice(&next.to_be_bytes());
                sent.push(mbuf).unwrap();
                next += 1;
            }
            if producer.enqueue(&mut sent) == 0 {
                thread::yield_now();
            }
        }
    });
    let (mut expected, mut received) = (0, Burst::new());
    while expected < PACKETS {
        if consumer.dequeue(&mut received) == 0 {
            thread::yield_now();
        }
        for mbuf in received.drain() {
            assert_eq!(mbuf.data(), expected.to_be_bytes());
            expected += 1;
        }
    }
    sender.join().unwrap();
    assert_all_free(&pool);
}
