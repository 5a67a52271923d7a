//! Flush: ledgers become intervals.

use std::sync::Arc;

use crate::count::Traffic;
use crate::ixp::VliId;
use crate::resolve::Lan;

/// What the fabric carried between two moments: the unit of work of a sink.
#[derive(Clone, PartialEq, Debug)]
pub struct Interval {
    /// Start of observation, in seconds since 1970.
    pub from_secs: u64,
    /// End, in seconds since 1970, after `from_secs`: the time stamp of the updates. A multiple
    /// of the step but for a flush at shutdown or reload.
    pub to_secs: u64,
    /// Nothing is known of the time before `from_secs` (start of the daemon, a hole): files whose
    /// last update is older get `U` up to it.
    pub after_hole: bool,
    /// The VLANs and VLIs of the table at the end of the interval.
    pub lans: Arc<[Lan]>,
    /// What source sent to destination, sorted by (source, destination), each once, none idle.
    pub pairs: Vec<PairTraffic>,
}

/// What one VLI sent to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PairTraffic {
    /// The sending VLI.
    pub source: VliId,
    /// The receiving VLI.
    pub destination: VliId,
    /// How much.
    pub traffic: Traffic,
}
