//! What is counted, live and as a copy.
//!
//! A live counter has one writer, a worker, and readers on other cores that see it a moment late. It is
//! a relaxed load and a relaxed store, which costs what a plain addition costs: no locked instruction,
//! and no line that another core writes. What is read is a copy in plain numbers, to be added up over
//! workers.

use std::{
    ops::AddAssign,
    sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use derive_more::AddAssign;
use shunt_packet::ipv4::Ipv4Header;

use crate::{egress::EgressId, flow::Direction, state::ConnectionState};

/// A number that one thread counts up, and others may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts; only one thread may do so.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// What was counted.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Sets it; only the thread that counts may do so.
    #[inline]
    pub fn set(&self, count: u64) {
        self.0.store(count, Relaxed);
    }
}

/// Declares counters twice: as a copy in plain numbers, which can be added up, and live, with one writer.
#[macro_export]
macro_rules! live_counters {
    (
        $(#[$meta:meta])*
        pub struct $copy:ident, live $live:ident {
            $($(#[$doc:meta])* $field:ident,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $copy {
            $($(#[$doc])* pub $field: u64,)+
        }

        impl ::std::ops::AddAssign for $copy {
            fn add_assign(&mut self, other: $copy) {
                $(self.$field += other.$field;)+
            }
        }

        #[doc = concat!("Live [`", stringify!($copy), "`]: one thread counts, others may read.")]
        #[derive(Debug, Default)]
        pub struct $live {
            $($(#[$doc])* pub $field: $crate::Counter,)+
        }

        impl $live {
            /// What was counted up to now.
            #[must_use]
            pub fn get(&self) -> $copy {
                $copy { $($field: self.$field.get(),)+ }
            }
        }
    };
}

live_counters! {
    /// Counters of one engine.
    pub struct EngineCounters, live LiveEngineCounters {
        /// Connections opened.
        opened,
        /// Connections that ended by being silent for too long.
        expired,
        /// Closing connections that made room for a new one with the same tuple.
        replaced,
        /// Half-open or closing connections that made room for a new one in a full table.
        evicted,
        /// Half-open connections whose server was gone, and whose client was given another one.
        rescheduled,
        /// Connections that were ended because somebody asked for it.
        killed,
        /// ICMP errors translated.
        icmp_errors,
        /// TCP resets that were passed on but not believed, for their sequence number.
        out_of_window_resets,
        /// TCP FINs that were passed on but not believed, for their sequence number or their
        /// acknowledgment.
        out_of_window_fins,
        /// Connections that were ended because their server was drained and their time was over.
        drained,
    }
}

/// How many connections are in each state.
#[derive(Debug, Default)]
pub struct Occupancy([Counter; ConnectionState::ALL.len()]);

impl Occupancy {
    /// Connections in a state now; none are in [`ConnectionState::None`].
    #[must_use]
    pub fn get(&self, state: ConnectionState) -> u64 {
        self.0[state as usize].get()
    }

    /// The states, and how many connections are in each.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionState, u64)> {
        ConnectionState::ALL.iter().map(|state| (*state, self.get(*state)))
    }

    pub(crate) fn add(&self, state: ConnectionState) {
        self.0[state as usize].add(1);
    }

    pub(crate) fn remove(&self, state: ConnectionState) {
        self.0[state as usize].add(u64::MAX);
    }
}

/// Packets and bytes each way, IP headers included. Each fragment of a packet counts as one.
#[derive(AddAssign, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Bytes to clients.
    pub out_bytes: u64,
}

/// Counters of a virtual service. They never go down while the service exists.
#[derive(AddAssign, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Connections opened; of a one-packet service, datagrams scheduled.
    pub connections: u64,
    /// Packets and bytes of all its servers, those included that were removed.
    pub traffic: Traffic,
    /// Connections refused because no server could take them.
    pub refused: u64,
}

/// Counters of a real server. They never go down while the server exists, but for the connections that
/// it has now.
#[derive(AddAssign, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Connections opened; of a one-packet service, datagrams scheduled.
    pub connections: u64,
    /// Packets and bytes.
    pub traffic: Traffic,
    /// Established TCP connections now.
    pub active: u32,
    /// All others now.
    pub inactive: u32,
}

impl ServerCounters {
    /// All connections now.
    #[must_use]
    pub fn current(&self) -> u64 {
        u64::from(self.active) + u64::from(self.inactive)
    }
}

/// Live [`Traffic`], by direction.
#[derive(Debug, Default)]
struct LiveTraffic([OneWay; 2]);

/// Live counts of one direction.
#[derive(Debug, Default)]
struct OneWay {
    packets: Counter,
    bytes: Counter,
}

impl LiveTraffic {
    #[inline]
    fn add_packet(&self, direction: Direction, bytes: u64) {
        let one_way = &self.0[direction as usize];
        one_way.packets.add(1);
        one_way.bytes.add(bytes);
    }

    fn get(&self) -> Traffic {
        let [inbound, outbound] = &self.0;
        Traffic {
            in_packets: inbound.packets.get(),
            in_bytes: inbound.bytes.get(),
            out_packets: outbound.packets.get(),
            out_bytes: outbound.bytes.get(),
        }
    }

    fn set(&self, traffic: Traffic) {
        let [inbound, outbound] = &self.0;
        inbound.packets.set(traffic.in_packets);
        inbound.bytes.set(traffic.in_bytes);
        outbound.packets.set(traffic.out_packets);
        outbound.bytes.set(traffic.out_bytes);
    }
}

/// What one worker has of a server: what it counts, and the way out that packets to it take. A cache
/// line of its own. Written by the worker; read, and cleared when the number becomes another server's,
/// by the main lcore.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ServerSlot {
    connections: Counter,
    traffic: LiveTraffic,
    active: AtomicU32,
    inactive: AtomicU32,
    /// The number of the way out, 0 if it is not known.
    egress: AtomicU16,
}

const _: () = assert!(size_of::<ServerSlot>() == 64);

impl ServerSlot {
    /// A connection was opened, or a datagram of which none is kept.
    pub(crate) fn count_connection(&self) {
        self.connections.add(1);
    }

    /// Counts a packet from a client, or to one.
    #[inline]
    pub(crate) fn count_packet(&self, direction: Direction, header: &Ipv4Header) {
        self.traffic.add_packet(direction, u64::from(header.total_len()));
    }

    fn current(&self, is_active: bool) -> &AtomicU32 {
        if is_active { &self.active } else { &self.inactive }
    }

    /// One more connection is there.
    pub(crate) fn add_current(&self, is_active: bool) {
        let current = self.current(is_active);
        current.store(current.load(Relaxed) + 1, Relaxed);
    }

    /// One connection less is there.
    pub(crate) fn remove_current(&self, is_active: bool) {
        let current = self.current(is_active);
        current.store(current.load(Relaxed) - 1, Relaxed);
    }

    /// The way out that packets to the server take, if it is known.
    #[inline]
    pub(crate) fn egress(&self) -> Option<EgressId> {
        EgressId::new(self.egress.load(Relaxed))
    }

    /// Notes which way out packets to the server take.
    pub(crate) fn set_egress(&self, egress: Option<EgressId>) {
        self.egress.store(egress.map_or(0, EgressId::get), Relaxed);
    }

    pub(crate) fn get(&self) -> ServerCounters {
        ServerCounters {
            connections: self.connections.get(),
            traffic: self.traffic.get(),
            active: self.active.load(Relaxed),
            inactive: self.inactive.load(Relaxed),
        }
    }

    /// Counts from the start. To be called while no worker can count.
    pub(crate) fn clear(&self) {
        self.connections.set(0);
        self.traffic.set(Traffic::default());
        self.active.store(0, Relaxed);
        self.inactive.store(0, Relaxed);
        self.set_egress(None);
    }
}

/// What one worker has of a service, besides what its servers count.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ServiceSlot {
    /// Written by the worker.
    refused: Counter,
    /// What servers had counted that are no more. Written by the main lcore.
    departed: LiveTraffic,
    departed_connections: Counter,
}

impl ServiceSlot {
    /// No server could take a connection.
    pub(crate) fn count_refused(&self) {
        self.refused.add(1);
    }

    /// Takes over what a server has counted that is no more.
    pub(crate) fn take_over(&self, server: ServerCounters) {
        let mut traffic = self.departed.get();
        traffic += server.traffic;
        self.departed.set(traffic);
        self.departed_connections.add(server.connections);
    }

    /// Counts of the service, but for those of the servers that it has.
    pub(crate) fn get(&self) -> ServiceCounters {
        ServiceCounters {
            connections: self.departed_connections.get(),
            traffic: self.departed.get(),
            refused: self.refused.get(),
        }
    }

    /// Counts from the start. To be called while no worker can count.
    pub(crate) fn clear(&self) {
        self.refused.set(0);
        self.departed.set(Traffic::default());
        self.departed_connections.set(0);
    }
}

impl AddAssign<ServerCounters> for ServiceCounters {
    fn add_assign(&mut self, server: ServerCounters) {
        self.connections += server.connections;
        self.traffic += server.traffic;
    }
}
