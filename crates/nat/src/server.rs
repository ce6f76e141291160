use std::{
    net::SocketAddrV4,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use shunt_rules::ServerId;

use crate::time::Instant;

/// A real server of a service, as schedulers see it.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) id: ServerId,
    pub(crate) endpoint: SocketAddrV4,
    pub(crate) shared: Arc<ServerShared>,
}

/// What all workers share of a server, on a cache line of its own. It takes effect at once, without
/// new rules, and outlives a change of the rules.
///
/// Each word is read whole with one load, so that nobody sees halves of two changes.
#[derive(Debug)]
#[repr(align(64))]
pub struct ServerShared {
    /// A [`Load`]. Written by workers, when a connection opens, ends, or becomes active or inactive;
    /// read when a server is chosen. Connections that a worker is about to open count, too.
    load: AtomicU64,
    /// A [`Status`]. Written by the main lcore only; read when a server is chosen.
    status: AtomicU64,
    /// [`Thresholds`]. Written by the main lcore only; read when a connection opens or ends.
    thresholds: AtomicU64,
    /// When the connections of a server that is drained are to end: milliseconds of the workers' clock,
    /// or `u64::MAX`. Written by the main lcore only.
    drain_deadline: AtomicU64,
}

/// What an operator wants of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdminState {
    /// It takes connections.
    #[default]
    Enabled,
    /// It takes no new connections; those that it has are to end by themselves.
    Draining,
    /// It takes no connections.
    Disabled,
}

/// What health checks found of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// It answers, or nobody asks.
    #[default]
    Up,
    /// It does not answer.
    Down,
}

/// A server's connections, on all workers.
///
/// The overload is in the same word as what it derives from: kept apart, a late write could outlive the
/// connections that it was derived from, and refuse connections forever.
#[derive(Clone, Copy)]
struct Load {
    /// 32 bits.
    active: u32,
    /// 31 bits: the records of so many connections take 128 GiB.
    inactive: u32,
    overloaded: bool,
}

impl Load {
    fn from_bits(bits: u64) -> Load {
        Load { active: (bits >> 32) as u32, inactive: bits as u32 >> 1, overloaded: bits & 1 != 0 }
    }

    fn to_bits(self) -> u64 {
        let Load { active, inactive, overloaded } = self;
        u64::from(active) << 32 | u64::from(inactive) << 1 | u64::from(overloaded)
    }

    fn count(&mut self, is_active: bool) -> &mut u32 {
        if is_active { &mut self.active } else { &mut self.inactive }
    }
}

/// Bits 0 to 15 are the effective weight, 16 to 18 what forbids new connections, 32 to 47 the
/// configured weight.
#[derive(Clone, Copy)]
struct Status(u64);

impl Status {
    const DRAINING: u64 = 1 << 16;
    const DISABLED: u64 = 1 << 17;
    const DOWN: u64 = 1 << 18;

    fn new(weight: u16) -> Status {
        Status(0).with_weight(weight)
    }

    fn effective_weight(self) -> u16 {
        self.0 as u16
    }

    fn configured_weight(self) -> u16 {
        (self.0 >> 32) as u16
    }

    fn admin(self) -> AdminState {
        match self.0 & (Status::DRAINING | Status::DISABLED) {
            0 => AdminState::Enabled,
            Status::DRAINING => AdminState::Draining,
            _ => AdminState::Disabled,
        }
    }

    fn health(self) -> Health {
        if self.0 & Status::DOWN == 0 { Health::Up } else { Health::Down }
    }

    /// The effective weight is above 0, and nothing forbids it.
    fn is_in_service(self) -> bool {
        (1..=u32::from(u16::MAX)).contains(&(self.0 as u32))
    }

    /// Both weights.
    fn with_weight(self, weight: u16) -> Status {
        let others = self.0 & !(0xffff | 0xffff << 32);
        Status(others | u64::from(weight) << 32 | u64::from(weight))
    }

    fn with_effective_weight(self, weight: u16) -> Status {
        Status(self.0 & !0xffff | u64::from(weight))
    }

    fn with_admin(self, state: AdminState) -> Status {
        let bit = match state {
            AdminState::Enabled => 0,
            AdminState::Draining => Status::DRAINING,
            AdminState::Disabled => Status::DISABLED,
        };
        Status(self.0 & !(Status::DRAINING | Status::DISABLED) | bit)
    }

    fn with_health(self, health: Health) -> Status {
        let bit = if health == Health::Down { Status::DOWN } else { 0 };
        Status(self.0 & !Status::DOWN | bit)
    }
}

/// The numbers of connections at which a server becomes overloaded, and below which it ceases to be.
#[derive(Clone, Copy)]
struct Thresholds {
    upper: u32,
    lower: u32,
}

impl Thresholds {
    fn from_bits(bits: u64) -> Thresholds {
        Thresholds { upper: (bits >> 32) as u32, lower: bits as u32 }
    }

    fn to_bits(self) -> u64 {
        u64::from(self.upper) << 32 | u64::from(self.lower)
    }

    /// With hysteresis, as IPVS has it.
    fn is_overloaded(self, load: Load) -> bool {
        let Thresholds { upper, lower } = self;
        if upper == 0 {
            return false;
        }
        let connections = load.active + load.inactive;
        if connections >= upper {
            return true;
        }
        let is_low = match lower {
            0 => u64::from(connections) * 4 < u64::from(upper) * 3,
            lower => connections < lower,
        };
        load.overloaded && !is_low
    }
}

/// What a scheduler sees of a server at a moment. It is what was read, so that it stays in registers.
#[derive(Clone, Copy)]
pub(crate) struct Observation {
    load: u64,
    status: Status,
}

impl Observation {
    /// The effective weight.
    #[inline]
    pub(crate) fn weight(self) -> u16 {
        self.status.effective_weight()
    }

    /// Established TCP connections.
    #[inline]
    pub(crate) fn active(self) -> u32 {
        Load::from_bits(self.load).active
    }

    /// All others.
    #[inline]
    pub(crate) fn inactive(self) -> u32 {
        Load::from_bits(self.load).inactive
    }

    /// Whether it may be given new connections.
    #[inline]
    pub(crate) fn is_usable(self) -> bool {
        self.status.is_in_service() && !Load::from_bits(self.load).overloaded
    }
}

impl ServerShared {
    /// Of a server without connections, enabled and up. `upper` 0 is no limit; `lower` 0 is three
    /// quarters of it.
    #[must_use]
    pub fn new(weight: u16, upper: u32, lower: u32) -> ServerShared {
        ServerShared {
            load: AtomicU64::new(0),
            status: AtomicU64::new(Status::new(weight).0),
            thresholds: AtomicU64::new(Thresholds { upper, lower }.to_bits()),
            drain_deadline: AtomicU64::new(u64::MAX),
        }
    }

    #[inline]
    fn load(&self) -> Load {
        Load::from_bits(self.load.load(Relaxed))
    }

    #[inline]
    fn status(&self) -> Status {
        Status(self.status.load(Relaxed))
    }

    /// Its share of new connections now; 0 is none.
    #[must_use]
    #[inline]
    pub fn effective_weight(&self) -> u16 {
        self.status().effective_weight()
    }

    /// What the rules say that its share is to be.
    #[must_use]
    pub fn configured_weight(&self) -> u16 {
        self.status().configured_weight()
    }

    /// What an operator wants of it.
    #[must_use]
    pub fn admin(&self) -> AdminState {
        self.status().admin()
    }

    /// What health checks found.
    #[must_use]
    pub fn health(&self) -> Health {
        self.status().health()
    }

    /// From how many connections on it gets no more, and below how many it does again.
    #[must_use]
    pub fn thresholds(&self) -> (u32, u32) {
        let Thresholds { upper, lower } = Thresholds::from_bits(self.thresholds.load(Relaxed));
        (upper, lower)
    }

    /// Whether it is enabled, up, and its effective weight above 0: all that new connections need, but
    /// for its thresholds.
    #[must_use]
    #[inline]
    pub fn is_in_service(&self) -> bool {
        self.status().is_in_service()
    }

    /// Whether it reached its upper threshold and has not fallen below the lower one since.
    #[must_use]
    #[inline]
    pub fn is_overloaded(&self) -> bool {
        self.load().overloaded
    }

    /// Whether it may be given new connections.
    #[must_use]
    #[inline]
    pub fn is_usable(&self) -> bool {
        self.observe().is_usable()
    }

    /// All that a scheduler goes by.
    #[inline]
    pub(crate) fn observe(&self) -> Observation {
        Observation { load: self.load.load(Relaxed), status: self.status() }
    }

    /// Established TCP connections and all others, on all workers.
    #[must_use]
    #[inline]
    pub fn active_and_inactive(&self) -> (u32, u32) {
        let Load { active, inactive, .. } = self.load();
        (active, inactive)
    }

    /// Whether no worker has a connection to it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.active_and_inactive() == (0, 0)
    }

    /// Sets the configured and the effective weight. The hashing schedulers `sh`, `dh` and `mh` go by the
    /// configured one, and spread by it once they are built anew; the others by the effective one.
    pub fn set_weight(&self, weight: u16) {
        self.set_status(|status| status.with_weight(weight));
    }

    /// Sets the effective weight alone, until the next [`set_weight`](ServerShared::set_weight).
    pub fn set_effective_weight(&self, weight: u16) {
        self.set_status(|status| status.with_effective_weight(weight));
    }

    /// Sets what an operator wants.
    pub fn set_admin(&self, state: AdminState) {
        self.set_status(|status| status.with_admin(state));
    }

    /// Sets what health checks found.
    pub fn set_health(&self, health: Health) {
        self.set_status(|status| status.with_health(health));
    }

    fn set_status(&self, change: impl Fn(Status) -> Status) {
        // It is never `None`, so this can't fail.
        let _ = self.status.fetch_update(Relaxed, Relaxed, |bits| Some(change(Status(bits)).0));
    }

    /// Sets the thresholds, and whether it is overloaded by them.
    pub fn set_thresholds(&self, upper: u32, lower: u32) {
        self.thresholds.store(Thresholds { upper, lower }.to_bits(), Release);
        self.change(|_| ());
    }

    /// When its connections are to end, as it is drained.
    pub(crate) fn drain_deadline(&self) -> Option<Instant> {
        let millis = self.drain_deadline.load(Relaxed);
        (millis != u64::MAX).then_some(Instant::from_millis(millis))
    }

    /// Sets when its connections are to end.
    pub(crate) fn set_drain_deadline(&self, deadline: Option<Instant>) {
        self.drain_deadline.store(deadline.map_or(u64::MAX, Instant::as_millis), Relaxed);
    }

    /// A connection opened.
    pub(crate) fn add_connection(&self, is_active: bool) {
        self.change(|load| *load.count(is_active) += 1);
    }

    /// A connection ended.
    pub(crate) fn remove_connection(&self, is_active: bool) {
        self.change(|load| *load.count(is_active) -= 1);
    }

    /// A connection became active, or ceased to be.
    pub(crate) fn move_connection(&self, is_active: bool) {
        self.change(|load| {
            *load.count(!is_active) -= 1;
            *load.count(is_active) += 1;
        });
    }

    /// Changes the load and derives the overload from it.
    ///
    /// Whoever changed the load last saw the latest thresholds: one that sees them change under it
    /// derives the overload again, and so does whoever changes them.
    fn change(&self, change: impl Fn(&mut Load)) {
        let mut used = self.thresholds.load(Acquire);
        self.update(used, change);
        loop {
            let current = self.thresholds.load(Acquire);
            if current == used {
                return;
            }
            used = current;
            self.update(used, |_| ());
        }
    }

    fn update(&self, thresholds: u64, change: impl Fn(&mut Load)) {
        let thresholds = Thresholds::from_bits(thresholds);
        // It is never `None`, so this can't fail.
        let _ = self.load.fetch_update(AcqRel, Acquire, |bits| {
            let mut load = Load::from_bits(bits);
            change(&mut load);
            load.overloaded = thresholds.is_overloaded(load);
            Some(load.to_bits())
        });
    }
}

impl Server {
    /// A server without connections and thresholds.
    #[cfg(test)]
    pub(crate) fn new(id: ServerId, endpoint: SocketAddrV4, weight: u16) -> Server {
        Server { id, endpoint, shared: Arc::new(ServerShared::new(weight, 0, 0)) }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ServerId {
        self.id
    }

    /// RIP:rport; an rport of 0 is the port that the client dialled.
    #[must_use]
    pub fn endpoint(&self) -> SocketAddrV4 {
        self.endpoint
    }

    /// What all workers share of it.
    #[must_use]
    pub fn shared(&self) -> &Arc<ServerShared> {
        &self.shared
    }

    /// Its share of new connections now; 0 is none.
    #[must_use]
    #[inline]
    pub fn weight(&self) -> u16 {
        self.shared.effective_weight()
    }

    /// Established TCP connections, on all workers.
    #[must_use]
    #[inline]
    pub fn active(&self) -> u32 {
        self.shared.load().active
    }

    /// All others, on all workers.
    #[must_use]
    pub fn inactive(&self) -> u32 {
        self.shared.load().inactive
    }

    /// All its connections, on all workers.
    #[must_use]
    pub fn connections(&self) -> u32 {
        let (active, inactive) = self.shared.active_and_inactive();
        active + inactive
    }

    /// Whether it reached its upper threshold and has not fallen below the lower one since.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.shared.is_overloaded()
    }

    /// Whether it may be given new connections.
    #[must_use]
    #[inline]
    pub fn is_usable(&self) -> bool {
        self.shared.is_usable()
    }
}

#[cfg(test)]
impl Server {
    pub(crate) fn set_active(&self, active: u32) {
        self.set(|load| load.active = active);
    }

    pub(crate) fn set_inactive(&self, inactive: u32) {
        self.set(|load| load.inactive = inactive);
    }

    pub(crate) fn set_overloaded(&self, overloaded: bool) {
        self.set(|load| load.overloaded = overloaded);
    }

    fn set(&self, set: impl FnOnce(&mut Load)) {
        let mut load = self.shared.load();
        set(&mut load);
        self.shared.load.store(load.to_bits(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn server() -> Server {
        Server::new(ServerId(0), SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80), 1)
    }

    fn overload_at(server: &Server, counts: &[u32]) -> Vec<bool> {
        counts
            .iter()
            .map(|count| {
                server.set_inactive(*count);
                let (upper, lower) = server.shared.thresholds();
                server.shared.set_thresholds(upper, lower);
                server.is_overloaded()
            })
            .collect()
    }

    #[test]
    fn thresholds_have_hysteresis() {
        let server = server();
        assert_eq!(overload_at(&server, &[1_000_000, 0]), [false, false], "no limit");
        server.shared.set_thresholds(8, 0);
        assert_eq!(
            overload_at(&server, &[7, 8, 7, 6, 5, 7]),
            [false, true, true, true, false, false]
        );
        server.shared.set_thresholds(8, 2);
        assert_eq!(overload_at(&server, &[8, 5, 2, 1, 7]), [true, true, true, false, false]);
    }

    #[test]
    fn thresholds_take_effect_at_once() {
        let shared = ServerShared::new(1, 0, 0);
        for _ in 0..3 {
            shared.add_connection(true);
        }
        assert!(shared.is_usable());
        shared.set_thresholds(3, 0);
        assert!(shared.is_overloaded() && !shared.is_usable() && shared.is_in_service());
        shared.set_thresholds(5, 0);
        assert!(!shared.is_overloaded(), "3 is below three quarters of 5");
        shared.set_thresholds(3, 0);
        shared.set_thresholds(0, 0);
        assert!(shared.is_usable(), "no limit");
    }

    #[test]
    fn counts_do_not_run_into_each_other() {
        let server = server();
        server.set_inactive(u32::MAX >> 1);
        server.set_active(u32::MAX);
        server.set_overloaded(true);
        let most = (server.active(), server.inactive(), server.is_overloaded());
        assert_eq!(most, (u32::MAX, u32::MAX >> 1, true));
        server.set_active(0);
        server.set_overloaded(false);
        assert_eq!((server.active(), server.inactive()), (0, u32::MAX >> 1));
    }

    #[test]
    fn usable_is_enabled_up_and_of_some_weight() {
        for weight in [0, 1, 65535] {
            for admin in [AdminState::Enabled, AdminState::Draining, AdminState::Disabled] {
                for health in [Health::Up, Health::Down] {
                    let shared = ServerShared::new(7, 0, 0);
                    shared.set_effective_weight(weight);
                    shared.set_admin(admin);
                    shared.set_health(health);
                    let said = (shared.effective_weight(), shared.admin(), shared.health());
                    assert_eq!(said, (weight, admin, health));
                    assert_eq!(shared.configured_weight(), 7);
                    let expected = (admin, health) == (AdminState::Enabled, Health::Up);
                    assert_eq!(shared.is_usable(), weight > 0 && expected, "{said:?}");
                }
            }
        }
    }

    #[test]
    fn a_configured_weight_replaces_the_effective_one_and_leaves_the_rest() {
        let shared = ServerShared::new(7, 0, 0);
        shared.set_admin(AdminState::Draining);
        shared.set_health(Health::Down);
        shared.set_effective_weight(3);
        shared.set_weight(65535);
        assert_eq!((shared.configured_weight(), shared.effective_weight()), (65535, 65535));
        assert_eq!((shared.admin(), shared.health()), (AdminState::Draining, Health::Down));
        shared.set_admin(AdminState::Enabled);
        shared.set_health(Health::Up);
        assert!(shared.is_usable());
    }

    #[test]
    fn a_server_shares_one_cache_line() {
        assert_eq!((size_of::<ServerShared>(), align_of::<ServerShared>()), (64, 64));
    }

    #[test]
    fn workers_that_open_and_close_at_once_leave_nothing_behind() {
        let server = server();
        server.shared.set_thresholds(3, 0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        server.shared.add_connection(false);
                        server.shared.move_connection(true);
                        server.shared.remove_connection(true);
                    }
                });
            }
        });
        assert!(server.shared.is_idle() && !server.is_overloaded(), "{server:?}");
    }

    #[test]
    fn thresholds_that_change_while_workers_open_are_obeyed_in_the_end() {
        for _ in 0..200 {
            let shared = ServerShared::new(1, 0, 0);
            std::thread::scope(|scope| {
                scope.spawn(|| (0..50).for_each(|_| shared.add_connection(true)));
                scope.spawn(|| {
                    (1..50).for_each(|upper| shared.set_thresholds(1000 + upper, 0));
                    shared.set_thresholds(50, 0);
                });
            });
            assert!(shared.is_overloaded());
        }
    }
}
