//! ICMP messages that are no echoes.

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
            Ok((header, _)) if !header.is_error() => return Verdict::Punt,
            Ok(_) => {}
        }
        let Some(quoted) = icmp::quoted_key(packet) else { return Verdict::Punt };
        let Some(original) = self.key_on_arrival(&quoted, side, topology) else {
            // The packet was the server's, and its sender does not know that.
            let leads_out = side == Side::Inside
                && topology.side_of(packet.header.dst()) == Some(Side::Outside)
                && !topology.is_local(packet.header.dst());
            return match leads_out && self.is_server(quoted.protocol(), quoted.dst()) {
                true => Verdict::Drop(DropReason::LatePacket),
                false => Verdict::Punt,
            };
        };
        if packet.header.ttl() <= 1 {
            return Verdict::Reply(Reply::TimeExceeded);
        }
        icmp::translate_error(packet, &quoted, &original);
        self.counters.icmp_errors.add(1);
        Verdict::Forward
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
