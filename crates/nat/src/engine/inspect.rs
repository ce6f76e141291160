//! Looking at connections, and ending some, while packets flow: a part at a time.

use std::{net::SocketAddrV4, time::Duration};

use ipnet::Ipv4Net;
use shunt_packet::tcp;
use shunt_rules::{ServerId, ServiceId};

use super::{Engine, resets};
use crate::{
    connection::{Connection, ConnectionKind},
    flow::Direction,
    state::ConnectionState,
    table::ScanPosition,
    time::Instant,
};

/// Which connections are meant: those to which all applies that is said. The default means all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    /// Of this service.
    pub service: Option<ServiceId>,
    /// To this server.
    pub server: Option<ServerId>,
    /// What opened them.
    pub origin: Option<Origin>,
    /// IANA number of the transport protocol.
    pub protocol: Option<u8>,
    /// Whose opener lies in this network.
    pub client: Option<Ipv4Net>,
    /// Which were dialled at this address, and at this port unless that is 0.
    pub dialled: Option<SocketAddrV4>,
    /// In this state.
    pub state: Option<ConnectionState>,
    /// Silent for so long, or longer.
    pub silent_for: Option<Duration>,
}

/// What opened a connection, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A client dialled a virtual service.
    Service,
    /// An inside host dialled out behind an SNAT rule.
    Snat,
    /// An outside host dialled an inside one, and nothing is translated.
    Passthrough,
}

/// A connection, as it stands at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// IANA number of the transport protocol.
    pub protocol: u8,
    /// What opened it.
    pub kind: ConnectionKind,
    /// Where it stands.
    pub state: ConnectionState,
    /// CIP:cport, or the host that dialled out. The port of an echo is its identifier.
    pub client: SocketAddrV4,
    /// VIP:vport, or what the host dialled.
    pub dialled: SocketAddrV4,
    /// As whom the other end sees the client: with full-NAT and SNAT an address of the director's.
    pub seen_as: SocketAddrV4,
    /// RIP:rport, or what the host dialled.
    pub real: SocketAddrV4,
    /// How long ago its last packet came.
    pub silent_for: Duration,
    /// How long it may be silent from then on.
    pub timeout: Duration,
}

impl ConnectionInfo {
    /// What is left of its timeout.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.timeout.saturating_sub(self.silent_for)
    }
}

/// How far a walk through all connections is. The default is the beginning.
///
/// Connections that are there during the whole walk are met once each; those that open or end meanwhile
/// may be met or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(ScanPosition);

impl ConnectionFilter {
    fn admits(&self, connection: &Connection, now: Instant) -> bool {
        let is = |wanted: Option<_>, has| wanted.is_none_or(|wanted| wanted == has);
        let (service, server, origin) = match connection.kind() {
            ConnectionKind::Service(service, server) => {
                (Some(service), Some(server), Origin::Service)
            }
            ConnectionKind::Snat => (None, None, Origin::Snat),
            ConnectionKind::Passthrough => (None, None, Origin::Passthrough),
        };
        let inbound = connection.key(Direction::Inbound);
        let is_dialled = |wanted: SocketAddrV4| {
            let dialled = inbound.dst();
            wanted.ip() == dialled.ip() && (wanted.port() == 0 || wanted.port() == dialled.port())
        };
        (self.service.is_none() || self.service == service)
            && (self.server.is_none() || self.server == server)
            && self.origin.is_none_or(|wanted| wanted == origin)
            && is(self.protocol, inbound.protocol())
            && self.state.is_none_or(|wanted| wanted == connection.state())
            && self.client.is_none_or(|network| network.contains(inbound.src().ip()))
            && self.dialled.is_none_or(is_dialled)
            && self.silent_for.is_none_or(|least| connection.silence(now) >= least)
    }
}

impl Engine {
    /// Walks on from `cursor`, over no more than `budget` records, and appends those connections to
    /// `page` that the filter admits, until that is as long as it may be without allocating. Returns
    /// whether the walk is over.
    pub fn list(
        &self,
        now: Instant,
        filter: &ConnectionFilter,
        cursor: &mut Cursor,
        budget: usize,
        page: &mut Vec<ConnectionInfo>,
    ) -> bool {
        for _ in 0..budget {
            if page.len() == page.capacity() {
                return false;
            }
            match self.table.scan(&mut cursor.0) {
                None => return true,
                Some(Some(id)) if filter.admits(self.table.get(id), now) => {
                    page.push(info(self.table.get(id), now));
                }
                Some(_) => {}
            }
        }
        false
    }

    /// Walks on from `cursor`, over no more than `budget` records, and adds to `count` how many
    /// connections the filter admits. Returns whether the walk is over.
    pub fn count_connections(
        &self,
        now: Instant,
        filter: &ConnectionFilter,
        cursor: &mut Cursor,
        budget: usize,
        count: &mut u64,
    ) -> bool {
        for _ in 0..budget {
            match self.table.scan(&mut cursor.0) {
                None => return true,
                Some(Some(id)) => *count += u64::from(filter.admits(self.table.get(id), now)),
                Some(None) => {}
            }
        }
        false
    }

    /// Walks on from `cursor`, over no more than `budget` records, and ends those connections that the
    /// filter admits: `send` gets a reset for each end of a TCP connection that has not ended anyway, an
    /// IPv4 packet to be routed. Adds to `count` how many were ended, and returns whether the walk is
    /// over.
    pub fn kill(
        &mut self,
        now: Instant,
        filter: &ConnectionFilter,
        cursor: &mut Cursor,
        budget: usize,
        count: &mut u64,
        mut send: impl FnMut(&[u8; tcp::RESET_LEN]),
    ) -> bool {
        for _ in 0..budget {
            match self.table.scan(&mut cursor.0) {
                None => return true,
                Some(Some(id)) if filter.admits(self.table.get(id), now) => {
                    let ended = self.table.remove(id);
                    if !ended.state().is_closing() {
                        resets(&ended).into_iter().flatten().for_each(|reset| send(&reset));
                    }
                    self.counters.killed.add(1);
                    self.forget(now, &ended);
                    *count += 1;
                }
                Some(_) => {}
            }
        }
        false
    }
}

fn info(connection: &Connection, now: Instant) -> ConnectionInfo {
    let (inbound, outbound) =
        (connection.key(Direction::Inbound), connection.key(Direction::Outbound));
    ConnectionInfo {
        protocol: inbound.protocol(),
        kind: connection.kind(),
        state: connection.state(),
        client: inbound.src(),
        dialled: inbound.dst(),
        seen_as: outbound.dst(),
        real: outbound.src(),
        silent_for: connection.silence(now),
        timeout: connection.timeout(),
    }
}
