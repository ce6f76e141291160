//! What passes an interface: `tcpdump`, and what was in its frames.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use etherparse::{Icmpv4Slice, Ipv4Header, Ipv4Slice, NetSlice, SlicedPacket, TransportSlice};

use super::{Process, wait_until};
use crate::pcap;

/// A capture that goes on until it is stopped or dropped.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// After so long without a frame, the last one has mostly come.
    pub const QUIET: Duration = Duration::from_millis(150);

    pub(super) fn new(process: Process, file: PathBuf) -> Capture {
        let started = process.wait_for_words("listening on", Duration::from_secs(5));
        assert!(started, "tcpdump does not start: {}", process.log());
        Capture { process, file }
    }

    /// Its pcap file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends it when the last frames have come.
    ///
    /// # Panics
    /// When tcpdump fails.
    #[must_use]
    pub fn stop(self) -> Frames {
        let [frames] = Capture::stop_all([self], Capture::QUIET);
        frames
    }

    /// Ends captures once nothing has come to any of them for a while.
    ///
    /// # Panics
    /// When tcpdump fails.
    #[must_use]
    pub fn stop_all<const N: usize>(captures: [Capture; N], quiet: Duration) -> [Frames; N] {
        let len = |capture: &Capture| capture.file.metadata().map_or(0, |metadata| metadata.len());
        let all = || captures.iter().map(len).sum::<u64>();
        let (mut last, mut since) = (all(), Instant::now());
        wait_until(Duration::from_secs(10), || {
            let now = all();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            since.elapsed() > quiet
        });
        captures.map(Capture::end)
    }

    fn end(mut self) -> Frames {
        let status = self.process.stop(Duration::from_secs(5));
        let is_success = status.is_some_and(|status| status.success());
        assert!(is_success, "tcpdump failed: {}", self.process.log());
        Frames(pcap::read(&self.file))
    }
}

/// Captured Ethernet frames; all but IPv4 is left out of what they are asked.
#[derive(Clone, Debug)]
pub struct Frames(Vec<Vec<u8>>);

/// An ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Who says so.
    pub from: Ipv4Addr,
    /// To whom.
    pub to: Ipv4Addr,
    /// ICMP's type.
    pub kind: u8,
    /// ICMP's code.
    pub code: u8,
    /// Where the packet was to go that it is about.
    pub about: Ipv4Addr,
}

impl Frames {
    /// The frames themselves.
    #[must_use]
    pub fn frames(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// Who sent them.
    #[must_use]
    pub fn sources(&self) -> BTreeSet<Ipv4Addr> {
        self.packets().map(|(ip, _)| ip.header().source_addr()).collect()
    }

    /// Who sent or received them.
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        let both = |ip: Ipv4Slice<'_>| [ip.header().source_addr(), ip.header().destination_addr()];
        self.packets().flat_map(|(ip, _)| both(ip)).collect()
    }

    /// The TCP endpoints that sent them.
    #[must_use]
    pub fn tcp_sources(&self) -> BTreeSet<SocketAddrV4> {
        let source = |(ip, transport): (Ipv4Slice<'_>, Option<TransportSlice<'_>>)| match transport
        {
            Some(TransportSlice::Tcp(tcp)) => {
                Some(SocketAddrV4::new(ip.header().source_addr(), tcp.source_port()))
            }
            _ => None,
        };
        self.packets().filter_map(source).collect()
    }

    /// The ICMP errors.
    #[must_use]
    pub fn icmp_errors(&self) -> Vec<IcmpError> {
        let error = |(ip, transport): (Ipv4Slice<'_>, Option<TransportSlice<'_>>)| match transport {
            Some(TransportSlice::Icmpv4(icmp)) => icmp_error(&ip, &icmp),
            _ => None,
        };
        self.packets().filter_map(error).collect()
    }

    fn packets(&self) -> impl Iterator<Item = (Ipv4Slice<'_>, Option<TransportSlice<'_>>)> {
        self.0.iter().filter_map(|frame| {
            let packet = SlicedPacket::from_ethernet(frame).ok()?;
            match packet.net? {
                NetSlice::Ipv4(ip) => Some((ip, packet.transport)),
                _ => None,
            }
        })
    }
}

fn icmp_error(ip: &Ipv4Slice<'_>, icmp: &Icmpv4Slice<'_>) -> Option<IcmpError> {
    let is_error = matches!(icmp.type_u8(), 3 | 11 | 12);
    let (quoted, _) = Ipv4Header::from_slice(icmp.payload()).ok()?;
    is_error.then(|| IcmpError {
        from: ip.header().source_addr(),
        to: ip.header().destination_addr(),
        kind: icmp.type_u8(),
        code: icmp.code_u8(),
        about: quoted.destination.into(),
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use etherparse::{Icmpv4Type, icmpv4::DestUnreachableHeader};

    use super::{Frames, IcmpError};
    use crate::{Packet, arp_request, mac};

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 200);
    const SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 210);

    #[test]
    fn frames_are_read() {
        let sent = Packet::tcp("192.168.1.200:4000", "192.168.2.210:80").syn();
        let kind = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);
        let error = Packet::icmp("192.168.2.210", "192.168.1.200", kind).payload(sent.bytes());
        let frames = Frames(vec![
            sent.frame(mac(1), mac(2)),
            error.frame(mac(2), mac(1)),
            arp_request(mac(1), "192.168.1.200", "192.168.1.100"),
        ]);
        assert_eq!(frames.sources(), [CLIENT, SERVER].into());
        assert_eq!(frames.addresses(), [CLIENT, SERVER].into());
        assert_eq!(frames.tcp_sources(), ["192.168.1.200:4000".parse().unwrap()].into());
        let expected = IcmpError { from: SERVER, to: CLIENT, kind: 3, code: 1, about: SERVER };
        assert_eq!(frames.icmp_errors(), [expected]);
    }

    #[test]
    fn fragments_have_addresses_and_no_ports() {
        let later = Packet::raw("192.168.1.200", "192.168.2.210", 6).fragment(100, false);
        let frames = Frames(vec![later.payload([0; 40]).frame(mac(1), mac(2))]);
        assert_eq!(frames.sources(), [CLIENT].into());
        assert!(frames.tcp_sources().is_empty());
    }
}
