use std::ops::AddAssign;

use shunt_packet::ipv4::Ipv4Header;

use crate::{flow::Direction, source_pool::PoolUsage};

/// Counters of one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Connections opened.
    pub opened: u64,
    /// Connections that ended by being silent for too long.
    pub expired: u64,
    /// Closing connections that made room for a new one with the same tuple.
    pub replaced: u64,
    /// Half-open or closing connections that made room for a new one in a full table.
    pub evicted: u64,
    /// Half-open connections whose server was gone, and whose client was given another one.
    pub rescheduled: u64,
    /// ICMP errors translated.
    pub icmp_errors: u64,
    /// TCP resets that were passed on but not believed, for their sequence number.
    pub out_of_window_resets: u64,
    /// TCP FINs that were passed on but not believed, for their sequence number or their acknowledgment.
    pub out_of_window_fins: u64,
    /// Connections that were ended because their server was drained and their time was over.
    pub drained: u64,
}

/// One engine's counters of a virtual service. Each fragment of a packet counts as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Connections opened; of a one-packet service, datagrams scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients, IPv4 headers included.
    pub in_bytes: u64,
    /// Packets to clients.
    pub out_packets: u64,
    /// Bytes to clients, IPv4 headers included.
    pub out_bytes: u64,
    /// Connections refused because no server could take them.
    pub refused: u64,
}

impl ServiceCounters {
    /// Counts a packet from a client, or to one.
    #[inline]
    pub(crate) fn add_packet(&mut self, direction: Direction, header: &Ipv4Header) {
        let bytes = u64::from(header.total_len());
        match direction {
            Direction::Inbound => {
                self.in_packets += 1;
                self.in_bytes += bytes;
            }
            Direction::Outbound => {
                self.out_packets += 1;
                self.out_bytes += bytes;
            }
        }
    }
}

/// One engine's counters of a real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Connections opened; of a one-packet service, datagrams scheduled.
    pub connections: u64,
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

/// Counters of several engines, added up.
macro_rules! add_up {
    ($($name:ident { $($field:ident),* })*) => {
        $(impl AddAssign for $name {
            fn add_assign(&mut self, other: $name) {
                let $name { $($field),* } = other;
                $(self.$field += $field;)*
            }
        })*
    };
}

add_up! {
    EngineCounters { opened, expired, replaced, evicted, rescheduled, icmp_errors, out_of_window_resets, out_of_window_fins, drained }
    ServiceCounters { connections, in_packets, in_bytes, out_packets, out_bytes, refused }
    ServerCounters { connections, active, inactive }
    PoolUsage { endpoints, in_use, scarce, exhausted }
}
