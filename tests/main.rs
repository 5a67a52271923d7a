//! Integration tests, one binary with a module per theme.

mod decode;
mod simulate;
