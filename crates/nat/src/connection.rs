use std::time::Duration;

use shunt_packet::checksum::Delta;
use shunt_rules::{ServerId, ServiceId};
use zerocopy::{FromZeros, Immutable, KnownLayout};

use crate::{
    Side,
    egress::{EgressId, SPARE_BITS},
    egress_set::EgressSet,
    flow::{Direction, FlowKey},
    state::ConnectionState,
    time::Instant,
    translation::Translation,
};

/// What opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// A client dialled a virtual service and was given a server.
    Service(ServiceId, ServerId),
    /// An inside host dialled out, and an SNAT rule covers it.
    Snat,
    /// An outside host dialled an inside host that an SNAT rule covers: nothing is rewritten, but
    /// the replies must be known as such.
    Passthrough,
}

/// A record of the connection table: one cache line of plain data, no pointers, so that a table can
/// be mapped from a file and its indexes rebuilt from its records.
#[derive(Clone, FromZeros, KnownLayout, Immutable)]
#[repr(C, align(64))]
pub struct Connection {
    /// What packets look like when they arrive, by direction: words of their [`FlowKey`]s.
    addresses: [u64; 2],
    ports: [u32; 2],
    /// When the last packet came: low bits of the clock, in milliseconds.
    last_seen: u32,
    /// How long it may be silent, in milliseconds.
    timeout: u32,
    /// Links of the timing wheel, or of the free list.
    pub(crate) links: Links,
    /// The service and the server. In the high 12 bits, by direction, the way out that packets take:
    /// 0 while it is not known.
    service_egress: u32,
    server_egress: u32,
    /// Inbound deltas; outbound ones are their inverses.
    address_delta: u16,
    transport_delta: u16,
    /// By direction, the TCP sequence number that the receiver expects next: the highest that it
    /// has acknowledged.
    expected: [u32; 2],
    protocol: u8,
    state: ConnectionState,
    flags: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<Connection>() == 64);

/// Whether two sequence numbers are less than `window` away from each other.
#[inline]
fn is_near(number: u32, other: u32, window: u32) -> bool {
    number.wrapping_sub(other).wrapping_add(window - 1) < 2 * window - 1
}

/// The links of a doubly linked list of records.
#[derive(Clone, Copy, FromZeros, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Links {
    pub(crate) next: u32,
    pub(crate) previous: u32,
}

// A connection's `flags`, a bit each.

/// `expected` is known, by direction.
const EXPECTS: [u8; 2] = [1 << 0, 1 << 1];
const EXPECTS_BOTH: u8 = EXPECTS[0] | EXPECTS[1];
/// The source address is translated, too.
const FULL_NAT: u8 = 1 << 2;
/// Packets come from inside, by direction.
const FROM_INSIDE: [u8; 2] = [1 << 3, 1 << 4];
/// It is a service's.
const SERVICE: u8 = 1 << 5;
/// The persistence table counts it.
const BINDS_CLIENT: u8 = 1 << 6;

/// How far beyond the expected sequence number a reset is believed. A blind attacker has to hit this
/// part of the sequence space; a sender may have this much in flight when it gives up.
const RESET_WINDOW: u32 = 1 << 20;

/// How far from what is expected a segment's sequence number and its acknowledgment may lie for its FIN and
/// its acknowledgment to be believed: what hosts let be in flight at most.
const SEGMENT_WINDOW: u32 = 1 << 24;

/// How many bits the number of a service or a server has; those above are an [`EgressId`]'s.
const ID_BITS: u32 = u32::BITS - SPARE_BITS;
const ID_MASK: u32 = (1 << ID_BITS) - 1;

/// The number of the service when there is none: SNAT, or passed through.
const SNAT: u32 = ID_MASK;
const PASSTHROUGH: u32 = ID_MASK - 1;

/// How many services, and servers in all of them, a connection can tell apart: 1,048,574.
pub const MAX_IDS: usize = PASSTHROUGH as usize;

impl Connection {
    /// A connection between two keys of the same protocol, just opened.
    pub(crate) fn new(
        inbound: FlowKey,
        outbound: FlowKey,
        kind: ConnectionKind,
        state: ConnectionState,
        timeout: Duration,
        now: Instant,
    ) -> Connection {
        let (service, server) = match kind {
            ConnectionKind::Service(service, server) => (service.0, server.0),
            ConnectionKind::Snat => (SNAT, 0),
            ConnectionKind::Passthrough => (PASSTHROUGH, 0),
        };
        let flags = match kind {
            ConnectionKind::Service(..) if inbound.src() != outbound.dst() => SERVICE | FULL_NAT,
            ConnectionKind::Service(..) => SERVICE,
            ConnectionKind::Snat | ConnectionKind::Passthrough => 0,
        };
        let address_delta = Delta::between(inbound.address_sum(), outbound.address_sum());
        let transport_delta = Delta::between(inbound.transport_sum(), outbound.transport_sum());
        Connection {
            addresses: [inbound.address_word(), outbound.address_word()],
            ports: [inbound.port_word(), outbound.port_word()],
            last_seen: now.low_bits(),
            timeout: timeout.as_millis() as u32,
            service_egress: service,
            server_egress: server,
            address_delta: address_delta.to_bits(),
            transport_delta: transport_delta.to_bits(),
            protocol: inbound.protocol(),
            state,
            flags,
            ..Connection::new_zeroed()
        }
    }

    /// What packets of this direction look like when they arrive.
    #[inline]
    #[must_use]
    pub fn key(&self, direction: Direction) -> FlowKey {
        let at = direction as usize;
        FlowKey::of_words(self.protocol, self.addresses[at], self.ports[at])
    }

    /// What opened it.
    #[must_use]
    pub fn kind(&self) -> ConnectionKind {
        match self.service_egress & ID_MASK {
            SNAT => ConnectionKind::Snat,
            PASSTHROUGH => ConnectionKind::Passthrough,
            service => {
                let server = self.server_egress & ID_MASK;
                ConnectionKind::Service(ServiceId(service), ServerId(server))
            }
        }
    }

    /// The server for which its packets count, if it is a service's.
    #[inline]
    pub(crate) fn server(&self) -> Option<ServerId> {
        let is_service = self.flags & SERVICE != 0;
        is_service.then_some(ServerId(self.server_egress & ID_MASK))
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        self.state
    }

    /// Whether it is a service's whose server sees one of the director's addresses, not the client's.
    #[must_use]
    pub fn is_full_nat(&self) -> bool {
        self.flags & FULL_NAT != 0
    }

    /// The sequence number that the receiver of this direction's segments expects next, if known.
    #[must_use]
    pub fn expected(&self, direction: Direction) -> Option<u32> {
        let is_known = self.flags & EXPECTS[direction as usize] != 0;
        is_known.then_some(self.expected[direction as usize])
    }

    /// Whether a TCP handshake was begun and its other end has not answered.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.state.is_half_open() && self.expected(Direction::Inbound).is_none()
    }

    /// Notes what a segment of this direction acknowledges: sequence numbers of the other one. Until
    /// the handshake is over, the last segment is right: it may have begun anew.
    ///
    /// After that, who sends without seeing the connection has to guess (RFC 5961, section 5): both
    /// numbers have to lie in their windows. Where an acknowledgment is far from what is expected, and its
    /// segment lies right where one is, what is expected was wrong.
    #[inline]
    pub(crate) fn note_acknowledgment(
        &mut self,
        direction: Direction,
        sequence: u32,
        acknowledgment: u32,
    ) {
        let other = direction.opposite();
        // Nearly all: of an established connection, both numbers known, and both where they are expected.
        let [expected, known] = [direction, other].map(|it| self.expected[it as usize]);
        if self.flags & EXPECTS_BOTH == EXPECTS_BOTH
            && self.state == ConnectionState::Established
            && acknowledgment.wrapping_sub(known) < SEGMENT_WINDOW
            && is_near(sequence, expected, SEGMENT_WINDOW)
        {
            self.expected[other as usize] = acknowledgment;
        } else {
            self.note_doubtful_acknowledgment(direction, sequence, acknowledgment);
        }
    }

    #[inline(never)]
    fn note_doubtful_acknowledgment(
        &mut self,
        direction: Direction,
        sequence: u32,
        acknowledgment: u32,
    ) {
        let other = direction.opposite();
        let is_believed = self.state.is_half_open()
            || self.expected(other).is_none_or(|known| {
                let ahead = acknowledgment.wrapping_sub(known);
                if ahead < SEGMENT_WINDOW {
                    self.is_near(direction, sequence, SEGMENT_WINDOW)
                } else {
                    !is_near(acknowledgment, known, SEGMENT_WINDOW)
                        && self.is_near(direction, sequence, RESET_WINDOW)
                }
            });
        if is_believed {
            self.expected[other as usize] = acknowledgment;
            self.flags |= EXPECTS[other as usize];
        }
    }

    /// Whether a segment of this direction that is no reset may be the sender's, so that its FIN, and the
    /// end of a handshake, are believed (RFC 5961, section 5). A handshake may have begun anew, so that
    /// what it acknowledges is new.
    #[must_use]
    pub fn accepts(
        &self,
        direction: Direction,
        sequence: u32,
        acknowledgment: Option<u32>,
    ) -> bool {
        let is_acknowledgment_near =
            |known| acknowledgment.is_some_and(|number| is_near(number, known, SEGMENT_WINDOW));
        self.is_near(direction, sequence, SEGMENT_WINDOW)
            && (self.state.is_half_open()
                || self.expected(direction.opposite()).is_none_or(is_acknowledgment_near))
    }

    /// Whether a sequence number of this direction is less than `window` away from what is expected, if
    /// that is known.
    #[inline]
    fn is_near(&self, direction: Direction, sequence: u32, window: u32) -> bool {
        self.expected(direction).is_none_or(|expected| is_near(sequence, expected, window))
    }

    /// Whether a reset with this sequence number may be the sender's: it lies in the window of what
    /// the receiver can expect (RFC 5961, section 3.2). The reset of an unfinished handshake is
    /// always believed.
    #[must_use]
    pub fn believes_reset(&self, direction: Direction, sequence: u32) -> bool {
        self.state.is_half_open()
            || self
                .expected(direction)
                .is_none_or(|expected| sequence.wrapping_sub(expected) < RESET_WINDOW)
    }

    /// Moves it to another state, with that state's timeout.
    pub(crate) fn set_state(&mut self, state: ConnectionState, timeout: Duration) {
        self.state = state;
        self.timeout = timeout.as_millis() as u32;
    }

    /// The way out that packets of this direction take when they arrive on `side`, if they did so
    /// before.
    #[inline]
    pub(crate) fn egress(&self, direction: Direction, side: Side) -> Option<EgressId> {
        let from_inside = self.flags & FROM_INSIDE[direction as usize] != 0;
        let noted = match direction {
            Direction::Inbound => self.service_egress,
            Direction::Outbound => self.server_egress,
        };
        let egress = EgressId::new((noted >> ID_BITS) as u16)?;
        (from_inside == (side == Side::Inside)).then_some(egress)
    }

    /// Notes on which side packets of this direction arrive, and which way out they take.
    pub(crate) fn set_egress(&mut self, direction: Direction, side: Side, egress: EgressId) {
        let from_inside = FROM_INSIDE[direction as usize];
        match side {
            Side::Outside => self.flags &= !from_inside,
            Side::Inside => self.flags |= from_inside,
        }
        let noted = match direction {
            Direction::Inbound => &mut self.service_egress,
            Direction::Outbound => &mut self.server_egress,
        };
        *noted = *noted & ID_MASK | u32::from(egress.get()) << ID_BITS;
    }

    /// Forgets the ways out of both directions that are among these.
    pub(crate) fn forget_egresses(&mut self, released: &EgressSet) {
        for noted in [&mut self.service_egress, &mut self.server_egress] {
            let egress = EgressId::new((*noted >> ID_BITS) as u16);
            if egress.is_some_and(|egress| released.contains(egress)) {
                *noted &= ID_MASK;
            }
        }
    }

    /// What packets of this direction leave as, and what that does to the checksums of addresses and
    /// of the transport.
    #[inline]
    pub(crate) fn leaves_as(&self, direction: Direction) -> (FlowKey, Delta, Delta) {
        let key = self.key(direction.opposite()).reverse();
        let is_outbound = direction == Direction::Outbound;
        let [address, transport] = [self.address_delta, self.transport_delta]
            .map(|bits| Delta::from_bits(bits).inverse_if(is_outbound));
        (key, address, transport)
    }

    /// Whether its client keeps its server because of it.
    #[must_use]
    pub fn binds_client(&self) -> bool {
        self.flags & BINDS_CLIENT != 0
    }

    /// Notes that its client keeps its server because of it.
    pub(crate) fn bind_client(&mut self) {
        self.flags |= BINDS_CLIENT;
    }

    /// Notes that a packet came.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.last_seen = now.low_bits();
    }

    /// How long it may still be silent; zero when its time is up.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Duration {
        self.timeout().saturating_sub(self.silence(now))
    }

    /// How long it may be silent.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.timeout))
    }

    /// How long ago its last packet came.
    #[must_use]
    pub fn silence(&self, now: Instant) -> Duration {
        Duration::from_millis(u64::from(now.low_bits().wrapping_sub(self.last_seen)))
    }

    /// What to do to a packet of this direction: it leaves as the reverse of the opposite key.
    #[must_use]
    pub fn translation(&self, direction: Direction) -> Translation {
        let (leaves_as, address, transport) = self.leaves_as(direction);
        let translation = Translation::new(leaves_as, address, transport);
        match self.kind() {
            ConnectionKind::Service(service, server) => {
                translation.counted_by(service, server, direction)
            }
            ConnectionKind::Snat | ConnectionKind::Passthrough => translation,
        }
    }
}
