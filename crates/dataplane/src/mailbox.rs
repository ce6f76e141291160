//! What the main lcore asks of workers, and what they answer.
//!
//! Each worker has a mailbox: bounded channels for commands and for answers. It looks there between two
//! bursts and does one command at a time, within a budget: none holds its loop up for longer than a burst
//! or two do. What takes longer, such as a list of all connections, is asked for in parts, each of which
//! says how far the one before it came.
//!
//! Whatever is large travels both ways. A new [`Snapshot`] comes back as the old one, a page for
//! connections comes back filled: allocated and freed on the main lcore.
//!
//! ```text
//!   main lcore   WorkerHandle ── Command ──> Mailbox   worker
//!                             <── Answer ───
//! ```

use std::{net::Ipv4Addr, sync::Arc};

use crossbeam_channel::{Receiver, RecvError, Sender, TryRecvError, bounded};
use shunt_nat::{ConnectionFilter, ConnectionInfo, Cursor, Ruleset};

use crate::{counters::WorkerMonitor, local_network::LocalNetwork};

/// Commands that may be under way to a worker, and their answers.
const CAPACITY: usize = 16;

/// The part of a configuration that can change, as one worker runs it.
pub(crate) struct Snapshot {
    pub(crate) ruleset: Ruleset,
    pub(crate) network: Arc<LocalNetwork>,
    /// By side, addresses that have become ours: to be announced.
    pub(crate) new_addresses: [Vec<Ipv4Addr>; 2],
}

/// What a worker is to do.
pub(crate) enum Command {
    /// To run this from now on. It answers with what it ran before.
    Replace(Box<Snapshot>),
    /// To fill a page with connections, as long as there is room without allocating.
    List { filter: ConnectionFilter, cursor: Cursor, page: Vec<ConnectionInfo> },
    /// To count connections.
    Count { filter: ConnectionFilter, cursor: Cursor },
    /// To end connections, and tell both ends.
    Kill { filter: ConnectionFilter, cursor: Cursor },
}

/// What a worker did.
pub(crate) enum Answer {
    Replaced(Box<Snapshot>),
    /// Where to go on, unless all were looked at.
    Listed {
        next: Option<Cursor>,
        page: Vec<ConnectionInfo>,
    },
    /// How many connections were counted, or ended.
    Counted {
        next: Option<Cursor>,
        count: u64,
    },
}

/// A worker's end.
pub(crate) struct Mailbox {
    commands: Receiver<Command>,
    answers: Sender<Answer>,
}

impl Mailbox {
    /// Has a command obeyed, if there is one, and returns whether there was.
    pub(crate) fn read(&self, obey: impl FnOnce(Command) -> Answer) -> bool {
        let Ok(command) = self.commands.try_recv() else { return false };
        // There is room: the main lcore sends no more commands than it takes answers. Where it is gone,
        // there is nobody to answer.
        let _ = self.answers.try_send(obey(command));
        true
    }
}

/// The main lcore's end.
pub(crate) struct WorkerHandle {
    commands: Sender<Command>,
    answers: Receiver<Answer>,
    /// `None` until the worker is made.
    pub(crate) monitor: Option<WorkerMonitor>,
}

/// A worker has ended: it panicked, or takes no turns and has its mailbox full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has ended, or no longer takes commands")]
pub struct WorkerEnded;

impl WorkerHandle {
    /// Sends a command, for each of which an answer is to be taken. It never waits: there is room unless
    /// the worker takes no turns.
    pub(crate) fn send(&self, command: Command) -> Result<(), WorkerEnded> {
        self.commands.try_send(command).map_err(|_full_or_ended| WorkerEnded)
    }

    /// Waits for the answer to the first command that has none yet.
    pub(crate) fn receive(&self) -> Result<Answer, WorkerEnded> {
        self.answers.recv().map_err(|RecvError| WorkerEnded)
    }

    /// The answer to the first command that has none yet, if it is there.
    pub(crate) fn try_receive(&self) -> Result<Option<Answer>, WorkerEnded> {
        match self.answers.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(WorkerEnded),
        }
    }
}

/// Both ends of a mailbox.
pub(crate) fn mailbox() -> (WorkerHandle, Mailbox) {
    let (to_worker, commands) = bounded(CAPACITY);
    let (answers, from_worker) = bounded(CAPACITY);
    let handle = WorkerHandle { commands: to_worker, answers: from_worker, monitor: None };
    (handle, Mailbox { commands, answers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count() -> Command {
        Command::Count { filter: ConnectionFilter::default(), cursor: Cursor::default() }
    }

    #[test]
    fn a_full_mailbox_is_an_error() {
        let (handle, mailbox) = mailbox();
        for number in 0..CAPACITY {
            assert_eq!(handle.send(count()), Ok(()), "command {number}");
        }
        assert_eq!(handle.send(count()), Err(WorkerEnded), "and nobody waits");
        assert!(mailbox.read(|_| Answer::Counted { next: None, count: 7 }));
        assert_eq!(handle.send(count()), Ok(()), "there is room again");
        let Ok(Answer::Counted { next: None, count: 7 }) = handle.receive() else {
            panic!("another answer")
        };
        assert!(matches!(handle.try_receive(), Ok(None)), "no other was obeyed");
    }

    #[test]
    fn a_worker_that_has_ended_is_an_error() {
        let (handle, mailbox) = mailbox();
        handle.send(count()).unwrap();
        assert!(mailbox.read(|_| Answer::Counted { next: None, count: 7 }));
        handle.send(count()).unwrap();
        drop(mailbox);
        assert!(handle.receive().is_ok(), "what it answered before is there");
        assert!(matches!(handle.receive(), Err(WorkerEnded)), "it took a command along");
        assert!(matches!(handle.try_receive(), Err(WorkerEnded)));
        assert_eq!(handle.send(count()), Err(WorkerEnded));
    }

    #[test]
    fn a_worker_needs_nobody_to_answer_to() {
        let (handle, mailbox) = mailbox();
        handle.send(count()).unwrap();
        drop(handle);
        assert!(mailbox.read(|_| Answer::Counted { next: None, count: 7 }));
        assert!(!mailbox.read(|_| panic!("nobody asked")));
    }
}
