//! Cutting IPv4 packets into fragments (RFC 791, section 3.2).

use zerocopy::IntoBytes;

use crate::{
    ipv4::{HEADER_LEN, Ipv4Packet},
    options::Ipv4Options,
};

/// The most options that a header has.
const MAX_OPTIONS: usize = 40;

/// Offsets count in units of this many bytes.
const BLOCK: usize = 8;

/// Cuts a packet into fragments of at most `mtu` bytes, and calls `write` with each: header and
/// options, and the part of the payload that follows. A fragment can be cut again. The transport
/// checksum must already be that of the whole packet.
///
/// Does nothing when `mtu` leaves no room for payload.
pub fn split(packet: &Ipv4Packet<'_>, mtu: usize, mut write: impl FnMut(&[u8], &[u8])) {
    let mut later_options = [0; MAX_OPTIONS];
    let later_len = copied_options(packet.options, &mut later_options);
    let base = packet.header.fragment_offset();
    let mut done = 0;
    while done < packet.payload.len() {
        let options = if done == 0 { &*packet.options } else { &later_options[..later_len] };
        let header_len = HEADER_LEN + options.len();
        let rest = packet.payload.len() - done;
        let room = mtu.saturating_sub(header_len);
        let (len, is_end) = if rest <= room { (rest, true) } else { (room - room % BLOCK, false) };
        if len == 0 {
            return;
        }
        let more = !is_end || packet.header.more_fragments();
        let mut header = *packet.header;
        header.set_fragment(header_len, len, base + done, more);
        header.seal(options);
        let mut bytes = [0; HEADER_LEN + MAX_OPTIONS];
        bytes[..HEADER_LEN].copy_from_slice(header.as_bytes());
        bytes[HEADER_LEN..header_len].copy_from_slice(options);
        write(&bytes[..header_len], &packet.payload[done..done + len]);
        done += len;
    }
}

/// Collects the options that go into later fragments, padded to a multiple of 4 bytes; returns how
/// many bytes they are. Stops at the first malformed one.
fn copied_options(options: &[u8], copied: &mut [u8; MAX_OPTIONS]) -> usize {
    let mut len = 0;
    for option in Ipv4Options::new(options).map_while(Result::ok).filter(|o| o.is_copied()) {
        let option = option.bytes();
        copied[len..len + option.len()].copy_from_slice(option);
        len += option.len();
    }
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn packet(options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut header = etherparse::Ipv4Header::new(
            8 + payload.len() as u16,
            64,
            etherparse::IpNumber::UDP,
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .unwrap();
        header.options = etherparse::Ipv4Options::try_from(options).unwrap();
        header.identification = 77;
        let mut bytes = Vec::new();
        PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
            .udp(1000, 2000)
            .write(&mut bytes, payload)
            .unwrap();
        bytes
    }

    fn fragments(bytes: &mut [u8], mtu: usize) -> Vec<Vec<u8>> {
        let mut fragments = Vec::new();
        let packet = Ipv4Packet::parse(bytes).unwrap();
        split(&packet, mtu, |header, payload| fragments.push([header, payload].concat()));
        fragments
    }

    /// The payload that a receiver reassembles from fragments.
    fn reassembled(fragments: &mut [Vec<u8>]) -> Vec<u8> {
        let mut payload = Vec::new();
        let last = fragments.len() - 1;
        for (place, fragment) in fragments.iter_mut().enumerate() {
            let fragment = Ipv4Packet::parse(fragment).unwrap();
            assert!(fragment.checksum_is_sound());
            assert_eq!(fragment.header.fragment_offset(), payload.len());
            assert_eq!(fragment.header.more_fragments(), place != last);
            assert_eq!(fragment.header.identification(), 77);
            payload.extend_from_slice(fragment.payload);
        }
        payload
    }

    #[test]
    fn only_copied_options_go_along() {
        // Record route (7) is not copied; loose source route (131) is.
        let options = [7, 7, 4, 0, 0, 0, 0, 131, 3, 4, 1, 0];
        let mut parts = fragments(&mut packet(&options, &[9; 100]), 68);
        assert_eq!(parts[0][20..32], options);
        for part in &parts[1..] {
            assert_eq!(part[20..24], [131, 3, 4, 0]);
        }
        assert_eq!(reassembled(&mut parts).len(), 108);
    }

    #[test]
    fn fragments_are_cut_again() {
        let mut first = fragments(&mut packet(&[], &[7; 1000]), 576);
        assert_eq!(first.len(), 2);
        let mut again: Vec<_> = first.iter_mut().flat_map(|part| fragments(part, 100)).collect();
        assert_eq!(reassembled(&mut again).len(), 1008);
        assert!(again.iter().all(|part| part.len() <= 100));
    }

    #[test]
    fn no_room_no_fragments() {
        assert!(fragments(&mut packet(&[], &[7; 100]), 27).is_empty());
    }

    proptest! {
        #[test]
        fn fragments_make_the_packet_again(
            payload in prop::collection::vec(any::<u8>(), 0..4000),
            words in prop::collection::vec(any::<[u8; 4]>(), 0..10),
            mtu in 68usize..1500,
        ) {
            let mut whole = packet(words.as_flattened(), &payload);
            let mut parts = fragments(&mut whole, mtu);
            prop_assert!(parts.iter().all(|part| part.len() <= mtu));
            let expected = Ipv4Packet::parse(&mut whole).unwrap().payload.to_vec();
            prop_assert_eq!(reassembled(&mut parts), expected);
        }
    }
}
