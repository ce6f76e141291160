//! Compares all that can be seen of engines and model between two steps.

use std::net::SocketAddrV4;

use shunt_nat::{
    ConnectionKind,
    Direction::{self, Inbound, Outbound},
    Engine, Instant, ServerCounters, ServerId, ServiceCounters, ServiceId, Side,
};

use crate::{
    connection::{Connection, Owner},
    flow::Flow,
    outcome::Outcome,
    rewrite::translated,
    run::{Run, apply, equal, side_of},
    steering::{self, peer},
    wire::ICMP,
    witness::{Witness, total},
};

impl Run {
    /// Everything that can be seen of both is the same.
    pub(crate) fn compare(&self) -> Result<(), String> {
        let each = total(&self.engines, |engine| [engine.counters()].into_iter());
        equal("counters", each, vec![self.model.counters])?;
        self.compare_services()?;
        self.compare_clients()?;
        (0..self.engines.len()).try_for_each(|worker| {
            self.compare_worker(worker).map_err(|error| format!("worker {worker}: {error}"))
        })
    }

    /// What all workers together count.
    fn compare_services(&self) -> Result<(), String> {
        let (engines, model) = (&self.engines, &self.model);
        let expected = model.services.iter().map(|service| {
            service.as_ref().map_or_else(ServiceCounters::default, |service| service.counters)
        });
        equal("services", total(engines, Engine::service_counters), expected.collect())?;
        let counters = total(engines, Engine::server_counters);
        let expected = model.servers.iter().map(|server| {
            server.as_ref().map_or_else(ServerCounters::default, |server| ServerCounters {
                connections: server.given,
                traffic: server.traffic,
                active: server.active,
                inactive: server.inactive,
            })
        });
        equal("servers", counters, expected.collect())
    }

    /// What clients keep is known to all workers.
    fn compare_clients(&self) -> Result<(), String> {
        let now = Instant::from_millis(self.now);
        let expected = self.model.clients.iter(self.now).map(|(service, client, server)| {
            (ServiceId(service as u32), client, ServerId(server as u32))
        });
        let expected: Vec<_> = expected.collect();
        self.engines.iter().try_for_each(|engine| {
            let mut kept: Vec<_> = engine.rules().kept_servers(now).collect();
            kept.sort_by_key(|(service, client, _)| (service.0, *client));
            equal("kept servers", &kept, &expected)
        })
    }

    fn compare_worker(&self, worker: usize) -> Result<(), String> {
        let (engine, model) = (&self.engines[worker], &self.model);
        for (number, expected) in (0..).map(ServerId).zip(&model.servers) {
            let server = engine.rules().server(number);
            let seen = server.map(|server| {
                let counted = (server.active(), server.inactive(), server.is_overloaded());
                (server.weight(), counted)
            });
            let expected = expected.as_ref().map(|server| {
                (server.real.weight, (server.active, server.inactive, server.overloaded))
            });
            equal("weight, active, inactive, overloaded", seen, expected)?;
        }
        let witness = Witness { engines: &self.engines, outcome: &Outcome::Punted };
        for pool in model.pools() {
            let (is, expected) = (witness.usage(worker, pool), model.usage(worker, pool));
            equal("source endpoints", is, expected)?;
        }
        let incomplete = model.incomplete_packets(worker);
        equal("incomplete packets", engine.incomplete_packets(), incomplete)?;
        let (table, connections) = (engine.table(), || model.connections_of(worker));
        equal("connections", table.len(), connections().count())?;
        equal("records", table.iter().count(), connections().count())?;
        connections().try_for_each(|connection| {
            self.comes_home(connection)
                .and_then(|()| self.compare_connection(connection))
                .map_err(|error| format!("{error}: {connection:?}"))
        })
    }

    /// Packets of both directions come to the worker that has the connection. Those of a server
    /// outside don't: what arrives there goes by its source.
    fn comes_home(&self, connection: &Connection) -> Result<(), String> {
        let Connection { worker, side, owner, .. } = *connection;
        let whose = |side, direction| {
            steering::owner(peer(side, &connection.flow(direction)), self.engines.len())
        };
        equal("owner of the opener's packets", whose(side, Inbound), worker)?;
        match (owner, side_of(connection, Outbound)) {
            (Owner::Service(..), Side::Outside) => Ok(()),
            (_, side) => equal("owner of the answers", whose(side, Outbound), worker),
        }
    }

    /// The engine finds it by both of its keys, and knows the same of it; packets of both directions
    /// are translated into inverses of each other.
    fn compare_connection(&self, connection: &Connection) -> Result<(), String> {
        let table = self.engines[connection.worker].table();
        let is_ambiguous = connection.flow(Inbound) == connection.flow(Outbound);
        for direction in [Inbound, Outbound] {
            let flow = connection.flow(direction);
            let (id, found) = table.lookup(&flow.key()).ok_or("is lost")?;
            let record = table.get(id);
            if !is_ambiguous {
                equal("direction", found, direction)?;
            }
            equal("inbound", Flow::from(record.key(Inbound)), connection.flow(Inbound))?;
            equal("outbound", Flow::from(record.key(Outbound)), connection.flow(Outbound))?;
            equal("expected", record.expected(direction), connection.expected[direction as usize])?;
        }
        let (id, _) = table.lookup(&connection.flow(Inbound).key()).ok_or("is lost")?;
        let record = table.get(id);
        let kind = match connection.owner {
            Owner::Service(service, server) => {
                ConnectionKind::Service(ServiceId(service as u32), ServerId(server as u32))
            }
            Owner::Snat => ConnectionKind::Snat,
            Owner::Passthrough => ConnectionKind::Passthrough,
        };
        equal("kind", record.kind(), kind)?;
        equal("state", record.state(), connection.state)?;
        let is_hidden = connection.is_hidden && connection.owner != Owner::Snat;
        equal("full NAT", record.is_full_nat(), is_hidden)?;
        let remaining = connection.deadline().saturating_sub(self.now);
        let counted = record.remaining(Instant::from_millis(self.now)).as_millis() as u64;
        equal("remaining", counted, remaining)?;
        for direction in [Inbound, Outbound] {
            let there = sample(connection.flow(direction), direction);
            let left = apply(record.translation(direction), &there);
            let expected = translated(&there, &connection.leaves_as(direction), None);
            equal("translation", left, expected)?;
        }
        Ok(())
    }
}

/// A bare packet; its checksums stand for any.
fn sample(flow: Flow, direction: Direction) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, flow.protocol, 0x12, 0x34];
    let (src, dst): (SocketAddrV4, SocketAddrV4) = (flow.src, flow.dst);
    bytes.extend([src.ip().octets(), dst.ip().octets()].concat());
    if flow.protocol == ICMP {
        let (kind, identifier) =
            if direction == Inbound { (8, src.port()) } else { (0, dst.port()) };
        bytes.extend([kind, 0, 0x12, 0x34]);
        bytes.extend(identifier.to_be_bytes());
    } else {
        bytes.extend([src.port().to_be_bytes(), dst.port().to_be_bytes()].concat());
        bytes.extend([0, 20, 0x12, 0x34, 0, 0, 0, 0, 5 << 4, 0, 0, 0, 0x12, 0x34]);
    }
    bytes.resize(40, 0);
    bytes
}
