use shunt_nat::{DropReason, Reply};

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was translated and left as these bytes; so did the fragments that had waited for it.
    Sent(Vec<u8>, Vec<Vec<u8>>),
    /// It is an ICMP error, and left as these bytes.
    Forwarded(Vec<u8>),
    Answered(Reply),
    /// It is a fragment, and waits for the first one of its packet.
    Held,
    Punted,
    Dropped(DropReason),
}
