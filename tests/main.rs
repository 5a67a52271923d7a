//! Integration tests, one binary with a module per theme.

mod decode;
mod simulate;
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod config;
mod sink;
mod support;
