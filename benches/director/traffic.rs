//! Frames to and from the director, and the files that net_pcap loads them from.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    path::{Path, PathBuf},
};

use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};
use shunt_nat::FlowKey;
use shunt_testkit::{Packet, arp_reply, mac, pcap};

use crate::{
    case::{Case, Load, Protocol},
    worker_layout::WorkerLayout,
};

pub(crate) const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 100), 80);
pub(crate) const DIP: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 200);
/// All clients are behind it.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
pub(crate) const SERVERS: [SocketAddrV4; 4] = [
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 2, 210), 8080),
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 2, 211), 8080),
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 2, 212), 8080),
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 2, 213), 8080),
];

/// What net_pcap calls its first and its second device (`02:70:63:61:70` is "\2pcap").
pub(crate) const MACS: [[u8; 6]; 2] =
    [[0x02, 0x70, 0x63, 0x61, 0x70, 0], [0x02, 0x70, 0x63, 0x61, 0x70, 1]];
/// The gateway's and the servers'.
const PEER: [u8; 6] = mac(1);

/// How far the connection is that a packet belongs to.
#[derive(Clone, Copy)]
enum Stage {
    Opener,
    Established,
}

/// The endpoint of a client, different for each number.
pub(crate) fn client(number: u32) -> SocketAddrV4 {
    const PER_HOST: u32 = 16;
    let address = Ipv4Addr::from_bits(0x0a00_0000 + number / PER_HOST);
    SocketAddrV4::new(address, (1024 + number % PER_HOST * 4001) as u16)
}

/// The server that `rr` gives the connection that is opened as the `number`th.
fn server(number: u32) -> SocketAddrV4 {
    SERVERS[number as usize % SERVERS.len()]
}

/// A frame of 60 bytes, which is 64 with its checksum on the wire.
fn frame(
    protocol: Protocol,
    stage: Stage,
    (from, to): (SocketAddrV4, SocketAddrV4),
    port: usize,
) -> Vec<u8> {
    let (from, to) = (from.to_string(), to.to_string());
    let packet = match (protocol, stage) {
        (Protocol::Udp, _) => Packet::udp(&from, &to).payload([0; 18]),
        (Protocol::Tcp, Stage::Opener) => Packet::tcp(&from, &to).payload([0; 6]).syn(),
        (Protocol::Tcp, Stage::Established) => Packet::tcp(&from, &to).payload([0; 6]).ack(1001),
    };
    packet.frame(PEER, MACS[port])
}

/// The first packet of a flow.
pub(crate) fn opener(case: Case, number: u32) -> Vec<u8> {
    frame(case.protocol, Stage::Opener, (client(number), VIP), 0)
}

/// The first packet of a flow to another service at the VIP, on this port.
pub(crate) fn opener_at(case: Case, number: u32, vport: u16) -> Vec<u8> {
    let vip = SocketAddrV4::new(*VIP.ip(), vport);
    frame(case.protocol, Stage::Opener, (client(number), vip), 0)
}

/// A packet of each direction of a connection that is open, outside first.
pub(crate) fn exchange(case: Case, keys: [FlowKey; 2]) -> [Vec<u8>; 2] {
    let [inbound, outbound] = keys.map(|key| (key.src(), key.dst()));
    let answer = frame(case.protocol, Stage::Established, outbound, 1);
    [frame(case.protocol, Stage::Established, inbound, 0), answer]
}

/// Where the time is in the frames of [`stamped`]: the first bytes behind the UDP header.
pub(crate) const STAMP: Range<usize> = 42..50;

/// A datagram of each flow, without a checksum, since the time will be written into it.
pub(crate) fn stamped(case: Case) -> Vec<Vec<u8>> {
    let datagram = |number| {
        let packet = Packet::udp(&client(number).to_string(), &VIP.to_string());
        packet.payload([0; 18]).unchecksummed().frame(PEER, MACS[0])
    };
    (0..case.flows).map(datagram).collect()
}

/// Whether a frame is of IPv4.
pub(crate) fn is_ipv4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
}

/// Whether a connection is the one that the preloaded frames are for: the servers' frames are made
/// before it is known which server a client is given.
pub(crate) fn is_foreseen(case: Case, number: u32, [inbound, outbound]: [FlowKey; 2]) -> bool {
    case.load != Load::Both
        || (inbound.src(), outbound.src(), outbound.dst())
            == (client(number), server(number), client(number))
}

/// Where neighbours are, in answers that nobody asked for: by port.
pub(crate) fn neighbours() -> [Vec<Vec<u8>>; 2] {
    let reply = |who: Ipv4Addr, to: Ipv4Addr, port: usize| {
        arp_reply(PEER, &who.to_string(), MACS[port], &to.to_string())
    };
    let inside = SERVERS.map(|server| reply(*server.ip(), DIP, 1));
    [vec![reply(GATEWAY, *VIP.ip(), 0)], inside.to_vec()]
}

/// The preloaded frames of a case: by port, and of a port by queue. Those of the inside are empty when
/// only clients send.
pub(crate) struct Files([Vec<PathBuf>; 2]);

impl Files {
    /// Writes them for such a layout: a queue of a worker's own gets only packets that it owns.
    pub(crate) fn write(case: Case, layout: WorkerLayout, directory: &Path) -> Files {
        let mut order: Vec<u32> = (0..case.flows).collect();
        // Connections lie in memory in the order in which they were opened; packets come in another.
        order.shuffle(&mut SmallRng::seed_from_u64(0x5eed));
        let stage = if case.is_established() { Stage::Established } else { Stage::Opener };
        let from_client = |number: u32| frame(case.protocol, stage, (client(number), VIP), 0);
        let from_server =
            |number: u32| frame(case.protocol, stage, (server(number), client(number)), 1);
        let (is_answered, owner) = (case.load == Load::Both, layout.owner());
        let queues = (0..layout.queues()).map(|queue| {
            let is_its_own = |number: &u32| layout.queues() == 1 || owner(client(*number)) == queue;
            let flows: Vec<u32> = order.iter().copied().filter(is_its_own).collect();
            let [outside, inside] =
                ["outside", "inside"].map(|port| directory.join(format!("{port}{queue}.pcap")));
            pcap::write(&outside, &flows.iter().copied().map(from_client).collect::<Vec<_>>());
            let answered = flows.iter().copied().filter(|_| is_answered);
            pcap::write(&inside, &answered.map(from_server).collect::<Vec<_>>());
            (outside, inside)
        });
        let (outside, inside) = queues.unzip();
        Files([outside, inside])
    }

    /// The devices that replay them, as EAL's `--vdev` and the service file's `device` have them.
    /// Without a file to write to, net_pcap discards what is sent.
    pub(crate) fn devices(&self, case: Case) -> [String; 2] {
        let is_endless = [true, case.load == Load::Both];
        [0, 1].map(|port| {
            let queue = |path: &PathBuf| format!(",rx_pcap={}", path.display());
            let queues: String = self.0[port].iter().map(queue).collect();
            let infinite = if is_endless[port] { ",infinite_rx=1" } else { "" };
            format!("net_pcap{port}{queues}{infinite}")
        })
    }
}
