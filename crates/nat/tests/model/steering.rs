//! Which worker gets a packet. As in a director, a connection belongs to the owner of its *peer
//! endpoint*: the source of what arrives outside, the destination of what arrives inside. Fragments go
//! where their packet's first one goes, and not before it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use shunt_nat::Side;

use crate::{
    flow::Flow,
    fragments::{PacketId, packet_id},
    wire::{self, Content, ICMP, Ip, TCP, UDP},
};

/// The worker that owns an endpoint. Any hash would do.
pub(crate) fn owner(endpoint: SocketAddrV4, workers: usize) -> usize {
    let [.., last] = endpoint.ip().octets();
    (usize::from(last) + usize::from(endpoint.port())) % workers
}

/// The peer endpoint in a packet that arrives on `side`. Echoes go by the address alone.
pub(crate) fn peer(side: Side, flow: &Flow) -> SocketAddrV4 {
    let peer = match side {
        Side::Outside => flow.src,
        Side::Inside => flow.dst,
    };
    if flow.protocol == ICMP { without_port(*peer.ip()) } else { peer }
}

/// The same for a whole packet or a first fragment. An error comes from where the packet that it
/// quotes went to; what belongs to no connection goes by its address.
fn peer_of_packet(side: Side, packet: Ip<'_>) -> SocketAddrV4 {
    let answer = match wire::read(packet) {
        Ok(Content::Segment(segment)) => Some(segment.flow),
        Ok(Content::IcmpError) => wire::quoted_flow(packet).map(Flow::reverse),
        _ => None,
    };
    answer.map_or_else(
        || match side {
            Side::Outside => without_port(packet.src()),
            Side::Inside => without_port(packet.dst()),
        },
        |answer| peer(side, &answer),
    )
}

fn without_port(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 0)
}

/// What stands between the ports and the workers.
pub(crate) struct Steering {
    workers: usize,
    /// Who got the first fragment of a packet.
    owners: BTreeMap<PacketId, usize>,
    /// Fragments that came before it.
    waiting: Vec<(PacketId, Side, Vec<u8>)>,
}

impl Steering {
    pub(crate) fn new(workers: usize) -> Steering {
        Steering { workers, owners: BTreeMap::new(), waiting: Vec::new() }
    }

    /// The worker that gets a packet; none as long as that is unknown. An only worker gets all packets as
    /// they come.
    pub(crate) fn worker(&mut self, side: Side, packet: Ip<'_>) -> Option<usize> {
        let id = packet_id(packet);
        let has_ports = [TCP, UDP, ICMP].contains(&packet.protocol());
        if self.workers > 1 && has_ports && packet.fragment_offset() > 0 {
            let owner = self.owners.get(&id).copied();
            if owner.is_none() {
                self.waiting.push((id, side, packet.0.to_vec()));
            }
            return owner;
        }
        let owner = owner(peer_of_packet(side, packet), self.workers);
        if packet.is_fragment() && has_ports {
            self.owners.insert(id, owner);
        }
        Some(owner)
    }

    /// Those that waited to follow a fragment, and the sides on which they came.
    pub(crate) fn followers(&mut self, packet: Ip<'_>) -> Vec<(Side, Vec<u8>)> {
        if !packet.is_fragment() {
            return Vec::new();
        }
        let id = packet_id(packet);
        let followers = self.waiting.extract_if(.., |(waiting, ..)| *waiting == id);
        followers.map(|(_, side, packet)| (side, packet)).collect()
    }
}
