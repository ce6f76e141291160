//! `[timeouts]`, and `timeouts` of a service.

use std::time::Duration;

/// How long a connection lives without a packet, by its state. The defaults are those of IPVS;
/// every value is whole seconds, 1 second to 7 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Key `established`, by default 900 s: TCP, both sides have agreed to talk.
    pub established: Duration,
    /// Key `syn-sent`, by default 120 s: TCP, a host inside asked (SNAT) and nobody answered.
    pub syn_sent: Duration,
    /// Key `syn-recv`, by default 60 s: TCP, a client asked and the handshake isn't complete.
    pub syn_recv: Duration,
    /// Key `fin-wait`, by default 120 s: TCP, one side is done.
    pub fin_wait: Duration,
    /// Key `time-wait`, by default 120 s: TCP, both sides are done.
    pub time_wait: Duration,
    /// Key `close`, by default 10 s: TCP, after a reset.
    pub close: Duration,
    /// Key `close-wait`, by default 60 s: TCP, the client is done and the server isn't yet.
    pub close_wait: Duration,
    /// Key `last-ack`, by default 30 s: TCP, only the last acknowledgement is missing.
    pub last_ack: Duration,
    /// Key `udp`, by default 300 s: UDP, once a reply was seen.
    pub udp: Duration,
    /// Key `udp-one-way`, by default 30 s: UDP, as long as no reply was seen.
    pub udp_one_way: Duration,
    /// Key `icmp`, by default 30 s: an ICMP echo through NAT.
    pub icmp: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            established: Duration::from_secs(900),
            syn_sent: Duration::from_secs(120),
            syn_recv: Duration::from_secs(60),
            fin_wait: Duration::from_secs(120),
            time_wait: Duration::from_secs(120),
            close: Duration::from_secs(10),
            close_wait: Duration::from_secs(60),
            last_ack: Duration::from_secs(30),
            udp: Duration::from_secs(300),
            udp_one_way: Duration::from_secs(30),
            icmp: Duration::from_secs(30),
        }
    }
}
