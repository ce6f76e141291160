//! States of a connection, with IPVS's names and timeouts.

use std::time::Duration;

use shunt_packet::tcp::TcpFlags;
use shunt_rules::Timeouts;
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::flow::Direction;

/// Where a connection stands. TCP's states are those that `ipvsadm -L -c` shows: the director sees
/// both ends, so they name what it saw, not what one end believes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromZeros, IntoBytes, KnownLayout, Immutable,
)]
#[repr(u8)]
pub enum ConnectionState {
    /// No connection: the record is free.
    #[default]
    None = 0,
    /// An inside host's SYN went out (SNAT).
    SynSent,
    /// A client's SYN came in.
    SynRecv,
    /// The client acknowledged.
    Established,
    /// The server closed first.
    FinWait,
    /// Both closed, the server first.
    TimeWait,
    /// Reset, or closed by both and acknowledged.
    Close,
    /// The client closed first.
    CloseWait,
    /// Both closed, the client first; its last acknowledgment is awaited.
    LastAck,
    /// UDP, without an answer so far.
    UdpOneWay,
    /// UDP, answered.
    Udp,
    /// An ICMP query.
    Icmp,
}

use ConnectionState::{
    Close, CloseWait, Established, FinWait, Icmp, LastAck, SynRecv, SynSent, TimeWait, Udp,
    UdpOneWay,
};

impl ConnectionState {
    /// All of them but [`ConnectionState::None`] can be a connection's; in the order of their numbers.
    pub const ALL: &[ConnectionState] = &[
        ConnectionState::None,
        SynSent,
        SynRecv,
        Established,
        FinWait,
        TimeWait,
        Close,
        CloseWait,
        LastAck,
        UdpOneWay,
        Udp,
        Icmp,
    ];

    /// IPVS's name for it, as `ipvsadm -L -c` shows it; `UDP_ONE_WAY` has none there.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ConnectionState::None => "NONE",
            SynSent => "SYN_SENT",
            SynRecv => "SYN_RECV",
            Established => "ESTABLISHED",
            FinWait => "FIN_WAIT",
            TimeWait => "TIME_WAIT",
            Close => "CLOSE",
            CloseWait => "CLOSE_WAIT",
            LastAck => "LAST_ACK",
            UdpOneWay => "UDP_ONE_WAY",
            Udp => "UDP",
            Icmp => "ICMP",
        }
    }

    /// Whether both ends are done with it, so that its tuple may be used again.
    #[must_use]
    pub fn is_closing(self) -> bool {
        matches!(self, TimeWait | Close | LastAck)
    }

    /// Whether only one end need have been heard of: what a flood leaves behind.
    #[must_use]
    pub fn is_half_open(self) -> bool {
        matches!(self, SynSent | SynRecv | UdpOneWay | Icmp)
    }

    /// How long a connection may be silent in this state.
    #[must_use]
    pub fn timeout(self, timeouts: &Timeouts) -> Duration {
        match self {
            ConnectionState::None => Duration::ZERO,
            SynSent => timeouts.syn_sent,
            SynRecv => timeouts.syn_recv,
            Established => timeouts.established,
            FinWait => timeouts.fin_wait,
            TimeWait => timeouts.time_wait,
            Close => timeouts.close,
            CloseWait => timeouts.close_wait,
            LastAck => timeouts.last_ack,
            UdpOneWay => timeouts.udp_one_way,
            Udp => timeouts.udp,
            Icmp => timeouts.icmp,
        }
    }

    /// The state after a UDP datagram or an echo.
    #[must_use]
    pub(crate) fn after_datagram(self, direction: Direction) -> ConnectionState {
        match (self, direction) {
            (UdpOneWay, Direction::Outbound) => Udp,
            _ => self,
        }
    }

    /// The state after a TCP segment with these flags (RFC 9293, section 3.3.2, seen from between
    /// the ends).
    #[must_use]
    pub(crate) fn after(self, direction: Direction, flags: TcpFlags) -> ConnectionState {
        if flags.contains(TcpFlags::RST) {
            return Close;
        }
        if flags.contains(TcpFlags::FIN) {
            return self.after_fin(direction);
        }
        if flags.contains(TcpFlags::SYN) || !flags.contains(TcpFlags::ACK) {
            return self;
        }
        match (self, direction) {
            (SynSent | SynRecv, Direction::Inbound) => Established,
            (LastAck, Direction::Inbound) => Close,
            _ => self,
        }
    }

    fn after_fin(self, direction: Direction) -> ConnectionState {
        match (self, direction) {
            (SynSent | SynRecv | Established, Direction::Inbound) => CloseWait,
            (SynSent | SynRecv | Established, Direction::Outbound) => FinWait,
            (FinWait, Direction::Inbound) => TimeWait,
            (CloseWait, Direction::Outbound) => LastAck,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: TcpFlags = TcpFlags::SYN;
    const ACK: TcpFlags = TcpFlags::ACK;
    const RST: TcpFlags = TcpFlags::RST;
    const SYN_ACK: TcpFlags = SYN.union(ACK);
    const FIN_ACK: TcpFlags = TcpFlags::FIN.union(ACK);

    /// Walks through segments: `>` from the client, `<` from the server.
    fn walk(start: ConnectionState, segments: &[(char, TcpFlags, ConnectionState)]) {
        segments.iter().fold(start, |state, &(arrow, flags, expected)| {
            let direction = if arrow == '>' { Direction::Inbound } else { Direction::Outbound };
            let next = state.after(direction, flags);
            assert_eq!(next, expected, "{state:?} {arrow} {flags:?}");
            next
        });
    }

    #[test]
    fn the_client_closes_first() {
        walk(
            SynRecv,
            &[
                ('>', SYN, SynRecv),
                ('<', SYN_ACK, SynRecv),
                ('>', ACK, Established),
                ('<', ACK, Established),
                ('>', FIN_ACK, CloseWait),
                ('<', ACK, CloseWait),
                ('<', FIN_ACK, LastAck),
                ('>', ACK, Close),
            ],
        );
    }

    #[test]
    fn the_server_closes_first() {
        walk(
            Established,
            &[
                ('<', FIN_ACK, FinWait),
                ('>', ACK, FinWait),
                ('>', FIN_ACK, TimeWait),
                ('<', ACK, TimeWait),
            ],
        );
    }

    #[test]
    fn a_reset_closes_from_anywhere() {
        for state in [SynSent, SynRecv, Established, FinWait, CloseWait, LastAck, TimeWait] {
            walk(state, &[('<', RST, Close), ('>', ACK, Close)]);
            walk(state, &[('>', RST, Close)]);
        }
    }

    #[test]
    fn an_answer_makes_udp_two_way() {
        assert_eq!(UdpOneWay.after_datagram(Direction::Inbound), UdpOneWay);
        assert_eq!(UdpOneWay.after_datagram(Direction::Outbound), Udp);
        assert_eq!(Udp.after_datagram(Direction::Inbound), Udp);
    }

    #[test]
    fn a_server_alone_does_not_establish() {
        walk(SynSent, &[('<', SYN_ACK, SynSent), ('<', ACK, SynSent), ('>', ACK, Established)]);
    }
}
