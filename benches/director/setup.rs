//! Bringing a director into the state that a case is about.

use anyhow::ensure;
use shunt_dataplane::Worker;
use shunt_dpdk::clock::Tsc;
use shunt_nat::{ConnectionState, Direction, Side};

use crate::{case::Case, clock::Clock, traffic, worker_layout::WorkerLayout};

const SIDES: [Side; 2] = [Side::Outside, Side::Inside];

/// Has every worker know the gateway and the servers, and where the case wants it, opens a connection
/// for each flow on the worker that owns it.
pub(crate) fn set_up(
    workers: &mut [Worker],
    case: Case,
    layout: WorkerLayout,
    clock: Clock,
) -> anyhow::Result<()> {
    workers.iter_mut().try_for_each(|worker| meet_neighbours(worker, clock))?;
    if case.is_established() { establish(workers, case, layout, clock) } else { Ok(()) }
}

/// Has the gateway and the servers answer ARP.
pub(crate) fn meet_neighbours(worker: &mut Worker, clock: Clock) -> anyhow::Result<()> {
    for (side, frames) in SIDES.into_iter().zip(traffic::neighbours()) {
        frames.iter().try_for_each(|frame| inject(worker, clock, side, frame))?;
    }
    Ok(())
}

pub(crate) fn inject(
    worker: &mut Worker,
    clock: Clock,
    side: Side,
    frame: &[u8],
) -> anyhow::Result<()> {
    ensure!(worker.inject(clock.at(Tsc::now()), side, frame), "no mbuf is free");
    Ok(())
}

/// Opens a connection for each flow, has the server answer, and the client confirm.
fn establish(
    workers: &mut [Worker],
    case: Case,
    layout: WorkerLayout,
    clock: Clock,
) -> anyhow::Result<()> {
    let owner = layout.owner();
    let mut flows = vec![Vec::new(); workers.len()];
    for number in 0..case.flows {
        let owner = owner(traffic::client(number));
        inject(&mut workers[owner], clock, Side::Outside, &traffic::opener(case, number))?;
        flows[owner].push(number);
    }
    for (worker, flows) in workers.iter_mut().zip(flows) {
        answer(worker, case, clock, &flows)?;
    }
    Ok(())
}

/// Has connections that were opened for these flows answered and confirmed.
fn answer(worker: &mut Worker, case: Case, clock: Clock, flows: &[u32]) -> anyhow::Result<()> {
    let keys: Vec<_> = worker
        .engine()
        .table()
        .iter()
        .map(|connection| [Direction::Inbound, Direction::Outbound].map(|d| connection.key(d)))
        .collect();
    let are_foreseen =
        flows.iter().zip(&keys).all(|(flow, keys)| traffic::is_foreseen(case, *flow, *keys));
    ensure!(are_foreseen, "connections went to other servers than the frames are from");
    for keys in keys {
        let [confirmation, answer] = traffic::exchange(case, keys);
        inject(worker, clock, Side::Inside, &answer)?;
        inject(worker, clock, Side::Outside, &confirmation)?;
    }
    let is_established =
        |state| matches!(state, ConnectionState::Udp | ConnectionState::Established);
    let states = worker.engine().table().iter().map(|connection| connection.state());
    let established = states.filter(|state| is_established(*state)).count();
    ensure!(
        established == flows.len(),
        "{established} of {} connections are established: {:?}",
        flows.len(),
        worker.drops().iter().collect::<Vec<_>>(),
    );
    Ok(())
}
