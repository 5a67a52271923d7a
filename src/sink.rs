//! Sinks: where intervals are written.
pub mod librrd;
pub mod rrdcached;
