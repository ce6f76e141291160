//! A burst's way through the engine: lookups for all of its packets first, so that these wait for
//! memory together, then each packet by itself.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use shunt_packet::{
    ipv4::{Ipv4Header, Ipv4Packet},
    plain::PlainPacket,
};

use super::{Engine, PendingLookup, Topology};
use crate::{Side, egress::EgressId, time::Instant, translation::Translation, verdict::Verdict};

/// Packets of a burst that are looked up together; those after them take the slow path.
pub const MAX_BURST: usize = 32;

/// Room for a burst of packets that arrived together: see [`Engine::burst`].
#[must_use = "its packets are still to come"]
pub struct Burst<'e> {
    engine: &'e mut Engine,
    lookups: ArrayVec<PendingLookup, MAX_BURST>,
    now: Instant,
    side: Side,
}

/// A burst of packets that were looked up. When it is dropped, servers that were chosen for its packets
/// and not used are released.
#[must_use = "its packets are still to be processed"]
pub struct PrefetchedBurst<'b> {
    engine: &'b mut Engine,
    lookups: &'b [PendingLookup],
    now: Instant,
    side: Side,
}

/// A packet of a [`PrefetchedBurst`], whose connection is in the cache by now, if it has one.
#[must_use = "a packet takes the fast path or the slow path"]
pub struct BurstPacket<'e> {
    engine: &'e mut Engine,
    lookup: &'e PendingLookup,
    now: Instant,
    side: Side,
}

/// A packet that the fast path left as it came.
#[must_use = "a packet that can't take the fast path takes the slow path"]
pub struct SlowPath<'e>(BurstPacket<'e>);

/// A packet that the engine has said its verdict on.
pub struct Processed<'e>(BurstPacket<'e>);

impl Engine {
    /// Takes a burst of packets that arrived on `side` through the engine, in stages that can only follow
    /// each other: [`prefetch`](Burst::prefetch) looks all packets up, and
    /// [`for_each`](PrefetchedBurst::for_each) processes them one after the other. Each takes the
    /// [fast path](BurstPacket::fast_path) or the [slow path](SlowPath::process).
    ///
    /// # Examples
    /// A client's datagram to a virtual service:
    /// ```
    /// use std::{net::{Ipv4Addr, SocketAddr}, sync::Arc};
    ///
    /// use shunt_nat::{
    ///     EgressId, Engine, EngineConfig, Instant, Ruleset, Side, Topology, Verdict,
    /// };
    /// use shunt_packet::{ipv4::Ipv4Packet, plain::PlainPacket};
    /// use shunt_rules::{Protocol, RealServer, Rules, Scheduler, VirtualService};
    /// use shunt_testkit::Packet;
    ///
    /// struct Lab;
    ///
    /// impl Topology for Lab {
    ///     fn is_local(&self, address: Ipv4Addr) -> bool {
    ///         address == Ipv4Addr::new(192, 0, 2, 1)
    ///     }
    ///
    ///     fn side_of(&self, address: Ipv4Addr) -> Option<Side> {
    ///         Some(if address.is_private() { Side::Inside } else { Side::Outside })
    ///     }
    /// }
    ///
    /// let vip: SocketAddr = "192.0.2.1:53".parse()?;
    /// let server: SocketAddr = "10.0.0.1:5353".parse()?;
    /// let servers = vec![RealServer::new(server, 1)];
    /// let service = VirtualService::new(Protocol::Udp, vip, Scheduler::RoundRobin, servers);
    /// let rules = Rules { services: vec![Arc::new(service)], ..Rules::default() };
    /// let config = EngineConfig { capacity: 1000, secret: [1, 2, 3, 4] };
    /// let mut engine = Engine::new(&config, Ruleset::new(&rules, 1)?)?;
    ///
    /// let query = || Packet::udp("198.51.100.7:4000", "192.0.2.1:53").payload("query");
    /// let mut frames: [Vec<u8>; 2] = [query().into(), query().into()];
    /// let mut fast = 0;
    ///
    /// let mut burst = engine.burst(Instant::from_millis(0), Side::Outside);
    /// let packets = burst.prefetch(frames.iter_mut().map(|frame| PlainPacket::parse(frame)));
    /// packets.for_each(&mut frames, |frame, packet| {
    ///     let Some(view) = PlainPacket::view(frame) else { return };
    ///     // Rewritten already, if the connection knows its way out.
    ///     let slow_path = match packet.fast_path(view, |_| true, |_| true) {
    ///         Ok(_egress) => return fast += 1,
    ///         Err(slow_path) => slow_path,
    ///     };
    ///     let Ok(mut packet) = Ipv4Packet::parse(frame) else { return };
    ///     let (verdict, mut processed) = slow_path.process(&mut packet, &Lab);
    ///     if let Verdict::Translate(translation) = verdict {
    ///         // Here it would be routed and its neighbour looked up. The next one need not be.
    ///         translation.apply(&mut packet);
    ///         packet.header.decrement_ttl();
    ///         processed.note_egress(EgressId::FIRST);
    ///     }
    /// });
    ///
    /// let expected = Packet::udp("198.51.100.7:4000", "10.0.0.1:5353").payload("query").ttl(63);
    /// assert_eq!(frames, [Vec::from(expected.clone()), Vec::from(expected)]);
    /// assert_eq!((fast, engine.table().len()), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn burst(&mut self, now: Instant, side: Side) -> Burst<'_> {
        Burst { engine: self, lookups: ArrayVec::new(), now, side }
    }
}

impl Burst<'_> {
    /// Looks packets up: hashes the keys of all and prefetches where these are in the index, then
    /// prefetches all records, then chooses servers for packets that are to open connections. `None`
    /// stands for a packet about which anything calls for a closer look (no [`PlainPacket`], an unsound
    /// checksum): it takes the slow path.
    #[inline]
    pub fn prefetch<'p>(
        &mut self,
        packets: impl IntoIterator<Item = Option<PlainPacket<'p>>>,
    ) -> PrefetchedBurst<'_> {
        let Burst { engine, lookups, now, side } = self;
        let (now, side) = (*now, *side);
        lookups.clear();
        for packet in packets.into_iter().take(MAX_BURST) {
            lookups.push(match packet {
                Some(packet) => engine.prefetch_bucket(&packet),
                None => PendingLookup::default(),
            });
        }
        let mut is_any_miss = false;
        for lookup in &mut *lookups {
            is_any_miss |= engine.prefetch_record(lookup);
        }
        if is_any_miss {
            engine.preschedule(now, side, lookups);
        }
        PrefetchedBurst { engine, lookups, now, side }
    }
}

impl PrefetchedBurst<'_> {
    /// Processes the packets one after the other: `process` gets each of `frames`, which must be
    /// those that were looked up, in their order, with what the engine knows of the packet in it.
    /// Frames beyond those take the slow path.
    #[inline]
    pub fn for_each<F>(
        self,
        frames: impl IntoIterator<Item = F>,
        mut process: impl FnMut(F, BurstPacket<'_>),
    ) {
        const UNKNOWN: PendingLookup = PendingLookup(None);
        let mut lookups = self.lookups.iter();
        for frame in frames {
            let lookup = lookups.next().unwrap_or(&UNKNOWN);
            let (now, side) = (self.now, self.side);
            process(frame, BurstPacket { engine: self.engine, lookup, now, side });
        }
    }
}

impl Drop for PrefetchedBurst<'_> {
    #[inline]
    fn drop(&mut self) {
        self.engine.cancel_unused();
    }
}

impl<'e> BurstPacket<'e> {
    /// The fast path through the engine, for the bulk of all packets: those of a connection whose
    /// way out is known, and which leave it in the state that it is in, and those that open a
    /// connection with a server that was chosen when the burst was looked up, and to which the way
    /// is known. The packet is rewritten at once, its TTL included, and the caller has only to send
    /// it to the neighbour that it knows by the number returned.
    ///
    /// `packet` must be the one that was looked up, unchanged: a [view](PlainPacket::view) of it
    /// will do.
    ///
    /// `may_leave` says whether a packet may take this way out, and `may_open` whether one from this
    /// address may open a connection; neither is asked twice.
    ///
    /// # Errors
    /// What can't take the fast path takes the slow path; the packet is as it came.
    #[inline]
    pub fn fast_path(
        self,
        packet: PlainPacket<'_>,
        may_leave: impl FnOnce(EgressId) -> bool,
        may_open: impl FnOnce(Ipv4Addr) -> bool,
    ) -> Result<EgressId, SlowPath<'e>> {
        let BurstPacket { engine, lookup, now, side } = self;
        match engine.fast_path(now, side, packet, lookup, may_leave, may_open) {
            Some(egress) => Ok(egress),
            None => Err(SlowPath(BurstPacket { engine, lookup, now, side })),
        }
    }

    /// The slow path, without an attempt at the fast one.
    pub fn slow_path(self) -> SlowPath<'e> {
        SlowPath(self)
    }
}

impl<'e> SlowPath<'e> {
    /// What to do with the packet: see [`Engine::process`].
    #[inline]
    pub fn process(
        self,
        packet: &mut Ipv4Packet<'_>,
        topology: &impl Topology,
    ) -> (Verdict, Processed<'e>) {
        let SlowPath(BurstPacket { engine, lookup, now, side }) = self;
        let verdict = engine.process_looked_up(now, side, packet, lookup, topology);
        (verdict, Processed(BurstPacket { engine, lookup, now, side }))
    }
}

impl Processed<'_> {
    /// Notes that the packet was [translated](Verdict::Translate) and took this way out: those that
    /// follow it, and those to the same server, may take the [fast path](BurstPacket::fast_path).
    pub fn note_egress(&mut self, egress: EgressId) {
        let Processed(BurstPacket { engine, lookup, side, .. }) = self;
        engine.note_egress(lookup, *side, egress);
    }

    /// Counts a fragment that waited for this packet, its first one, and is translated as it was.
    pub fn count_late(&mut self, translation: &Translation, header: &Ipv4Header) {
        self.0.engine.count_late(translation, header);
    }
}
