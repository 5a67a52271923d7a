//! Flush: the workers' ledgers become intervals, cut exactly at the steps of wall time.
//!
//! Every worker hands over a ledger whenever a step ends, by its own stamps. An interval is
//! complete when all workers have passed its end; it covers the seconds since the end of the one
//! before, or since observation began. A flush on request, and the last one, end inside a step:
//! RRD averages the part and the rest exactly.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use foldhash::fast::FixedState;

use self::backlog::Backlog;
use self::format::Saved;
use self::live::{Collector, Live};
use crate::count::{Ledger, Traffic};
use crate::ixp::{InfrastructureId, VlanTag, VliId};
use crate::resolve::{Lan, MacTable};
use crate::state::Pulse;
use crate::worker::{Epoch, Handover};

pub mod backlog;
pub mod format;
pub mod live;
pub mod spool;

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
    /// What was sent on each VLAN, sorted by tag and infrastructure, each once, none idle: by the
    /// table with which it came, where a VLI moved from one to another.
    pub vlans: Vec<VlanTraffic>,
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

/// What was sent on the VLAN of an infrastructure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VlanTraffic {
    /// The tag.
    pub vlan: VlanTag,
    /// The infrastructure; none: a file of version 1 does not say it.
    pub infrastructure: Option<InfrastructureId>,
    /// How much.
    pub traffic: Traffic,
}

/// Sums of ledgers.
#[derive(Clone, Default, Debug)]
struct Counts {
    pairs: HashMap<(VliId, VliId), Traffic, FixedState>,
    vlans: BTreeMap<(VlanTag, InfrastructureId), Traffic>,
}

impl Counts {
    fn add(&mut self, ledger: &Ledger, table: &MacTable) {
        for (cell, traffic) in ledger.iter() {
            self.pairs.entry(table.vlis_of(cell)).or_default().merge(traffic);
            let (infrastructure, vlan) = table.home_of(cell);
            self.vlans.entry((vlan, infrastructure)).or_default().merge(traffic);
        }
    }

    fn merge(&mut self, other: Counts) {
        for (pair, traffic) in other.pairs {
            self.pairs.entry(pair).or_default().merge(&traffic);
        }
        for (vlan, traffic) in other.vlans {
            self.vlans.entry(vlan).or_default().merge(&traffic);
        }
    }
}

/// Counts of one step, as far as they were handed over.
#[derive(Clone, Debug)]
struct Step {
    from_millis: u64,
    /// Up to where it was observed.
    to_millis: u64,
    counts: Counts,
}

/// Counts that are not cut into intervals yet.
#[derive(Clone, Debug)]
struct Open {
    step_secs: u64,
    /// By the end of the step, in seconds since 1970.
    steps: BTreeMap<u64, Step>,
    /// End of the last interval.
    covered_to_secs: Option<u64>,
    lans: Arc<[Lan]>,
}

/// What was counted at some moment and is in no interval: what a restart must know.
#[derive(Debug)]
struct OpenStep {
    open: Open,
    to_secs: u64,
}

impl OpenStep {
    /// As intervals up to that moment; none while nothing was observed.
    fn into_saved(mut self, acknowledged_to_secs: u64) -> Option<Saved> {
        let mut open = Vec::new();
        self.open.finish(self.to_secs, &mut |interval| open.push(interval));
        let covered_to_secs = self.open.covered_to_secs?;
        Some(Saved { covered_to_secs, acknowledged_to_secs, open })
    }
}

#[derive(Clone, Copy, Default, Debug)]
struct Progress {
    epoch: u64,
    to_millis: u64,
    ended: bool,
}

/// Merges ledgers, and cuts intervals.
pub struct Flusher {
    epoch: Arc<Epoch>,
    handovers: Receiver<Handover>,
    spares: Vec<Sender<Ledger>>,
    backlog: Arc<Backlog>,
    workers: Vec<Progress>,
    open: Open,
    lans_epoch: u64,
    flushed_epoch: u64,
    /// The epoch of the request to flush that comes next, if it is above `flushed_epoch`.
    awaited_epoch: u64,
    /// The epoch whose ledgers are to be saved.
    save_epoch: Option<u64>,
    collector: Collector,
}

impl Flusher {
    /// A flusher for as many workers as there are `spares`, to which empty ledgers go back. It
    /// goes on where the backlog's earlier run ended, and saves as often as the backlog says.
    pub fn new(
        step_secs: u32,
        epoch: Arc<Epoch>,
        handovers: Receiver<Handover>,
        spares: Vec<Sender<Ledger>>,
        backlog: Arc<Backlog>,
    ) -> Flusher {
        let workers = vec![Progress::default(); spares.len()];
        let open = Open {
            step_secs: u64::from(step_secs),
            steps: BTreeMap::new(),
            covered_to_secs: backlog.resumed_to_secs(),
            lans: epoch.plan().table.lans().clone(),
        };
        Flusher {
            collector: Collector::new(spares.len()),
            open,
            epoch,
            handovers,
            spares,
            backlog,
            workers,
            lans_epoch: 0,
            flushed_epoch: 0,
            awaited_epoch: 0,
            save_epoch: None,
        }
    }

    /// What the fabric carries at the moment, for those who look.
    pub fn live(&self) -> Arc<Live> {
        self.collector.live().clone()
    }

    /// Runs until all workers have ended, flushes the rest, and closes the backlog.
    pub fn run(mut self, pulse: &Pulse) {
        let save_every = self.backlog.save_every();
        let mut save_at = save_every.map(|every| Instant::now() + every);
        loop {
            let received = match save_at {
                Some(at) => self.handovers.recv_deadline(at),
                None => self.handovers.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(handover) => {
                    pulse.turn();
                    self.take(handover);
                    pulse.turn();
                }
                Err(RecvTimeoutError::Timeout) => {
                    save_at = save_every.map(|every| Instant::now() + every);
                    if self.save_epoch.is_none() {
                        self.save_epoch = Some(self.epoch.advance());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // All is in intervals: what was saved before must not be read again.
        self.backlog.save(OpenStep { open: self.open, to_secs: 0 });
        self.backlog.close();
    }

    fn take(&mut self, handover: Handover) {
        let Handover { worker, epoch, from_millis, to_millis, mut ledger, plan, set_back, last } =
            handover;
        let counted = (!set_back && plan.table.cell_count() > 0).then_some(&ledger);
        let millis = (from_millis, to_millis);
        self.collector.take(worker, (!last).then_some(epoch), millis, counted, &plan.table);
        if set_back {
            self.backlog.give_up_set_back(&ledger);
        } else if plan.table.cell_count() > 0 {
            // Without a table nothing is observed: the first interval begins with the first table.
            let step = self.open.step_at(from_millis, to_millis);
            step.counts.add(&ledger, &plan.table);
        }
        // The next ledger belongs to the plan of the worker's epoch.
        if epoch >= self.lans_epoch {
            self.lans_epoch = epoch;
            self.open.lans = plan.table.lans().clone();
        }
        ledger.clear();
        // A worker that has ended, or has spares enough, needs none.
        let _ = self.spares[worker].try_send(ledger);
        self.workers[worker] = Progress { epoch, to_millis, ended: last };
        self.cut();
    }

    fn cut(&mut self) {
        let mut push = |interval| self.backlog.push(interval);
        let all_ended = self.workers.iter().all(|worker| worker.ended);
        // A worker that has ended holds nobody up.
        let passed = self.workers.iter().filter(|worker| !worker.ended || all_ended);
        let passed_secs = passed.map(|worker| worker.to_millis).min().unwrap_or(0) / 1_000;
        while let Some((&end_secs, _)) = self.open.steps.first_key_value() {
            if end_secs > passed_secs {
                break;
            }
            self.open.emit(end_secs, end_secs, &mut push);
        }
        let requested = self.epoch.flush_requested();
        if self.awaited_epoch <= self.flushed_epoch {
            self.awaited_epoch = requested;
        }
        // The request that was seen first is awaited: later ones must not put it off for ever.
        let awaited = self.awaited_epoch;
        let reached =
            |epoch: u64| self.workers.iter().all(|worker| worker.ended || worker.epoch >= epoch);
        let to_millis = self.workers.iter().map(|worker| worker.to_millis).max();
        let to_secs = to_millis.unwrap_or(0).div_ceil(1_000);
        if all_ended {
            self.flushed_epoch = awaited;
            self.open.finish(to_secs, &mut push);
        } else if awaited > self.flushed_epoch && reached(awaited) {
            self.flushed_epoch = awaited;
            self.open.emit_first(to_secs, &mut push);
        }
        if self.save_epoch.is_some_and(reached) {
            self.save_epoch = None;
            self.backlog.save(OpenStep { open: self.open.clone(), to_secs });
        }
    }
}

impl Open {
    /// The step of a ledger that covers these milliseconds.
    fn step_at(&mut self, from_millis: u64, to_millis: u64) -> &mut Step {
        let step_millis = self.step_secs * 1_000;
        // A ledger of no duration at a boundary belongs to the step that begins there.
        let end = if to_millis > from_millis {
            to_millis.div_ceil(step_millis)
        } else {
            to_millis / step_millis + 1
        };
        // What comes too late for its step goes into the next: bytes are kept, not seconds.
        let next = self.covered_to_secs.map_or(0, |covered| covered / self.step_secs + 1);
        let end_secs = end.max(next) * self.step_secs;
        let step = self.steps.entry(end_secs).or_insert_with(|| Step {
            from_millis,
            to_millis,
            counts: Counts::default(),
        });
        step.from_millis = step.from_millis.min(from_millis);
        step.to_millis = step.to_millis.max(to_millis);
        step
    }

    /// Hands on everything, up to `to_secs`.
    fn finish(&mut self, to_secs: u64, push: &mut impl FnMut(Interval)) {
        self.emit_first(to_secs, push);
        self.emit_rest(to_secs, push);
    }

    /// Hands on the first step as far as it goes.
    fn emit_first(&mut self, to_secs: u64, push: &mut impl FnMut(Interval)) {
        if let Some((&end_secs, _)) = self.steps.first_key_value() {
            self.emit(end_secs, to_secs.min(end_secs), push);
        }
    }

    /// At the end: what is left goes into one more interval, which borrows a second where the
    /// one before covered all.
    fn emit_rest(&mut self, to_secs: u64, push: &mut impl FnMut(Interval)) {
        while let Some((&end_secs, step)) = self.steps.last_key_value() {
            if step.counts.pairs.is_empty() {
                self.steps.remove(&end_secs);
                continue;
            }
            if self.steps.len() > 1 {
                // Into the step before, of which the last one is the sum in the end.
                let Some((_, last)) = self.steps.pop_last() else { return };
                if let Some(mut before) = self.steps.last_entry() {
                    before.get_mut().counts.merge(last.counts);
                }
                continue;
            }
            let covered_secs = self.covered_to_secs.unwrap_or(0);
            let begun_secs = step.from_millis.div_ceil(1_000);
            self.emit(end_secs, to_secs.max(covered_secs + 1).max(begun_secs + 1), push);
        }
    }

    /// Hands on what is known of the step that ends at `end_secs` as an interval up to `to_secs`.
    fn emit(&mut self, end_secs: u64, to_secs: u64, push: &mut impl FnMut(Interval)) {
        let Some(step) = self.steps.remove(&end_secs) else { return };
        // The end of the interval before was rounded up as well, by the daemon that ran before
        // a restart too: files would spread these counts over fewer seconds than they are for.
        let observed_secs = step.from_millis.div_ceil(1_000);
        let from_secs =
            self.covered_to_secs.map_or(observed_secs, |covered| covered.max(observed_secs));
        // A hole begins where observation ended, not at the end of the step.
        let observed_to_secs = step.to_millis.div_ceil(1_000);
        let to_secs =
            if observed_to_secs > from_secs { to_secs.min(observed_to_secs) } else { to_secs };
        if to_secs <= from_secs {
            // No second is left to spread the counts over: they go into the next step.
            let next = self
                .steps
                .entry((to_secs / self.step_secs + 1) * self.step_secs)
                .or_insert_with(|| Step {
                    from_millis: step.from_millis,
                    to_millis: step.to_millis,
                    counts: Counts::default(),
                });
            next.counts.merge(step.counts);
            return;
        }
        let Counts { pairs, vlans } = step.counts;
        let mut pairs: Vec<PairTraffic> = pairs
            .into_iter()
            .map(|((source, destination), traffic)| PairTraffic { source, destination, traffic })
            .collect();
        pairs.sort_unstable_by_key(|pair| (pair.source, pair.destination));
        push(Interval {
            from_secs,
            to_secs,
            after_hole: self.covered_to_secs != Some(from_secs),
            lans: self.lans.clone(),
            pairs,
            vlans: vlans
                .into_iter()
                .map(|((vlan, infrastructure), traffic)| VlanTraffic {
                    vlan,
                    infrastructure: Some(infrastructure),
                    traffic,
                })
                .collect(),
        });
        self.covered_to_secs = Some(to_secs);
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]
mod tests {
    use crossbeam_channel::bounded;
    use proptest::prelude::*;

    use super::backlog::WhenFull;
    use super::*;
    use crate::agent::Agents;
    use crate::count::Hit;
    use crate::ixp::{InfrastructureId, IpProtocol, Mac, MacRecord};
    use crate::resolve::{Plan, Policy};
    use crate::state::{GivenUp, State};

    fn plan(vlis: u32) -> Plan {
        let records: Vec<_> = (0..vlis)
            .map(|n| MacRecord {
                infrastructure: InfrastructureId(1),
                vlan: VlanTag::new(10),
                mac: Mac::from_octets([2, 0, 0, 0, 0, n as u8]),
                vli: VliId(100 + n),
            })
            .collect();
        Plan { table: MacTable::build(&records).unwrap().0, policy: Policy::default() }
    }

    struct Bench {
        flusher: Flusher,
        backlog: Arc<Backlog>,
        epoch: Arc<Epoch>,
        state: Arc<State>,
        /// What is handed over came while the clock was set back.
        set_back: bool,
    }

    impl Bench {
        fn new(workers: usize) -> Bench {
            let epoch = Arc::new(Epoch::new(plan(3)));
            let state = Arc::new(State::new(Agents::new(1, 1), workers));
            let backlog = Arc::new(Backlog::new(1_000, WhenFull::DropOldest, 1, state.clone()));
            let spares = (0..workers).map(|_| bounded(1).0).collect();
            let (_, handovers) = bounded(1);
            let flusher = Flusher::new(300, epoch.clone(), handovers, spares, backlog.clone());
            Bench { flusher, backlog, epoch, state, set_back: false }
        }

        /// Hands over `bytes` that VLI 100 sent to VLI 101.
        fn hand_over(&mut self, worker: usize, epoch: u64, millis: (u64, u64), bytes: u32) {
            self.hand(worker, epoch, millis, bytes, false);
        }

        fn hand(&mut self, worker: usize, epoch: u64, millis: (u64, u64), bytes: u32, last: bool) {
            let plan = self.epoch.plan();
            let mut ledger = Ledger::new(plan.table.cell_count());
            if bytes > 0 {
                ledger.count(&[Hit {
                    cell: 1,
                    sampling_rate: 1,
                    frame_length_bytes: bytes,
                    protocol: IpProtocol::V4,
                }]);
            }
            let (from_millis, to_millis) = millis;
            self.flusher.take(Handover {
                worker,
                epoch,
                from_millis,
                to_millis,
                ledger,
                plan,
                set_back: self.set_back,
                last,
            });
        }

        /// (from, to, after a hole, bytes) of every interval.
        fn intervals(&self) -> Vec<(u64, u64, bool, u64)> {
            let bytes =
                |interval: &Interval| interval.pairs.iter().map(|pair| pair.traffic.bytes[0]).sum();
            let intervals = self.backlog.in_memory();
            intervals.iter().map(|i| (i.from_secs, i.to_secs, i.after_hole, bytes(i))).collect()
        }
    }

    #[test]
    fn an_interval_is_complete_when_all_workers_passed_its_end() {
        let mut bench = Bench::new(2);
        bench.hand_over(0, 0, (450_500, 600_000), 5);
        assert_eq!(bench.intervals(), []);
        bench.hand_over(0, 0, (600_000, 900_000), 7);
        bench.hand_over(1, 0, (450_700, 600_000), 11);
        assert_eq!(bench.intervals(), [(451, 600, true, 16)]);
        bench.hand_over(1, 0, (600_000, 900_000), 0);
        assert_eq!(bench.intervals()[1], (600, 900, false, 7));
        assert!(bench.backlog.in_memory()[1].lans[0].vlis.contains(&VliId(102)));
    }

    #[test]
    fn a_change_of_epoch_inside_a_step_keeps_the_step_whole() {
        let mut bench = Bench::new(2);
        bench.hand_over(0, 0, (300_000, 600_000), 1);
        bench.hand_over(0, 1, (600_000, 700_000), 1);
        bench.hand_over(1, 0, (300_000, 600_000), 1);
        bench.hand_over(1, 1, (600_000, 700_100), 1);
        bench.hand_over(0, 1, (700_000, 900_000), 1);
        bench.hand_over(1, 1, (700_100, 900_000), 1);
        assert_eq!(bench.intervals(), [(300, 600, true, 2), (600, 900, false, 4)]);
    }

    #[test]
    fn what_came_before_a_table_belongs_to_its_vlan() {
        let mut bench = Bench::new(2);
        bench.hand_over(0, 0, (300_000, 400_000), 5);
        bench.hand_over(1, 0, (300_000, 400_000), 7);
        // The same VLIs on another VLAN, in the same step.
        let records: Vec<_> = (0..3)
            .map(|n| MacRecord {
                infrastructure: InfrastructureId(1),
                vlan: VlanTag::new(20),
                mac: Mac::from_octets([2, 0, 0, 0, 0, n]),
                vli: VliId(100 + u32::from(n)),
            })
            .collect();
        let table = MacTable::build(&records).unwrap().0;
        bench.epoch.set_plan(Arc::new(Plan { table, policy: Policy::default() }));
        bench.hand_over(0, 1, (400_000, 600_000), 11);
        bench.hand_over(1, 1, (400_000, 600_000), 13);
        assert_eq!(bench.intervals(), [(300, 600, true, 36)]);
        let vlans = &bench.backlog.in_memory()[0].vlans;
        let bytes: Vec<_> = vlans.iter().map(|v| (v.vlan.as_u16(), v.traffic.bytes[0])).collect();
        assert_eq!(bytes, [(10, 12), (20, 24)]);
    }

    #[test]
    fn a_flush_on_request_and_the_last_one_split_a_step() {
        let mut bench = Bench::new(1);
        bench.hand_over(0, 0, (300_000, 600_000), 1);
        let epoch = bench.epoch.request_flush();
        bench.hand_over(0, epoch, (600_000, 710_300), 2);
        bench.hand(0, epoch + 1, (710_300, 800_001), 4, true);
        assert_eq!(
            bench.intervals(),
            [(300, 600, true, 1), (600, 711, false, 2), (711, 801, false, 4)]
        );
    }

    #[test]
    fn requests_to_flush_that_follow_each_other_do_not_put_the_flush_off() {
        let mut bench = Bench::new(1);
        bench.hand_over(0, 0, (300_000, 400_000), 1);
        for n in 0..5 {
            let epoch = bench.epoch.request_flush();
            let millis = (400_000 + n * 2_000, 402_000 + n * 2_000);
            // The worker is always one request behind.
            bench.hand_over(0, epoch - 1, millis, 1);
        }
        assert_eq!(bench.intervals()[0], (300, 404, true, 3));
        assert_eq!(bench.intervals().len(), 2);
    }

    #[test]
    fn counts_without_a_second_of_their_own_go_into_the_next_interval() {
        let mut bench = Bench::new(1);
        bench.hand_over(0, 0, (300_000, 600_000), 1);
        let first = bench.epoch.request_flush();
        bench.hand_over(0, first, (600_000, 710_300), 2);
        let second = bench.epoch.request_flush();
        bench.hand_over(0, second, (710_300, 710_900), 4);
        bench.hand_over(0, second, (710_900, 900_000), 8);
        assert_eq!(
            bench.intervals(),
            [(300, 600, true, 1), (600, 711, false, 2), (711, 900, false, 12)]
        );
    }

    #[test]
    fn a_life_of_no_duration_still_counts() {
        let mut bench = Bench::new(1);
        bench.hand(0, 1, (5_000, 5_000), 7, true);
        assert_eq!(bench.intervals(), [(5, 6, true, 7)]);
    }

    #[test]
    fn a_hole_is_said() {
        let mut bench = Bench::new(1);
        bench.hand_over(0, 0, (300_000, 600_000), 1);
        bench.hand_over(0, 0, (5_000_500, 5_100_000), 2);
        assert_eq!(bench.intervals(), [(300, 600, true, 1), (5_001, 5_100, true, 2)]);
    }

    #[test]
    fn a_hole_begins_where_observation_ended() {
        let mut bench = Bench::new(2);
        bench.hand_over(0, 0, (300_000, 450_300), 1);
        bench.hand_over(1, 0, (300_000, 450_400), 2);
        bench.hand_over(0, 0, (1_000_000, 1_200_000), 4);
        bench.hand_over(1, 0, (1_000_000, 1_200_000), 8);
        assert_eq!(bench.intervals(), [(300, 451, true, 3), (1_000, 1_200, true, 12)]);
    }

    #[test]
    fn what_came_while_the_clock_was_set_back_is_given_up_by_name() {
        let mut bench = Bench::new(1);
        bench.hand_over(0, 0, (300_000, 450_000), 1);
        bench.set_back = true;
        bench.hand_over(0, 1, (450_000, 450_000), 70);
        bench.set_back = false;
        bench.hand_over(0, 1, (450_000, 600_000), 2);
        assert_eq!(bench.intervals(), [(300, 600, true, 3)]);
        let lost = bench.state.write().clock_set_back;
        let expected = GivenUp { pairs: 1, samples: 1, packets: 1, bytes: 70 };
        assert_eq!(lost, expected);
    }

    #[test]
    fn time_without_a_table_is_not_observed() {
        let mut bench = Bench::new(1);
        let full = bench.epoch.plan();
        bench.epoch.set_plan(Arc::new(Plan::default()));
        bench.hand_over(0, 1, (300_000, 400_000), 0);
        bench.epoch.set_plan(full);
        bench.hand_over(0, 2, (400_000, 600_000), 3);
        assert_eq!(bench.intervals(), [(400, 600, true, 3)]);
    }

    proptest! {
        /// What went in comes out, whatever the order of the workers; intervals do not overlap.
        #[test]
        fn bytes_are_conserved(
            cuts in prop::collection::vec(prop::collection::btree_set(1u64..2_000_000, 0..12), 1..4),
            bytes in 1u32..1_000,
            flush_at in prop::collection::vec(0usize..20, 0..3),
        ) {
            let mut bench = Bench::new(cuts.len());
            let mut pending = Vec::new();
            for (worker, cuts) in cuts.iter().enumerate() {
                let mut edges: Vec<u64> = cuts.iter().copied().collect();
                edges.extend((1..=6).map(|n| n * 300_000));
                edges.push(2_000_000);
                edges.sort_unstable();
                edges.dedup();
                let mut from = 0;
                for (turn, to) in edges.iter().enumerate() {
                    pending.push((turn, worker, (from, *to), *to == 2_000_000));
                    from = *to;
                }
            }
            pending.sort();
            let mut sum = 0;
            let mut epoch = 0;
            for (turn, (_, worker, millis, last)) in pending.into_iter().enumerate() {
                if flush_at.contains(&turn) {
                    epoch = bench.epoch.request_flush();
                }
                bench.hand(worker, epoch, millis, bytes, last);
                sum += u64::from(bytes);
            }
            let intervals = bench.intervals();
            prop_assert_eq!(intervals.iter().map(|i| i.3).sum::<u64>(), sum);
            let mut end = 0;
            for (from, to, _, _) in intervals {
                prop_assert!(from == end && to > from, "{} {} after {}", from, to, end);
                end = to;
            }
            prop_assert!(end == 2_000 || end == 2_001, "{}", end);
        }
    }
}
