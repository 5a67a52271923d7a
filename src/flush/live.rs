//! The live view: what pairs exchange in these seconds, for as long as somebody looks.
//!
//! Who looks says so ([`Live::look`]). As long as that was within [`WATCHED`], the control plane
//! advances the epoch every [`TICK`]; workers hand their ledgers over as they do at the end of a
//! step, and the flusher, beside adding them to the step, keeps what came in the last
//! epochs and publishes their sum. Nothing is added to the path of a sample, and
//! nothing is done or kept while nobody looks.
//!
//! A slice costs 48 bytes a pair that spoke in it, the sum and its copy 120 a pair: with a million
//! pairs that all speak within two seconds, 360 MB, and a second of the flusher's time; with the
//! 50,000 that speak in two seconds at 100,000 samples a second, 20 MB and 50 ms.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use foldhash::fast::FixedState;

use super::PairTraffic;
use crate::count::{Ledger, Traffic};
use crate::ixp::VliId;
use crate::resolve::{Lan, MacTable};

/// How long after the last look the view is kept up.
pub const WATCHED: Duration = Duration::from_secs(10);

/// How often ledgers are handed over while somebody looks.
pub const TICK: Duration = Duration::from_secs(2);

/// Epochs that make the view: rates are those of about ten seconds.
const SLICES: usize = 5;

/// What the fabric carried in the last seconds.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// Start of what was counted, in milliseconds since 1970.
    pub from_millis: u64,
    /// Its end.
    pub to_millis: u64,
    /// The VLANs and VLIs of the table.
    pub lans: Arc<[Lan]>,
    /// The pairs that spoke, each once, in no order.
    pub pairs: Vec<PairTraffic>,
}

/// What lookers and flusher share.
#[derive(Debug)]
pub struct Live {
    born: Instant,
    /// Milliseconds from `born` to the last look, and one.
    looked: AtomicU64,
    kept_up: AtomicBool,
    snapshot: ArcSwapOption<Snapshot>,
}

impl Default for Live {
    fn default() -> Live {
        Live {
            born: Instant::now(),
            looked: AtomicU64::new(0),
            kept_up: AtomicBool::new(false),
            snapshot: ArcSwapOption::empty(),
        }
    }
}

impl Live {
    /// The view, if there is one already; from now on, and for [`WATCHED`], it is kept up.
    pub fn look(&self) -> Option<Arc<Snapshot>> {
        self.looked.store(self.millis() + 1, Ordering::Relaxed);
        self.snapshot.load_full()
    }

    /// Whether somebody looked of late.
    pub fn is_watched(&self) -> bool {
        let looked = self.looked.load(Ordering::Relaxed);
        let watched = u64::try_from(WATCHED.as_millis()).unwrap_or(u64::MAX);
        looked != 0 && self.millis() < looked + watched
    }

    /// Whether the epoch is to be advanced at this tick: while somebody looks, and once more, so
    /// that nothing is kept when nobody does.
    pub fn is_due(&self) -> bool {
        let watched = self.is_watched();
        self.kept_up.swap(watched, Ordering::Relaxed) || watched
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[derive(Default, Debug)]
struct Slice {
    from_millis: u64,
    to_millis: u64,
    pairs: HashMap<(VliId, VliId), Traffic, FixedState>,
}

/// The flusher's part: what came in the last epochs.
#[derive(Debug)]
pub(super) struct Collector {
    live: Arc<Live>,
    /// Of each worker: the epoch that it is in, the highest number once it has ended.
    epochs: Vec<u64>,
    /// All workers were in this epoch when the last slice ended.
    epoch: u64,
    /// The slice began when somebody looked already, and all workers with it.
    whole: bool,
    slice: Slice,
    slices: VecDeque<Slice>,
    sum: HashMap<(VliId, VliId), Traffic, FixedState>,
}

impl Collector {
    pub(super) fn new(workers: usize) -> Collector {
        Collector {
            live: Arc::default(),
            epochs: vec![0; workers],
            epoch: 0,
            whole: false,
            slice: Slice::default(),
            slices: VecDeque::new(),
            sum: HashMap::default(),
        }
    }

    pub(super) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Takes a look at a ledger that covers `millis`; `epoch` is the one that the worker is in
    /// from now on, none if it has ended.
    pub(super) fn take(
        &mut self,
        worker: usize,
        epoch: Option<u64>,
        millis: (u64, u64),
        ledger: Option<&Ledger>,
        table: &MacTable,
    ) {
        self.epochs[worker] = epoch.unwrap_or(u64::MAX);
        if !self.live.is_watched() {
            if self.whole {
                self.live.snapshot.store(None);
                let epochs = std::mem::take(&mut self.epochs);
                let live = self.live.clone();
                *self = Collector { live, epochs, epoch: self.epoch, ..Collector::new(0) };
            }
            // Who looks later is shown nothing of the epochs that workers are in already.
            let running = self.epochs.iter().copied().filter(|&epoch| epoch != u64::MAX);
            self.epoch = running.max().unwrap_or(self.epoch);
            self.slice = Slice::default();
            return;
        }
        if self.whole
            && let Some(ledger) = ledger
        {
            if self.slice.to_millis == 0 {
                self.slice.from_millis = millis.0;
            }
            self.slice.from_millis = self.slice.from_millis.min(millis.0);
            self.slice.to_millis = self.slice.to_millis.max(millis.1);
            for (cell, traffic) in ledger.iter() {
                let pair = table.vlis_of(cell);
                self.slice.pairs.entry(pair).or_default().merge(traffic);
                self.sum.entry(pair).or_default().merge(traffic);
            }
        }
        let reached = self.epochs.iter().copied().min().unwrap_or(0);
        if reached > self.epoch {
            self.epoch = reached;
            if self.whole {
                self.publish(table);
            }
            // What came before is of the time when nobody looked.
            self.whole = true;
        }
    }

    fn publish(&mut self, table: &MacTable) {
        self.slices.push_back(std::mem::take(&mut self.slice));
        while self.slices.len() > SLICES {
            let Some(oldest) = self.slices.pop_front() else { break };
            for (pair, traffic) in oldest.pairs {
                if let Some(sum) = self.sum.get_mut(&pair) {
                    subtract(sum, &traffic);
                    if sum.samples == [0, 0] {
                        self.sum.remove(&pair);
                    }
                }
            }
        }
        let from_millis = self.slices.iter().map(|slice| slice.from_millis).min().unwrap_or(0);
        let to_millis = self.slices.iter().map(|slice| slice.to_millis).max().unwrap_or(0);
        let pairs = self.sum.iter().map(|(&(source, destination), &traffic)| PairTraffic {
            source,
            destination,
            traffic,
        });
        let lans = table.lans().clone();
        let snapshot = Snapshot { from_millis, to_millis, lans, pairs: pairs.collect() };
        self.live.snapshot.store(Some(Arc::new(snapshot)));
    }
}

fn subtract(sum: &mut Traffic, part: &Traffic) {
    for protocol in 0..2 {
        sum.bytes[protocol] = sum.bytes[protocol].saturating_sub(part.bytes[protocol]);
        sum.packets[protocol] = sum.packets[protocol].saturating_sub(part.packets[protocol]);
        sum.samples[protocol] = sum.samples[protocol].saturating_sub(part.samples[protocol]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::Hit;
    use crate::ixp::{InfrastructureId, IpProtocol, Mac, MacRecord, VlanTag};

    fn table() -> MacTable {
        let record = |n: u8| MacRecord {
            infrastructure: InfrastructureId(1),
            vlan: VlanTag::new(10),
            mac: Mac::from_octets([2, 0, 0, 0, 0, n]),
            vli: VliId(100 + u32::from(n)),
        };
        MacTable::build(&[record(0), record(1)]).unwrap().0
    }

    struct Bench {
        table: MacTable,
        collector: Collector,
    }

    impl Bench {
        /// Hands over one sample of `bytes` from VLI 100 to VLI 101.
        fn hand(&mut self, worker: usize, epoch: u64, millis: (u64, u64), bytes: u32) {
            let mut ledger = Ledger::new(self.table.cell_count());
            let protocol = IpProtocol::V4;
            let hit = Hit { cell: 1, sampling_rate: 1, frame_length_bytes: bytes, protocol };
            ledger.count(&[hit]);
            self.collector.take(worker, Some(epoch), millis, Some(&ledger), &self.table);
        }

        fn seen(&self) -> Option<(u64, u64, u64, u32)> {
            let snapshot = self.collector.live.snapshot.load_full()?;
            let traffic = snapshot.pairs.first().map_or(Traffic::default(), |pair| pair.traffic);
            Some((snapshot.from_millis, snapshot.to_millis, traffic.bytes[0], traffic.samples[0]))
        }
    }

    #[test]
    fn it_shows_the_last_epochs_of_all_workers_while_somebody_looks() {
        let mut bench = Bench { table: table(), collector: Collector::new(2) };
        bench.hand(0, 1, (0, 1_000), 1);
        bench.hand(1, 1, (0, 1_000), 1);
        assert_eq!(bench.seen(), None, "nobody looks");
        let live = bench.collector.live().clone();
        assert!(!live.is_due());
        assert_eq!(live.look(), None);
        assert!(live.is_due());
        // What was counted before somebody looked is not shown.
        bench.hand(0, 2, (1_000, 9_000), 10);
        bench.hand(1, 2, (1_000, 9_000), 10);
        assert_eq!(bench.seen(), None);
        bench.hand(0, 3, (9_000, 11_000), 100);
        assert_eq!(bench.seen(), None, "the other worker is behind");
        bench.hand(1, 3, (9_000, 11_001), 100);
        assert_eq!(bench.seen(), Some((9_000, 11_001, 200, 2)));
        // A step's end is no new epoch.
        bench.hand(0, 3, (11_000, 12_000), 100);
        bench.hand(1, 3, (11_001, 12_000), 100);
        assert_eq!(bench.seen(), Some((9_000, 11_001, 200, 2)));
        for epoch in 4..4 + SLICES as u64 {
            let from_millis = 12_000 + (epoch - 4) * 2_000;
            for worker in [0, 1] {
                bench.hand(worker, epoch, (from_millis, from_millis + 2_000), 1_000);
            }
        }
        let slices = SLICES as u64;
        // The first slice and what came at the end of the step have left.
        let last = bench.seen().unwrap();
        assert_eq!((last.1, last.2), (12_000 + slices * 2_000, 2_000 * slices + 200));
        for worker in [0, 1] {
            bench.hand(worker, 99, (22_000, 24_000), 1_000);
        }
        assert_eq!(bench.seen(), Some((14_000, 24_000, 2_000 * slices, 10)));
        // Nobody looks: nothing is kept.
        live.looked.store(0, Ordering::Relaxed);
        assert!(live.is_due(), "once more");
        assert!(!live.is_due());
        bench.hand(0, 100, (24_000, 26_000), 1_000);
        assert_eq!(bench.seen(), None);
        assert!(bench.collector.sum.is_empty() && bench.collector.slices.is_empty());
    }
}
