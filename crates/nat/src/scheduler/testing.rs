//! Servers and requests to test schedulers with.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Request, Scheduler, SchedulerFlags, SchedulerKind};
use crate::{server::Server, time::Instant};

pub(super) const SEED: u64 = 0x5eed;

pub(super) fn scheduler(kind: SchedulerKind, servers: &[Server]) -> Scheduler {
    Scheduler::new(kind, SchedulerFlags::default(), servers, SEED)
}

/// An idle server 10.0.x.y:80.
pub(super) fn server(host: u16, weight: u16) -> Server {
    let [high, low] = host.to_be_bytes();
    Server::new(SocketAddrV4::new(Ipv4Addr::new(10, 0, high, low), 80), weight)
}

pub(super) fn loaded(host: u16, weight: u16, active: u32, inactive: u32) -> Server {
    Server { active, inactive, ..server(host, weight) }
}

/// Idle servers 10.0.0.1:80 and so on.
pub(super) fn servers(weights: &[u16]) -> Vec<Server> {
    (1..).zip(weights).map(|(host, weight)| server(host, *weight)).collect()
}

/// From a client's port 50000 to 192.0.2.1:80, at the start of time.
pub(super) fn request(client: u32) -> Request {
    request_from(client, 50_000)
}

pub(super) fn request_from(client: u32, cport: u16) -> Request {
    Request {
        client: SocketAddrV4::new(Ipv4Addr::from_bits(0xc612_0000 + client), cport),
        virtual_endpoint: SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80),
        now: Instant::from_millis(0),
    }
}

/// To 192.0.2.`vip`:`vport`.
pub(super) fn request_to(client: u32, vip: u8, vport: u16) -> Request {
    let virtual_endpoint = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, vip), vport);
    Request { virtual_endpoint, ..request(client) }
}

pub(super) fn later(request: Request, seconds: u64) -> Request {
    Request { now: Instant::from_millis(seconds * 1000), ..request }
}

impl Scheduler {
    /// So many picks for one client.
    pub(super) fn picks(&mut self, servers: &[Server], count: usize) -> Vec<usize> {
        (0..count).map(|_| self.pick(servers, &request(1)).unwrap()).collect()
    }

    /// One pick for each of so many clients.
    pub(super) fn picks_of_clients(&mut self, servers: &[Server], clients: u32) -> Vec<usize> {
        (0..clients).map(|client| self.pick(servers, &request(client)).unwrap()).collect()
    }
}

/// Picks while every pick opens an active connection.
pub(super) fn fill(
    mut pick: impl FnMut(&[Server]) -> Option<usize>,
    servers: &mut [Server],
    count: usize,
) -> Vec<usize> {
    let mut open = || {
        let picked = pick(servers).unwrap();
        servers[picked].active += 1;
        picked
    };
    (0..count).map(|_| open()).collect()
}

/// How often each of `0..servers` was picked.
pub(super) fn counts(picked: &[usize], servers: usize) -> Vec<usize> {
    let mut counts = vec![0; servers];
    for server in picked {
        counts[*server] += 1;
    }
    counts
}
