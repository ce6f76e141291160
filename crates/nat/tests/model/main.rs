//! The engine against a model: the simplest NAT that can be, which is also the shortest description
//! of what the engine does.
//!
//! Random steps (packets, damaged packets, fragments, ICMP errors, time, changes of the rules) are done
//! to both. After each, [`run`] compares the verdict, every byte of the packet that left, all
//! counters, and all that can be seen of every connection; and recomputes the checksums of what
//! left.
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
