//! What the fuzz targets share.
//!
//! | target | its input | what must hold |
//! | --- | --- | --- |
//! | `frame` | an Ethernet frame, repeated, into a director that has seen all sorts of traffic | as below |
//! | `sequence` | [`Step`]s: packets, answers to what left, errors about it, time, changed rules | no panic; the [checks of a packet](checks); a packet that took the fast path is what the slow path makes of it; after every step the invariants of the engine's own tests; and in the end nothing is left |
//! | `service_file` | the bytes of a service file | no panic; complaints point into the text; what is accepted can be run |
//!
//! `scripts/fuzz` runs them. `seeds/` is what they start from: `cargo run --example seeds`, here,
//! writes it anew.
#![forbid(unsafe_code)]

pub mod checks;
mod director;
mod endpoints;
mod fast_path;
// One definition of what always holds, for the engine's tests and for these.
#[path = "../../tests/engine/invariants.rs"]
mod invariants;
mod packet;
mod scenes;

mod steps;

pub use director::Director;
pub use packet::mend;
pub use scenes::scenes;
pub use steps::{Answer, Built, Burst, Change, Error, Raw, Replay, Step, Steps, Wait};
