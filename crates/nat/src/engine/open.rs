//! Packets without a connection: opening one, or saying why not.

use std::net::SocketAddrV4;

use shunt_packet::{
    ipv4::{Ipv4Packet, protocol},
    tcp::TcpFlags,
};
use shunt_rules::{LatePackets, OnUnknown, ServerId, ServiceId};

use super::{Engine, Topology, timeouts_of};
use crate::{
    Side,
    connection::ConnectionKind,
    flow::{Direction, FlowKey, Segment, SegmentKind},
    ruleset::OnePacketSource,
    source_pool::{Availability, SourcePool},
    state::ConnectionState,
    table::{ConnectionId, ConnectionTable, InsertError},
    time::Instant,
    translation::Translation,
    verdict::{DropReason, Reply, Verdict},
};

/// How many further servers are tried for a connection when no local port is free towards one: each
/// takes a long search, and a flood must not be able to ask for more.
const MOST_SEARCHES: usize = 3;

impl Engine {
    pub(super) fn process_miss(
        &mut self,
        now: Instant,
        side: Side,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        topology: &impl Topology,
    ) -> Verdict {
        if let Some(service) = self.service_of(side, &segment.key) {
            let on_unknown = self.rules.options(service).on_unknown;
            return match refuse(packet, segment, on_unknown) {
                Some(refusal) => refusal,
                None => self.open_service(now, side, packet, segment, service),
            };
        }
        let (src, dst) = (*segment.key.src().ip(), *segment.key.dst().ip());
        if topology.is_local(dst) {
            return Verdict::Punt;
        }
        match (side, topology.side_of(dst)) {
            (Side::Inside, Some(Side::Outside)) => {
                if let Some(translation) = self.one_packet_reply(packet, segment) {
                    return translation;
                }
                let is_snat = self.rules.snat_covers(src);
                if let Some(verdict) = self.late_packet(segment, is_snat) {
                    return verdict;
                }
                if is_snat { self.snat(now, packet, segment) } else { Verdict::Punt }
            }
            // Replies to what the outside opened must not be taken for connections to be SNATed, nor for
            // late packets of a service's server.
            (Side::Outside, Some(Side::Inside))
                if (self.rules.snat_covers(dst)
                    || self.is_server(segment.key.protocol(), segment.key.dst()))
                    && is_admitted(packet, segment) =>
            {
                let key = segment.key;
                self.open(now, packet, key, key.reverse(), ConnectionKind::Passthrough)
                    .unwrap_or_else(Verdict::Drop)
            }
            _ => Verdict::Punt,
        }
    }

    /// What becomes of a packet to the outside that a service's server sends from the service's
    /// endpoint, and that begins nothing: an answer, which came too late.
    fn late_packet(&self, segment: &Segment, is_snat: bool) -> Option<Verdict> {
        let service = self.rules.server_service(segment.key.protocol(), segment.key.src())?;
        let resets = match self.rules.defaults().late_packets {
            LatePackets::Forward => return None,
            LatePackets::Reset => true,
            LatePackets::Drop => false,
            LatePackets::OnUnknown => self.rules.options(service).on_unknown == OnUnknown::Reset,
        };
        match segment.kind {
            SegmentKind::Tcp { flags, .. } if flags.opens() => None,
            SegmentKind::Tcp { flags, .. } if resets && !flags.contains(TcpFlags::RST) => {
                Some(Verdict::Reply(Reply::Reset))
            }
            // Nothing tells an answer from a question.
            SegmentKind::Udp if is_snat => None,
            _ => Some(Verdict::Drop(DropReason::LatePacket)),
        }
    }

    /// Whether a service's server sends from this endpoint, so that a packet from there which belongs to
    /// no connection must not leave as it is.
    pub(super) fn is_server(&self, protocol: u8, endpoint: SocketAddrV4) -> bool {
        self.rules.defaults().late_packets != LatePackets::Forward
            && self.rules.server_service(protocol, endpoint).is_some()
    }

    /// The service that a packet from this side dials.
    fn service_of(&self, side: Side, key: &FlowKey) -> Option<ServiceId> {
        if let Some(choice) = self.choice(side, key) {
            return Some(choice.service);
        }
        let service = self.rules.service(key)?;
        (side == Side::Outside || self.rules.serves_inside(service)).then_some(service)
    }

    fn open_service(
        &mut self,
        now: Instant,
        side: Side,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        service: ServiceId,
    ) -> Verdict {
        let chosen = match self.take_choice(&segment.key) {
            Some(chosen) => chosen,
            None => match self.rules.choose(service, &segment.key, now) {
                Some(chosen) => chosen,
                None => return self.refuse_service(segment, service),
            },
        };
        let is_datagram = matches!(segment.kind, SegmentKind::Udp);
        if is_datagram && self.rules.options(service).one_packet {
            return self.forward_one_packet(packet, segment, service, chosen);
        }
        // A server may already serve this very client endpoint through another service, or all local
        // ports may be taken towards it: the others are tried in its place then.
        let vport = segment.key.dst().port();
        let mut refusal = DropReason::TupleInUse;
        let mut searches = 0;
        for candidate in self.rules.candidates(service, chosen) {
            let Some((server, real)) = self.rules.candidate(service, candidate, vport) else {
                continue;
            };
            match self.open_to_server(now, side, packet, segment, (service, server), real) {
                Err(DropReason::TupleInUse) => refusal = DropReason::TupleInUse,
                Err(DropReason::LocalPortsExhausted) if searches < MOST_SEARCHES => {
                    refusal = DropReason::LocalPortsExhausted;
                    searches += 1;
                }
                result => return result.unwrap_or_else(Verdict::Drop),
            }
        }
        Verdict::Drop(refusal)
    }

    fn refuse_service(&mut self, segment: &Segment, service: ServiceId) -> Verdict {
        self.rules.note_refused(service);
        Verdict::Reply(match segment.kind {
            SegmentKind::Tcp { .. } => Reply::Reset,
            _ => Reply::PortUnreachable,
        })
    }

    fn open_to_server(
        &mut self,
        now: Instant,
        side: Side,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        (service, server): (ServiceId, ServerId),
        real: SocketAddrV4,
    ) -> Result<Verdict, DropReason> {
        let key = segment.key;
        let client = key.src();
        let kind = ConnectionKind::Service(service, server);
        let table = &self.table;
        let seen_as = match self.rules.local_pool(service, side == Side::Inside) {
            None => client,
            Some(pool) => allocate(table, pool, client, real, key.protocol())
                .ok_or(DropReason::LocalPortsExhausted)?,
        };
        let outbound = FlowKey::new(key.protocol(), real, seen_as);
        let opened = self.open(now, packet, key, outbound, kind);
        if opened.is_err() && seen_as != client {
            self.rules.release_source(*seen_as.ip());
        }
        let opened = opened?;
        self.rules.hint_client(service, server, *client.ip(), now);
        Ok(opened)
    }

    fn snat(&mut self, now: Instant, packet: &Ipv4Packet<'_>, segment: &Segment) -> Verdict {
        if let Some(refusal) = refuse(packet, segment, self.rules.defaults().on_unknown) {
            return refusal;
        }
        let key = segment.key;
        let host = key.src();
        let Some(pool) = self.rules.snat_pool(*host.ip()) else { return Verdict::Punt };
        let seen_as = match segment.kind {
            SegmentKind::Other if !is_translatable(key.protocol()) => {
                return Verdict::Drop(DropReason::Untranslatable);
            }
            SegmentKind::Other => allocate_address(&self.table, pool, &key),
            _ => allocate(&self.table, pool, host, key.dst(), key.protocol()),
        };
        let Some(seen_as) = seen_as else {
            return Verdict::Drop(DropReason::SnatPortsExhausted);
        };
        let replies = FlowKey::new(key.protocol(), key.dst(), seen_as);
        let opened = self.open(now, packet, key, replies, ConnectionKind::Snat);
        if opened.is_err() {
            self.rules.release_source(*seen_as.ip());
        }
        opened.unwrap_or_else(Verdict::Drop)
    }

    /// Sends a datagram to a server, and keeps no connection.
    fn forward_one_packet(
        &mut self,
        packet: &Ipv4Packet<'_>,
        segment: &Segment,
        service: ServiceId,
        server: ServerId,
    ) -> Verdict {
        let key = segment.key;
        let real = self.rules.endpoint(service, server, key.dst().port());
        self.rules.note_given(server);
        let leaves_as = FlowKey::new(key.protocol(), key.src(), real);
        self.translate_one_packet(packet, &key, leaves_as, (service, server), Direction::Inbound)
    }

    /// What becomes of a datagram from a server of a one-packet service, if it is one.
    fn one_packet_reply(&mut self, packet: &Ipv4Packet<'_>, segment: &Segment) -> Option<Verdict> {
        if !matches!(segment.kind, SegmentKind::Udp) {
            return None;
        }
        let key = segment.key;
        let OnePacketSource { service, server, virtual_endpoint } =
            self.rules.one_packet_source(key.src())?;
        if packet.header.ttl() <= 1 {
            return Some(Verdict::Reply(Reply::TimeExceeded));
        }
        let leaves_as = FlowKey::new(key.protocol(), virtual_endpoint, key.dst());
        let direction = Direction::Outbound;
        Some(self.translate_one_packet(packet, &key, leaves_as, (service, server), direction))
    }

    fn translate_one_packet(
        &mut self,
        packet: &Ipv4Packet<'_>,
        key: &FlowKey,
        leaves_as: FlowKey,
        (service, server): (ServiceId, ServerId),
        direction: Direction,
    ) -> Verdict {
        self.rules.count_packet(server, direction, packet.header);
        let translation =
            Translation::between(key, leaves_as).counted_by(service, server, direction);
        Verdict::Translate(translation)
    }

    /// Adds a connection, and translates and counts the packet that opens it.
    fn open(
        &mut self,
        now: Instant,
        packet: &Ipv4Packet<'_>,
        inbound: FlowKey,
        outbound: FlowKey,
        kind: ConnectionKind,
    ) -> Result<Verdict, DropReason> {
        let id = self.add(now, inbound, outbound, kind)?;
        self.count(kind, Direction::Inbound, packet.header);
        let mss_limit = match kind {
            ConnectionKind::Service(service, _) => self.rules.options(service).mss_limit,
            ConnectionKind::Snat | ConnectionKind::Passthrough => None,
        };
        let translation = self.table.get(id).translation(Direction::Inbound);
        Ok(Verdict::Translate(translation.with_mss_limit(mss_limit)))
    }

    /// Adds a connection in the state that its first packet leads to.
    pub(super) fn add(
        &mut self,
        now: Instant,
        inbound: FlowKey,
        outbound: FlowKey,
        kind: ConnectionKind,
    ) -> Result<ConnectionId, DropReason> {
        let state = match (inbound.protocol(), kind) {
            (protocol::TCP, ConnectionKind::Snat) => ConnectionState::SynSent,
            (protocol::TCP, _) => ConnectionState::SynRecv,
            (protocol::ICMP, _) => ConnectionState::Icmp,
            // Of other protocols nothing is known but that packets come.
            _ => ConnectionState::UdpOneWay,
        };
        let id = self.insert(now, inbound, outbound, kind, state)?;
        self.counters.opened.add(1);
        if let ConnectionKind::Service(service, server) = kind {
            self.rules.note_given(server);
            self.rules.add_connection(service, server, false);
        }
        Ok(id)
    }

    /// Inserts into the table, in the place of connections that both ends are done with, and if it
    /// is full of one that is half open.
    fn insert(
        &mut self,
        now: Instant,
        inbound: FlowKey,
        outbound: FlowKey,
        kind: ConnectionKind,
        state: ConnectionState,
    ) -> Result<ConnectionId, DropReason> {
        let timeout = state.timeout(timeouts_of(&self.rules, kind));
        let mut may_evict = true;
        loop {
            match self.table.insert(inbound, outbound, kind, (state, timeout), now) {
                Ok(id) => return Ok(id),
                Err(InsertError::InUse(id)) if self.table.get(id).state().is_closing() => {
                    self.counters.replaced.add(1);
                    self.remove(now, id);
                }
                Err(InsertError::InUse(_)) => return Err(DropReason::TupleInUse),
                Err(InsertError::Full) => {
                    let victim = if may_evict { self.table.evictable() } else { None };
                    self.is_crowded = victim.is_none();
                    let victim = victim.ok_or(DropReason::TableFull)?;
                    self.counters.evicted.add(1);
                    self.remove(now, victim);
                    may_evict = false;
                }
            }
        }
    }

    fn remove(&mut self, now: Instant, id: ConnectionId) {
        let removed = self.table.remove(id);
        self.forget(now, &removed);
    }
}

/// A source endpoint for a connection of `host` with `peer`: one on which no other connection
/// expects packets from that peer. So one endpoint serves many peers (RFC 4787, "address and
/// port-dependent mapping"). The host's own endpoint is none: who poses as one of the director's
/// addresses gets another. Its own connection that closes is: its TCP knows what may follow.
fn allocate(
    table: &ConnectionTable,
    pool: &SourcePool,
    host: SocketAddrV4,
    peer: SocketAddrV4,
    protocol: u8,
) -> Option<SocketAddrV4> {
    pool.allocate(*host.ip(), host.port(), |endpoint| {
        if endpoint == host {
            return Availability::Taken;
        }
        let replies = FlowKey::new(protocol, peer, endpoint);
        let Some((id, _)) = table.lookup(&replies) else { return Availability::Free };
        let user = table.get(id);
        match user.state().is_closing() {
            true if user.key(Direction::Inbound).src() == host => Availability::Free,
            true => Availability::Closing,
            false => Availability::Taken,
        }
    })
}

/// A source address, without a port, for packets of a protocol that has none: one as which no other host
/// is seen by the same peer.
fn allocate_address(
    table: &ConnectionTable,
    pool: &SourcePool,
    key: &FlowKey,
) -> Option<SocketAddrV4> {
    let address = pool.allocate_address(*key.src().ip(), |address| {
        let replies = FlowKey::new(key.protocol(), key.dst(), SocketAddrV4::new(address, 0));
        table.lookup(&replies).is_none()
    })?;
    Some(SocketAddrV4::new(address, 0))
}

/// Whether packets of a protocol without ports are still right under other addresses: nothing in them
/// sums or signs these.
fn is_translatable(protocol: u8) -> bool {
    const DCCP: u8 = 33;
    const AUTHENTICATION_HEADER: u8 = 51;
    const UDP_LITE: u8 = 136;
    !matches!(protocol, DCCP | AUTHENTICATION_HEADER | UDP_LITE)
}

/// Why a packet without a connection may not open one, if so: it is no first packet, or would go no
/// further.
fn refuse(packet: &Ipv4Packet<'_>, segment: &Segment, on_unknown: OnUnknown) -> Option<Verdict> {
    match segment.kind {
        SegmentKind::Tcp { flags, .. } if flags.contains(TcpFlags::RST) => {
            Some(Verdict::Drop(DropReason::UnknownConnection))
        }
        SegmentKind::Tcp { flags, .. } if !flags.opens() => Some(match on_unknown {
            OnUnknown::Reset => Verdict::Reply(Reply::Reset),
            OnUnknown::Drop => Verdict::Drop(DropReason::UnknownConnection),
        }),
        SegmentKind::Query { is_request: false } => {
            Some(Verdict::Drop(DropReason::UnknownConnection))
        }
        _ if packet.header.ttl() <= 1 => Some(Verdict::Reply(Reply::TimeExceeded)),
        _ => None,
    }
}

/// Whether a packet may open a connection that translates nothing.
fn is_admitted(packet: &Ipv4Packet<'_>, segment: &Segment) -> bool {
    segment.opens() && packet.header.ttl() > 1
}
