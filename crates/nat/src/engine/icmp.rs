//! ICMP messages that are neither queries nor replies.

use shunt_packet::{
    icmp::IcmpHeader,
    ipv4::{Ipv4Packet, protocol},
};

use super::{Engine, Side, Topology};
use crate::{
    flow::FlowKey,
    icmp,
    verdict::{DropReason, Reply, Verdict},
};

impl Engine {
    /// Translates an error about a packet that was translated; leaves all others alone.
    pub(super) fn process_icmp(
        &mut self,
        side: Side,
        packet: &mut Ipv4Packet<'_>,
        topology: &impl Topology,
    ) -> Verdict {
        match IcmpHeader::split(packet.payload) {
            Err(reason) => return Verdict::Drop(DropReason::Malformed(reason)),
            Ok((header, _)) if header.is_redirect() => {
                return Verdict::Drop(DropReason::IcmpRedirect);
            }
            Ok((header, _)) if !header.is_error() => {
                return self.leave_alone(side, packet, topology);
            }
            Ok(_) => {}
        }
        let Some(quoted) = icmp::quoted_key(packet) else {
            return self.leave_alone(side, packet, topology);
        };
        let Some(original) = self.key_on_arrival(&quoted, side, topology) else {
            // The packet was the server's, and its sender does not know that.
            let is_late = leads_out(side, packet, topology)
                && self.is_server(quoted.protocol(), quoted.dst());
            return match is_late {
                true => Verdict::Drop(DropReason::LatePacket),
                false => self.leave_alone(side, packet, topology),
            };
        };
        // No router sends one of more than 576 bytes (RFC 1812, section 4.3.2.3), and half of one is of no
        // use: all of its fragments are dropped.
        if packet.header.is_fragment() {
            return Verdict::Drop(DropReason::FragmentRefused);
        }
        if packet.header.ttl() <= 1 {
            return Verdict::Reply(Reply::TimeExceeded);
        }
        icmp::translate_error(packet, &quoted, &original);
        self.counters.icmp_errors.add(1);
        Verdict::Forward
    }

    /// What becomes of a message that can't be translated: its sender's address must not get out if an
    /// SNAT rule covers it.
    fn leave_alone(
        &self,
        side: Side,
        packet: &Ipv4Packet<'_>,
        topology: &impl Topology,
    ) -> Verdict {
        match leads_out(side, packet, topology) && self.rules.snat_covers(packet.header.src()) {
            true => Verdict::Drop(DropReason::Untranslatable),
            false => Verdict::Punt,
        }
    }

    /// The key with which a packet arrived that left with this one.
    fn key_on_arrival(
        &self,
        left: &FlowKey,
        side: Side,
        topology: &impl Topology,
    ) -> Option<FlowKey> {
        // Its answers would arrive under the reverse key.
        if let Some((id, direction)) = self.table.lookup(&left.reverse()) {
            return Some(self.table.get(id).key(direction.opposite()));
        }
        // A datagram to a server of a one-packet service has no connection. One from there can't be
        // known again: nothing says which of the servers it was.
        let client = *left.src().ip();
        let is_from_server = side == Side::Inside
            && left.protocol() == protocol::UDP
            && topology.side_of(client) == Some(Side::Outside)
            && !topology.is_local(client);
        let source = self.rules.one_packet_source(left.dst()).filter(|_| is_from_server)?;
        Some(FlowKey::new(left.protocol(), left.src(), source.virtual_endpoint))
    }
}

/// Whether a packet goes from the inside to the outside, and not to the director.
fn leads_out(side: Side, packet: &Ipv4Packet<'_>, topology: &impl Topology) -> bool {
    let destination = packet.header.dst();
    side == Side::Inside
        && topology.side_of(destination) == Some(Side::Outside)
        && !topology.is_local(destination)
}
