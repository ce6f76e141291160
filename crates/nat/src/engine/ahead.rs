//! Servers chosen ahead of time, so that packets that open connections wait for memory together.
//!
//! Where in the index the key of a connection's answers goes, and so what the processor has to fetch,
//! is known only when its server is. So the servers for all openers of a burst are chosen before the
//! first of them opens its connection.

use arrayvec::ArrayVec;

use super::{Engine, Prepared, Side};
use crate::{
    flow::FlowKey,
    ruleset::{ServerId, ServiceId},
    time::Instant,
};

/// Choices that can be outstanding: a burst's.
const MOST: usize = 32;

/// What was chosen for a packet that is about to open a connection.
#[derive(Clone, Copy, Debug)]
struct Choice {
    key: FlowKey,
    service: ServiceId,
    server: ServerId,
    /// Whether the server's load counts it until then: so that who chooses next by loads sees what it
    /// would see if the connection were open.
    is_counted: bool,
}

/// Choices whose packets are still to come, in the order in which they will.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    choices: ArrayVec<Choice, MOST>,
    /// Those before it were used.
    next: usize,
}

impl Engine {
    /// A step between the third and the last, for packets whose connection was not found: chooses
    /// servers for those that will open one, and has the processor fetch what that takes. The packets
    /// must all have arrived on `side`. When each has been [finished](Engine::finish), or dropped,
    /// [`settle`](Engine::settle) is to be called.
    ///
    /// Left out are services where a connection changes what is chosen for the next one in other ways
    /// than by being counted: persistent ones, and those whose servers have thresholds.
    pub fn choose_ahead<'a>(
        &mut self,
        now: Instant,
        side: Side,
        burst: impl IntoIterator<Item = &'a Prepared>,
    ) {
        // What an inside host dials takes a search for a source endpoint, too.
        if side == Side::Inside {
            return;
        }
        // A bit for each hash, more or less.
        let mut seen = 0u64;
        for prepared in burst {
            let Prepared(Some((segment, lookup))) = prepared else { continue };
            if lookup.is_promising() || !segment.opens() || self.ahead.choices.is_full() {
                continue;
            }
            let bit = 1 << (lookup.hash() % u64::from(u64::BITS));
            // The second packet of a connection will find it.
            if seen & bit == 0 || !self.ahead.has(&segment.key) {
                self.choose_for(now, &segment.key);
            }
            seen |= bit;
        }
    }

    fn choose_for(&mut self, now: Instant, key: &FlowKey) {
        if let Some(service) = self.rules.service(key)
            && self.rules.chooses_ahead(service)
            && let Some(server) = self.rules.choose(service, key, now)
        {
            let real = self.rules.endpoint(server, key.dst().port());
            let answers = FlowKey::new(key.protocol(), real, key.src());
            self.table.fetch_index(&self.table.begin_lookup(&answers));
            let is_counted = self.rules.options(service).scheduler.compares_loads();
            if is_counted {
                self.rules.add_connection(server, false);
            }
            self.ahead.choices.push(Choice { key: *key, service, server, is_counted });
        }
    }

    /// What was chosen for the next packet, if that has this key.
    #[inline]
    pub(super) fn next_choice(&self, key: &FlowKey) -> Option<(ServiceId, ServerId)> {
        let next = self.ahead.choices.get(self.ahead.next)?;
        (next.key == *key).then_some((next.service, next.server))
    }

    /// The server that was chosen for a packet, no longer counted.
    pub(super) fn take_choice(&mut self, key: &FlowKey) -> Option<ServerId> {
        let choice = self.ahead.take(key)?;
        self.release(choice);
        Some(choice.server)
    }

    /// Takes back what was chosen ahead of time and not used.
    #[inline]
    pub fn settle(&mut self) {
        if !self.ahead.choices.is_empty() {
            let Ahead { choices, next } = std::mem::take(&mut self.ahead);
            choices[next..].iter().for_each(|unused| self.release(*unused));
        }
    }

    fn release(&mut self, choice: Choice) {
        if choice.is_counted {
            self.rules.remove_connection(choice.server, false);
        }
    }
}

impl Ahead {
    fn has(&self, key: &FlowKey) -> bool {
        self.choices.iter().any(|choice| choice.key == *key)
    }

    /// The choice for a packet with this key: the next one, unless those before it were not used.
    fn take(&mut self, key: &FlowKey) -> Option<Choice> {
        let place = self.choices[self.next..].iter().position(|choice| choice.key == *key)?;
        self.choices.swap(self.next, self.next + place);
        self.next += 1;
        Some(self.choices[self.next - 1])
    }
}
