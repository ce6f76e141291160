//! `[timeouts]`, and `timeouts` of a service: their keys, and what they come to.

use serde::Deserialize;
use shunt_rules::TimeoutOverrides;

use crate::{
    duration::duration,
    report::{Report, span},
    source::Span,
    value::{Scalar, Value},
};

/// Declares the table as the file has it, with the name of each key.
macro_rules! timeouts {
    ($($field:ident = $key:literal,)*) => {
        /// The table as the file has it.
        #[derive(Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Raw {
            $(#[serde(rename = $key)] $field: Value<Scalar>,)*
        }

        /// What the table says.
        pub(crate) fn read(raw: &Raw, report: &mut Report) -> TimeoutOverrides {
            let mut read = |key: &str, value: &Value<Scalar>| {
                let value = value.as_ref()?;
                report.check(value.span(), duration(key, value.get_ref()))
            };
            TimeoutOverrides { $($field: read($key, &raw.$field),)* }
        }

        /// The place of a timeout.
        pub(crate) fn locate(raw: &Raw, key: &str) -> Option<Span> {
            match key {
                $($key => span(&raw.$field),)*
                _ => None,
            }
        }
    };
}

timeouts! {
    established = "established",
    syn_sent = "syn-sent",
    syn_recv = "syn-recv",
    fin_wait = "fin-wait",
    time_wait = "time-wait",
    close = "close",
    close_wait = "close-wait",
    last_ack = "last-ack",
    udp = "udp",
    udp_one_way = "udp-one-way",
    icmp = "icmp",
}
