//! Clients and servers in one: sends datagrams with the time in them, and reads it when they come out.

use std::{fmt, thread::sleep, time::Duration};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use shunt_dpdk::{BURST, Burst, Eal, Mempool, Port, PortConfig, RxQueue, TxQueue, clock::Tsc};

use crate::{
    latency::CASE,
    traffic::{self, STAMP},
};

/// How long the director may take to start.
const START: u64 = 20;

/// How long the last packets are waited for.
const GRACE: Duration = Duration::from_millis(20);

/// The generator, joined to the director's ports.
pub(crate) struct Generator {
    /// To the outside port, and to the inside one.
    tx: [TxQueue; 2],
    /// From the inside port.
    rx: RxQueue,
    pool: Mempool,
    frames: Vec<Vec<u8>>,
    next: usize,
    burst: Burst,
    /// They run as long as they live.
    _ports: [Port; 2],
}

/// How long packets took in a stretch of time, in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Times {
    pub(crate) seconds: f64,
    /// Millions of packets per second that were sent.
    pub(crate) mpps: f64,
    pub(crate) received: u64,
    pub(crate) lost: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) longest: f64,
}

impl Times {
    /// Millions of packets per second that came through.
    pub(crate) fn received_mpps(&self) -> f64 {
        self.received as f64 / self.seconds / 1e6
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Times { received, lost, p50, p99, p999, longest, .. } = self;
        write!(
            f,
            "p50 {p50:.1} µs, p99 {p99:.1} µs, p99.9 {p999:.1} µs, longest {longest:.0} µs; {lost} of \
             {} lost",
            received + lost
        )
    }
}

impl Generator {
    /// Opens the generator's ends, and waits until the director has opened its own.
    pub(crate) fn start(
        eal: &Eal,
        pool: &Mempool,
        devices: &[String; 2],
    ) -> anyhow::Result<Generator> {
        let open = |device: &String| {
            let id = eal.attach_vdev(device)?;
            Port::start(eal, id, &PortConfig::default(), pool)
        };
        let (clients, _, to_outside) = open(&devices[0])?;
        let (servers, from_inside, to_inside) = open(&devices[1])?;
        let ports = [clients, servers];
        let deadline = Tsc::now() + START * Tsc::hz();
        while !ports.iter().all(|port| port.link().up) {
            ensure!(Tsc::now() < deadline, "the director did not open its memif devices");
            sleep(Duration::from_millis(20));
        }
        let [to_outside, to_inside] = [to_outside, to_inside].map(|tx| tx.into_iter().next());
        Ok(Generator {
            tx: to_outside.zip(to_inside).context("a transmit queue")?.into(),
            rx: from_inside.into_iter().next().context("a receive queue")?,
            pool: pool.clone(),
            frames: traffic::stamped(CASE),
            next: 0,
            burst: Burst::new(),
            _ports: ports,
        })
    }

    /// Has the gateway and the servers tell where they are.
    pub(crate) fn announce_neighbours(&mut self) -> anyhow::Result<()> {
        for (tx, frames) in self.tx.iter_mut().zip(traffic::neighbours()) {
            for frame in frames {
                push(&self.pool, &mut self.burst, &frame, None);
            }
            tx.send(&mut self.burst);
            ensure!(self.burst.is_empty(), "the director's ports take nothing");
        }
        Ok(())
    }

    /// Sends so many packets per second, evenly, and then waits for those that are on their way.
    pub(crate) fn run(&mut self, rate: f64, length: Duration) -> anyhow::Result<Times> {
        let hz = Tsc::hz() as f64;
        let cycles = |time: Duration| (time.as_secs_f64() * hz) as u64;
        // Cycles: up to a second, within 0.1 %.
        let mut times = Histogram::new_with_max(Tsc::hz(), 3)?;
        let (mut sent, mut seconds) = (0, 0.0);
        let start = Tsc::now();
        let end = start + cycles(length);
        loop {
            let now = Tsc::now();
            if now < end {
                seconds = (now - start) as f64 / hz;
                let due = (seconds * rate - sent as f64).clamp(0.0, BURST as f64);
                sent += self.send(due as usize, now) as u64;
            } else if now > end + cycles(GRACE) {
                break;
            }
            self.receive(&mut times);
        }
        let quantile = |quantile| times.value_at_quantile(quantile) as f64 * 1e6 / hz;
        Ok(Times {
            seconds,
            mpps: sent as f64 / seconds / 1e6,
            received: times.len(),
            lost: sent.saturating_sub(times.len()),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            longest: quantile(1.0),
        })
    }

    /// Sends the next packets with the time in them; how many the device took.
    fn send(&mut self, count: usize, now: u64) -> usize {
        if count == 0 {
            return 0;
        }
        for _ in 0..count {
            push(&self.pool, &mut self.burst, &self.frames[self.next], Some(now));
            self.next = (self.next + 1) % self.frames.len();
        }
        let sent = self.tx[0].send(&mut self.burst);
        self.burst.clear();
        sent
    }

    fn receive(&mut self, times: &mut Histogram<u64>) {
        self.rx.receive(&mut self.burst);
        if self.burst.is_empty() {
            return;
        }
        let now = Tsc::now();
        for mbuf in self.burst.drain() {
            // ARP comes, too.
            let stamp = mbuf.data().get(STAMP).and_then(|bytes| bytes.try_into().ok());
            if let Some(stamp) = stamp.filter(|_| traffic::is_ipv4(mbuf.data())) {
                times.saturating_record(now.saturating_sub(u64::from_ne_bytes(stamp)));
            }
        }
    }
}

/// Adds a frame to a burst, if there is a buffer for it.
fn push(pool: &Mempool, burst: &mut Burst, frame: &[u8], stamp: Option<u64>) {
    let Some(mut mbuf) = pool.alloc() else { return };
    let Some(bytes) = mbuf.append(frame.len()) else { return };
    bytes.copy_from_slice(frame);
    if let Some(stamp) = stamp {
        bytes[STAMP].copy_from_slice(&stamp.to_ne_bytes());
    }
    // Callers add no more than there is room for.
    let _ = burst.push(mbuf);
}
