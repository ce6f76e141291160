use std::net::Ipv4Addr;

use shunt_nat::{
    ConnectionState::{self, SynRecv, SynSent},
    Direction, Side,
};

use crate::{
    flow::Flow,
    state::{after_datagram, after_tcp, is_half_open},
    wire::{ACK, FIN, Kind, RST},
};

/// How far beyond what is expected next a reset's sequence number may lie.
pub(crate) const RESET_WINDOW: u32 = 1 << 20;

/// How far from what is expected the numbers of any other segment may lie.
pub(crate) const SEGMENT_WINDOW: u32 = 1 << 24;

/// A connection: what its packets look like as they arrive, by direction. A packet of either
/// direction leaves as the reverse of the other.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// Who has it.
    pub(crate) worker: usize,
    /// Where its opener's packets arrive.
    pub(crate) side: Side,
    pub(crate) flows: [Flow; 2],
    pub(crate) owner: Owner,
    /// Whether its source endpoint is one of the director's.
    pub(crate) is_hidden: bool,
    pub(crate) state: ConnectionState,
    /// When the last packet came, in milliseconds.
    pub(crate) last_seen: u64,
    /// How long it may be silent: what the rules said of its state when it came there.
    pub(crate) timeout: u64,
    /// By direction, the sequence number that the receiver expects next, if it ever said.
    pub(crate) expected: [Option<u32>; 2],
    /// Whether its client keeps its server because of it.
    pub(crate) binds_client: bool,
}

/// What a connection was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Numbers of the service and the server.
    Service(usize, usize),
    Snat,
    Passthrough,
}

/// A pool of source endpoints; SNAT has one for each rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PoolName {
    Snat(usize),
    Local,
    Hairpin,
}

impl Connection {
    pub(crate) fn flow(&self, direction: Direction) -> Flow {
        self.flows[direction as usize]
    }

    /// What packets of this direction leave as.
    pub(crate) fn leaves_as(&self, direction: Direction) -> Flow {
        self.flow(direction.opposite()).reverse()
    }

    /// When it has been silent for as long as it may be.
    pub(crate) fn deadline(&self) -> u64 {
        self.last_seen + self.timeout
    }

    /// The director's address as which its opener is seen.
    pub(crate) fn source(&self) -> Option<Ipv4Addr> {
        self.is_hidden.then(|| *self.flow(Direction::Outbound).dst.ip())
    }

    pub(crate) fn server(&self) -> Option<usize> {
        match self.owner {
            Owner::Service(_, server) => Some(server),
            Owner::Snat | Owner::Passthrough => None,
        }
    }

    /// A packet came. Returns false when its reset or its FIN is not believed.
    pub(crate) fn see(&mut self, direction: Direction, kind: Kind, now: u64) -> bool {
        self.last_seen = now;
        let Kind::Tcp { flags, sequence, acknowledgment } = kind else {
            self.state = after_datagram(self.state, direction);
            return true;
        };
        let before = self.state;
        let acknowledged = (flags & ACK != 0).then_some(acknowledgment);
        let is_stuck = direction == Direction::Inbound && !self.is_answered();
        let is_believed = if flags & RST != 0 {
            self.believes_reset(direction, sequence)
        } else {
            is_stuck || self.is_in_window(direction, sequence, acknowledged)
        };
        if is_believed && (flags & RST != 0 || !is_stuck) {
            self.state = after_tcp(before, direction, flags);
        }
        if let Some(next) = acknowledged {
            self.acknowledge(direction, sequence, next, before);
        }
        is_believed || flags & (RST | FIN) == 0
    }

    /// RFC 5961, section 5: whether a segment's numbers are such as its sender can have.
    fn is_in_window(&self, direction: Direction, sequence: u32, acknowledged: Option<u32>) -> bool {
        let [own, others] = [direction, direction.opposite()].map(|d| self.expected[d as usize]);
        let is_known = own.is_none_or(|own| distance(sequence, own) < SEGMENT_WINDOW);
        let acknowledges = others.is_none_or(|others| {
            acknowledged.is_some_and(|number| distance(number, others) < SEGMENT_WINDOW)
        });
        is_known && (acknowledges || is_half_open(self.state))
    }

    /// RFC 5961, section 3.2: a reset counts if its sequence number is in the window. That of a
    /// handshake always does; so does one whose receiver never said what it expects.
    fn believes_reset(&self, direction: Direction, sequence: u32) -> bool {
        let expected = self.expected[direction as usize];
        is_half_open(self.state)
            || expected.is_none_or(|expected| sequence.wrapping_sub(expected) < RESET_WINDOW)
    }

    /// Until the other end has answered a SYN, its sender alone gets nowhere.
    pub(crate) fn is_answered(&self) -> bool {
        let is_handshake = matches!(self.state, SynSent | SynRecv);
        !is_handshake || self.expected[Direction::Inbound as usize].is_some()
    }

    /// A segment in `direction` says that of those in the other all below `next` have come. What is
    /// acknowledged never goes back, except in a handshake, which may begin anew, and where a segment
    /// that lies just where it should shows that all else was wrong.
    fn acknowledge(
        &mut self,
        direction: Direction,
        sequence: u32,
        next: u32,
        state: ConnectionState,
    ) {
        let own = self.expected[direction as usize];
        let is_within = |window| own.is_none_or(|own| distance(sequence, own) < window);
        let expected = &mut self.expected[direction.opposite() as usize];
        let is_believed = match *expected {
            Some(known) if !is_half_open(state) => {
                let is_older = next.wrapping_sub(known) > i32::MAX as u32;
                match distance(next, known) < SEGMENT_WINDOW {
                    true => !is_older && is_within(SEGMENT_WINDOW),
                    false => is_within(RESET_WINDOW),
                }
            }
            _ => true,
        };
        if is_believed {
            *expected = Some(next);
        }
    }
}

/// How far two sequence numbers are apart.
fn distance(a: u32, b: u32) -> u32 {
    a.wrapping_sub(b).min(b.wrapping_sub(a))
}
