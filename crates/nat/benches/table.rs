//! The connection table alone, against maps that one would take instead.
//!
//! | bench | a unit is |
//! | --- | --- |
//! | `hit` | finding a connection by the key of either direction, and reading its state |
//! | `miss` | finding out that there is none |
//! | `insert` | adding a connection with both keys, in a table whose memory has been used before |
//! | `remove` | removing one by its key |
//! | `expire` | ending one whose time is over (the maps have no such thing) |
//!
//! The maps hold what the table holds: two keys a connection, a 64-byte record each, and they are
//! sized in advance. Ten million flows: `SHUNT_BENCH_10M=1 cargo bench -p shunt-nat --bench table`.

mod common;

use std::{
    cell::LazyCell,
    collections::hash_map::RandomState as SipHash,
    hash::{BuildHasher, Hash, Hasher},
    hint::black_box,
    time::{Duration, Instant as WallClock},
};

use arrayvec::ArrayVec;
use criterion::{BenchmarkId, Criterion, Throughput};
use shunt_nat::{
    ConnectionKind, ConnectionState, Direction, FlowKey, Instant,
    table::{ConnectionTable, Lookup},
};
use shunt_packet::ipv4::protocol;

use common::{BURST, Popularity, VIP, client, in_rounds, server, shuffled, sizes};

/// The keys of a connection.
#[derive(Clone, Copy)]
struct Flow {
    inbound: FlowKey,
    outbound: FlowKey,
}

impl Flow {
    fn new(number: usize) -> Flow {
        Flow {
            inbound: FlowKey::new(protocol::UDP, client(number), VIP),
            outbound: FlowKey::new(protocol::UDP, server(number), client(number)),
        }
    }

    /// Both directions are looked for alike.
    fn key(&self, number: usize) -> FlowKey {
        if number.is_multiple_of(2) { self.inbound } else { self.outbound }
    }
}

const NOW: Instant = Instant::from_millis(1_000);
const TIMEOUT: Duration = Duration::from_secs(60);

/// Something that finds connections.
trait Contender {
    fn with_capacity(connections: usize) -> Self;
    fn insert(&mut self, flow: &Flow);
    fn remove(&mut self, flow: &Flow);

    /// The state of the connection with this key.
    fn find(&self, key: &FlowKey) -> Option<u8>;

    /// How many keys of a burst belong to connections.
    fn find_burst(&self, keys: &[FlowKey]) -> usize {
        keys.iter().filter(|key| black_box(self.find(key)).is_some()).count()
    }
}

impl Contender for ConnectionTable {
    fn with_capacity(connections: usize) -> ConnectionTable {
        ConnectionTable::new(connections as u32, [1, 2, 3, 4]).expect("memory")
    }

    fn insert(&mut self, flow: &Flow) {
        let state = (ConnectionState::Udp, TIMEOUT);
        self.insert(flow.inbound, flow.outbound, ConnectionKind::Snat, state, NOW)
            .expect("room for all flows");
    }

    fn remove(&mut self, flow: &Flow) {
        let (id, _) = self.lookup(&flow.inbound).expect("a connection that was added");
        black_box(ConnectionTable::remove(self, id));
    }

    fn find(&self, key: &FlowKey) -> Option<u8> {
        self.lookup(key).map(|(id, _)| self.get(id).state() as u8)
    }

    fn find_burst(&self, keys: &[FlowKey]) -> usize {
        let mut lookups: ArrayVec<Lookup, BURST> =
            keys.iter().map(|key| self.prefetch_bucket(key)).collect();
        lookups.iter_mut().for_each(|lookup| self.prefetch_record(lookup));
        let find = |(key, lookup): (&FlowKey, Lookup)| {
            let (id, _) = self.finish_lookup(lookup, key)?;
            Some(self.get(id).state() as u8)
        };
        keys.iter().zip(lookups).filter(|found| black_box(find(*found)).is_some()).count()
    }
}

/// A record's size, so that the maps move as much memory as the table.
type Record = [u64; 8];

/// A map from both keys to a place among the records.
trait Places {
    fn for_keys(count: usize) -> Self;
    fn insert(&mut self, key: Key, place: u32) -> Option<u32>;
    fn remove(&mut self, key: &Key) -> Option<u32>;
    fn get(&self, key: &Key) -> Option<&u32>;
}

/// What a map's key is made of: 16 bytes, hashed as one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    addresses: u64,
    ports: u32,
    protocol: u32,
}

impl From<&FlowKey> for Key {
    fn from(key: &FlowKey) -> Key {
        let (src, dst) = (key.src(), key.dst());
        Key {
            addresses: u64::from(src.ip().to_bits()) << 32 | u64::from(dst.ip().to_bits()),
            ports: u32::from(src.port()) << 16 | u32::from(dst.port()),
            protocol: key.protocol().into(),
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u64::from(self.protocol) << 32 | u64::from(self.ports);
        state.write_u128(u128::from(ports) << 64 | u128::from(self.addresses));
    }
}

/// hashbrown with the hasher that it comes with, foldhash.
type Hashbrown = hashbrown::HashMap<Key, u32>;
/// The standard library's map.
type Std<S> = std::collections::HashMap<Key, u32, S>;
/// With a hasher that is as fast as the table's.
type FoldHash = hashbrown::DefaultHashBuilder;

impl Places for Hashbrown {
    fn for_keys(count: usize) -> Hashbrown {
        Hashbrown::with_capacity(count)
    }

    fn insert(&mut self, key: Key, place: u32) -> Option<u32> {
        self.insert(key, place)
    }

    fn remove(&mut self, key: &Key) -> Option<u32> {
        self.remove(key)
    }

    fn get(&self, key: &Key) -> Option<&u32> {
        self.get(key)
    }
}

impl<S: BuildHasher + Default> Places for Std<S> {
    fn for_keys(count: usize) -> Std<S> {
        Std::with_capacity_and_hasher(count, S::default())
    }

    fn insert(&mut self, key: Key, place: u32) -> Option<u32> {
        self.insert(key, place)
    }

    fn remove(&mut self, key: &Key) -> Option<u32> {
        self.remove(key)
    }

    fn get(&self, key: &Key) -> Option<&u32> {
        self.get(key)
    }
}

/// A map of both keys, with the records beside it.
struct Map<P> {
    places: P,
    records: Vec<Record>,
    free: Vec<u32>,
}

impl<P: Places> Contender for Map<P> {
    fn with_capacity(connections: usize) -> Map<P> {
        Map {
            places: P::for_keys(2 * connections),
            records: vec![[1; 8]; connections],
            free: (0..connections as u32).collect(),
        }
    }

    fn insert(&mut self, flow: &Flow) {
        let place = self.free.pop().expect("room for all flows");
        self.records[place as usize] = [place.into(); 8];
        for key in [&flow.inbound, &flow.outbound] {
            assert!(self.places.insert(key.into(), place).is_none());
        }
    }

    fn remove(&mut self, flow: &Flow) {
        let places = [&flow.inbound, &flow.outbound].map(|key| self.places.remove(&key.into()));
        let place = places[0].expect("a flow that was added");
        black_box(self.records[place as usize]);
        self.free.push(place);
    }

    fn find(&self, key: &FlowKey) -> Option<u8> {
        let place = self.places.get(&key.into())?;
        Some(self.records[*place as usize][7] as u8)
    }
}

fn main() {
    let mut criterion = common::criterion();
    for flows in sizes() {
        all_of::<ConnectionTable>(&mut criterion, "shunt", flows);
        all_of::<Map<Hashbrown>>(&mut criterion, "hashbrown", flows);
        all_of::<Map<Std<FoldHash>>>(&mut criterion, "std-foldhash", flows);
        all_of::<Map<Std<SipHash>>>(&mut criterion, "std-siphash", flows);
        expire(&mut criterion, flows);
    }
    criterion.final_summary();
}

fn all_of<C: Contender>(criterion: &mut Criterion, name: &str, size: usize) {
    let order = shuffled(2 * size);
    let flows: Vec<Flow> = order.iter().map(|number| Flow::new(*number)).collect();
    let (flows, strangers) = flows.split_at(size);
    // Filled when the first bench that the filter lets through needs it.
    let full = LazyCell::new(|| filled::<C>(flows));

    for popularity in Popularity::ALL {
        let keys = || draw_keys(flows, popularity);
        let name = format!("table/hit/{}/{name}", popularity.name());
        find(criterion, &name, size, keys, &full, BURST);
    }
    let keys = || draw_keys(strangers, Popularity::Uniform);
    find(criterion, &format!("table/miss/uniform/{name}"), size, keys, &full, 0);
    drop(full);
    churn::<C>(criterion, &format!("table/insert/{name}"), flows, Timed::Insert);
    churn::<C>(criterion, &format!("table/remove/{name}"), flows, Timed::Remove);
}

fn filled<C: Contender>(flows: &[Flow]) -> C {
    let mut table = C::with_capacity(flows.len());
    flows.iter().for_each(|flow| table.insert(flow));
    table
}

fn draw_keys(flows: &[Flow], popularity: Popularity) -> Vec<FlowKey> {
    let draw = popularity.draw(flows.len()).into_iter().enumerate();
    draw.map(|(at, number)| flows[number].key(at)).collect()
}

/// A burst of keys after the other, of which `expected` must be found.
fn find<C: Contender>(
    criterion: &mut Criterion,
    name: &str,
    size: usize,
    keys: impl FnOnce() -> Vec<FlowKey>,
    table: &LazyCell<C, impl FnOnce() -> C>,
    expected: usize,
) {
    let keys = LazyCell::new(keys);
    // Goes on from sample to sample: each flow comes again when all others have been.
    let mut burst = 0;
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
        let (table, keys) = (&**table, &**keys);
        bencher.iter(|| {
            assert_eq!(table.find_burst(&keys[burst..burst + BURST]), expected);
            burst = (burst + BURST) % keys.len();
        });
    });
    group.finish();
}

/// Which half of the churn is on the clock.
#[derive(Clone, Copy, PartialEq)]
enum Timed {
    Insert,
    Remove,
}

/// Flows are added in one random order and removed in another.
fn churn<C: Contender>(criterion: &mut Criterion, name: &str, flows: &[Flow], timed: Timed) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(1));
    let mut setup = None;
    group.bench_function(BenchmarkId::from_parameter(flows.len()), |bencher| {
        let (table, order) = setup.get_or_insert_with(|| {
            // Its memory has been touched once, and it is empty again.
            let (mut table, order) = (filled::<C>(flows), shuffled(flows.len()));
            order.iter().for_each(|number| table.remove(&flows[*number]));
            (table, order)
        });
        bencher.iter_custom(|iterations| {
            in_rounds(iterations, flows.len(), |count| {
                let start = WallClock::now();
                flows[..count].iter().for_each(|flow| table.insert(flow));
                let insertion = start.elapsed();
                let of_round: Vec<_> = order.iter().filter(|number| **number < count).collect();
                let start = WallClock::now();
                of_round.iter().for_each(|number| table.remove(&flows[**number]));
                if timed == Timed::Insert { insertion } else { start.elapsed() }
            })
        });
    });
    group.finish();
}

/// All connections run out at once, and the wheel takes out one after the other.
fn expire(criterion: &mut Criterion, size: usize) {
    let mut group = criterion.benchmark_group("table/expire/shunt");
    group.throughput(Throughput::Elements(1));
    let mut now = NOW;
    let mut setup = None;
    group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
        let (table, flows) = setup.get_or_insert_with(|| {
            let order = shuffled(size);
            let flows: Vec<Flow> = order.iter().map(|number| Flow::new(*number)).collect();
            (filled::<ConnectionTable>(&flows), flows)
        });
        bencher.iter_custom(|iterations| {
            in_rounds(iterations, size, |count| {
                let state = (ConnectionState::Udp, TIMEOUT);
                now = now + 2 * TIMEOUT;
                end_all(table, now);
                for flow in &flows[..count] {
                    table
                        .insert(flow.inbound, flow.outbound, ConnectionKind::Snat, state, now)
                        .expect("room for all flows");
                }
                let start = WallClock::now();
                end_all(table, now + 2 * TIMEOUT);
                start.elapsed()
            })
        });
    });
    group.finish();
}

/// Ends all connections that have run out.
fn end_all(table: &mut ConnectionTable, now: Instant) {
    let mut budget = usize::MAX;
    loop {
        let expired = table.expire(now, &mut budget);
        if expired.is_empty() {
            return;
        }
        for expired in expired {
            black_box(table.end(expired).key(Direction::Inbound));
        }
    }
}
