//! Bindings to the installed libdpdk (22.11 or newer), generated when the crate is built.
//!
//! Only what `shunt-dpdk` uses is bound, under DPDK's own names, except:
//!
//! - `shunt_*`: functions of `shim.c`, for what DPDK has only as static inline functions;
//! - `MBUF_OFFSET_*`: the byte offsets of `rte_mbuf`'s fields, which differ between releases;
//! - `MBUF_F_*`, `ETH_*`: flags, named as in DPDK without `RTE_`.
//!
//! Everything here is as unsafe as DPDK is; use `shunt-dpdk`.

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::missing_safety_doc,
    clippy::semicolon_if_nothing_returned,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

/// The version of the libdpdk that was found when the crate was built, such as `22.11.11`.
pub const DPDK_VERSION: &str = env!("SHUNT_DPDK_VERSION");
