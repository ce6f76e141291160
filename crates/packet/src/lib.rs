//! Header views over bytes, and Internet checksums.
#![forbid(unsafe_code)]
