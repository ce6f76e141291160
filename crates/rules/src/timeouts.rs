use std::{ops::RangeInclusive, time::Duration};

/// Declares [`Timeouts`] and [`TimeoutOverrides`] with the same fields.
macro_rules! timeouts {
    ($($(#[$doc:meta])* $field:ident, $name:literal = $seconds:literal,)*) => {
        /// How long a connection lives without a packet, by its state. The defaults are IPVS's; those
        /// of UDP without an answer and of ICMP, for which IPVS has none, are those of Linux's
        /// connection tracking.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Timeouts {
            $($(#[$doc])* pub $field: Duration,)*
        }

        impl Default for Timeouts {
            fn default() -> Timeouts {
                Timeouts { $($field: Duration::from_secs($seconds),)* }
            }
        }

        /// Those of the [`Timeouts`] that a service has of its own.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct TimeoutOverrides {
            $($(#[$doc])* pub $field: Option<Duration>,)*
        }

        impl Timeouts {
            /// All of them, each with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, Duration)> {
                [$(($name, self.$field),)*].into_iter()
            }
        }

        impl TimeoutOverrides {
            /// Those that there are, each with its name.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, Duration)> {
                let all = [$(($name, self.$field),)*].into_iter();
                all.filter_map(|(name, timeout)| Some((name, timeout?)))
            }

            /// Whether there are none.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                *self == TimeoutOverrides::default()
            }

            /// These where they say something, else `defaults`.
            #[must_use]
            pub fn over(&self, defaults: Timeouts) -> Timeouts {
                Timeouts { $($field: self.$field.unwrap_or(defaults.$field),)* }
            }
        }

        impl From<Timeouts> for TimeoutOverrides {
            fn from(timeouts: Timeouts) -> TimeoutOverrides {
                TimeoutOverrides { $($field: Some(timeouts.$field),)* }
            }
        }
    };
}

timeouts! {
    /// TCP, both sides have agreed to talk: 900 s.
    established, "established" = 900,
    /// TCP, a host inside asked (SNAT) and nobody answered: 120 s.
    syn_sent, "syn-sent" = 120,
    /// TCP, a client asked and the handshake isn't complete: 60 s.
    syn_recv, "syn-recv" = 60,
    /// TCP, the server is done and the client isn't yet: 120 s.
    fin_wait, "fin-wait" = 120,
    /// TCP, both sides are done: 120 s.
    time_wait, "time-wait" = 120,
    /// TCP, after a reset: 10 s.
    close, "close" = 10,
    /// TCP, the client is done and the server isn't yet: 60 s.
    close_wait, "close-wait" = 60,
    /// TCP, only the last acknowledgment is missing: 30 s.
    last_ack, "last-ack" = 30,
    /// UDP, once a reply was seen: 300 s.
    udp, "udp" = 300,
    /// UDP, as long as no reply was seen: 30 s.
    udp_one_way, "udp-one-way" = 30,
    /// An ICMP echo through NAT: 30 s.
    icmp, "icmp" = 30,
}

impl Timeouts {
    /// What each can be: below a second there is no resolution, above 7 days is a slip of the pen.
    pub const LIMITS: RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);
}
