//! Integration tests, one binary with a module per theme.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod check;
mod compare;
mod config;
mod decode;
mod demo;
mod direct;
mod docs;
mod hostile;
mod house;
mod outage;
mod page;
mod policy;
mod quality;
mod replay;
mod restart;
mod run;
mod service;
mod simulate;
mod sink;
mod spread;
mod support;
mod top;
mod tree;
mod truth;
mod web;
mod worker;
