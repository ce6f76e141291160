//! For tests only: packet builders, fixtures, pcap files.
#![forbid(unsafe_code)]
