//! Fragments that came before their packet's first one.

use shunt_dpdk::Mbuf;
use shunt_nat::{
    DropReason as NatDrop, Instant, Processed, Verdict,
    fragments::{FragmentError, FragmentKey},
};

use super::Pipeline;
use crate::drop_reason::DropReason;

impl Pipeline {
    /// Keeps a fragment until its packet's first one comes.
    pub(super) fn hold_fragment(&mut self, now: Instant, key: FragmentKey, mbuf: Mbuf) {
        let drops = &self.drops;
        let bytes = mbuf.len();
        self.fragments.hold(key, bytes, mbuf, now, |refused| {
            drops.add(DropReason::FragmentQueueFull, 1);
            drop(refused);
        });
    }

    /// Has those that waited follow their packet's first fragment, or drops them with their packet.
    pub(super) fn after_fragment(
        &mut self,
        now: Instant,
        processed: &mut Processed<'_>,
        key: &FragmentKey,
        is_later: bool,
        verdict: Verdict,
    ) {
        let is_given_up = verdict == Verdict::Drop(NatDrop::Fragment(FragmentError::Overlap));
        if is_later && !is_given_up {
            return;
        }
        while let Some(held) = self.fragments.pop(key) {
            self.carry_out_late(now, processed, verdict, held);
        }
    }

    /// Drops those that have waited for too long.
    pub(super) fn tick_fragments(&mut self, now: Instant) {
        while let Some(late) = self.fragments.expire(now) {
            self.drop(late, DropReason::FragmentTimeout);
        }
    }
}
