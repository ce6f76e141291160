//! Fragments: they follow the first one of their packet.

use shunt_packet::ipv4::{Ipv4Header, Ipv4Packet, protocol};

use super::{Engine, Side, Topology};
use crate::{
    fragments::{FragmentKey, FragmentRange},
    time::Instant,
    translation::Translation,
    verdict::{DropReason, Reply, Verdict},
};

/// What becomes of all fragments of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum FragmentAction {
    Translate(Translation, ServiceGeneration),
    Punt,
    Refuse,
}

/// Which service counts a packet's fragments: by the time a later one comes, it may be gone, and another
/// one have its number.
type ServiceGeneration = Option<u64>;

impl Engine {
    pub(super) fn process_fragment(
        &mut self,
        now: Instant,
        side: Side,
        packet: &mut Ipv4Packet<'_>,
        topology: &impl Topology,
    ) -> Verdict {
        if !has_ports(packet) {
            return self.process_whole(now, side, packet, topology);
        }
        if !self.tracks_fragment(packet) {
            return Verdict::Punt;
        }
        let range = match FragmentRange::of(packet) {
            Ok(range) => range,
            Err(error) => return Verdict::Drop(DropReason::Fragment(error)),
        };
        let key = FragmentKey::of(packet.header);
        match self.fragments.admit(key, range, now) {
            Err(error) => Verdict::Drop(DropReason::Fragment(error)),
            Ok(Some(action)) => self.follow(action, packet),
            Ok(None) if range.is_first() => {
                let verdict = self.process_whole(now, side, packet, topology);
                self.fragments.decide(key, self.action(verdict));
                verdict
            }
            Ok(None) => Verdict::Hold(key),
        }
    }

    /// Whether a fragment's packet may have to be translated: then what becomes of the fragment
    /// depends on its packet's first one.
    #[must_use]
    pub fn tracks_fragment(&self, packet: &Ipv4Packet<'_>) -> bool {
        let (src, dst) = (packet.header.src(), packet.header.dst());
        has_ports(packet) && self.rules.concerns(src, dst)
    }

    /// See [`Processed::count_late`](super::Processed::count_late).
    pub(super) fn count_late(&mut self, translation: &Translation, header: &Ipv4Header) {
        if let Some((_, server, direction)) = translation.counted() {
            self.rules.count_packet(server, direction, header);
        }
    }

    fn action(&self, first: Verdict) -> FragmentAction {
        match first {
            Verdict::Translate(translation) => {
                FragmentAction::Translate(translation, self.generation(&translation))
            }
            Verdict::Punt => FragmentAction::Punt,
            Verdict::Forward | Verdict::Reply(_) | Verdict::Hold(_) | Verdict::Drop(_) => {
                FragmentAction::Refuse
            }
        }
    }

    fn generation(&self, translation: &Translation) -> ServiceGeneration {
        let (service, server, _) = translation.counted()?;
        self.rules.birth(service, server)
    }

    fn follow(&mut self, action: FragmentAction, packet: &Ipv4Packet<'_>) -> Verdict {
        match action {
            FragmentAction::Translate(..) if packet.header.ttl() <= 1 => {
                Verdict::Reply(Reply::TimeExceeded)
            }
            FragmentAction::Translate(translation, generation) => {
                if self.generation(&translation) == generation {
                    self.count_late(&translation, packet.header);
                }
                Verdict::Translate(translation)
            }
            FragmentAction::Punt => Verdict::Punt,
            FragmentAction::Refuse => Verdict::Drop(DropReason::FragmentRefused),
        }
    }
}

/// Whether a packet has ports, or an identifier, in its first fragment. All others are translated by
/// their addresses, each fragment by itself.
fn has_ports(packet: &Ipv4Packet<'_>) -> bool {
    matches!(packet.header.protocol(), protocol::TCP | protocol::UDP | protocol::ICMP)
}
