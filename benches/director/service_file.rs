//! The service file that a case is run with.

use serde::{Deserialize, Serialize};
use shunt_config::{Config, Idle};

use crate::{
    case::{Case, Load, Mode, Protocol},
    memory::{MBUF_SIZE, MTU, Memory},
    traffic::{DIP, GATEWAY, SERVERS, VIP},
    worker_layout::WorkerLayout,
};

/// Local addresses for full-NAT: a million connections to four servers need four; twice that are
/// found more quickly.
const LOCAL_ADDRESSES: u8 = 8;

/// The director that is wanted.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub(crate) case: Case,
    pub(crate) layout: WorkerLayout,
    /// Outside first.
    pub(crate) devices: [String; 2],
    pub(crate) no_huge: bool,
}

/// What such a director's service file says.
pub(crate) fn config(wanted: &Wanted) -> anyhow::Result<Config> {
    parse(&text(wanted, Idle::Spin))
}

/// Reads a service file.
pub(crate) fn parse(text: &str) -> anyhow::Result<Config> {
    Config::parse("bench.toml", text).map_err(|errors| anyhow::anyhow!("{errors}"))
}

/// The service file of such a director.
pub(crate) fn text(wanted: &Wanted, idle: Idle) -> String {
    let Wanted { case, layout, devices: [outside, inside], no_huge } = wanted;
    let Memory { mbufs, mib } = Memory::of(*case);
    let workers = layout.cpus();
    let connections = case.connections();
    let protocol = match case.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let mode = match case.mode {
        Mode::Nat => "nat",
        Mode::FullNat => "full-nat",
    };
    let servers = SERVERS.map(|server| format!(r#"{{ address = "{server}" }}"#)).join(", ");
    // What is opened under churn has to end soon.
    let timeouts = match case.load {
        Load::Churn => "timeouts = { udp-one-way = 1, syn-recv = 1 }",
        _ => "",
    };
    let local_addresses = match case.mode {
        Mode::Nat => String::new(),
        Mode::FullNat => (1..=LOCAL_ADDRESSES)
            .map(|last| format!("[[nat.local-address]]\naddress = \"192.168.2.{last}\"\n"))
            .collect(),
    };
    format!(
        r#"
        [dpdk]
        main-lcore = 0
        worker-lcores = {workers:?}
        idle = "{idle}"
        memory = "{mib}M"
        mbufs = {mbufs}
        mbuf-size = {MBUF_SIZE}
        no-huge = {no_huge}

        [[port]]
        name = "outside"
        role = "outside"
        device = "{outside}"
        addresses = ["{vip}/24"]
        mtu = {MTU}

        [[port]]
        name = "inside"
        role = "inside"
        device = "{inside}"
        addresses = ["{DIP}/24"]
        mtu = {MTU}

        [[route]]
        to = "default"
        via = "{GATEWAY}"

        [nat]
        connections = {connections}
        {local_addresses}

        [[service]]
        protocol = "{protocol}"
        vip = "{VIP}"
        scheduler = "rr"
        mode = "{mode}"
        server = [{servers}]
        {timeouts}
        "#,
        vip = VIP.ip(),
    )
}
