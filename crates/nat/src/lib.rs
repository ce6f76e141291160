//! The NAT engine: services, schedulers, connection table, TCP states, rewriting.
#![forbid(unsafe_code)]
