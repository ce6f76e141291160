//! The engine against a model: the simplest NAT that can be, which is also the shortest description
//! of what the engine does.
//!
//! Random steps (packets, damaged packets, fragments, ICMP errors, time, changes of the rules) are done
//! to both. After each, [`run`] compares the verdict and every byte of the packet that left, whose
//! checksums it recomputes; and [`compare`] all counters, and all that can be seen of every connection.
//!
//! # One engine or several
//!
//! A run has 1, 2 or 4 workers with an engine each, under one builder's rules, and [`steering`] brings
//! packets to them as a director does. There is one model nonetheless. That a connection's packets
//! all come to the worker that has it is checked, not assumed, and all that workers share is
//! one thing in the model: servers with their loads, the turns of `rr`, the clients that keep
//! their servers, numbers. So several workers do as one does, but for this:
//!
//! - each has a table of its own, with its own capacity, and who has to leave it is one of its
//!   connections;
//! - each has those local endpoints whose answers come to it;
//! - each pays `wrr`'s credits by itself (and has its own memory for `lblc`, whose picks are left to
//!   the engine);
//! - each looks for overlaps among the fragments that it gets, and in a director those that come
//!   before the first one of their packet wait elsewhere;
//! - one that has a connection does not see packets that came in by the wrong side, nor the answers of
//!   servers outside.
//!
//! # What the model leaves to the engine
//!
//! Where the documentation leaves a choice, the model makes the engine's ([`witness`]), provided that
//! it is one of those that are right:
//!
//! - which source port a connection gets, if it cannot have its own, and which address is a host's
//!   first choice ([`pool`]);
//! - whom a scheduler picks that goes by hashing or by chance: all usable servers are right
//!   ([`servers`]);
//! - who has to leave a full table: someone half open, else someone whose connection is over, as
//!   long as there are so many that a random search finds them;
//! - when, within 2048 ms of its deadline, a silent connection ends;
//! - whether the search for a port was long, if it can have been.
//!
//! # Running it
//!
//! `cargo test` tries a few cases. The full run is
//!
//! ```text
//! PROPTEST_CASES=10000 cargo test --release -p shunt-nat --test model
//! ```
//!
//! What fails is shrunk, printed, and its seed kept in `proptest-regressions.txt` beside this file,
//! from where it is tried first ever after.

mod changes;
mod clients;
mod compare;
mod connection;
mod flow;
mod fragments;
mod model;
mod outcome;
mod packet;
mod pool;
mod reach;
mod rewrite;
mod run;
mod servers;
mod setup;
mod state;
mod steering;
mod steps;
mod wire;
mod witness;

use proptest::{prelude::*, test_runner::FileFailurePersistence};

/// Cases that a plain `cargo test` tries.
const FEW: u32 = 32;

const REGRESSIONS: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model/proptest-regressions.txt");

fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let says_how_many = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if says_how_many { default.cases } else { FEW },
        max_shrink_iters: 1_000_000,
        max_shrink_time: 180_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(REGRESSIONS))),
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_engine_does_what_the_model_does(setup in setup::setup(), steps in steps::steps()) {
        run::run(setup, &steps).map_err(TestCaseError::fail)?;
    }
}
