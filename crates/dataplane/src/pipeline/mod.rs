//! The life of a packet.
//!
//! Every function here takes a packet by value: it passes it to the next one, to a queue that holds
//! it, or drops it and counts why. So none is lost, and none leaks.

mod arp;
mod burst;
mod fragments;
mod ipv4;
mod local;
mod reassembly;

use std::{net::Ipv4Addr, sync::Arc};

use shunt_config::Vlan;
use shunt_dpdk::{Mbuf, Mempool};
use shunt_nat::{
    ConnectionFilter, Cursor, Engine, Instant, Side, SlowPath,
    fragments::{HoldLimits, HoldQueue},
};
use shunt_packet::{
    ethernet::{EtherType, EthernetHeader, TAG_LEN, cover_priority_tag, is_priority_tag},
    tcp::RESET_LEN,
};

use crate::{
    counters::{LivePipelineCounters, Shared},
    drop_reason::{DropReason, LiveDropCounters},
    egress::EgressTable,
    frame::packet_in,
    interface::Interface,
    local_network::{LocalNetwork, SIDES},
    mailbox::Snapshot,
    neighbour_sync::NeighbourSync,
    rate_limit::RateLimit,
};

use arp::Announcer;
use reassembly::Reassembler;

/// ICMP errors per second of all workers, and how many at once (RFC 1812, section 4.3.2.8; Linux's
/// `icmp_msgs_per_sec` is 1000 too).
const ICMP_ERRORS_PER_SECOND: u64 = 1000;
const ICMP_ERRORS_AT_ONCE: u64 = 100;

/// Fragments that the longest packet is cut into where the MTU is the smallest that IPv4 allows.
const MAX_REPLY_PARTS: usize = 65_535 / 48;

/// Records that expiry looks at per loop: bounds the time that a loop takes.
const EXPIRY_BUDGET: usize = 64;

/// How often a command to kill looks at as many records, unless it has ended [`KILLS`] connections: where it
/// ends none, looking is all that takes time.
const KILL_PARTS: usize = 16;

/// Connections after which such a command is done.
const KILLS: u64 = 16;

/// All that a worker needs to pass packets on, but for the NAT engine.
pub(crate) struct Pipeline {
    pub(crate) counters: Shared<LivePipelineCounters>,
    pub(crate) drops: Shared<LiveDropCounters>,
    pub(crate) interfaces: [Interface; 2],
    egresses: EgressTable,
    network: Arc<LocalNetwork>,
    icmp_limit: RateLimit,
    announcer: Announcer,
    /// Fragments that came before their packet's first one.
    fragments: HoldQueue<Mbuf>,
    /// Packets to the director itself of which fragments came.
    reassembler: Reassembler,
    /// Resets that are to be sent for connections that ended; empty between calls.
    resets: Vec<[u8; RESET_LEN]>,
    /// The fragments of an echo reply; empty between calls.
    reply_parts: Vec<Mbuf>,
    /// Where packets of our own come from.
    pool: Mempool,
    neighbour_sync: NeighbourSync,
}

/// What a worker knows of the others.
pub(crate) struct WorkerContext {
    /// How many workers there are.
    pub(crate) workers: usize,
    pub(crate) neighbour_sync: NeighbourSync,
}

impl Pipeline {
    /// A pipeline in this network, which announces these addresses by side.
    pub(crate) fn new(
        network: Arc<LocalNetwork>,
        new_addresses: [Vec<Ipv4Addr>; 2],
        interfaces: [Interface; 2],
        pool: Mempool,
        secret: [u64; 4],
        context: WorkerContext,
    ) -> Pipeline {
        let share = |rate: u64| rate.div_ceil(context.workers as u64);
        let mut pipeline = Pipeline {
            counters: Shared::default(),
            drops: Shared::default(),
            interfaces,
            egresses: EgressTable::default(),
            network,
            icmp_limit: RateLimit::new(share(ICMP_ERRORS_PER_SECOND), share(ICMP_ERRORS_AT_ONCE)),
            announcer: Announcer::default(),
            fragments: HoldQueue::new(HoldLimits::default(), secret),
            reassembler: Reassembler::new(),
            resets: Vec::with_capacity(2 * EXPIRY_BUDGET),
            reply_parts: Vec::with_capacity(MAX_REPLY_PARTS),
            pool,
            neighbour_sync: context.neighbour_sync,
        };
        pipeline.resolve_next_hops(Instant::default(), new_addresses);
        pipeline
    }

    /// Runs another snapshot from now on, and returns what it ran before.
    pub(crate) fn replace(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        snapshot: Snapshot,
    ) -> Snapshot {
        let Snapshot { ruleset, network, new_addresses } = snapshot;
        let ruleset = engine.replace_rules(ruleset);
        let network = std::mem::replace(&mut self.network, network);
        // Where addresses are what they were, so are the ways, and who is to be pinned.
        if !Arc::ptr_eq(&self.network, &network) {
            if !self.network.has_ways_of(&network) {
                self.egresses.retire_all(engine);
            }
            self.resolve_next_hops(now, new_addresses);
        }
        Snapshot { ruleset, network, new_addresses: Default::default() }
    }

    /// Queues ARP announcements, and pins next hops.
    fn resolve_next_hops(&mut self, now: Instant, new_addresses: [Vec<Ipv4Addr>; 2]) {
        self.announcer.add(now, new_addresses);
        for side in SIDES {
            let wanted = self.network.wanted_neighbours(side);
            self.interfaces[side as usize].neighbours.pin(wanted);
        }
    }

    /// Takes in a frame, by the slow path.
    fn receive_slowly(
        &mut self,
        now: Instant,
        side: Side,
        mut mbuf: Mbuf,
        slow_path: SlowPath<'_>,
    ) {
        match classify(&self.interfaces[side as usize], &mut mbuf) {
            Ok(Class::Ipv4) => self.receive_ipv4(now, side, mbuf, slow_path),
            Ok(Class::Arp) => self.receive_arp(now, side, mbuf),
            Ok(Class::Vlan) => self.pass_vlan(side, mbuf),
            Err(reason) => self.drop(mbuf, reason),
        }
    }

    /// Ends connections that have been silent for too long, a few at a time.
    #[inline]
    pub(crate) fn expire(&mut self, engine: &mut Engine, now: Instant) {
        let resets = &mut self.resets;
        engine.expire(now, EXPIRY_BUDGET, |reset| resets.push(*reset));
        if !self.resets.is_empty() {
            self.send_resets(now);
        }
    }

    /// Ends connections that the filter admits, as [`Engine::kill`] does, a few at a time. Returns how many
    /// were ended, and whether all were looked at.
    pub(crate) fn kill(
        &mut self,
        engine: &mut Engine,
        now: Instant,
        filter: &ConnectionFilter,
        cursor: &mut Cursor,
    ) -> (u64, bool) {
        let mut count = 0;
        for _ in 0..KILL_PARTS {
            let resets = &mut self.resets;
            let send = |reset: &[u8; RESET_LEN]| resets.push(*reset);
            let is_over = engine.kill(now, filter, cursor, EXPIRY_BUDGET, &mut count, send);
            if !self.resets.is_empty() {
                self.send_resets(now);
            }
            if is_over || count >= KILLS {
                return (count, is_over);
            }
        }
        (count, false)
    }

    /// Does what else time brings, a few times a second: ARP, and fragments that wait in vain.
    pub(crate) fn tick(&mut self, engine: &mut Engine, now: Instant) {
        self.tick_arp(now);
        let [outside, inside] = &mut self.interfaces;
        let neighbours = [&mut outside.neighbours, &mut inside.neighbours];
        self.egresses.check(now, neighbours, engine);
        self.tick_fragments(now);
        self.tick_reassembly(now);
    }

    /// Hands everything that is to leave to the devices.
    #[inline]
    pub(crate) fn flush(&mut self) {
        for interface in &mut self.interfaces {
            interface.flush(&self.drops);
            interface.relay(&self.drops);
        }
    }

    /// Whether a frame is a sound fragment, from where it may come, that must follow its packet's first
    /// one.
    pub(crate) fn tracks_fragment(&self, engine: &Engine, side: Side, mbuf: &mut Mbuf) -> bool {
        let received = mbuf.rx_checksum();
        packet_in(mbuf).is_ok_and(|packet| {
            self.check(side, received, &packet).is_ok() && engine.tracks_fragment(&packet)
        })
    }

    fn pass_vlan(&mut self, side: Side, mut mbuf: Mbuf) {
        let other = match side {
            Side::Outside => Side::Inside,
            Side::Inside => Side::Outside,
        };
        if mbuf.len() > self.interfaces[other as usize].max_frame() {
            return self.drop(mbuf, DropReason::TooBig);
        }
        mbuf.clear_offload();
        self.counters.vlan_passed.add(1);
        self.send(other, mbuf);
    }

    fn send(&mut self, side: Side, mbuf: Mbuf) {
        self.interfaces[side as usize].send(mbuf, &self.drops);
    }

    /// Frees a packet and counts why.
    fn drop(&mut self, mbuf: Mbuf, reason: DropReason) {
        self.drops.add(reason, 1);
        drop(mbuf);
    }

    /// A packet of our own with this content; `None` when the pool is empty.
    pub(crate) fn copy(&self, parts: &[&[u8]]) -> Option<Mbuf> {
        copy(&self.pool, parts)
    }

    /// Packets that wait: for ARP, or for the first fragment of their packet.
    pub(crate) fn held(&self) -> usize {
        let for_arp = |side: &Side| self.interfaces[*side as usize].neighbours.held();
        SIDES.iter().map(for_arp).sum::<usize>() + self.fragments.len()
    }
}

/// A packet from the pool with this content; `None` when the pool is empty.
fn copy(pool: &Mempool, parts: &[&[u8]]) -> Option<Mbuf> {
    let mut mbuf = pool.alloc()?;
    for part in parts {
        mbuf.append(part.len())?.copy_from_slice(part);
    }
    Some(mbuf)
}

/// What a frame carries for us.
enum Class {
    Ipv4,
    Arp,
    /// A tagged frame that the port is to pass.
    Vlan,
}

/// Removes a priority tag: its frame counts as untagged (IEEE 802.1Q). Returns whether there was one.
pub(crate) fn strip_priority_tag(mbuf: &mut Mbuf) -> bool {
    cover_priority_tag(mbuf.data_mut()) && mbuf.adjust(TAG_LEN)
}

/// Whether the port has removed a tag that names a VLAN.
#[inline]
fn has_vlan_stripped(mbuf: &Mbuf) -> bool {
    mbuf.rx_vlan_stripped().is_some_and(|control| !is_priority_tag(control))
}

/// Looks at a frame's size and Ethernet header.
fn classify(interface: &Interface, mbuf: &mut Mbuf) -> Result<Class, DropReason> {
    // The pool's buffers hold the largest frame of either port: what came in pieces is larger.
    if mbuf.segments() != 1 || mbuf.len() > interface.max_frame() {
        return Err(DropReason::Oversized);
    }
    strip_priority_tag(mbuf);
    let is_stripped = has_vlan_stripped(mbuf);
    let (header, _) = EthernetHeader::split(mbuf.data_mut())?;
    if is_stripped || header.ethertype.is_vlan() {
        let passes = interface.vlan == Vlan::Pass && !is_stripped;
        return if passes { Ok(Class::Vlan) } else { Err(DropReason::Vlan) };
    }
    let for_us = header.destination == interface.mac;
    match header.ethertype {
        EtherType::IPV4 if for_us => Ok(Class::Ipv4),
        EtherType::ARP if for_us || header.destination.is_group() => Ok(Class::Arp),
        EtherType::IPV4 | EtherType::ARP => Err(DropReason::NotForUs),
        _ if for_us => Err(DropReason::UnknownEtherType),
        _ => Err(DropReason::NotForUs),
    }
}
