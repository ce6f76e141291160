//! What is in a frame.

use shunt_dpdk::{ChecksumStatus, Mbuf, RxChecksum};
use shunt_packet::{Malformed, ethernet::EthernetHeader, ipv4::Ipv4Packet};

/// The IPv4 packet in a frame.
pub(crate) fn packet_in(mbuf: &mut Mbuf) -> Result<Ipv4Packet<'_>, Malformed> {
    let (_, payload) = EthernetHeader::split(mbuf.data_mut())?;
    Ipv4Packet::parse(payload)
}

/// Whether a packet's header arrived as it was sent, as far as its checksum says, which is `computed`
/// only where the port has not done so.
#[inline]
pub(crate) fn header_is_sound(received: RxChecksum, computed: impl FnOnce() -> bool) -> bool {
    match received.ip {
        ChecksumStatus::Good | ChecksumStatus::None => true,
        ChecksumStatus::Bad => false,
        ChecksumStatus::Unknown => computed(),
    }
}
