//! Finds a packet's peer endpoint: the outside end of the connection that it belongs to.

use std::net::Ipv4Addr;

use shunt_dpdk::Mbuf;
use shunt_nat::Side;
use shunt_packet::{
    ethernet::{EtherType, EthernetHeader},
    icmp::IcmpHeader,
    ipv4::{Ipv4Header, Ipv4Packet, protocol},
};

use crate::pipeline::strip_priority_tag;

/// What is known of the peer endpoint of a frame's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// There is none: no IPv4, or none that is sound. Whoever got it deals with it.
    Nobody,
    /// Its address and port.
    Endpoint(Ipv4Addr, u16, Transport),
    /// Its address; the port is in the packet's first fragment.
    Fragment(Ipv4Addr),
}

/// Where an endpoint was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// In a TCP segment.
    Tcp,
    /// In a UDP datagram.
    Udp,
    /// Elsewhere, or only the address, with a port of 0.
    Other,
}

/// The source port and the destination port, at the start of TCP and UDP headers.
const PORTS: usize = 4;

impl Peer {
    /// The peer of a frame that arrived on `side`.
    #[inline]
    pub(super) fn of(side: Side, mbuf: &mut Mbuf) -> Peer {
        let Ok((header, _)) = EthernetHeader::split(mbuf.data_mut()) else {
            return Peer::Nobody;
        };
        if header.ethertype != EtherType::IPV4 && !strip_priority_tag(mbuf) {
            return Peer::Nobody;
        }
        let Ok((header, payload)) = EthernetHeader::split(mbuf.data_mut()) else {
            return Peer::Nobody;
        };
        if header.ethertype != EtherType::IPV4 {
            return Peer::Nobody;
        }
        match Ipv4Packet::parse(payload) {
            Ok(mut packet) => Peer::of_packet(side, &mut packet),
            Err(_) => Peer::Nobody,
        }
    }

    #[inline]
    fn of_packet(side: Side, packet: &mut Ipv4Packet<'_>) -> Peer {
        let has_ports =
            matches!(packet.header.protocol(), protocol::TCP | protocol::UDP | protocol::ICMP);
        if packet.header.is_fragment() && has_ports {
            return Peer::Fragment(address(side, packet.header));
        }
        Peer::of_whole(side, packet)
    }

    /// The peer of a packet with its transport header: a whole one, or a first fragment.
    #[inline]
    pub(super) fn of_whole(side: Side, packet: &mut Ipv4Packet<'_>) -> Peer {
        let address = address(side, packet.header);
        let transport = match packet.header.protocol() {
            protocol::TCP => Transport::Tcp,
            protocol::UDP => Transport::Udp,
            protocol::ICMP => return Peer::of_icmp(side, address, packet),
            _ => return Peer::Endpoint(address, 0, Transport::Other),
        };
        match peer_port(packet.payload, side == Side::Outside) {
            Some(port) => Peer::Endpoint(address, port, transport),
            None => Peer::Nobody,
        }
    }

    /// The peer of a message: of an error, that of the packet which it quotes. That one left on this
    /// side, so what would be the source of a packet that arrives is its destination.
    fn of_icmp(side: Side, address: Ipv4Addr, packet: &mut Ipv4Packet<'_>) -> Peer {
        let message = Peer::Endpoint(address, 0, Transport::Other);
        let Ok((icmp, quote)) = IcmpHeader::split(packet.payload) else { return Peer::Nobody };
        if !icmp.is_error() {
            return message;
        }
        let Ok(quoted) = Ipv4Packet::parse_quoted(quote) else { return message };
        let address = match side {
            Side::Outside => quoted.header.dst(),
            Side::Inside => quoted.header.src(),
        };
        let has_ports = matches!(quoted.header.protocol(), protocol::TCP | protocol::UDP)
            && !quoted.header.is_later_fragment();
        let port = if has_ports { peer_port(quoted.payload, side == Side::Inside) } else { None };
        Peer::Endpoint(address, port.unwrap_or(0), Transport::Other)
    }
}

/// The peer's address in a packet that arrived on `side`.
#[inline]
fn address(side: Side, header: &Ipv4Header) -> Ipv4Addr {
    match side {
        Side::Outside => header.src(),
        Side::Inside => header.dst(),
    }
}

/// The source port in a transport header, or the destination port.
#[inline]
fn peer_port(transport: &[u8], is_source: bool) -> Option<u16> {
    let [a, b, c, d] = *transport.first_chunk::<PORTS>()?;
    Some(u16::from_be_bytes(if is_source { [a, b] } else { [c, d] }))
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, icmpv4::TimeExceededCode};
    use shunt_nat::Side::{Inside, Outside};
    use shunt_testkit::Packet;

    use super::*;

    const CLIENT: &str = "192.0.2.7";
    const SERVER: &str = "10.0.0.1";

    fn peer(side: Side, packet: &Packet) -> Peer {
        let mut bytes = packet.bytes();
        Peer::of_packet(side, &mut Ipv4Packet::parse(&mut bytes).unwrap())
    }

    fn endpoint(address: &str, port: u16, transport: Transport) -> Peer {
        Peer::Endpoint(address.parse().unwrap(), port, transport)
    }

    fn error_about(packet: &Packet) -> Packet {
        let header = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
        Packet::icmp("203.0.113.9", "203.0.113.10", header).payload(packet.bytes())
    }

    #[test]
    fn it_is_the_source_outside_and_the_destination_inside() {
        let (there, back) = (("192.0.2.7:4000", "10.0.0.1:80"), ("10.0.0.1:80", "192.0.2.7:4000"));
        for (transport, packet) in [
            (Transport::Tcp, Packet::tcp as fn(&str, &str) -> Packet),
            (Transport::Udp, Packet::udp),
        ] {
            let expected = endpoint(CLIENT, 4000, transport);
            assert_eq!(peer(Outside, &packet(there.0, there.1)), expected);
            assert_eq!(peer(Inside, &packet(back.0, back.1)), expected);
        }
    }

    #[test]
    fn what_has_no_ports_goes_by_its_address() {
        let expected = endpoint(CLIENT, 0, Transport::Other);
        assert_eq!(peer(Outside, &Packet::echo_request(CLIENT, SERVER, 9, 1)), expected);
        assert_eq!(peer(Inside, &Packet::echo_reply(SERVER, CLIENT, 9, 1)), expected);
        assert_eq!(peer(Outside, &Packet::raw(CLIENT, SERVER, 47)), expected);
        assert_eq!(peer(Inside, &Packet::raw(SERVER, CLIENT, 47)), expected);
    }

    #[test]
    fn fragments_go_by_their_address() {
        let packet = Packet::udp("192.0.2.7:4000", "10.0.0.1:80").payload([0; 64]);
        let expected = Peer::Fragment(CLIENT.parse().unwrap());
        assert_eq!(peer(Outside, &packet.part(0..32)), expected);
        assert_eq!(peer(Outside, &packet.part(32..72)), expected);
        // Those of others say all that there is to know.
        let packet = Packet::raw(CLIENT, SERVER, 47).payload([0; 64]);
        let expected = endpoint(CLIENT, 0, Transport::Other);
        assert_eq!(peer(Outside, &packet.part(32..64)), expected);
    }

    #[test]
    fn errors_go_by_what_they_quote() {
        // What left outside was on its way to the client; what left inside came from it.
        let reply = Packet::tcp("10.0.0.1:80", "192.0.2.7:4000");
        let request = Packet::udp("192.0.2.7:4000", "10.0.0.1:80");
        let expected = endpoint(CLIENT, 4000, Transport::Other);
        assert_eq!(peer(Outside, &error_about(&reply)), expected);
        assert_eq!(peer(Inside, &error_about(&request)), expected);

        let expected = endpoint(CLIENT, 0, Transport::Other);
        let echo = Packet::echo_request(SERVER, CLIENT, 9, 1);
        assert_eq!(peer(Outside, &error_about(&echo)), expected);
        let later = reply.payload([0; 64]).part(32..72);
        assert_eq!(peer(Outside, &error_about(&later)), expected);
    }

    #[test]
    fn the_malformed_have_none() {
        let short = Packet::raw(CLIENT, SERVER, 6).payload([0; 3]);
        assert_eq!(peer(Outside, &short), Peer::Nobody);
        let short = Packet::raw(CLIENT, SERVER, 1).payload([0; 3]);
        assert_eq!(peer(Outside, &short), Peer::Nobody);
    }
}
