//! The lab's wires.

use std::net::Ipv4Addr;

use super::{DIP, Device, Director, Host, Lab, VIP, director, namespace::Namespace};

/// Of the links to the hosts behind others.
const NARROW_MTU: u16 = 1300;

impl Lab {
    pub(super) fn network_up(&self) {
        let further = [Host::Far, Host::Deep];
        for host in Host::ALL.into_iter().filter(|host| !further.contains(host)) {
            self.namespace(host).create();
        }
        let [client, director, switch, rs1, rs2] =
            [Host::Client, Host::Director, Host::Switch, Host::Rs1, Host::Rs2]
                .map(|host| self.namespace(host));
        director::mute(&director);

        let veth = |one: &Namespace, name: &str, other: &Namespace, peer: &str| {
            one.ip(&format!("link add {name} type veth peer name {peer} netns {}", other.name()));
        };
        veth(&client, "client0", &director, "outside0");
        veth(&director, "inside0", &switch, "director");
        veth(&rs1, "server0", &switch, "rs1");
        veth(&rs2, "server0", &switch, "rs2");

        // Without snooping it sends no IGMP of its own.
        switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        for nic in ["director", "rs1", "rs2"] {
            switch.ip(&format!("link set {nic} master br0 up"));
        }
        switch.ip("link set br0 up");

        director.ip("link set outside0 up");
        director.ip("link set inside0 up");
        self.plug(Host::Client, VIP);
        self.plug(Host::Rs1, DIP);
        self.plug(Host::Rs2, DIP);
        if let Director::Shunt(Device::Tap, _) = self.kind {
            taps_up(&director);
        }
    }

    fn plug(&self, host: Host, gateway: Ipv4Addr) {
        let (namespace, nic) = (self.namespace(host), host.nic());
        finish_frames(&namespace, nic);
        namespace.ip(&format!("address add {}/24 dev {nic}", host.address()));
        namespace.ip(&format!("link set {nic} up"));
        namespace.ip(&format!("route add default via {gateway}"));
    }

    pub(super) fn further_hosts_up(&self) {
        let behind = [(Host::Client, "far", Host::Far), (Host::Rs1, "deep", Host::Deep)];
        for (router, nic, host) in behind {
            let (namespace, [a, b, c, _]) = (self.namespace(router), host.address().octets());
            let further = self.namespace(host);
            further.create();
            let (peer, name) = (host.nic(), further.name());
            namespace.ip(&format!("link add {nic} type veth peer name {peer} netns {name}"));
            finish_frames(&namespace, nic);
            let gateway = Ipv4Addr::new(a, b, c, 1);
            namespace.ip(&format!("address add {gateway}/24 dev {nic}"));
            namespace.ip(&format!("link set {nic} up"));
            namespace.ip(&format!("route replace {a}.{b}.{c}.0/24 dev {nic} mtu {NARROW_MTU}"));
            namespace.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0");
            self.plug(host, gateway);
        }
    }
}

/// A veth leaves checksums and segmentation to hardware that it hasn't got; a director that sees
/// real frames must not see unfinished ones.
fn finish_frames(namespace: &Namespace, nic: &str) {
    namespace.sh(&format!("ethtool -K {nic} tx off tso off gso off gro off"));
}

/// TAPs for net_tap, each wired to a NIC: what comes out of one goes into the other. They are
/// persistent, so that the wires are there before the director's first frame.
fn taps_up(director: &Namespace) {
    for side in ["outside", "inside"] {
        director.ip(&format!("tuntap add tap-{side} mode tap multi_queue"));
        wire(director, &format!("tap-{side}"), &format!("{side}0"));
        wire(director, &format!("{side}0"), &format!("tap-{side}"));
    }
}

/// u32, because small kernels have it and lack the simpler matchall.
fn wire(director: &Namespace, from: &str, to: &str) {
    director.sh(&format!("tc qdisc add dev {from} clsact"));
    director.sh(&format!(
        "tc filter add dev {from} ingress protocol all u32 match u32 0 0 \
         action mirred egress redirect dev {to}"
    ));
}
