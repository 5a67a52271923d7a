//! What several themes need.

pub(crate) mod datagram;
pub(crate) mod disk;
pub(crate) mod exchange;
pub(crate) mod http;
pub(crate) mod ixflow;
pub(crate) mod path;
pub(crate) mod rrdcached;
