//! What the benches share: flows, the order in which they come, and settings that keep runs short.
#![allow(dead_code, reason = "each bench uses what it needs")]

pub(crate) mod traffic;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use criterion::Criterion;
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};
use rand_distr::Zipf;
use shunt_nat::{Side, Topology};

/// Packets that are handled together, as by a worker.
pub(crate) const BURST: usize = 32;

/// The service's endpoint.
pub(crate) const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 100), 80);

/// The exponent of the Zipf distribution: what traces of the Internet are commonly fitted with.
const ZIPF_EXPONENT: f64 = 1.0;

/// Short, but long enough that two runs agree within a few per cent on a quiet machine.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args()
}

/// Numbers of flows; ten millions take gigabytes and minutes, so they must be asked for.
pub(crate) fn sizes() -> Vec<usize> {
    let mut sizes = vec![1 << 10, 1 << 16, 1 << 20];
    if std::env::var_os("SHUNT_BENCH_10M").is_some() {
        sizes.push(10_000_000);
    }
    sizes
}

/// The endpoint of a client, different for each number.
pub(crate) fn client(number: usize) -> SocketAddrV4 {
    const PER_HOST: usize = 16;
    let address = Ipv4Addr::from_bits(0x0a00_0000 + (number / PER_HOST) as u32);
    SocketAddrV4::new(address, (1024 + number % PER_HOST * 4001) as u16)
}

/// One of four servers.
pub(crate) fn server(number: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 2, 210 + (number % 4) as u8), 8080)
}

/// Numbers below `count`, each once, in a random order that is the same in every run.
pub(crate) fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..count).collect();
    numbers.shuffle(&mut random());
    numbers
}

/// How often which flow comes.
#[derive(Clone, Copy)]
pub(crate) enum Popularity {
    /// Each as often as the others.
    Uniform,
    /// A few make up most of the traffic.
    Zipf,
}

impl Popularity {
    pub(crate) const ALL: [Popularity; 2] = [Popularity::Uniform, Popularity::Zipf];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Popularity::Uniform => "uniform",
            Popularity::Zipf => "zipf",
        }
    }

    /// Which of `flows` flows come: whole bursts of them, and as many as there are flows.
    pub(crate) fn draw(self, flows: usize) -> Vec<usize> {
        let count = flows.next_multiple_of(BURST);
        let mut random = random();
        match self {
            Popularity::Uniform => (0..count).map(|_| random.random_range(0..flows)).collect(),
            Popularity::Zipf => {
                // Popular flows lie anywhere in memory.
                let ranks = shuffled(flows);
                let zipf = Zipf::new(flows as f64, ZIPF_EXPONENT).expect("a sound exponent");
                (0..count).map(|_| ranks[random.sample(zipf) as usize - 1]).collect()
            }
        }
    }
}

/// Runs rounds of at most `most`, `iterations` in all, and adds up the times that they return.
pub(crate) fn in_rounds(
    iterations: u64,
    most: usize,
    mut round: impl FnMut(usize) -> Duration,
) -> Duration {
    let (mut left, mut time) = (iterations, Duration::ZERO);
    while left > 0 {
        let count = left.min(most as u64);
        time += round(count as usize);
        left -= count;
    }
    time
}

/// Clients outside, servers and local addresses inside.
pub(crate) struct TestNetwork;

impl Topology for TestNetwork {
    fn is_local(&self, address: Ipv4Addr) -> bool {
        address == *VIP.ip() || address.octets()[..3] == [192, 168, 3]
    }

    fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
        Some(if address.octets()[0] == 10 { Side::Outside } else { Side::Inside })
    }
}

fn random() -> SmallRng {
    SmallRng::seed_from_u64(0x5eed)
}
