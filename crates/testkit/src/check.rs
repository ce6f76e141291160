use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// Recomputes every checksum of an Ethernet frame: IPv4, TCP, UDP (unless it has none), ICMP. ARP
/// and others have none. Of a fragment, only the IPv4 header is checked.
///
/// # Errors
/// Says which checksum or length is wrong.
pub fn verify_checksums(frame: &[u8]) -> Result<(), String> {
    let packet = SlicedPacket::from_ethernet(frame).map_err(|error| error.to_string())?;
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { return Ok(()) };
    let header = ip.header().to_header();
    expect("IPv4", header.header_checksum, header.calc_header_checksum())?;
    if header.is_fragmenting_payload() {
        return Ok(());
    }
    let payload = ip.payload().payload;
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let computed = tcp
                .to_header()
                .calc_checksum_ipv4_raw(header.source, header.destination, tcp.payload())
                .map_err(|error| error.to_string())?;
            // Linux writes 0xffff for 0 not only in UDP (`skb_checksum_help`): in ones' complement both
            // are zero, and no receiver can tell.
            let found = if computed == 0 && tcp.checksum() == 0xffff { 0 } else { tcp.checksum() };
            expect("TCP", found, computed)
        }
        Some(TransportSlice::Udp(udp)) if udp.checksum() != 0 => {
            let computed = udp
                .to_header()
                .calc_checksum_ipv4_raw(header.source, header.destination, udp.payload())
                .map_err(|error| error.to_string())?;
            expect("UDP", udp.checksum(), computed)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let computed = icmp.icmp_type().calc_checksum(icmp.payload());
            expect("ICMP", icmp.checksum(), computed)
        }
        None if matches!(header.protocol.0, 1 | 6 | 17) => {
            Err(format!("protocol {} in {} bytes", header.protocol.0, payload.len()))
        }
        _ => Ok(()),
    }
}

fn expect(what: &str, found: u16, computed: u16) -> Result<(), String> {
    if found == computed {
        Ok(())
    } else {
        Err(format!("{what} checksum is {found:#06x}, should be {computed:#06x}"))
    }
}

/// One line about a frame, for messages of failed tests.
#[must_use]
pub fn describe(frame: &[u8]) -> String {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else {
        return format!("{} bytes {frame:02x?}", frame.len());
    };
    let transport = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => format!(
            "tcp {} -> {}{}{}{}{} seq {} ack {}",
            tcp.source_port(),
            tcp.destination_port(),
            if tcp.syn() { " SYN" } else { "" },
            if tcp.fin() { " FIN" } else { "" },
            if tcp.rst() { " RST" } else { "" },
            if tcp.ack() { " ACK" } else { "" },
            tcp.sequence_number(),
            tcp.acknowledgment_number(),
        ),
        Some(TransportSlice::Udp(udp)) => {
            format!("udp {} -> {}", udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => format!("icmp {:?}", icmp.icmp_type()),
        _ => String::new(),
    };
    let network = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => format!(
            "{} -> {} ttl {} ",
            ip.header().source_addr(),
            ip.header().destination_addr(),
            ip.header().ttl()
        ),
        Some(NetSlice::Arp(arp)) => format!(
            "arp {:?} {:?} -> {:?}",
            arp.operation(),
            arp.sender_protocol_addr(),
            arp.target_protocol_addr()
        ),
        _ => format!("{frame:02x?}"),
    };
    let macs = |at: usize| frame.get(at..at + 6).unwrap_or_default().to_vec();
    format!("[{:02x?} -> {:02x?}] {network}{transport} ({} bytes)", macs(6), macs(0), frame.len())
}

#[cfg(test)]
mod tests {
    use super::verify_checksums;
    use crate::Packet;

    /// Where the checksum of a segment without IPv4 options is.
    const TCP_CHECKSUM: usize = 14 + 20 + 16;

    #[test]
    fn both_zeros_are_zero() {
        let segment = |sequence| {
            Packet::tcp("10.0.0.1:80", "10.0.0.2:80").seq(sequence).frame([2; 6], [4; 6])
        };
        let checksum = |frame: &[u8]| [frame[TCP_CHECKSUM], frame[TCP_CHECKSUM + 1]];
        let mut frames = (0..=0xffff).map(segment);
        let mut frame = frames.find(|frame| checksum(frame) == [0, 0]).expect("a sum of 0");
        assert_eq!(verify_checksums(&frame), Ok(()));
        frame[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0xff);
        assert_eq!(verify_checksums(&frame), Ok(()));
        frame[TCP_CHECKSUM + 1] = 0xfe;
        assert!(verify_checksums(&frame).is_err());
        let mut other = segment(7);
        assert_ne!(checksum(&other), [0, 0]);
        other[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0xff);
        assert!(verify_checksums(&other).is_err());
    }
}
