/// Counters of one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounters {
    /// Connections opened.
    pub opened: u64,
    /// Connections that ended by being silent for too long.
    pub expired: u64,
    /// Closing connections that made room for a new one with the same tuple.
    pub replaced: u64,
    /// ICMP errors translated.
    pub icmp_errors: u64,
}

/// Counters of one virtual service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounters {
    /// Connections opened.
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

/// Counters of one real server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCounters {
    /// Connections opened.
    pub connections: u64,
    /// Connections in the table now.
    pub current: u64,
}
