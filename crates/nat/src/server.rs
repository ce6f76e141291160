use std::{
    net::SocketAddrV4,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use shunt_rules::ServerId;

/// A real server of a service, with what a scheduler has to know of it.
#[derive(Clone, Debug)]
pub struct Server {
    pub(crate) id: ServerId,
    pub(crate) endpoint: SocketAddrV4,
    pub(crate) weight: u16,
    pub(crate) upper_threshold: u32,
    pub(crate) lower_threshold: u32,
    pub(crate) load: Arc<ServerLoad>,
}

/// A server's connections, on all workers. Written when one opens, ends, or becomes active or
/// inactive; read when a server is chosen. Those that a worker is about to open count, too.
///
/// It is one word: two workers can't see halves of each other's changes, and whoever makes the last
/// change derives the overload from what is really there. Kept apart, a late write of the overload
/// could outlive the connections that it was derived from, and refuse connections for ever.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct ServerLoad(AtomicU64);

/// What is in that word.
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

impl ServerLoad {
    fn get(&self) -> Load {
        Load::from_bits(self.0.load(Relaxed))
    }

    /// Whether no worker has a connection to the server.
    pub(crate) fn is_idle(&self) -> bool {
        let Load { active, inactive, .. } = self.get();
        active == 0 && inactive == 0
    }
}

impl Server {
    /// A server without connections.
    #[cfg(test)]
    pub(crate) fn new(id: ServerId, endpoint: SocketAddrV4, weight: u16) -> Server {
        let load = Arc::default();
        Server { id, endpoint, weight, upper_threshold: 0, lower_threshold: 0, load }
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

    /// Its share of new connections; 0 is none.
    #[must_use]
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Established TCP connections, on all workers.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.load.get().active
    }

    /// All others, on all workers.
    #[must_use]
    pub fn inactive(&self) -> u32 {
        self.load.get().inactive
    }

    /// All its connections, on all workers.
    #[must_use]
    pub fn connections(&self) -> u32 {
        let Load { active, inactive, .. } = self.load.get();
        active + inactive
    }

    /// Whether it reached its upper threshold and has not fallen below the lower one since.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.load.get().overloaded
    }

    /// Whether it may be given new connections.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.weight > 0 && !self.is_overloaded()
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

    /// The thresholds may have changed.
    pub(crate) fn apply_thresholds(&self) {
        self.change(|_| ());
    }

    fn change(&self, change: impl Fn(&mut Load)) {
        let changed = |bits| {
            let mut load = Load::from_bits(bits);
            change(&mut load);
            load.overloaded = self.is_overloaded_by(load);
            Some(load.to_bits())
        };
        // It is never `None`, so this can't fail.
        let _ = self.load.0.fetch_update(Relaxed, Relaxed, changed);
    }

    /// Thresholds with hysteresis, as IPVS has them.
    fn is_overloaded_by(&self, load: Load) -> bool {
        if self.upper_threshold == 0 {
            return false;
        }
        let connections = load.active + load.inactive;
        if connections >= self.upper_threshold {
            return true;
        }
        let is_low = match self.lower_threshold {
            0 => u64::from(connections) * 4 < u64::from(self.upper_threshold) * 3,
            lower => connections < lower,
        };
        load.overloaded && !is_low
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
        let mut load = self.load.get();
        set(&mut load);
        self.load.0.store(load.to_bits(), Relaxed);
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
                server.apply_thresholds();
                server.is_overloaded()
            })
            .collect()
    }

    #[test]
    fn thresholds_have_hysteresis() {
        let mut server = server();
        assert_eq!(overload_at(&server, &[1_000_000]), [false], "no limit");
        server.upper_threshold = 8;
        assert_eq!(
            overload_at(&server, &[7, 8, 7, 6, 5, 7]),
            [false, true, true, true, false, false]
        );
        server.lower_threshold = 2;
        assert_eq!(overload_at(&server, &[8, 5, 2, 1, 7]), [true, true, true, false, false]);
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
    fn workers_that_open_and_close_at_once_leave_nothing_behind() {
        let server = Server { upper_threshold: 3, ..server() };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        server.add_connection(false);
                        server.move_connection(true);
                        server.remove_connection(true);
                    }
                });
            }
        });
        assert!(server.load.is_idle() && !server.is_overloaded(), "{server:?}");
    }
}
