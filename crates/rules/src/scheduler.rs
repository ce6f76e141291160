use strum::{Display, EnumString, IntoStaticStr, VariantArray};

/// How a service spreads its connections, by IPVS's names (ipvsadm(8)).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
pub enum Scheduler {
    /// Each server in turn; a weight only says whether a server takes part.
    #[strum(serialize = "rr")]
    RoundRobin,
    /// In proportion to the weights, as evenly as they allow.
    #[strum(serialize = "wrr")]
    WeightedRoundRobin,
    /// The server with the fewest connections, an active one counting as 256 others.
    #[strum(serialize = "lc")]
    LeastConnection,
    /// Like `lc`, in relation to the weight. IPVS's default, and ours.
    #[default]
    #[strum(serialize = "wlc")]
    WeightedLeastConnection,
    /// All connections to one virtual address go to one server until it is overloaded.
    #[strum(serialize = "lblc")]
    LocalityLeastConnection,
    /// Like `lblc` with a set of servers that grows under load and shrinks with time.
    #[strum(serialize = "lblcr")]
    LocalityLeastConnectionReplicated,
    /// By a hash of the virtual address.
    #[strum(serialize = "dh")]
    DestinationHash,
    /// By a hash of the client's address, so that a client keeps its server.
    #[strum(serialize = "sh")]
    SourceHash,
    /// The shortest expected delay, (active connections + 1) / weight.
    #[strum(serialize = "sed")]
    ShortestExpectedDelay,
    /// A server without active connections if there is one, else like `sed`.
    #[strum(serialize = "nq")]
    NeverQueue,
    /// The usable server of highest weight.
    #[strum(serialize = "fo")]
    Failover,
    /// The server of highest weight that has fewer active connections than weight.
    #[strum(serialize = "ovf")]
    Overflow,
    /// By Maglev hashing of the client's address: like `sh`, but when a server comes or goes, nearly
    /// all clients of the others keep theirs.
    #[strum(serialize = "mh")]
    Maglev,
    /// Of two servers drawn at random by weight, the one with less load.
    #[strum(serialize = "twos")]
    PowerOfTwo,
}

impl Scheduler {
    /// All of them, in the order of ipvsadm(8)'s list where it has them.
    pub const ALL: &[Scheduler] = Scheduler::VARIANTS;

    /// IPVS's name for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How the hashing schedulers `sh`, `dh` and `mh` go about it; the others don't look. ipvsadm's
/// `-b`, which knows them for `sh` and `mh` only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerFlags {
    /// `sh-fallback`, `mh-fallback`: a request whose server is beyond its upper threshold goes to
    /// another one, rather than being refused.
    pub fallback: bool,
    /// `sh-port`, `mh-port`: the port counts too, not the address alone.
    pub port: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for scheduler in Scheduler::ALL {
            assert_eq!(scheduler.as_str().parse(), Ok(*scheduler));
            assert_eq!(scheduler.to_string(), scheduler.as_str());
        }
        assert!("WLC".parse::<Scheduler>().is_err());
    }
}
