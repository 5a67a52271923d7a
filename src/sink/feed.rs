//! From intervals to updates of files, and what the files have been fed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::header::{Fitness, is_unfed};
use super::share::Share;
use super::tree::{File, Tree, families, peer_of, push_decimal, slot};
use super::verify::{SAMPLE_MAX, Sample, Verify};
use super::waiting::Waiting;
use super::{HEARTBEAT_SECS, LAST_WAIT, REFUSALS_MAX, Receipt, Refusal, STEP_SECS, SinkError};
use crate::count::Traffic;
use crate::finding::{Finding, Level};
use crate::flush::{Interval, PairTraffic, VlanTraffic};
use crate::ixp::{InfrastructureId, IpProtocol, Unit, VlanTag, VliId};

/// Files that are remembered as having missed an update, at the most.
const LAGGING_MAX: usize = 100_000;

/// When files are made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Create {
    /// At a pair's first traffic, per IP protocol.
    #[default]
    OnTraffic,
    /// For every pair of a VLAN.
    All,
}

/// Whose aggregates have files.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Aggregates {
    /// Those of tags: the sum of the infrastructures that use one.
    #[default]
    Vlan,
    /// These, and those of each infrastructure on each of its VLANs.
    Infrastructure,
}

/// The interval's time stamps, in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Start of observation.
    pub from_secs: u64,
    /// End: the stamp of the updates.
    pub to_secs: u64,
    /// Nothing is known of the time before.
    pub after_hole: bool,
}

impl Span {
    /// Of how many seconds the totals are.
    pub const fn secs(&self) -> u64 {
        self.to_secs - self.from_secs
    }

    /// The last update that a new file pretends to have had: the step that the interval begins
    /// in, so that the row of that step is whole.
    pub const fn creation_secs(&self) -> u64 {
        self.from_secs - self.from_secs % STEP_SECS
    }
}

/// What stands in front of an update's rate, stamped with the interval's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lead {
    /// Nothing: the file's last update is the interval's start.
    None,
    /// `U`: the time since the file's last update is unknown.
    Unknown,
    /// Zero: a new file, of which the time up to the interval's start is known to be silent.
    Zero,
}

/// One file's share of an interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Update {
    /// The file.
    pub file: File,
    /// The totals of `traffic_in` and `traffic_out`, in bytes or packets.
    pub totals: [u64; 2],
    /// Whether the file is known to be there.
    pub known: bool,
    /// Whether the file missed what was before the interval.
    pub hole: bool,
    /// Whether the file is there, and as it was made: its first update was acknowledged and lost.
    pub unfed: bool,
}

impl Update {
    /// Whether the file must be made if it is missing; of idle pairs it need not.
    pub fn is_wanted(&self) -> bool {
        self.totals != [0, 0] || !self.known || !matches!(self.file, File::Pair { .. })
    }

    /// What to write in front of the rate, to a file that was just made or, if `exists`, was not.
    ///
    /// A new file begins at [`Span::creation_secs`]. If the interval begins later than that step,
    /// the part before it was silent, and is written so; unless it is unknown. Then it is written
    /// as that, up to half of the step: the row is that of an older file, the mean of what is
    /// known. If more is unknown, the older files' rows are NaN; the new one's is not, because in a
    /// tree of new files it would blank the portal's sums: there the rate stands for all before.
    pub fn lead(&self, span: &Span, exists: bool) -> Lead {
        if exists && self.hole && !self.unfed {
            return Lead::Unknown;
        }
        let start = span.creation_secs();
        if self.known && !self.unfed || start == span.from_secs {
            return Lead::None;
        }
        match span.after_hole {
            true if 2 * (span.from_secs - start) <= STEP_SECS => Lead::Unknown,
            true if span.to_secs - start <= HEARTBEAT_SECS => Lead::None,
            _ => Lead::Zero,
        }
    }

    /// Appends the update's values as `rrdtool update` takes them.
    pub fn write_values(&self, span: &Span, lead: Lead, out: &mut Vec<u8>) {
        let value: &[u8] = match lead {
            Lead::None => b"",
            Lead::Unknown => b":U:U ",
            Lead::Zero => b":0:0 ",
        };
        if !value.is_empty() {
            push_decimal(out, span.from_secs, 1);
            out.extend_from_slice(value);
        }
        push_decimal(out, span.to_secs, 1);
        for total in self.totals {
            out.push(b':');
            push_rate(out, total, span.secs());
        }
    }
}

/// Turns intervals into updates, and remembers what the files have been fed.
#[derive(Debug)]
pub struct Feed {
    tree: Tree,
    share: Share,
    create: Create,
    aggregates: Aggregates,
    /// The interval that was written last.
    fed: Option<Fed>,
    /// End of the latest interval that was written: what ends no later is given again.
    reached_secs: u64,
    /// Files that refused their last update.
    lagging: HashSet<File>,
    /// Number and first of the files that cannot be fed, and why.
    unfit: Option<(usize, File, String)>,
    /// Number of files of VLIs that the table does not know.
    former: usize,
    /// New files.
    waiting: Waiting,
    /// Files that were made, and are in no receipt yet.
    made_in_vain: u64,
    verify: Verify,
    /// Updates that were lost because too many files waited, in the last interval and in all.
    dropped: (u64, u64),
    halt: Halt,
}

/// Whether reading the tree is to end.
#[derive(Debug)]
struct Halt {
    /// The daemon is to end.
    stop: Arc<AtomicBool>,
    /// When reading went on for the first time although it is.
    since: Mutex<Option<Instant>>,
    /// For how long it does.
    wait: Duration,
}

impl Halt {
    fn go_on(&self) -> bool {
        if !self.stop.load(Ordering::Relaxed) {
            return true;
        }
        // One time stamp is behind the lock.
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.get_or_insert_with(Instant::now).elapsed() < self.wait
    }
}

#[derive(Debug)]
struct Fed {
    to_secs: u64,
    vlis: Vec<VliId>,
    lans: Vec<(InfrastructureId, VlanTag)>,
}

/// The updates of an interval that are not for the sink.
#[derive(Default, Debug)]
pub struct Walk {
    /// Files that cannot be fed.
    left_alone: u64,
    /// Files that are not there yet.
    deferred: Vec<(File, [u64; 2])>,
    /// What was sent of those that do not fit, and is lost.
    dropped: u64,
    /// Updates of files that are there; some of them.
    known: usize,
    sample: Vec<File>,
}

/// What writing an interval did to the tree.
#[derive(Default, Debug)]
pub struct Outcome {
    /// Totals for the caller.
    pub receipt: Receipt,
    /// Files that were made or found.
    found: Vec<File>,
    /// Files that are gone.
    gone: Vec<File>,
    lagging: HashSet<File>,
}

impl Outcome {
    /// A file took its update.
    pub fn accepted(&mut self, update: &Update) {
        self.receipt.accepted += 1;
        self.found(update);
    }

    /// A file refused its update, because its last one was at `last_secs`, at the end of `span`
    /// or later.
    pub fn not_after(&mut self, update: &Update, span: &Span, last_secs: u64) {
        if last_secs > span.to_secs {
            self.receipt.ahead += 1;
        } else {
            self.receipt.already_there += 1;
        }
        self.found(update);
    }

    /// A file of an idle pair does not exist any more, and needs no update.
    pub fn gone(&mut self, update: &Update) {
        self.receipt.gone += 1;
        self.gone.push(update.file);
    }

    /// A file did not take its update.
    pub fn refused(&mut self, update: &Update, reason: impl Into<String>) {
        self.receipt.refused += 1;
        if self.receipt.refusals.len() < REFUSALS_MAX {
            self.receipt.refusals.push(Refusal { file: update.file, reason: reason.into() });
        }
        if self.lagging.len() < LAGGING_MAX {
            self.lagging.insert(update.file);
        }
    }

    /// What two threads did with their parts of an interval.
    pub fn merge(mut self, other: Outcome) -> Outcome {
        let Outcome { receipt, found, gone, lagging } = other;
        // `updates` and `left_alone` are counted at the end.
        let Receipt { accepted, already_there, ahead, refused, created, refusals, .. } = receipt;
        self.receipt.accepted += accepted;
        self.receipt.already_there += already_there;
        self.receipt.ahead += ahead;
        self.receipt.gone += receipt.gone;
        self.receipt.refused += refused;
        self.receipt.created += created;
        self.receipt.refusals.extend(refusals);
        self.receipt.refusals.truncate(REFUSALS_MAX);
        self.found.extend(found);
        self.gone.extend(gone);
        let room = LAGGING_MAX.saturating_sub(self.lagging.len());
        self.lagging.extend(lagging.into_iter().take(room));
        self
    }

    fn found(&mut self, update: &Update) {
        if !update.known {
            self.found.push(update.file);
        }
    }
}

impl Feed {
    /// For a part of `tree`, making files as `create` says.
    pub fn new(tree: Tree, share: Share, create: Create) -> Feed {
        Feed {
            tree,
            share,
            create,
            aggregates: Aggregates::default(),
            fed: None,
            reached_secs: 0,
            lagging: HashSet::new(),
            unfit: None,
            former: 0,
            waiting: Waiting::default(),
            made_in_vain: 0,
            verify: Verify::default(),
            dropped: (0, 0),
            halt: Halt { stop: Arc::default(), since: Mutex::default(), wait: LAST_WAIT },
        }
    }

    /// Feeds these aggregates.
    #[must_use]
    pub fn with_aggregates(self, aggregates: Aggregates) -> Feed {
        Feed { aggregates, ..self }
    }

    /// From now on `stop` says that the daemon is to end.
    pub fn set_stop(&mut self, stop: Arc<AtomicBool>) {
        self.halt.stop = stop;
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Feeds `tree` from now on, instead of one that it was taken for.
    pub fn set_tree(&mut self, tree: Tree) {
        self.tree = tree;
    }

    /// Reads the tree, the first time, and looks at the files that `interval` is the first to
    /// feed: of a large tree on a cold disk that takes minutes.
    ///
    /// # Errors
    ///
    /// The tree cannot be read, or the daemon is to end and it would take longer than
    /// [`LAST_WAIT`].
    pub fn prepare(&mut self, interval: &Interval) -> Result<(), SinkError> {
        let go_on = || self.halt.go_on();
        let scanned = self.tree.scan_share(&self.share, go_on).map_err(|error| {
            SinkError::Unreachable { target: self.tree.root().display().to_string(), error }
        })?;
        if !scanned {
            return Err(SinkError::Stopped);
        }
        let mut vlis = table_vlis(interval);
        vlis.extend(interval.pairs.iter().flat_map(|pair| [pair.source, pair.destination]));
        vlis.sort_unstable();
        vlis.dedup();
        let (mut differing, mut unfit) = (0, 0);
        let standing = &mut self.unfit;
        let finished = self.tree.examine(&vlis, go_on, |file, fitness| match fitness {
            Fitness::Usual => {}
            Fitness::Differs(how) => {
                differing += 1;
                if differing <= REFUSALS_MAX {
                    tracing::info!("{file}: fed as it is: {how}");
                }
            }
            Fitness::Unfit(why) => {
                unfit += 1;
                standing.get_or_insert_with(|| (0, file, why.clone())).0 += 1;
                if unfit <= REFUSALS_MAX {
                    tracing::warn!("{file}: left alone: {why}");
                }
            }
        });
        if differing > REFUSALS_MAX {
            tracing::info!("{} more files are fed as they are", differing - REFUSALS_MAX);
        }
        if unfit > REFUSALS_MAX {
            tracing::warn!("{} more files are left alone", unfit - REFUSALS_MAX);
        }
        if finished { Ok(()) } else { Err(SinkError::Stopped) }
    }

    /// See [`Sink::pace`](super::Sink::pace).
    pub fn set_pace(&mut self, files_per_sec: u32) {
        self.waiting.set_pace(files_per_sec);
    }

    /// Files that wait to be made.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// See [`Sink::waits_since_secs`](super::Sink::waits_since_secs).
    pub fn waits_since_secs(&self) -> Option<u64> {
        self.waiting.since_secs()
    }

    /// So many files were made in an attempt that then failed: their updates are given again, and
    /// find them there.
    pub fn made_in_vain(&mut self, created: u64) {
        self.made_in_vain += created;
    }

    /// How many files are to be made at once, and their updates, by interval, in order. They wait
    /// until [`Feed::made`] says that they were written.
    pub fn due(&mut self, last: bool) -> (usize, Vec<(Span, Vec<Update>)>) {
        let count = self.waiting.due(Instant::now(), last);
        (count, self.waiting.updates(count))
    }

    /// Records what making files and writing their updates came to.
    pub fn made(&mut self, count: usize, outcome: Outcome) -> Receipt {
        self.waiting.remove(count);
        let Outcome { mut receipt, found, gone, lagging } = outcome;
        receipt.created += std::mem::take(&mut self.made_in_vain);
        receipt.sum_up();
        self.tree.insert(&found);
        self.tree.remove(&gone);
        // What was refused here, too, misses what is before the next interval.
        let room = LAGGING_MAX.saturating_sub(self.lagging.len());
        self.lagging.extend(lagging.into_iter().take(room));
        receipt
    }

    /// Gives up the files that wait; returns how many updates are lost.
    pub fn give_up(&mut self) -> u64 {
        self.waiting.give_up()
    }

    /// Some files whose update of an earlier interval was acknowledged: it is time for
    /// [`Feed::look`].
    pub fn samples(&mut self) -> Vec<Sample> {
        let samples = self.verify.due();
        if self.tree.is_local() { samples } else { Vec::new() }
    }

    /// Looks whether the files have what was acknowledged. `asked`: nobody holds it back. Returns
    /// how many do not, and those of them that do not exist.
    pub fn look(&mut self, samples: Vec<Sample>, asked: bool) -> (u64, Vec<File>) {
        let now_secs = self.fed.as_ref().map_or(0, |fed| fed.to_secs);
        self.verify.look(&self.tree, samples, now_secs, asked)
    }

    /// What is to be said of the files.
    pub fn findings(&self) -> Vec<Finding> {
        let root = || format!("{}{}", self.tree.root().display(), self.share);
        let left_alone = self.unfit.as_ref().map(|(count, file, why)| Finding {
            level: Level::Warn,
            name: "files_left_alone",
            subject: root(),
            what: format!("{count} files cannot be fed; of the first, {file}, {why}"),
            why: "what their pairs exchange is not written".into(),
            remedy: "move them away, and ixflow makes new ones at its next start".into(),
        });
        let former = (self.former > 0).then(|| Finding {
            level: Level::Ok,
            name: "files_of_former_vlis",
            subject: root(),
            what: format!("{} files are of VLIs that the table does not know", self.former),
            why: "they are not fed any more".into(),
            remedy: "ixflow prune --older-than DAYS removes them".into(),
        });
        let lost = self.verify.lost().map(|(count, last)| Finding {
            level: Level::Fail,
            name: "lost_after_ack",
            subject: root(),
            what: format!(
                "{count} files of the samples do not have what was acknowledged; the last, {last}"
            ),
            why: "of every interval a few files are looked at: many more may have lost theirs"
                .into(),
            remedy: "let no program read the live tree with rrdtool, FORGET files before they are \
                     deleted, and look at the disks of the tree and of the journal"
                .into(),
        });
        let dropped = (self.dropped.0 > 0).then(|| Finding {
            level: Level::Fail,
            name: "updates_dropped_before_creation",
            subject: root(),
            what: format!(
                "{} updates of the last interval, {} in all, are lost: {} files wait to be made",
                self.dropped.0,
                self.dropped.1,
                self.waiting.len()
            ),
            why: "what these pairs exchanged then is missing in their new files".into(),
            remedy: "raise sflow_create_per_sec if the disk allows it".into(),
        });
        left_alone.into_iter().chain(former).chain(lost).chain(dropped).collect()
    }

    /// The interval's time stamps. If the interval before it was never written, the time before
    /// it is a hole.
    ///
    /// # Panics
    ///
    /// If the interval ends before it begins.
    pub fn span(&self, interval: &Interval) -> Span {
        assert!(interval.from_secs < interval.to_secs, "an interval takes time");
        let missed = self.fed.as_ref().is_some_and(|fed| fed.to_secs < interval.from_secs);
        Span {
            from_secs: interval.from_secs,
            to_secs: interval.to_secs,
            after_hole: interval.after_hole || missed,
        }
    }

    /// Whether an interval comes after all that were written.
    pub fn is_new(&self, interval: &Interval) -> bool {
        interval.to_secs > self.reached_secs
    }

    /// Records what writing `interval` came to: nothing, where every file refused it, for it is
    /// given once more then.
    pub fn commit(&mut self, interval: &Interval, walk: Walk, outcome: Outcome) -> Receipt {
        let Outcome { mut receipt, found, gone, lagging } = outcome;
        receipt.left_alone = walk.left_alone;
        receipt.sum_up();
        if receipt.is_refusal() {
            return receipt;
        }
        let span = self.span(interval);
        let deferred = self.waiting.add(span, &walk.deferred);
        receipt.deferred = deferred.waiting;
        // Of one that is given again it was counted the first time.
        if self.is_new(interval) {
            self.reached_secs = interval.to_secs;
            receipt.dropped_before_creation = walk.dropped + deferred.dropped;
        }
        self.dropped =
            (receipt.dropped_before_creation, self.dropped.1 + receipt.dropped_before_creation);
        let acknowledged =
            walk.sample.into_iter().filter(|file| !lagging.contains(file) && !gone.contains(file));
        self.verify.note(acknowledged, interval.to_secs, walk.known);
        self.tree.insert(&found);
        self.tree.remove(&gone);
        self.lagging = lagging;
        self.note_departures(interval);
        self.fed = Some(Fed {
            to_secs: interval.to_secs,
            vlis: table_vlis(interval),
            lans: interval.lans.iter().map(|lan| (lan.infrastructure, lan.vlan)).collect(),
        });
        receipt
    }

    /// Says once whose files are not fed any more, and counts what the table does not know.
    fn note_departures(&mut self, interval: &Interval) {
        let table = table_vlis(interval);
        let gone: Vec<VliId> = match &self.fed {
            Some(fed) if fed.vlis == table => return,
            Some(fed) => {
                let left = |vli: &&VliId| table.binary_search(vli).is_err();
                fed.vlis.iter().filter(left).copied().collect()
            }
            None => Vec::new(),
        };
        let is_former = |vli: VliId| table.binary_search(&vli).is_err();
        let mut vlis = BTreeSet::new();
        self.former = 0;
        for file in self.tree.files() {
            let of = match file {
                File::Pair { vli, peer, .. } => [vli, peer],
                File::Individual { vli, .. } => [vli, vli],
                File::Aggregate { .. } => continue,
            };
            if of.into_iter().any(is_former) {
                self.former += 1;
                vlis.extend(of.into_iter().filter(|&vli| is_former(vli)));
            }
        }
        if !gone.is_empty() {
            let named: Vec<String> =
                gone.iter().take(REFUSALS_MAX).map(|vli| vli.0.to_string()).collect();
            tracing::info!(
                "{} VLIs left the table ({}{}): their files stay, and are not fed any more",
                gone.len(),
                named.join(", "),
                if gone.len() > named.len() { ", ..." } else { "" }
            );
        } else if self.fed.is_none() && self.former > 0 {
            tracing::info!(
                "{} files are of {} VLIs that the table does not know: they stay, and are not fed",
                self.former,
                vlis.len()
            );
        }
    }

    /// Calls `visit` for every update of `interval`, in the order of the paths; stops at its
    /// first error.
    pub fn try_each<E>(
        &self,
        interval: &Interval,
        mut visit: impl FnMut(Update) -> Result<(), E>,
    ) -> Result<Walk, E> {
        let mut walk = Walk::default();
        let span = self.span(interval);
        let table = table_vlis(interval);
        let rows = rows(&interval.pairs);
        let mut sums = sums(&rows, &interval.pairs, &table);
        sums.retain(|(vli, _)| self.share.has_vli(*vli));
        let mut aggregates = aggregates(interval, self.aggregates);
        aggregates.retain(|((vlan, _), _)| self.share.has_vlan(*vlan));
        let fresh = self.fresh(&table);
        let given_again = self.fed.as_ref().is_none_or(|fed| fed.to_secs >= interval.to_secs);
        let mut emit = |file: File, totals: [u64; 2], known: bool| {
            if !known && self.tree.is_unfit(&file) {
                walk.left_alone += 1;
                return Ok(());
            }
            if !known && self.waiting.is_paced() {
                if walk.deferred.len() < self.waiting.room() {
                    walk.deferred.push((file, totals));
                } else {
                    walk.dropped += u64::from(totals != [0, 0]);
                }
                return Ok(());
            }
            if known {
                let at = walk.known;
                if (self.verify.cursor..self.verify.cursor + SAMPLE_MAX).contains(&at) {
                    walk.sample.push(file);
                }
                walk.known += 1;
            }
            let hole = span.after_hole || self.missed(&file, &fresh);
            // Given again, the first update of a new file must be what it was.
            let unfed = known && given_again && self.is_unfed(&file, &span);
            visit(Update { file, totals, known, hole, unfed })
        };

        for (protocol, unit) in families() {
            for &((vlan, infrastructure), ref traffic) in &aggregates {
                // Whatever somebody sends into a VLAN comes out of it.
                let total = traffic.of(protocol, unit);
                let file = File::Aggregate { protocol, unit, vlan, infrastructure };
                emit(file, [total, total], self.tree.contains(&file))?;
            }
            for (vli, both) in &sums {
                let file = File::Individual { protocol, unit, vli: *vli };
                emit(file, both.totals(protocol, unit), self.tree.contains(&file))?;
            }
            let total = |index: Option<u32>| {
                index.map_or(0, |index| interval.pairs[index as usize].traffic.of(protocol, unit))
            };
            let speaks = |index: Option<u32>| {
                index.is_some_and(|index| {
                    let traffic = &interval.pairs[index as usize].traffic;
                    Unit::ALL.into_iter().any(|unit| traffic.of(protocol, unit) > 0)
                })
            };
            let keys = &self.tree.files[slot(protocol, unit)];
            let mut members = Vec::new();
            for &(vli, _) in &sums {
                let in_table = table.binary_search(&vli).is_ok();
                members.clear();
                if self.create == Create::All {
                    members_beside(interval, vli, &mut members);
                }
                let mut active = range(&rows, |row| row.vli.cmp(&vli))
                    .iter()
                    .filter(|row| speaks(row.sent) || speaks(row.received))
                    .peekable();
                let mut others = table.iter().peekable();
                let mut existing = range(keys, |key| (key >> 32).cmp(&u64::from(vli.0)))
                    .iter()
                    .map(|&key| peer_of(key))
                    .filter(|peer| in_table && is_next(&mut others, *peer))
                    .peekable();
                let mut members = members.iter().copied().peekable();
                while let Some(peer) = [
                    active.peek().map(|row| row.peer),
                    existing.peek().copied(),
                    members.peek().copied(),
                ]
                .into_iter()
                .flatten()
                .min()
                {
                    let row = active.next_if(|row| row.peer == peer);
                    members.next_if_eq(&peer);
                    let totals = row.map_or([0, 0], |row| [total(row.received), total(row.sent)]);
                    let file = File::Pair { protocol, unit, vli, peer };
                    // A pair that left the table, and spoke before it did, may have its file.
                    let known = existing.next_if_eq(&peer).is_some() || self.tree.contains(&file);
                    emit(file, totals, known)?;
                }
            }
        }
        Ok(walk)
    }

    /// Whether a file that begins with the step of an interval has had no update. Where the interval
    /// begins with the step too, that makes no difference, and is not looked at.
    fn is_unfed(&self, file: &File, span: &Span) -> bool {
        let start_secs = span.creation_secs();
        start_secs < span.from_secs
            && self.tree.is_local()
            && is_unfed(&file.path(self.tree.root()), start_secs)
    }

    /// VLIs that were not in the table when the last interval was written, sorted.
    fn fresh(&self, table: &[VliId]) -> Vec<VliId> {
        let Some(fed) = &self.fed else { return Vec::new() };
        table.iter().copied().filter(|vli| fed.vlis.binary_search(vli).is_err()).collect()
    }

    /// Whether `file` was not fed up to the start of the interval.
    fn missed(&self, file: &File, fresh: &[VliId]) -> bool {
        let is_fresh = |vli: &VliId| !fresh.is_empty() && fresh.binary_search(vli).is_ok();
        let late = match file {
            File::Pair { vli, peer, .. } => is_fresh(vli) || is_fresh(peer),
            File::Individual { vli, .. } => is_fresh(vli),
            File::Aggregate { vlan, infrastructure, .. } => {
                let is_it = |lan: &(InfrastructureId, VlanTag)| {
                    lan.1 == *vlan && infrastructure.is_none_or(|id| id == lan.0)
                };
                self.fed.as_ref().is_some_and(|fed| !fed.lans.iter().any(is_it))
            }
        };
        late || !self.lagging.is_empty() && self.lagging.contains(file)
    }
}

/// A pair, seen from one of its sides, with the indices of its traffic in the interval.
struct Row {
    vli: VliId,
    peer: VliId,
    sent: Option<u32>,
    received: Option<u32>,
}

/// What a VLI exchanged with the whole fabric.
#[derive(Clone, Copy, Default)]
struct Both {
    sent: Traffic,
    received: Traffic,
}

impl Both {
    /// `traffic_in` (what was sent into the fabric) and `traffic_out`.
    fn totals(&self, protocol: IpProtocol, unit: Unit) -> [u64; 2] {
        [self.sent.of(protocol, unit), self.received.of(protocol, unit)]
    }
}

/// Whether a sorted iterator holds `wanted`; leaves it there.
fn is_next<'a>(
    sorted: &mut std::iter::Peekable<impl Iterator<Item = &'a VliId>>,
    wanted: VliId,
) -> bool {
    while sorted.next_if(|&&next| next < wanted).is_some() {}
    sorted.peek() == Some(&&wanted)
}

/// The part of a sorted slice for which `compare` says equal.
fn range<T>(sorted: &[T], compare: impl Fn(&T) -> std::cmp::Ordering) -> &[T] {
    let start = sorted.partition_point(|item| compare(item).is_lt());
    let rest = &sorted[start..];
    &rest[..rest.partition_point(|item| compare(item).is_eq())]
}

/// The VLIs of the table, sorted.
fn table_vlis(interval: &Interval) -> Vec<VliId> {
    let mut vlis: Vec<VliId> = interval.lans.iter().flat_map(|lan| &lan.vlis).copied().collect();
    vlis.sort_unstable();
    vlis.dedup();
    vlis
}

/// The VLIs that share a VLAN with `vli`, sorted.
fn members_beside(interval: &Interval, vli: VliId, members: &mut Vec<VliId>) {
    for lan in interval.lans.iter().filter(|lan| lan.vlis.binary_search(&vli).is_ok()) {
        members.extend(lan.vlis.iter().filter(|&&member| member != vli));
    }
    members.sort_unstable();
    members.dedup();
}

/// Every pair from both its sides, sorted.
fn rows(pairs: &[PairTraffic]) -> Vec<Row> {
    let count = u32::try_from(pairs.len()).expect("fewer than 2^32 pairs fit into memory");
    let mut incoming: Vec<u32> = (0..count).collect();
    incoming.sort_unstable_by_key(|&index| {
        let pair = &pairs[index as usize];
        (pair.destination, pair.source)
    });
    let mut incoming = incoming.into_iter().peekable();
    let seen_from = |index: u32| {
        let pair = &pairs[index as usize];
        (pair.destination, pair.source)
    };
    let mut rows = Vec::with_capacity(pairs.len() * 2);
    for (pair, sent) in pairs.iter().zip(0..) {
        let side = (pair.source, pair.destination);
        while let Some(received) = incoming.next_if(|&index| seen_from(index) < side) {
            let (vli, peer) = seen_from(received);
            rows.push(Row { vli, peer, sent: None, received: Some(received) });
        }
        let received = incoming.next_if(|&index| seen_from(index) == side);
        rows.push(Row { vli: side.0, peer: side.1, sent: Some(sent), received });
    }
    rows.extend(incoming.map(|received| {
        let (vli, peer) = seen_from(received);
        Row { vli, peer, sent: None, received: Some(received) }
    }));
    rows
}

/// What every VLI of the table, and every other that spoke, exchanged; sorted by VLI.
fn sums(rows: &[Row], pairs: &[PairTraffic], table: &[VliId]) -> Vec<(VliId, Both)> {
    let mut sums: BTreeMap<VliId, Both> = table.iter().map(|&vli| (vli, Both::default())).collect();
    for side in rows.chunk_by(|one, next| one.vli == next.vli) {
        let both = sums.entry(side[0].vli).or_default();
        for row in side {
            if let Some(sent) = row.sent {
                both.sent.merge(&pairs[sent as usize].traffic);
            }
            if let Some(received) = row.received {
                both.received.merge(&pairs[received as usize].traffic);
            }
        }
    }
    sums.into_iter().collect()
}

/// What was sent on every VLAN of the table, and on every other that carried something, in the
/// order of the paths: a tag's aggregate follows those of its infrastructures.
fn aggregates(
    interval: &Interval,
    of: Aggregates,
) -> Vec<((VlanTag, Option<InfrastructureId>), Traffic)> {
    let mut sums: BTreeMap<(VlanTag, Option<InfrastructureId>), Traffic> = BTreeMap::new();
    let mut add = |vlan: VlanTag, infrastructure: Option<InfrastructureId>, traffic: &Traffic| {
        sums.entry((vlan, None)).or_default().merge(traffic);
        if of == Aggregates::Infrastructure && infrastructure.is_some() {
            sums.entry((vlan, infrastructure)).or_default().merge(traffic);
        }
    };
    for lan in interval.lans.iter() {
        add(lan.vlan, Some(lan.infrastructure), &Traffic::default());
    }
    for VlanTraffic { vlan, infrastructure, traffic } in &interval.vlans {
        add(*vlan, *infrastructure, traffic);
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|((vlan, infrastructure), _)| (*vlan, infrastructure.is_none()));
    sums
}

/// Appends `total / secs` in decimals.
///
/// Seventeen significant digits name a double uniquely; librrd's own parser (rrd_strtod) adds an
/// error of a few units in the last place, so that `rate * secs` rounds to `total` up to 2^49
/// (14 terabit/s over 300 s). A whole number is written without a fraction, and is exact.
///
/// # Panics
///
/// If `secs` is 0.
pub fn push_rate(out: &mut Vec<u8>, total: u64, secs: u64) {
    const SIGNIFICANT_DIGITS: u32 = 17;
    let whole = total / secs;
    push_decimal(out, whole, 1);
    let rest = total % secs;
    if rest == 0 {
        return;
    }
    // Digits behind the point: 17 less those before it, more by the zeros that lead a fraction;
    // 19 is what 10^n in 64 bits can hold, and suffices for one byte in 600 s.
    let places = match whole.checked_ilog10() {
        Some(log) => SIGNIFICANT_DIGITS.saturating_sub(log + 1).max(1),
        None => (SIGNIFICANT_DIGITS + (secs / rest).checked_ilog10().unwrap_or(0)).min(19),
    };
    let scaled = u128::from(rest) * u128::from(10u64.pow(places)) / u128::from(secs);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "less than 10^19, because the rest is less than the seconds"
    )]
    let fraction = scaled as u64;
    out.push(b'.');
    push_decimal(out, fraction, places as usize);
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::resolve::Lan;
    use crate::sink::file::read_decimals;

    fn vlis(ids: &[u32]) -> Vec<VliId> {
        ids.iter().copied().map(VliId).collect()
    }

    fn lan(infrastructure: u32, tag: u32, ids: &[u32]) -> Lan {
        Lan {
            infrastructure: InfrastructureId(infrastructure),
            vlan: VlanTag::new(tag),
            vlis: vlis(ids),
        }
    }

    fn pair(source: u32, destination: u32, bytes: [u64; 2]) -> PairTraffic {
        let traffic = Traffic { bytes, packets: bytes.map(|bytes| bytes / 100), samples: [1, 1] };
        PairTraffic { source: VliId(source), destination: VliId(destination), traffic }
    }

    /// What the pairs sent, each on the VLAN of its source.
    fn vlans(lans: &[Lan], pairs: &[PairTraffic]) -> Vec<VlanTraffic> {
        let mut sums: BTreeMap<(VlanTag, Option<InfrastructureId>), Traffic> = BTreeMap::new();
        for pair in pairs {
            if let Some(lan) = lans.iter().find(|lan| lan.vlis.contains(&pair.source)) {
                let key = (lan.vlan, Some(lan.infrastructure));
                sums.entry(key).or_default().merge(&pair.traffic);
            }
        }
        sums.into_iter()
            .map(|((vlan, infrastructure), traffic)| VlanTraffic { vlan, infrastructure, traffic })
            .collect()
    }

    fn interval(lans: &[Lan], pairs: &[PairTraffic]) -> Interval {
        Interval {
            from_secs: 1_700_000_100,
            to_secs: 1_700_000_400,
            after_hole: false,
            lans: Arc::from(lans),
            pairs: pairs.to_vec(),
            vlans: vlans(lans, pairs),
        }
    }

    fn feed(files: &[&str], create: Create) -> Feed {
        let mut tree = Tree::remote(Path::new("/rrd"));
        let files: Vec<File> = files.iter().map(|path| path.parse().unwrap()).collect();
        tree.insert(&files);
        Feed::new(tree, Share::default(), create)
    }

    fn updates(feed: &Feed, interval: &Interval) -> Vec<(String, [u64; 2], bool)> {
        let mut updates = Vec::new();
        feed.try_each(interval, |update| {
            updates.push((update.file.to_string(), update.totals, update.known));
            Ok::<_, ()>(())
        })
        .unwrap();
        updates
    }

    fn of<'a>(updates: &'a [(String, [u64; 2], bool)], start: &str) -> Vec<(&'a str, [u64; 2])> {
        updates
            .iter()
            .filter_map(|(path, totals, _)| Some((path.strip_prefix(start)?, *totals)))
            .collect()
    }

    fn rate(total: u64, secs: u64) -> String {
        let mut out = Vec::new();
        push_rate(&mut out, total, secs);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rates_are_decimals() {
        assert_eq!(rate(0, 300), "0");
        assert_eq!(rate(300, 300), "1");
        assert_eq!(rate(1, 4), "0.25000000000000000");
        assert_eq!(rate(1, 300), "0.0033333333333333333");
        assert_eq!(rate(10_001, 300), "33.336666666666666");
        assert_eq!(rate(u64::MAX, 1), u64::MAX.to_string());
        assert_eq!(rate(u64::MAX, 7), "2635249153387078802.1");
    }

    proptest::proptest! {
        #[test]
        fn rates_come_back_as_totals(bits in 0u32..49, noise: u64, secs in 1u64..=600) {
            let total = noise % (1 << bits);
            let stored = read_decimals(rate(total, secs).as_bytes());
            #[expect(clippy::cast_possible_truncation, reason = "the test is of just this")]
            let back = (stored * secs as f64).round() as u64;
            proptest::prop_assert_eq!(back, total);
            let truth = total as f64 / secs as f64;
            let ulps = truth.to_bits().abs_diff(stored.to_bits());
            proptest::prop_assert!(ulps <= 3, "{} ulps", ulps);
        }
    }

    /// Would break if a daemon that is to end read all of a large tree first, or if what it had
    /// not looked at were fed unseen afterwards.
    #[test]
    fn a_tree_that_is_being_read_does_not_hold_up_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let ids: Vec<u32> = (1..=40).collect();
        let mut foreign = 0;
        for (vli, peer) in ids.iter().flat_map(|&vli| ids.iter().map(move |&peer| (vli, peer))) {
            let name = format!("p2p.ipv4.bytes.src-{vli:05}.dst-{peer:05}.rrd");
            let path = directory.path().join(format!("ipv4/bytes/p2p/src-{vli:05}"));
            std::fs::create_dir_all(&path).unwrap();
            // Headers of one data source: what has been looked at is left alone.
            let mut header = [0; 128];
            header[..4].copy_from_slice(b"RRD\0");
            header[16..24].copy_from_slice(&8.642135E130f64.to_le_bytes());
            header[24] = 1;
            std::fs::write(path.join(name), header).unwrap();
            foreign += 1;
        }
        let lans = [lan(1, 10, &ids)];
        let interval = interval(&lans, &[]);
        let tree = Tree::open(directory.path()).unwrap();
        let mut feed = Feed::new(tree, Share::default(), Create::OnTraffic);
        let stop = Arc::new(AtomicBool::new(true));
        feed.set_stop(stop.clone());
        feed.halt.wait = Duration::ZERO;
        assert!(matches!(feed.prepare(&interval), Err(SinkError::Stopped)));
        assert!(feed.tree().is_empty(), "the directories were read");
        // Told in the middle of the headers: each reader ends the one that it reads.
        stop.store(false, Ordering::Relaxed);
        feed.tree.scan_share(&Share::default(), || true).unwrap();
        assert_eq!(feed.tree().len(), foreign);
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let go_on = || asked.fetch_add(1, Ordering::Relaxed) < 100;
        let vlis = table_vlis(&interval);
        assert!(!feed.tree.examine(&vlis, go_on, |_, _| {}));
        let left = feed.tree().len();
        assert!((foreign - 100..foreign).contains(&left), "{left} of {foreign}");
        assert!(asked.into_inner() < 120);
        // A stop that is not heeded yet, because little is left: the rest is looked at.
        stop.store(true, Ordering::Relaxed);
        feed.halt = Halt { stop, since: Mutex::default(), wait: LAST_WAIT };
        feed.prepare(&interval).unwrap();
        assert!(feed.tree().is_empty());
        let left_alone = feed.findings().into_iter().find(|it| it.name == "files_left_alone");
        assert!(left_alone.is_some_and(|it| it.what.starts_with(&format!("{left} files"))));
    }

    #[test]
    fn what_is_dropped_counts_once_however_often_its_interval_is_given() {
        let lans = [lan(1, 10, &[1, 2])];
        let first = interval(&lans, &[pair(1, 2, [3000, 0])]);
        let mut next = first.clone();
        (next.from_secs, next.to_secs) = (first.to_secs, first.to_secs + 300);
        let mut feed = feed(&[], Create::OnTraffic);
        feed.set_pace(1);
        feed.waiting.fill();
        let mut dropped = |interval: &Interval| {
            let walk = feed.try_each(interval, |_| Ok::<_, ()>(())).unwrap();
            feed.commit(interval, walk, Outcome::default()).dropped_before_creation
        };
        // Bytes and packets: a pair from both sides, two individuals, an aggregate.
        let dropped = [&first, &first, &next, &first, &next].map(&mut dropped);
        assert_eq!(dropped, [10, 0, 10, 0, 0]);
    }

    #[test]
    fn shares_are_the_whole_together_and_nothing_twice() {
        let ids: Vec<u32> = (1..=20).collect();
        let pairs: Vec<_> = (1..20).map(|vli| pair(vli, vli + 1, [3000, 600])).collect();
        let interval = interval(&[lan(1, 10, &ids), lan(2, 20, &[3, 4])], &pairs);
        let mut parts = Vec::new();
        for share in Share::of_all(&["a".into(), "b".into(), "c".into()]) {
            let feed = Feed::new(Tree::remote(Path::new("/rrd")), share, Create::OnTraffic);
            let part = updates(&feed, &interval);
            assert!(!part.is_empty() && part.is_sorted_by_key(|(path, ..)| path.clone()));
            parts.extend(part);
        }
        parts.sort();
        assert_eq!(parts, updates(&feed(&[], Create::OnTraffic), &interval));
    }

    #[test]
    fn traffic_feeds_both_sides_in_the_order_of_the_paths() {
        let interval =
            interval(&[lan(1, 10, &[1, 2, 3])], &[pair(1, 2, [3000, 0]), pair(3, 1, [0, 600])]);
        let updates = updates(&feed(&[], Create::OnTraffic), &interval);
        let paths: Vec<&str> = updates.iter().map(|(path, ..)| path.as_str()).collect();
        assert!(paths.is_sorted(), "{paths:#?}");
        assert_eq!(updates.len(), 4 * 4 + 8, "{paths:#?}");
        // The peer's bytes are in, the own ones out.
        assert_eq!(
            of(&updates, "ipv4/bytes/p2p/"),
            [
                ("src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd", [0, 3000]),
                ("src-00002/p2p.ipv4.bytes.src-00002.dst-00001.rrd", [3000, 0]),
            ]
        );
        assert_eq!(
            of(&updates, "ipv6/pkts/p2p/"),
            [
                ("src-00001/p2p.ipv6.pkts.src-00001.dst-00003.rrd", [6, 0]),
                ("src-00003/p2p.ipv6.pkts.src-00003.dst-00001.rrd", [0, 6]),
            ]
        );
        // Into the fabric is in.
        assert_eq!(
            of(&updates, "ipv4/bytes/individual/individual.ipv4.bytes."),
            [("src-00001.rrd", [3000, 0]), ("src-00002.rrd", [0, 3000]), ("src-00003.rrd", [0, 0])]
        );
        assert_eq!(
            of(&updates, "ipv6/bytes/aggregate/"),
            [("aggregate.ipv6.bytes.vlan00010.rrd", [600, 600])]
        );
    }

    #[test]
    fn lans_that_share_a_tag_share_an_aggregate() {
        let lans = [lan(1, 10, &[1, 2]), lan(2, 10, &[3, 4]), lan(2, 20, &[5])];
        let interval = interval(&lans, &[pair(1, 2, [700, 0]), pair(4, 3, [60, 0])]);
        let updates = updates(&feed(&[], Create::OnTraffic), &interval);
        assert_eq!(
            of(&updates, "ipv4/bytes/aggregate/aggregate.ipv4.bytes."),
            [("vlan00010.rrd", [760, 760]), ("vlan00020.rrd", [0, 0])]
        );
    }

    #[test]
    fn infrastructures_have_aggregates_of_their_own_beside_the_tags_when_asked() {
        let lans = [lan(1, 10, &[1, 2]), lan(2, 10, &[3, 4]), lan(2, 20, &[5])];
        let mut interval = interval(&lans, &[pair(1, 2, [700, 0]), pair(4, 3, [60, 0])]);
        let feed = feed(&[], Create::OnTraffic).with_aggregates(Aggregates::Infrastructure);
        let of_bytes = |interval: &Interval| {
            let updates = updates(&feed, interval);
            assert!(updates.is_sorted_by_key(|(path, ..)| path.clone()));
            of(&updates, "ipv4/bytes/aggregate/aggregate.ipv4.bytes.")
                .into_iter()
                .map(|(name, totals)| (name.to_owned(), totals[0]))
                .collect::<Vec<_>>()
        };
        let expected = |totals: [u64; 5]| {
            let names = [
                "vlan00010.infra00001.rrd",
                "vlan00010.infra00002.rrd",
                "vlan00010.rrd",
                "vlan00020.infra00002.rrd",
                "vlan00020.rrd",
            ];
            names.map(str::to_owned).into_iter().zip(totals).collect::<Vec<_>>()
        };
        assert_eq!(of_bytes(&interval), expected([700, 60, 760, 0, 0]));
        // What an earlier version left does not say whose it was.
        interval.vlans[1].infrastructure = None;
        assert_eq!(of_bytes(&interval), expected([700, 0, 760, 0, 0]));
    }

    #[test]
    fn an_infrastructure_that_comes_to_a_tag_has_a_hole_before() {
        let mut interval = interval(&[lan(1, 10, &[1, 2])], &[]);
        let mut feed = feed(&[], Create::OnTraffic).with_aggregates(Aggregates::Infrastructure);
        feed.commit(&interval, Walk::default(), Outcome::default());
        interval.lans = Arc::from([lan(1, 10, &[1, 2]), lan(2, 10, &[3])]);
        let mut holes = Vec::new();
        feed.try_each(&interval, |update| {
            if matches!(update.file, File::Aggregate { unit: Unit::Bytes, .. }) && update.hole {
                holes.push(update.file.to_string());
            }
            Ok::<_, ()>(())
        })
        .unwrap();
        let expected = ["ipv4", "ipv6"].map(|protocol| {
            format!(
                "{protocol}/bytes/aggregate/aggregate.{protocol}.bytes.vlan00010.infra00002.rrd"
            )
        });
        assert_eq!(holes, expected);
    }

    #[test]
    fn a_vlan_that_left_the_table_has_what_it_carried_before() {
        let mut interval = interval(&[lan(1, 20, &[1, 2])], &[pair(1, 2, [700, 0])]);
        let Traffic { bytes, packets, samples } = interval.vlans[0].traffic;
        let half = Traffic { bytes: [300, 0], packets, samples };
        interval.vlans = vec![
            VlanTraffic { vlan: VlanTag::new(10), infrastructure: None, traffic: half },
            VlanTraffic {
                vlan: VlanTag::new(20),
                infrastructure: None,
                traffic: Traffic { bytes: [bytes[0] - 300, 0], ..half },
            },
        ];
        let updates = updates(&feed(&[], Create::OnTraffic), &interval);
        assert_eq!(
            of(&updates, "ipv4/bytes/aggregate/aggregate.ipv4.bytes."),
            [("vlan00010.rrd", [300, 300]), ("vlan00020.rrd", [400, 400])]
        );
    }

    #[test]
    fn idle_files_of_the_table_are_fed_and_others_left_alone() {
        let feed = feed(
            &[
                "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd",
                "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00008.rrd",
                "ipv4/bytes/p2p/src-00008/p2p.ipv4.bytes.src-00008.dst-00001.rrd",
                "ipv4/bytes/p2p/src-00009/p2p.ipv4.bytes.src-00009.dst-00001.rrd",
                "ipv4/bytes/individual/individual.ipv4.bytes.src-00001.rrd",
            ],
            Create::OnTraffic,
        );
        // 9 left the table, but spoke before it did.
        let interval = interval(&[lan(1, 10, &[1, 2])], &[pair(9, 1, [50, 0])]);
        let updates = updates(&feed, &interval);
        let pairs: Vec<_> =
            updates.iter().filter(|(path, ..)| path.starts_with("ipv4/bytes/p2p")).collect();
        assert_eq!(
            of(&updates, "ipv4/bytes/p2p/"),
            [
                ("src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd", [0, 0]),
                ("src-00001/p2p.ipv4.bytes.src-00001.dst-00009.rrd", [50, 0]),
                ("src-00009/p2p.ipv4.bytes.src-00009.dst-00001.rrd", [0, 50]),
            ]
        );
        assert_eq!(pairs.iter().map(|update| update.2).collect::<Vec<_>>(), [true, false, true]);
        let known: Vec<_> = updates
            .iter()
            .filter(|(path, _, known)| path.contains("individual") && *known)
            .collect();
        assert_eq!(known.len(), 1);
        assert!(known[0].0.ends_with("ipv4.bytes.src-00001.rrd"));
    }

    #[test]
    fn all_pairs_of_a_lan_and_no_others() {
        let lans = [lan(1, 10, &[1, 2, 3]), lan(1, 20, &[4])];
        let updates = updates(&feed(&[], Create::All), &interval(&lans, &[pair(2, 1, [9, 0])]));
        for family in ["ipv4/bytes/p2p/", "ipv6/pkts/p2p/"] {
            let paths: Vec<_> = of(&updates, family).into_iter().map(|(path, _)| path).collect();
            assert_eq!(paths.len(), 6, "{paths:?}");
            assert!(!paths.iter().any(|path| path.contains("00004")), "{paths:?}");
        }
    }

    #[test]
    fn a_hole_is_written_where_there_is_one() {
        let pairs = [
            "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00002.rrd",
            "ipv4/bytes/p2p/src-00001/p2p.ipv4.bytes.src-00001.dst-00003.rrd",
        ];
        let mut feed = feed(&pairs, Create::OnTraffic);
        let values = |feed: &Feed, interval: &Interval| {
            let mut values = BTreeMap::new();
            feed.try_each(interval, |update| {
                let mut out = Vec::new();
                let span = feed.span(interval);
                let lead = update.lead(&span, update.known);
                update.write_values(&span, lead, &mut out);
                let old = values.insert(update.file.to_string(), String::from_utf8(out).unwrap());
                assert_eq!(old, None);
                Ok::<_, ()>(())
            })
            .unwrap();
            values
        };
        let mut interval = interval(&[lan(1, 10, &[1, 2])], &[]);
        assert_eq!(values(&feed, &interval)[pairs[0]], "1700000400:0:0");
        interval.after_hole = true;
        assert_eq!(values(&feed, &interval)[pairs[0]], "1700000100:U:U 1700000400:0:0");
        // A new file has no hole.
        let individual = "ipv4/bytes/individual/individual.ipv4.bytes.src-00001.rrd";
        assert_eq!(values(&feed, &interval)[individual], "1700000400:0:0");

        // The next interval follows; VLI 3 comes (back) into the table; one file refused.
        let mut outcome = Outcome::default();
        let refused = Update {
            file: pairs[0].parse().unwrap(),
            totals: [0, 0],
            known: true,
            hole: false,
            unfed: false,
        };
        outcome.refused(&refused, "locked");
        outcome.accepted(&Update { file: pairs[1].parse().unwrap(), ..refused });
        feed.commit(&interval, Walk::default(), outcome);
        let mut next = interval.clone();
        (next.from_secs, next.to_secs) = (interval.to_secs, interval.to_secs + 300);
        next.after_hole = false;
        next.lans = Arc::from([lan(1, 10, &[1, 2, 3])]);
        let lines = values(&feed, &next);
        assert_eq!(lines[pairs[0]], "1700000400:U:U 1700000700:0:0");
        assert_eq!(lines[pairs[1]], "1700000400:U:U 1700000700:0:0");
        feed.commit(&next, Walk::default(), Outcome::default());

        // An interval that was dropped is a hole for all.
        (next.from_secs, next.to_secs) = (next.to_secs + 300, next.to_secs + 600);
        assert_eq!(values(&feed, &next)[pairs[0]], "1700001000:U:U 1700001300:0:0");

        // A new file in the middle of a step was silent before it, unless that is unknown.
        feed.commit(&next, Walk::default(), Outcome::default());
        (next.from_secs, next.to_secs) = (1_700_001_400, 1_700_001_600);
        next.from_secs = 1_700_001_300;
        assert_eq!(values(&feed, &next)[individual], "1700001600:0:0");
        let before = Interval { to_secs: 1_700_001_400, ..next.clone() };
        feed.commit(&before, Walk::default(), Outcome::default());
        next.from_secs = 1_700_001_400;
        assert_eq!(values(&feed, &next)[individual], "1700001400:0:0 1700001600:0:0");
        next.after_hole = true;
        assert_eq!(values(&feed, &next)[individual], "1700001400:U:U 1700001600:0:0");
        next.from_secs = 1_700_001_500;
        assert_eq!(values(&feed, &next)[individual], "1700001600:0:0");
    }
}
