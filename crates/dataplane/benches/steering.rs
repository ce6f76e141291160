//! Finding the owner of a packet: what bringing it there costs on top is in `scripts/bench`.
//!
//! | bench | a unit is |
//! | --- | --- |
//! | `owner/tables` | the owners of 32 endpoints, as a worker finds them |
//! | `owner/toeplitz` | the same by DPDK's `rte_softrss`, of the whole tuple, under the key that a NIC gets |
//! | `owners/new` | the tables themselves, which are made once at start |

use std::{hint::black_box, net::SocketAddrV4, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput};
use shunt_dataplane::{Owners, rss_key};
use shunt_dpdk::{DEFAULT_KEY_LEN, softrss};
use shunt_nat::Side;

const BURST: usize = 32;
const WORKERS: usize = 4;
/// Entries of a NIC's usual redirection table.
const ENTRIES: usize = 128;
/// The service's address and port, which RSS hashes, too, and which must not matter.
const VIP: [u32; 2] = [0xc0a8_0164, 80];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    owner(&mut criterion);
    criterion.bench_function("owners/new", |bencher| {
        bencher.iter(|| Owners::new(ENTRIES, black_box(WORKERS)));
    });
    criterion.final_summary();
}

fn owner(criterion: &mut Criterion) {
    let owners = Owners::new(ENTRIES, WORKERS);
    let key = rss_key(Side::Outside, owners.index_bits(), DEFAULT_KEY_LEN);
    let table = owners.redirection(ENTRIES, |worker| worker.0.into());
    let by_tables = |client: &SocketAddrV4| u16::from(owners.owner(*client.ip(), client.port()).0);
    let by_toeplitz = |client: &SocketAddrV4| {
        let ports = u32::from(client.port()) << 16 | VIP[1];
        table[softrss(&[client.ip().to_bits(), VIP[0], ports], &key) as usize % ENTRIES]
    };
    let clients: Vec<_> = (0..1 << 16).map(client).collect();
    assert!(clients.iter().all(|client| by_tables(client) == by_toeplitz(client)));

    let mut group = criterion.benchmark_group("owner");
    group.throughput(Throughput::Elements(BURST as u64));
    let mut measure = |name: &str, owner: &dyn Fn(&[SocketAddrV4]) -> u16| {
        let mut bursts = clients.chunks_exact(BURST).cycle();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| owner(black_box(bursts.next().expect("an endless sequence"))));
        });
    };
    measure("tables", &|burst| burst.iter().map(by_tables).sum());
    measure("toeplitz", &|burst| burst.iter().map(by_toeplitz).sum());
    group.finish();
}

/// The endpoint of a client, different for each number.
fn client(number: u32) -> SocketAddrV4 {
    const PER_HOST: u32 = 16;
    let address = (0x0a00_0000 + number / PER_HOST).into();
    SocketAddrV4::new(address, (1024 + number % PER_HOST * 4001) as u16)
}
