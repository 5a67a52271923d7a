//! What the simulator said, beside what was counted and what the files hold.

use std::collections::BTreeMap;
use std::path::Path;

use super::{DemoError, Summary};
use crate::agent::Totals;
use crate::count::Traffic;
use crate::flush::PairTraffic;
use crate::ixp::{IpProtocol, Unit, VlanTag, VliId};
use crate::simulate::{Fabric, Sides, Truth};
use crate::sink::librrd::{fetch, open_step};
use crate::sink::{Consolidation, File, STEP_SECS};

/// Differences that are told one by one; further ones are only counted.
const DIFFERENCES_MAX: usize = 8;

/// What was said within one step.
#[derive(Default)]
struct Step {
    /// Sorted by source and destination.
    pairs: Vec<PairTraffic>,
    individuals: BTreeMap<VliId, Sides>,
    vlans: BTreeMap<VlanTag, Traffic>,
}

/// What was said, as the files are to hold it.
pub(super) struct Said {
    /// By the end of the step, in seconds since 1970.
    steps: BTreeMap<u64, Step>,
    all: Step,
    files: Vec<File>,
}

impl Said {
    pub(super) fn new(fabric: &Fabric, truth: &Truth) -> Said {
        let mut steps = BTreeMap::new();
        let mut all = Step { pairs: truth.pairs(), ..Step::default() };
        for interval in &truth.intervals {
            let mut step = Step {
                pairs: interval.pairs.clone(),
                individuals: interval.individuals(),
                vlans: BTreeMap::new(),
            };
            // Infrastructures that use one tag share its aggregate.
            for ((_, vlan), traffic) in interval.aggregates(fabric) {
                step.vlans.entry(vlan).or_default().merge(&traffic);
                all.vlans.entry(vlan).or_default().merge(&traffic);
            }
            for (&vli, sides) in &step.individuals {
                let sum = all.individuals.entry(vli).or_default();
                sum.sent.merge(&sides.sent);
                sum.received.merge(&sides.received);
            }
            steps.insert(interval.to_secs, step);
        }
        let mut files = Vec::new();
        for protocol in IpProtocol::ALL {
            for unit in Unit::ALL {
                for pair in &all.pairs {
                    let (vli, peer) = (pair.source, pair.destination);
                    if pair.traffic.samples[protocol as usize] > 0 {
                        files.push(File::Pair { protocol, unit, vli, peer });
                        files.push(File::Pair { protocol, unit, vli: peer, peer: vli });
                    }
                }
                for vli in fabric.vlis() {
                    files.push(File::Individual { protocol, unit, vli: vli.id });
                    files.push(File::Aggregate {
                        protocol,
                        unit,
                        vlan: vli.vlan,
                        infrastructure: None,
                    });
                }
            }
        }
        files.sort_by_cached_key(ToString::to_string);
        files.dedup();
        Said { steps, all, files }
    }

    /// All files that must be there, by path.
    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    /// What all pairs sent in all.
    pub(super) fn pairs(&self) -> &[PairTraffic] {
        &self.all.pairs
    }

    /// `traffic_in` and `traffic_out` of a file in all.
    pub(super) fn of(&self, file: &File) -> [Traffic; 2] {
        self.all.of(file)
    }
}

impl Step {
    /// `traffic_in` and `traffic_out` of a file. Of a pair, in is what the peer sent; of an
    /// individual, what the VLI itself sent.
    fn of(&self, file: &File) -> [Traffic; 2] {
        let sent = |source: VliId, destination: VliId| {
            let key = (source, destination);
            let place = self.pairs.binary_search_by_key(&key, |p| (p.source, p.destination));
            place.map_or(Traffic::default(), |place| self.pairs[place].traffic)
        };
        match *file {
            File::Pair { vli, peer, .. } => [sent(peer, vli), sent(vli, peer)],
            File::Individual { vli, .. } => {
                let sides = self.individuals.get(&vli).copied().unwrap_or_default();
                [sides.sent, sides.received]
            }
            File::Aggregate { vlan, .. } => [self.vlans.get(&vlan).copied().unwrap_or_default(); 2],
        }
    }

    /// The same in bytes or packets of the file's protocol.
    fn totals(&self, file: &File) -> [u64; 2] {
        let (protocol, unit) = file.family();
        self.of(file).map(|traffic| traffic.of(protocol, unit))
    }
}

/// What a comparison came to.
#[derive(Default)]
pub(super) struct Found {
    /// Files that were read.
    pub(super) files: u64,
    /// Their rows, the step that is not over included.
    pub(super) rows: u64,
    /// How often something was not as it should be.
    pub(super) differing: u64,
    /// The first of these.
    pub(super) differences: Vec<String>,
}

impl Found {
    fn differs(&mut self, difference: impl FnOnce() -> String) {
        self.differing += 1;
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(difference());
        }
    }

    /// Compares the sums over everything.
    pub(super) fn counters(&mut self, truth: &Truth, totals: &Totals, socket_drops: Option<u64>) {
        let pairs = truth.intervals.iter().flat_map(|interval| &interval.pairs);
        let samples: u64 = pairs.flat_map(|pair| pair.traffic.samples).map(u64::from).sum();
        for (what, said, seen) in [
            ("datagrams", truth.datagrams, totals.datagrams),
            ("flow samples", truth.flow_samples, totals.flow_samples),
            ("counters samples", truth.counters_samples, totals.counters_samples),
            ("samples counted for pairs", samples, totals.counted),
        ] {
            if said != seen {
                self.differs(|| format!("{what}: {seen} of {said}"));
            }
        }
        for ((loss, said), (_, seen)) in truth.losses.iter().zip(totals.losses.iter()) {
            if said != seen {
                self.differs(|| {
                    format!("samples not counted as {}: {seen} of {said}", loss.name())
                });
            }
        }
        if let Some(drops @ 1..) = socket_drops {
            self.differs(|| format!("datagrams that the kernel dropped on the socket: {drops}"));
        }
    }

    /// Compares every file with what it is to hold: row by row up to the step in which the live
    /// part began, and from there on in sum, because a datagram that is sent at the end of a step
    /// may well be received in the next.
    pub(super) fn files(
        &mut self,
        said: &Said,
        root: &Path,
        summary: &Summary,
    ) -> Result<(), DemoError> {
        let rows_end_secs = summary.rows_end_secs();
        let live_from_secs = summary.live_from_secs - summary.live_from_secs % STEP_SECS;
        let nothing = Step::default();
        for file in said.files() {
            self.files += 1;
            let path = file.path(root);
            if !path.exists() {
                self.differs(|| format!("{file} does not exist"));
                continue;
            }
            let failed = |error| DemoError::Rrd { file: *file, error };
            let from_secs = summary.from_secs;
            let rows = fetch(&path, Consolidation::Average, from_secs, rows_end_secs, STEP_SECS)
                .map_err(failed)?;
            let open = open_step(&path).map_err(failed)?;
            self.rows += rows.len() as u64 + 1;
            let mut live = open.map(whole);
            for row in &rows {
                let seen = row.values.map(|rate| whole(rate * STEP_SECS as f64));
                if row.end_secs > live_from_secs {
                    for (live, seen) in live.iter_mut().zip(seen) {
                        *live = live.zip(seen).map(|(live, seen)| live + seen);
                    }
                    continue;
                }
                let step = said.steps.get(&row.end_secs).unwrap_or(&nothing).totals(file);
                if seen != step.map(Some) {
                    let end_secs = row.end_secs;
                    self.differs(|| format!("{file} up to {end_secs}: {seen:?} of {step:?}"));
                }
            }
            let mut rest = [0; 2];
            for step in said.steps.range(live_from_secs + 1..).map(|(_, step)| step.totals(file)) {
                for (rest, step) in rest.iter_mut().zip(step) {
                    *rest += step;
                }
            }
            if live != rest.map(Some) {
                self.differs(|| format!("{file} from {live_from_secs} on: {live:?} of {rest:?}"));
            }
        }
        Ok(())
    }
}

/// The whole number that a file holds as a rate; none if it is unknown.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and NaN is sorted out")]
fn whole(value: f64) -> Option<u64> {
    (value >= 0.0).then(|| value.round() as u64)
}
