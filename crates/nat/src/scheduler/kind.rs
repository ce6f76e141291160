use std::{fmt, str::FromStr};

/// How a service spreads its connections, by IPVS's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SchedulerKind {
    /// `rr`: each server in turn; a weight only says whether a server takes part.
    RoundRobin,
    /// `wrr`: in proportion to the weights, as evenly as they allow.
    WeightedRoundRobin,
    /// `lc`: the server with the fewest connections, an active one counting as 256 others.
    LeastConnection,
    /// `wlc`: like `lc`, in relation to the weight. IPVS's default, and ours.
    #[default]
    WeightedLeastConnection,
    /// `sed`: the shortest expected delay, (active connections + 1) / weight.
    ShortestExpectedDelay,
    /// `nq`: a server without active connections if there is one, else like `sed`.
    NeverQueue,
    /// `sh`: by a hash of the client's address, so that a client keeps its server.
    SourceHash,
    /// `dh`: by a hash of the virtual address.
    DestinationHash,
    /// `mh`: by Maglev hashing of the client's address: like `sh`, but when a server comes or
    /// goes, nearly all clients of the others keep theirs.
    Maglev,
    /// `lblc`: all connections to one virtual address go to one server until it is overloaded.
    LocalityLeastConnection,
    /// `lblcr`: like `lblc` with a set of servers that grows under load and shrinks with time.
    LocalityLeastConnectionReplicated,
    /// `fo`: the usable server of highest weight.
    Failover,
    /// `ovf`: the server of highest weight that has fewer active connections than weight.
    Overflow,
    /// `twos`: of two servers drawn at random by weight, the one with less load.
    PowerOfTwo,
}

impl SchedulerKind {
    /// All of them, in the order of ipvsadm(8)'s list where it has them.
    pub const ALL: [SchedulerKind; 14] = [
        SchedulerKind::RoundRobin,
        SchedulerKind::WeightedRoundRobin,
        SchedulerKind::LeastConnection,
        SchedulerKind::WeightedLeastConnection,
        SchedulerKind::LocalityLeastConnection,
        SchedulerKind::LocalityLeastConnectionReplicated,
        SchedulerKind::DestinationHash,
        SchedulerKind::SourceHash,
        SchedulerKind::ShortestExpectedDelay,
        SchedulerKind::NeverQueue,
        SchedulerKind::Failover,
        SchedulerKind::Overflow,
        SchedulerKind::Maglev,
        SchedulerKind::PowerOfTwo,
    ];

    /// Whether a connection that opens or ends changes which server is chosen next.
    pub(crate) fn compares_loads(self) -> bool {
        match self {
            SchedulerKind::RoundRobin
            | SchedulerKind::WeightedRoundRobin
            | SchedulerKind::SourceHash
            | SchedulerKind::DestinationHash
            | SchedulerKind::Maglev
            | SchedulerKind::Failover => false,
            SchedulerKind::LeastConnection
            | SchedulerKind::WeightedLeastConnection
            | SchedulerKind::ShortestExpectedDelay
            | SchedulerKind::NeverQueue
            | SchedulerKind::LocalityLeastConnection
            | SchedulerKind::LocalityLeastConnectionReplicated
            | SchedulerKind::Overflow
            | SchedulerKind::PowerOfTwo => true,
        }
    }

    /// IPVS's name for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            SchedulerKind::RoundRobin => "rr",
            SchedulerKind::WeightedRoundRobin => "wrr",
            SchedulerKind::LeastConnection => "lc",
            SchedulerKind::WeightedLeastConnection => "wlc",
            SchedulerKind::LocalityLeastConnection => "lblc",
            SchedulerKind::LocalityLeastConnectionReplicated => "lblcr",
            SchedulerKind::DestinationHash => "dh",
            SchedulerKind::SourceHash => "sh",
            SchedulerKind::ShortestExpectedDelay => "sed",
            SchedulerKind::NeverQueue => "nq",
            SchedulerKind::Failover => "fo",
            SchedulerKind::Overflow => "ovf",
            SchedulerKind::Maglev => "mh",
            SchedulerKind::PowerOfTwo => "twos",
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SchedulerKind {
    type Err = UnknownScheduler;

    /// By IPVS's name, in lower case.
    fn from_str(name: &str) -> Result<SchedulerKind, UnknownScheduler> {
        let kind = SchedulerKind::ALL.into_iter().find(|kind| kind.as_str() == name);
        kind.ok_or_else(|| UnknownScheduler { name: name.to_owned() })
    }
}

/// A scheduler's name that means none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownScheduler {
    /// The name.
    pub name: String,
}

impl fmt::Display for UnknownScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = SchedulerKind::ALL.map(SchedulerKind::as_str).join(", ");
        write!(f, "there is no scheduler '{}'; write one of {names}", self.name)
    }
}

impl std::error::Error for UnknownScheduler {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for kind in SchedulerKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(kind.to_string(), kind.as_str());
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = "WLC".parse::<SchedulerKind>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no scheduler 'WLC'; write one of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, \
             nq, fo, ovf, mh, twos"
        );
    }
}
