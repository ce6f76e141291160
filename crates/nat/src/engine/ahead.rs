//! Servers chosen ahead of time, so that packets that open connections wait for memory together.
//!
//! Where in the index the key of a connection's answers goes, and so what the processor has to fetch,
//! is known only when its server is. So the servers for all openers of a burst are chosen before the
//! first of them opens its connection.

use arrayvec::ArrayVec;
use shunt_rules::{ServerId, ServiceId};

use super::{Engine, Prepared};
use crate::{Side, flow::FlowKey, ruleset::Ruleset, time::Instant};

/// Choices that can be outstanding: a burst's.
const MOST: usize = 32;

/// What was chosen for a packet that is about to open a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    key: FlowKey,
    pub(super) service: ServiceId,
    pub(super) server: ServerId,
    /// What the server's answers look like when they arrive.
    pub(super) answers: FlowKey,
    /// Whether the server's load counts it until then: so that who chooses next by loads sees what it
    /// would see if the connection were open.
    is_counted: bool,
}

/// Choices whose packets are still to come.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    choices: ArrayVec<Choice, MOST>,
    /// Those before it were used.
    next: usize,
}

impl Engine {
    /// A step between the second and the third, for packets that have no connection: chooses servers for
    /// those that are to open one, and has the processor fetch what that takes. The packets must all
    /// have arrived on `side`. When each has been [finished](Engine::finish), or dropped,
    /// [`settle`](Engine::settle) is to be called. One that is dropped has had its scheduler's turn.
    ///
    /// Left out are services where a connection changes what is chosen for the next one in other ways
    /// than by being counted: persistent ones, and those whose servers have thresholds. And full-NAT
    /// and what inside hosts dial, which take a search for a source endpoint.
    ///
    /// What the other packets of the burst do to loads, when a handshake ends for instance, is seen by
    /// the choices of the next burst only.
    pub fn choose_ahead<'a>(
        &mut self,
        now: Instant,
        side: Side,
        burst: impl IntoIterator<Item = &'a Prepared>,
    ) {
        if side == Side::Inside {
            return;
        }
        // A bit for each hash, more or less.
        let mut seen = 0u64;
        for prepared in burst {
            let Prepared(Some((segment, lookup))) = prepared else { continue };
            if !lookup.is_in_vain() || !segment.opens() || self.ahead.choices.is_full() {
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
            let real = self.rules.endpoint(service, server, key.dst().port());
            let answers = FlowKey::new(key.protocol(), real, key.src());
            self.table.prefetch_key(&answers);
            let is_counted = self.rules.options(service).compares_loads;
            if is_counted {
                self.rules.add_connection(service, server, false);
            }
            self.ahead.choices.push(Choice { key: *key, service, server, answers, is_counted });
        }
    }

    /// What was chosen for a packet with this key.
    #[inline]
    pub(super) fn choice(&self, side: Side, key: &FlowKey) -> Option<&Choice> {
        let choice = self.ahead.left().iter().find(|choice| choice.key == *key);
        choice.filter(|_| side == Side::Outside)
    }

    /// The server that was chosen for a packet, no longer counted.
    pub(super) fn take_choice(&mut self, key: &FlowKey) -> Option<ServerId> {
        let choice = self.ahead.take(key)?;
        choice.release(&mut self.rules);
        Some(choice.server)
    }

    /// Takes back what was chosen ahead of time and not used.
    #[inline]
    pub fn settle(&mut self) {
        if !self.ahead.choices.is_empty() {
            let Engine { ahead, rules, .. } = self;
            ahead.left().iter().for_each(|unused| unused.release(rules));
            ahead.choices.clear();
            ahead.next = 0;
        }
    }
}

impl Choice {
    fn release(&self, rules: &mut Ruleset) {
        if self.is_counted {
            rules.remove_connection(self.service, self.server, false);
        }
    }
}

impl Ahead {
    fn has(&self, key: &FlowKey) -> bool {
        self.choices.iter().any(|choice| choice.key == *key)
    }

    /// Those that were not used yet.
    fn left(&self) -> &[Choice] {
        &self.choices[self.next..]
    }

    /// The choice for a packet with this key: the next one, unless those before it were not used.
    fn take(&mut self, key: &FlowKey) -> Option<Choice> {
        let place = self.left().iter().position(|choice| choice.key == *key)?;
        self.choices.swap(self.next, self.next + place);
        self.next += 1;
        Some(self.choices[self.next - 1])
    }
}
