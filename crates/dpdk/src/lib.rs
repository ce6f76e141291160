//! A safe, small wrapper over DPDK.
