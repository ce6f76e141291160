//! Golden tests of the whole data path: frames go in by a pcap file per port (net_pcap), a worker is
//! polled by hand under a clock of the test's, and what comes out is compared frame by frame, with
//! every checksum recomputed, every counter compared and every mbuf accounted for. They need neither
//! root nor huge pages.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `network` | who is who: the hosts around the director, and its service file |
//! | `case` | a case: what arrives, what must leave, what must be counted |
//! | `layout` | who plays it: one worker, or several in different ways |
//! | `stage` | where a case is played: EAL, devices, pcap files |
//! | the others | the cases |

mod case;
mod layout;
mod network;
mod stage;

mod arp;
mod balance;
mod changes;
mod control;
mod expiry;
mod fast_path;
mod forwarding;
mod fragments;
mod full_nat;
mod hairpin;
mod icmp_errors;
mod limits;
mod local;
mod malformed;
mod misplaced;
mod mss;
mod nat;
mod path_mtu;
mod policies;
mod relay;
mod schedulers;
mod snat;
mod steering;
mod vlan;
