//! What a running director can't change: its lcores, its memory, its devices, the size of its table.

use super::report::Report;
use crate::{
    Config, Dpdk, Port, Side,
    fault::Fault,
    raw::{self, Value},
    source::Span,
};

/// Writes down every key of `file`, which means `new`, that a director which runs `old` can't take.
pub(super) fn check(file: &raw::File, old: &Config, new: &Config, report: &mut Report) {
    check_dpdk(&file.dpdk.0, &old.dpdk, &new.dpdk, report);
    for role in Side::BOTH {
        check_port(file, old.ports.get(role), new.ports.get(role), report);
    }
    let connections = &file.nat.0.connections;
    let is_same = old.nat.connections == new.nat.connections;
    let mut keys = Keys { section: report.end(), report };
    keys.check(is_same, "`connections`", span(connections));
}

fn check_dpdk(raw: &raw::Dpdk, old: &Dpdk, new: &Dpdk, report: &mut Report) {
    let Dpdk {
        main_lcore,
        worker_lcores,
        idle,
        memory_mib,
        huge_pages,
        mbufs,
        mbuf_size,
        eal_args,
    } = old;
    let pages = span(&raw.hugepage_dir).or(span(&raw.no_huge));
    let mut keys = Keys { section: report.end(), report };
    keys.check(*main_lcore == new.main_lcore, "`main-lcore`", span(&raw.main_lcore));
    keys.check(*worker_lcores == new.worker_lcores, "`worker-lcores`", span(&raw.worker_lcores));
    keys.check(*idle == new.idle, "`idle`", span(&raw.idle));
    keys.check(*memory_mib == new.memory_mib, "`memory`", span(&raw.memory));
    keys.check(*huge_pages == new.huge_pages, "kind of memory", pages);
    keys.check(*mbufs == new.mbufs, "`mbufs`", span(&raw.mbufs));
    keys.check(*mbuf_size == new.mbuf_size, "`mbuf-size`", span(&raw.mbuf_size));
    keys.check(*eal_args == new.eal_args, "`eal-args`", span(&raw.eal_args));
}

fn check_port(file: &raw::File, old: &Port, new: &Port, report: &mut Report) {
    let has_role = |raw: &raw::Port| {
        raw.role.as_ref().is_some_and(|role| *role.get_ref() == new.side.to_string())
    };
    let Some(section) = file.port.iter().find(|section| has_role(&section.get_ref().0)) else {
        return;
    };
    let raw = &section.get_ref().0;
    let Port {
        name,
        side: _,      // by which the two were matched
        addresses: _, // they can change
        device,
        mtu,
        queues,
        rx_descriptors,
        tx_descriptors,
        checksum,
        vlan,
    } = old;
    let mut keys = Keys { section: section.span(), report };
    keys.check(*name == new.name, "`name`", span(&raw.name));
    keys.check(*device == new.device, "`device`", span(&raw.device));
    keys.check(*mtu == new.mtu, "`mtu`", span(&raw.mtu));
    keys.check(*queues == new.queues, "`queues`", span(&raw.queues));
    let (rx, tx) = (span(&raw.rx_descriptors), span(&raw.tx_descriptors));
    keys.check(*rx_descriptors == new.rx_descriptors, "`rx-descriptors`", rx);
    keys.check(*tx_descriptors == new.tx_descriptors, "`tx-descriptors`", tx);
    keys.check(*checksum == new.checksum, "`checksum`", span(&raw.checksum));
    keys.check(*vlan == new.vlan, "`vlan`", span(&raw.vlan));
}

/// The keys of a section, for which this stands where one of them was left out.
struct Keys<'r, 'a> {
    section: Span,
    report: &'r mut Report<'a>,
}

impl Keys<'_, '_> {
    fn check(&mut self, is_same: bool, what: &str, place: Option<Span>) {
        if !is_same {
            let fault = Fault::new(format!("the {what} of a running director can't change"))
                .help("restart the director to change it, or put back what it was started with");
            self.report.add(place.unwrap_or(self.section.clone()), fault);
        }
    }
}

fn span<T>(value: &Value<T>) -> Option<Span> {
    value.as_ref().map(toml::Spanned::span)
}
