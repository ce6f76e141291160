//! Servers and requests to test schedulers with.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
};

use super::{
    Disruption, Request, Schedule, SchedulerBuilder, SchedulerFlags, SchedulerKind,
    SchedulerOptions, WorkerState,
};
use shunt_rules::ServerId;

use crate::{server::Server, time::Instant};

pub(super) const SEED: u64 = 0x5eed;

/// A service's scheduler with a worker's state of it, and what it takes to change its servers as a
/// director does.
pub(super) struct Subject {
    options: SchedulerOptions,
    builder: SchedulerBuilder,
    pub(super) schedule: Arc<dyn Schedule>,
    state: WorkerState,
    last_disruption: Option<Disruption>,
}

pub(super) fn scheduler(kind: SchedulerKind, servers: &[Server]) -> Subject {
    Subject::new(kind, SchedulerFlags::default(), servers, SEED)
}

/// An idle server 10.0.x.y:80.
pub(super) fn server(host: u16, weight: u16) -> Server {
    let [high, low] = host.to_be_bytes();
    let endpoint = SocketAddrV4::new(Ipv4Addr::new(10, 0, high, low), 80);
    Server::new(ServerId(host.into()), endpoint, weight)
}

pub(super) fn loaded(host: u16, weight: u16, active: u32, inactive: u32) -> Server {
    let server = server(host, weight);
    server.set_active(active);
    server.set_inactive(inactive);
    server
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

impl Subject {
    pub(super) fn new(
        kind: SchedulerKind,
        flags: SchedulerFlags,
        servers: &[Server],
        seed: u64,
    ) -> Subject {
        Subject::of_worker(0, SchedulerOptions { kind, flags, slots: None, seed }, servers)
    }

    /// With a state of this worker.
    pub(super) fn of_worker(
        worker: usize,
        options: SchedulerOptions,
        servers: &[Server],
    ) -> Subject {
        let mut builder = SchedulerBuilder::new(worker + 1).with_hash_seed(options.seed);
        let (schedule, _) = builder.build(&options, servers, None);
        let state = WorkerState::new(worker);
        Subject { options, builder, schedule, state, last_disruption: None }
    }

    pub(super) fn pick(&mut self, servers: &[Server], request: &Request) -> Option<usize> {
        self.schedule.pick(&mut self.state, servers, request)
    }

    /// Configured weights changed, or servers came, went or changed places.
    pub(super) fn servers_changed(&mut self, servers: &[Server]) {
        let (schedule, disruption) =
            self.builder.build(&self.options, servers, Some(&self.schedule));
        self.last_disruption = disruption.or(self.last_disruption);
        self.schedule = schedule;
    }

    pub(super) fn last_disruption(&self) -> Option<Disruption> {
        self.last_disruption
    }

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
        servers[picked].set_active(servers[picked].active() + 1);
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
