//! Scheduling for a whole burst, so that packets that open connections wait for memory together.
//!
//! Where in the index the key of a connection's answers goes, and so what is to be prefetched, is known
//! only when its server is. So the servers for all openers of a burst are chosen before the first of
//! them opens its connection.

use arrayvec::ArrayVec;
use shunt_rules::{ServerId, ServiceId};

use super::{Engine, MAX_BURST, PendingLookup};
use crate::{Side, flow::FlowKey, ruleset::Ruleset, time::Instant};

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
pub(super) struct Prescheduled {
    choices: ArrayVec<Choice, MAX_BURST>,
    /// Those before it were used.
    next: usize,
}

impl Engine {
    /// Chooses servers for packets of a burst that are to open connections, and prefetches what that
    /// takes. A packet that is dropped before it opens one has had its scheduler's turn.
    ///
    /// Left out are services where a connection changes what is chosen for the next one in other ways
    /// than by being counted: persistent ones, and those whose servers have thresholds. And full-NAT
    /// and what inside hosts dial, which take a search for a source endpoint.
    ///
    /// What the other packets of the burst do to loads, when a handshake ends for instance, is seen by
    /// the choices of the next burst only.
    pub(super) fn preschedule(&mut self, now: Instant, side: Side, burst: &[PendingLookup]) {
        if side == Side::Inside {
            return;
        }
        // A bit for each hash, more or less.
        let mut seen = 0u64;
        for lookup in burst {
            let PendingLookup(Some((segment, lookup))) = lookup else { continue };
            if !lookup.is_miss() || !segment.opens() || self.prescheduled.choices.is_full() {
                continue;
            }
            let bit = 1 << (lookup.hash() % u64::from(u64::BITS));
            // The second packet of a connection will find it.
            if seen & bit == 0 || !self.prescheduled.has(&segment.key) {
                self.preschedule_for(now, &segment.key);
            }
            seen |= bit;
        }
    }

    fn preschedule_for(&mut self, now: Instant, key: &FlowKey) {
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
            self.prescheduled.choices.push(Choice {
                key: *key,
                service,
                server,
                answers,
                is_counted,
            });
        }
    }

    /// What was chosen for a packet with this key.
    #[inline]
    pub(super) fn choice(&self, side: Side, key: &FlowKey) -> Option<&Choice> {
        let choice = self.prescheduled.left().iter().find(|choice| choice.key == *key);
        choice.filter(|_| side == Side::Outside)
    }

    /// The server that was chosen for a packet, no longer counted.
    pub(super) fn take_choice(&mut self, key: &FlowKey) -> Option<ServerId> {
        let choice = self.prescheduled.take(key)?;
        choice.release(&mut self.rules);
        Some(choice.server)
    }

    /// Releases servers that were chosen for packets which opened no connection.
    #[inline]
    pub(super) fn cancel_unused(&mut self) {
        if !self.prescheduled.choices.is_empty() {
            let Engine { prescheduled, rules, .. } = self;
            prescheduled.left().iter().for_each(|unused| unused.release(rules));
            prescheduled.choices.clear();
            prescheduled.next = 0;
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

impl Prescheduled {
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
