//! The TOML service file: parsing, validation, errors with line and column.
#![forbid(unsafe_code)]
