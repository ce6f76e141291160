//! The network of all cases, that of the classic experiment and a router on either side:
//!
//! ```text
//!  CLIENT .200 ─┐ 192.168.1.0/24            192.168.2.0/24 ┌─ RS1 .210
//!               ├────── .100 [ director ] .200 ────────────┼─ RS2 .220
//! GATEWAY   .1 ─┘       MTU 1500       MTU 1400            └─ ROUTER .254 ── 10.9.0.0/16
//! ```

use shunt_nat::Side;
use shunt_testkit::{arp_reply, arp_request, ethernet, mac};

/// The director's ports. The devices have other addresses in truth: see `stage`.
pub(crate) const OUTSIDE_MAC: [u8; 6] = [0x02, 0, 0, 0xd1, 0, 0x0e];
pub(crate) const INSIDE_MAC: [u8; 6] = [0x02, 0, 0, 0xd1, 0, 0x0f];

/// The outside port's address, and the VIP of most services.
pub(crate) const VIP: &str = "192.168.1.100";
/// A VIP that is no port's address.
pub(crate) const OTHER_VIP: &str = "192.168.1.150";
/// What inside hosts are seen as outside.
pub(crate) const SNAT_ADDRESS: &str = "192.168.1.160";
/// The inside port's address.
pub(crate) const DIP: &str = "192.168.2.200";

pub(crate) const CLIENT: Host = Host { side: Side::Outside, mac: mac(1), address: "192.168.1.200" };
pub(crate) const GATEWAY: Host = Host { side: Side::Outside, mac: mac(2), address: "192.168.1.1" };
pub(crate) const RS1: Host = Host { side: Side::Inside, mac: mac(11), address: "192.168.2.210" };
pub(crate) const RS2: Host = Host { side: Side::Inside, mac: mac(12), address: "192.168.2.220" };
pub(crate) const ROUTER: Host = Host { side: Side::Inside, mac: mac(13), address: "192.168.2.254" };

/// Those whom the director knows when a case begins.
pub(crate) const ACQUAINTED: [&Host; 5] = [&CLIENT, &GATEWAY, &RS1, &RS2, &ROUTER];

/// Routes, services and SNAT of all cases that don't bring their own.
pub(crate) const RULES: &str = r#"
    [[route]]
    to = "0.0.0.0/0"
    via = "192.168.1.1"

    [[route]]
    to = "10.9.0.0/16"
    via = "192.168.2.254"

    [[service]]
    protocol = "tcp"
    vip = "192.168.1.100:80"
    scheduler = "rr"
    server = [{ address = "192.168.2.210:80" }, { address = "192.168.2.220:80" }]

    [[service]]
    protocol = "tcp"
    vip = "192.168.1.100:8080"
    scheduler = "rr"
    server = [{ address = "192.168.2.210:80" }]

    [[service]]
    protocol = "udp"
    vip = "192.168.1.100:53"
    scheduler = "rr"
    server = [{ address = "192.168.2.210:5353" }]

    [[service]]
    protocol = "tcp"
    vip = "192.168.1.150:443"
    scheduler = "rr"
    server = [{ address = "192.168.2.220:8443" }]

    [[service]]
    protocol = "tcp"
    vip = "192.168.1.150:81"
    scheduler = "rr"

    [[service]]
    protocol = "udp"
    vip = "192.168.1.150:81"
    scheduler = "rr"

    [[snat]]
    from = "192.168.2.0/24"
    to = "192.168.1.160"
    ports = "40000-40001"
"#;

/// A frame on one side's wire.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) side: Side,
    pub(crate) bytes: Vec<u8>,
}

impl Frame {
    /// Changes the frame's bytes.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Frame {
        change(&mut self.bytes);
        self
    }

    /// Sets the byte at an offset of the IPv4 packet, and leaves all checksums as they are.
    pub(crate) fn byte(self, at: usize, value: u8) -> Frame {
        self.with(|bytes| bytes[14 + at] = value)
    }

    /// Cuts the IPv4 packet off after `len` bytes.
    pub(crate) fn cut(self, len: usize) -> Frame {
        self.with(|bytes| bytes.truncate(14 + len))
    }

    /// Mends the checksum of an IPv4 header that has been changed.
    pub(crate) fn header_checksum(self) -> Frame {
        self.with(|bytes| {
            let header_len = usize::from(bytes[14] & 0x0f) * 4;
            let header = &mut bytes[14..14 + header_len];
            header[10..12].fill(0);
            let word = |pair: &[u8]| u64::from(u16::from_be_bytes([pair[0], pair[1]]));
            // The sum modulo 0xffff, as RFC 1071 defines it.
            let sum = header.chunks_exact(2).map(word).sum::<u64>() % 0xffff;
            header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        })
    }
}

/// The Ethernet address of the director on one side.
pub(crate) fn director(side: Side) -> [u8; 6] {
    match side {
        Side::Outside => OUTSIDE_MAC,
        Side::Inside => INSIDE_MAC,
    }
}

/// The director's own address on one side.
pub(crate) fn own(side: Side) -> &'static str {
    match side {
        Side::Outside => VIP,
        Side::Inside => DIP,
    }
}

/// A machine on one of the director's networks.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) side: Side,
    pub(crate) mac: [u8; 6],
    pub(crate) address: &'static str,
}

impl Host {
    /// An IPv4 packet from this host to the director's port.
    pub(crate) fn sends(&self, packet: impl Into<Vec<u8>>) -> Frame {
        self.sends_as(0x0800, director(self.side), packet)
    }

    /// Anything from this host.
    pub(crate) fn sends_as(
        &self,
        ethertype: u16,
        dst: [u8; 6],
        payload: impl Into<Vec<u8>>,
    ) -> Frame {
        let bytes = ethernet(self.mac, dst, ethertype, &payload.into());
        Frame { side: self.side, bytes }
    }

    /// An IPv4 packet from the director to this host.
    pub(crate) fn gets(&self, packet: impl Into<Vec<u8>>) -> Frame {
        let bytes = ethernet(director(self.side), self.mac, 0x0800, &packet.into());
        Frame { side: self.side, bytes }
    }

    /// "Who has `target`?", from this host to all.
    pub(crate) fn asks_for(&self, target: &str) -> Frame {
        Frame { side: self.side, bytes: arp_request(self.mac, self.address, target) }
    }

    /// "I have my address", from this host to the director who asked.
    pub(crate) fn answers(&self) -> Frame {
        let bytes = arp_reply(self.mac, self.address, director(self.side), own(self.side));
        Frame { side: self.side, bytes }
    }

    /// "`target` is at my port", from the director to this host.
    pub(crate) fn is_told_of(&self, target: &str) -> Frame {
        let bytes = arp_reply(director(self.side), target, self.mac, self.address);
        Frame { side: self.side, bytes }
    }

    /// "Do you still have your address?", from the director to this host alone.
    pub(crate) fn is_asked(&self) -> Frame {
        director_asks(self.side, self.address).with(|bytes| bytes[..6].copy_from_slice(&self.mac))
    }
}

/// "Who has `target`?", from the director to all.
pub(crate) fn director_asks(side: Side, target: &str) -> Frame {
    Frame { side, bytes: arp_request(director(side), own(side), target) }
}

/// "I have `address`", from the director to all.
pub(crate) fn director_announces(side: Side, address: &str) -> Frame {
    Frame { side, bytes: arp_request(director(side), address, address) }
}
