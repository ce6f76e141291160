//! ICMP messages that are no echoes.

use shunt_packet::{icmp::IcmpHeader, ipv4::Ipv4Packet};

use super::Engine;
use crate::{
    icmp,
    verdict::{DropReason, Reply, Verdict},
};

impl Engine {
    /// Translates an error about a packet of a connection; leaves all others alone.
    pub(super) fn process_icmp(&mut self, packet: &mut Ipv4Packet<'_>) -> Verdict {
        match IcmpHeader::split(packet.payload) {
            Err(reason) => return Verdict::Drop(DropReason::Malformed(reason)),
            Ok((header, _)) if header.is_redirect() => {
                return Verdict::Drop(DropReason::IcmpRedirect);
            }
            Ok((header, _)) if !header.is_error() => return Verdict::Punt,
            Ok(_) => {}
        }
        let Some(quoted) = icmp::quoted_key(packet) else { return Verdict::Punt };
        // What is quoted left here; its answers would arrive under the reverse key.
        let Some((id, direction)) = self.table.lookup(&quoted.reverse()) else {
            return Verdict::Punt;
        };
        if packet.header.ttl() <= 1 {
            return Verdict::Reply(Reply::TimeExceeded);
        }
        let original = self.table.get(id).key(direction.opposite());
        icmp::translate_error(packet, &quoted, &original);
        self.counters.icmp_errors += 1;
        Verdict::Forward
    }
}
