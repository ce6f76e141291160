//! Packet buffers.
//!
//! Accessors read and write the fields of `rte_mbuf` in place, at the offsets that its header had
//! when the crate was built; no call into C is made per packet.

use std::fmt;
use std::ptr::NonNull;
use std::slice;

use shunt_dpdk_sys as sys;

use crate::port_info::PortId;

/// A packet that we own, in one segment or a chain of them. Dropping it frees it
/// (`rte_pktmbuf_free`).
///
/// The bytes between headroom and tailroom are the data:
///
/// ```text
/// | headroom | data (len) | tailroom |
///     prepend ◂▸ adjust   truncate ◂▸ append
/// ```
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an mbuf is plain memory with one owner; it may be freed on any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes ownership of an mbuf.
    ///
    /// # Safety
    /// The mbuf is initialised, nobody else owns it, and its buffer is not shared with another.
    #[inline]
    pub(crate) unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Self {
        Self(mbuf)
    }

    /// Length of the packet in bytes, all segments together.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "an empty packet is of no interest")]
    pub fn len(&self) -> usize {
        // SAFETY: pkt_len is a u32.
        unsafe { self.read::<u32>(sys::MBUF_OFFSET_PKT_LEN) as usize }
    }

    /// Number of segments: 1 unless a large packet arrived in several buffers.
    #[inline]
    pub fn segments(&self) -> u16 {
        // SAFETY: nb_segs is a u16.
        unsafe { self.read(sys::MBUF_OFFSET_NB_SEGS) }
    }

    /// The data of the **first** segment.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: data_len bytes from there are inside the buffer, which lives and stays ours as
        // long as the mbuf. DPDK's memory is zeroed when it is mapped, so every byte has a value.
        unsafe { slice::from_raw_parts(self.data_ptr(), self.data_len()) }
    }

    /// The data of the **first** segment, to be changed.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.data_ptr(), self.data_len()) }
    }

    /// Bytes before the data.
    #[inline]
    pub fn headroom(&self) -> usize {
        // SAFETY: data_off is a u16.
        unsafe { self.read::<u16>(sys::MBUF_OFFSET_DATA_OFF) as usize }
    }

    /// Bytes after the data of the first segment.
    #[inline]
    pub fn tailroom(&self) -> usize {
        // SAFETY: buf_len is a u16.
        let buffer = unsafe { self.read::<u16>(sys::MBUF_OFFSET_BUF_LEN) as usize };
        buffer.saturating_sub(self.headroom() + self.data_len())
    }

    /// Adds `n` bytes of unspecified content at the end and returns them (`rte_pktmbuf_append`).
    /// `None`, and nothing changed, when the tailroom is too small or the packet is a chain.
    #[inline]
    pub fn append(&mut self, n: usize) -> Option<&mut [u8]> {
        if self.segments() != 1 || n > self.tailroom() {
            return None;
        }
        let end = self.data_len();
        self.set_len(end + n);
        Some(&mut self.data_mut()[end..])
    }

    /// Cuts the packet to its first `len` bytes (`rte_pktmbuf_trim`). False, and nothing changed,
    /// when it is shorter than that or a chain.
    #[inline]
    pub fn truncate(&mut self, len: usize) -> bool {
        let fits = self.segments() == 1 && len <= self.data_len();
        if fits {
            self.set_len(len);
        }
        fits
    }

    /// Adds `n` bytes of unspecified content in front and returns them (`rte_pktmbuf_prepend`).
    /// `None`, and nothing changed, when the headroom is too small.
    #[inline]
    pub fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        if n > self.headroom() {
            return None;
        }
        let (headroom, first, all) = (self.headroom() - n, self.data_len() + n, self.len() + n);
        self.set_layout(headroom, first, all);
        Some(&mut self.data_mut()[..n])
    }

    /// Removes the first `n` bytes (`rte_pktmbuf_adj`). False, and nothing changed, when the first
    /// segment is shorter than that.
    #[inline]
    pub fn adjust(&mut self, n: usize) -> bool {
        let fits = n <= self.data_len();
        if fits {
            let (headroom, first, all) = (self.headroom() + n, self.data_len() - n, self.len() - n);
            self.set_layout(headroom, first, all);
        }
        fits
    }

    /// The port that received the packet; without meaning for one that we made.
    #[inline]
    pub fn port(&self) -> PortId {
        // SAFETY: port is a u16.
        PortId(unsafe { self.read(sys::MBUF_OFFSET_PORT) })
    }

    /// Sets the port that received the packet, for drivers that don't.
    #[inline]
    pub fn set_port(&mut self, port: PortId) {
        // SAFETY: port is a u16.
        unsafe { self.write(sys::MBUF_OFFSET_PORT, port.0) }
    }

    /// What the receiving port reports about the checksums.
    #[inline]
    pub fn rx_checksum(&self) -> RxChecksum {
        let flags = self.flags();
        let ip = match flags & sys::MBUF_F_RX_IP_CKSUM_MASK {
            0 => ChecksumStatus::Unknown,
            sys::MBUF_F_RX_IP_CKSUM_BAD => ChecksumStatus::Bad,
            sys::MBUF_F_RX_IP_CKSUM_GOOD => ChecksumStatus::Good,
            _ => ChecksumStatus::None,
        };
        let l4 = match flags & sys::MBUF_F_RX_L4_CKSUM_MASK {
            0 => ChecksumStatus::Unknown,
            sys::MBUF_F_RX_L4_CKSUM_BAD => ChecksumStatus::Bad,
            sys::MBUF_F_RX_L4_CKSUM_GOOD => ChecksumStatus::Good,
            _ => ChecksumStatus::None,
        };
        RxChecksum { ip, l4 }
    }

    /// The tag control information of the 802.1Q tag that the port stripped from the packet.
    #[inline]
    pub fn rx_vlan_stripped(&self) -> Option<u16> {
        // SAFETY: vlan_tci is a u16.
        (self.flags() & sys::MBUF_F_RX_VLAN_STRIPPED != 0)
            .then(|| unsafe { self.read(sys::MBUF_OFFSET_VLAN_TCI) })
    }

    /// Requests checksums from the port that sends the packet; call [`Self::clear_offload`] first on
    /// a packet that was received.
    ///
    /// The packet is IPv4. Its IPv4 checksum field has to be zero if `ip` is asked for, and its
    /// TCP or UDP checksum field has to hold the pseudo-header's sum if `l4` is.
    ///
    /// # Panics
    /// In debug builds, when a length does not fit its field: `l2_len` has 7 bits, `l3_len` 9.
    #[inline]
    pub fn request_tx_checksum(&mut self, checksum: TxChecksum) {
        debug_assert!(checksum.l2_len < 1 << 7 && checksum.l3_len < 1 << 9, "{checksum:?}");
        let ip = if checksum.ip { sys::MBUF_F_TX_IP_CKSUM } else { 0 };
        let l4 = match checksum.l4 {
            None => 0,
            Some(L4::Tcp) => sys::MBUF_F_TX_TCP_CKSUM,
            Some(L4::Udp) => sys::MBUF_F_TX_UDP_CKSUM,
        };
        let lengths = u64::from(checksum.l2_len) << sys::MBUF_TX_L2_LEN_SHIFT
            | u64::from(checksum.l3_len) << sys::MBUF_TX_L3_LEN_SHIFT;
        // SAFETY: ol_flags and tx_offload are u64s.
        unsafe {
            self.write(sys::MBUF_OFFSET_OL_FLAGS, self.flags() | sys::MBUF_F_TX_IPV4 | ip | l4);
            self.write(sys::MBUF_OFFSET_TX_OFFLOAD, lengths);
        }
    }

    /// Clears what the receiving port reported and what was requested of the sending one.
    #[inline]
    pub fn clear_offload(&mut self) {
        // These two decide how the buffer is freed.
        let kept = self.flags() & (sys::MBUF_F_INDIRECT | sys::MBUF_F_EXTERNAL);
        // SAFETY: ol_flags and tx_offload are u64s.
        unsafe {
            self.write(sys::MBUF_OFFSET_OL_FLAGS, kept);
            self.write(sys::MBUF_OFFSET_TX_OFFLOAD, 0u64);
        }
    }

    /// Prefetches the first cache line of the data.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.data_ptr());
    }

    /// Prefetches the first cache line of the mbuf itself, which holds the data's address: for an mbuf
    /// that another core wrote, some time before [`Mbuf::prefetch`].
    #[inline]
    pub fn prefetch_header(&self) {
        prefetch(self.0.as_ptr().cast());
    }

    fn set_len(&mut self, len: usize) {
        self.set_layout(self.headroom(), len, len);
    }

    /// `headroom + first` is within the buffer, whose length is a u16, so nothing is cut off here.
    #[inline]
    fn set_layout(&mut self, headroom: usize, first: usize, all: usize) {
        // SAFETY: data_off and data_len are u16s, pkt_len is a u32.
        unsafe {
            self.write(sys::MBUF_OFFSET_DATA_OFF, headroom as u16);
            self.write(sys::MBUF_OFFSET_DATA_LEN, first as u16);
            self.write(sys::MBUF_OFFSET_PKT_LEN, all as u32);
        }
    }

    #[inline]
    fn data_len(&self) -> usize {
        // SAFETY: data_len is a u16.
        unsafe { self.read::<u16>(sys::MBUF_OFFSET_DATA_LEN) as usize }
    }

    #[inline]
    fn data_ptr(&self) -> *mut u8 {
        // SAFETY: buf_addr is a pointer to the buffer, and data_off is an offset in it.
        unsafe { self.read::<*mut u8>(sys::MBUF_OFFSET_BUF_ADDR).add(self.headroom()) }
    }

    #[inline]
    fn flags(&self) -> u64 {
        // SAFETY: ol_flags is a u64.
        unsafe { self.read(sys::MBUF_OFFSET_OL_FLAGS) }
    }

    /// # Safety
    /// A field of type `T` lies at `offset`, a `sys::MBUF_OFFSET_*`.
    #[inline]
    unsafe fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: the mbuf is ours and initialised, and the caller vouches for the field.
        unsafe { self.0.byte_add(offset).cast().read() }
    }

    /// # Safety
    /// A field of type `T` lies at `offset`, a `sys::MBUF_OFFSET_*`.
    #[inline]
    unsafe fn write<T: Copy>(&mut self, offset: usize, value: T) {
        // SAFETY: the mbuf is ours, and the caller vouches for the field.
        unsafe { self.0.byte_add(offset).cast().write(value) }
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the mbuf is ours, and nobody uses it after its drop.
        unsafe { sys::shunt_mbuf_free(self.0.as_ptr()) }
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mbuf")
            .field("port", &self.port())
            .field("len", &self.len())
            .field("segments", &self.segments())
            .finish_non_exhaustive()
    }
}

/// What a port reports about a received packet's checksums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxChecksum {
    /// The IPv4 header's.
    pub ip: ChecksumStatus,
    /// TCP's or UDP's.
    pub l4: ChecksumStatus,
}

/// What a port reports about one checksum (`RTE_MBUF_F_RX_*_CKSUM_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecksumStatus {
    /// Not checked.
    Unknown,
    /// It is wrong.
    Bad,
    /// It is right.
    Good,
    /// It is wrong in the packet, yet the data is known to be intact (a local sender left the sum
    /// to its hardware).
    None,
}

/// The checksums that a port is to fill in, and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TxChecksum {
    /// Length of the Ethernet header in bytes, tags included.
    pub l2_len: u8,
    /// Length of the IPv4 header in bytes, options included.
    pub l3_len: u16,
    /// Whether the IPv4 header's checksum is wanted.
    pub ip: bool,
    /// Whether TCP's or UDP's is wanted.
    pub l4: Option<L4>,
}

/// A transport protocol whose checksum ports compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

#[inline]
fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint; it faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch is a hint; it faults on no address, and writes neither memory nor registers.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{line}]",
            line = in(reg) line,
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;

    use super::*;

    /// An mbuf without a pool or a buffer: enough for what looks only at its fields.
    fn with_fields(test: impl FnOnce(&mut Mbuf)) {
        let mut fields = sys::rte_mbuf::default();
        // It came from no pool and must not go to one.
        test(&mut ManuallyDrop::new(Mbuf(NonNull::from(&mut fields))));
    }

    #[test]
    fn checksum_status_is_two_bits_each() {
        use ChecksumStatus::{Bad, Good, None, Unknown};
        // rte_mbuf_core.h: BAD is bit 4 for IP, bit 3 for L4; GOOD is bit 7 and 8; NONE is both.
        let table = [
            (0, Unknown, Unknown),
            (1 << 4, Bad, Unknown),
            (1 << 7, Good, Unknown),
            (1 << 4 | 1 << 7, None, Unknown),
            (1 << 3, Unknown, Bad),
            (1 << 8, Unknown, Good),
            (1 << 3 | 1 << 8, Unknown, None),
            (1 << 7 | 1 << 3, Good, Bad),
            (!(1 << 3 | 1 << 4 | 1 << 7 | 1 << 8), Unknown, Unknown),
        ];
        for (flags, ip, l4) in table {
            with_fields(|mbuf| {
                // SAFETY: ol_flags is a u64.
                unsafe { mbuf.write::<u64>(sys::MBUF_OFFSET_OL_FLAGS, flags) };
                assert_eq!(mbuf.rx_checksum(), RxChecksum { ip, l4 }, "{flags:#x}");
            });
        }
    }

    #[test]
    fn a_stripped_tag_is_told_only_when_there_was_one() {
        with_fields(|mbuf| {
            // SAFETY: vlan_tci is a u16.
            unsafe { mbuf.write::<u16>(sys::MBUF_OFFSET_VLAN_TCI, 0x6123) };
            assert_eq!(mbuf.rx_vlan_stripped(), Option::None);
            // RTE_MBUF_F_RX_VLAN alone says that the tag is still in the packet.
            for (flags, tag) in [(1 << 0, Option::None), (1 << 0 | 1 << 6, Some(0x6123))] {
                // SAFETY: ol_flags is a u64.
                unsafe { mbuf.write::<u64>(sys::MBUF_OFFSET_OL_FLAGS, flags) };
                assert_eq!(mbuf.rx_vlan_stripped(), tag, "{flags:#x}");
            }
        });
    }

    #[test]
    fn checksums_are_asked_for_as_rte_mbuf_core_h_says() {
        const IPV4: u64 = 1 << 55;
        const IP_CHECKSUM: u64 = 1 << 54;
        const TCP: u64 = 1 << 52;
        const UDP: u64 = 3 << 52;
        let table = [
            (true, Option::None, IPV4 | IP_CHECKSUM),
            (false, Some(L4::Tcp), IPV4 | TCP),
            (true, Some(L4::Tcp), IPV4 | IP_CHECKSUM | TCP),
            (true, Some(L4::Udp), IPV4 | IP_CHECKSUM | UDP),
        ];
        for (ip, l4, flags) in table {
            with_fields(|mbuf| {
                mbuf.request_tx_checksum(TxChecksum { l2_len: 18, l3_len: 60, ip, l4 });
                assert_eq!(mbuf.flags(), flags);
                // SAFETY: tx_offload is a u64.
                let lengths: u64 = unsafe { mbuf.read(sys::MBUF_OFFSET_TX_OFFLOAD) };
                #[cfg(target_endian = "little")]
                assert_eq!(lengths, 18 | 60 << 7);
                #[cfg(target_endian = "big")]
                assert_eq!(lengths, 18 << 57 | 60 << 48);
            });
        }
    }

    #[test]
    fn clearing_keeps_how_the_buffer_is_freed() {
        with_fields(|mbuf| {
            // SAFETY: ol_flags and tx_offload are u64s.
            unsafe {
                mbuf.write(sys::MBUF_OFFSET_OL_FLAGS, u64::MAX);
                mbuf.write(sys::MBUF_OFFSET_TX_OFFLOAD, u64::MAX);
            }
            mbuf.clear_offload();
            assert_eq!(mbuf.flags(), 1 << 61 | 1 << 62);
            // SAFETY: tx_offload is a u64.
            assert_eq!(unsafe { mbuf.read::<u64>(sys::MBUF_OFFSET_TX_OFFLOAD) }, 0);
        });
    }
}
