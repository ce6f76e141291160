//! Whatever may happen to a director, in any order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shunt_nat_fuzz::{Director, Steps};

fuzz_target!(|steps: Steps| {
    let mut director = Director::new();
    steps.0.iter().for_each(|step| director.step(step));
    director.end();
});
