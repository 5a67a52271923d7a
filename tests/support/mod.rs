//! What several themes need.

pub(crate) mod rrdcached;
