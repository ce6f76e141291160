//! States of a connection, as RFC 9293 has them for the ends and IPVS for who stands between.

use shunt_nat::{
    ConnectionState::{self, *},
    Direction::{self, Inbound, Outbound},
};

use crate::wire::{ACK, FIN, RST, SYN};

/// Both ends are done with it: its endpoints may be used again.
pub(crate) fn is_over(state: ConnectionState) -> bool {
    matches!(state, TimeWait | Close | LastAck)
}

/// Perhaps only one end ever spoke.
pub(crate) fn is_half_open(state: ConnectionState) -> bool {
    matches!(state, SynSent | SynRecv | UdpOneWay | Icmp)
}

/// What a TCP segment makes of a state.
pub(crate) fn after_tcp(
    state: ConnectionState,
    direction: Direction,
    flags: u8,
) -> ConnectionState {
    let is_bare_ack = flags & (SYN | ACK) == ACK;
    match (state, direction) {
        _ if flags & RST != 0 => Close,
        (SynSent | SynRecv | Established, Inbound) if flags & FIN != 0 => CloseWait,
        (SynSent | SynRecv | Established, Outbound) if flags & FIN != 0 => FinWait,
        (FinWait, Inbound) if flags & FIN != 0 => TimeWait,
        (CloseWait, Outbound) if flags & FIN != 0 => LastAck,
        _ if flags & FIN != 0 => state,
        (SynSent | SynRecv, Inbound) if is_bare_ack => Established,
        (LastAck, Inbound) if is_bare_ack => Close,
        _ => state,
    }
}

/// What a datagram makes of a state.
pub(crate) fn after_datagram(state: ConnectionState, direction: Direction) -> ConnectionState {
    match (state, direction) {
        (UdpOneWay, Outbound) => Udp,
        _ => state,
    }
}
