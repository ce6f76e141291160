use std::net::SocketAddrV4;

/// A real server of a service, with what a scheduler has to know of it.
#[derive(Clone, Debug)]
pub struct Server {
    /// RIP:rport.
    pub endpoint: SocketAddrV4,
    /// Its share of new connections; 0 is none.
    pub weight: u16,
    /// No new connections from this many on; 0 is no limit.
    pub upper_threshold: u32,
    /// New connections again below this many; 0 is three quarters of the upper threshold.
    pub lower_threshold: u32,
    /// Established TCP connections.
    pub active: u32,
    /// All others.
    pub inactive: u32,
    /// Whether it reached its upper threshold and has not fallen below the lower one since.
    pub overloaded: bool,
}

impl Server {
    /// A server without connections.
    #[must_use]
    pub fn new(endpoint: SocketAddrV4, weight: u16) -> Server {
        Server {
            endpoint,
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
            active: 0,
            inactive: 0,
            overloaded: false,
        }
    }

    /// All its connections.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.active + self.inactive
    }

    /// Whether it may be given new connections.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.weight > 0 && !self.overloaded
    }

    /// Notes that `active` or `inactive` changed: thresholds with hysteresis, as IPVS has them.
    pub(crate) fn update_overload(&mut self) {
        if self.upper_threshold == 0 {
            self.overloaded = false;
            return;
        }
        let connections = self.connections();
        if connections >= self.upper_threshold {
            self.overloaded = true;
            return;
        }
        let is_low = match self.lower_threshold {
            0 => u64::from(connections) * 4 < u64::from(self.upper_threshold) * 3,
            lower => connections < lower,
        };
        if is_low {
            self.overloaded = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn overload_at(server: &mut Server, counts: &[u32]) -> Vec<bool> {
        counts
            .iter()
            .map(|count| {
                server.inactive = *count;
                server.update_overload();
                server.overloaded
            })
            .collect()
    }

    #[test]
    fn thresholds_have_hysteresis() {
        let mut server = Server::new(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80), 1);
        assert_eq!(overload_at(&mut server, &[1_000_000]), [false], "no limit");
        server.upper_threshold = 8;
        assert_eq!(
            overload_at(&mut server, &[7, 8, 7, 6, 5, 7]),
            [false, true, true, true, false, false]
        );
        server.lower_threshold = 2;
        assert_eq!(overload_at(&mut server, &[8, 5, 2, 1, 7]), [true, true, true, false, false]);
    }
}
