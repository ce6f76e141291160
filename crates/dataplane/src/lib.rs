//! Workers, ports, ARP, ICMP and routes.
#![forbid(unsafe_code)]
