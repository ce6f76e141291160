use shunt_packet::Malformed;

use crate::{
    fragments::{FragmentError, FragmentKey},
    translation::Translation,
};

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Apply the translation and send it on.
    Translate(Translation),
    /// Send it on as it is now: an ICMP error, already translated.
    Forward,
    /// Answer its sender.
    Reply(Reply),
    /// A fragment that came before its packet's first one: keep it until that has come, then do with
    /// it as with that (see [`HoldQueue`](crate::fragments::HoldQueue)).
    Hold(FragmentKey),
    /// None of the engine's business: it is for the director itself, or to be routed.
    Punt,
    /// Drop it, and count why.
    Drop(DropReason),
}

/// An answer in place of forwarding. The engine does not ask whether the packet deserves one: see
/// [`reset_for`](shunt_packet::tcp::reset_for) and [`may_report`](shunt_packet::icmp::may_report).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A TCP reset.
    Reset,
    /// ICMP: nobody listens on that UDP port.
    PortUnreachable,
    /// ICMP: the TTL ran out here.
    TimeExceeded,
}

/// Why the engine drops a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// It is not what it claims to be.
    Malformed(Malformed),
    /// A fragment that no honest sender makes, or whose packet is given up.
    Fragment(FragmentError),
    /// A fragment of a packet whose first one was dropped or answered, or of an ICMP error that would have
    /// to be translated.
    FragmentRefused,
    /// A TCP segment in mid-stream or a reply to an ICMP query without a connection.
    UnknownConnection,
    /// A packet from a service's server to the outside, or an ICMP error about one to it, without a
    /// connection: the client doesn't know the server by its own address.
    LatePacket,
    /// The connection table has no room.
    TableFull,
    /// Every port that the SNAT rule offers is taken for that destination; of a protocol without ports,
    /// every address.
    SnatPortsExhausted,
    /// Every local port that full-NAT may use is taken for that server.
    LocalPortsExhausted,
    /// Another live connection already uses the translated addresses and ports.
    TupleInUse,
    /// From a host that an SNAT rule covers, to the outside, and of a kind that can't be translated.
    Untranslatable,
    /// An ICMP redirect: it names addresses of the other side.
    IcmpRedirect,
}
