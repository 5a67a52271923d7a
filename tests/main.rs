//! Integration tests, one binary with a module per theme.

mod sink;
mod support;
