//! Intervals on their way from the flusher to the sink.
//!
//! They wait in memory, so that ingest never does. With a state directory each is also written to
//! the spool there as soon as it is made, by a thread of its own: what waits survives a kill, and a
//! long outage takes disk instead of memory. An interval stays in the spool for a while after the
//! sink took it, to be given again to an rrdcached that was killed with what it had acknowledged,
//! and after a restart of ixflow. Giving one twice does no harm: files know it by its stamp.
//!
//! Several sinks, each with a share of the files, take the same intervals, each at its own pace: one
//! that is away does not hold the others up. An interval is done when all have taken it.
//!
//! What exceeds the limits is given up, oldest first, and counted.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::format::Saved;
use super::spool::{Spool, SpoolError, Stamps};
use super::{Interval, OpenStep};
use crate::count::{Ledger, Traffic};
use crate::state::{GivenUp, State};

/// Pairs of all intervals in memory at the most, whatever their number: 1.2 GB.
pub const BACKLOG_PAIRS_MAX: usize = 25_000_000;

/// After a file could not be written, the next attempt is made so much later.
const KEEP_RETRY: Duration = Duration::from_secs(10);

/// A failure to write files that goes on is said again after this long.
const KEEP_REPEAT: Duration = Duration::from_secs(600);

/// What happens when the backlog is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// The oldest interval is dropped, and counted: ingest never waits for a sink.
    DropOldest,
    /// The flusher waits: a replay is as fast as its sink.
    Wait,
}

/// How intervals are kept on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keep {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Intervals that stay in memory while they wait; further ones wait on disk alone.
    pub memory_intervals: usize,
    /// An interval that is so much older than the newest one, in seconds, is given up.
    pub secs_max: u64,
    /// Bytes of all files at the most.
    pub bytes_max: u64,
    /// Seconds for which an interval is kept after it was written, to be given again.
    pub again_secs: u64,
    /// How often the counts of the open step are saved.
    pub save_every: Duration,
}

/// An interval, in memory or on disk or both.
#[derive(Debug)]
struct Entry {
    stamps: Stamps,
    interval: Option<Arc<Interval>>,
    /// Size of its file, if there is one.
    file_bytes: Option<u64>,
    /// All sinks took it before.
    again: bool,
}

/// How far a sink is.
#[derive(Clone, Copy, Default, Debug)]
struct Place {
    /// It is to be given what ends later.
    given_to_secs: u64,
    /// End of the last interval that it took; 0 before the first one.
    acknowledged_to_secs: u64,
    /// From this end on, what it took waits in its memory for files that are to be made.
    unmade_since_secs: Option<u64>,
}

#[derive(Debug)]
struct Queue {
    /// What not all sinks have taken, or are given again.
    waiting: VecDeque<Entry>,
    /// What all sinks took, as long as it is kept.
    written: VecDeque<Entry>,
    /// One for each sink.
    places: Vec<Place>,
    to_save: Option<OpenStep>,
    /// What was saved last, if all counts were in intervals then.
    saved: Option<Saved>,
    closed: bool,
    /// No file can be written before then.
    keep_after: Option<Instant>,
    keep_failure_said: Option<Instant>,
    /// The last file could not be written.
    keep_failing: bool,
}

impl Queue {
    /// End of the last interval that all sinks took; 0 before the first one.
    fn acknowledged_to_secs(&self) -> u64 {
        self.places.iter().map(|place| place.acknowledged_to_secs).min().unwrap_or(0)
    }

    /// End of the oldest interval of which updates wait for files that are to be made.
    fn unmade_since_secs(&self) -> Option<u64> {
        self.places.iter().filter_map(|place| place.unmade_since_secs).min()
    }

    /// The oldest interval that a sink has not taken.
    fn next_of(&mut self, sink: usize) -> Option<&mut Entry> {
        let given_to_secs = self.places[sink].given_to_secs;
        self.waiting.iter_mut().find(|entry| entry.stamps.to_secs > given_to_secs)
    }

    fn pairs(&self) -> usize {
        let intervals = self.waiting.iter().chain(&self.written).flat_map(|entry| &entry.interval);
        intervals.map(|interval| interval.pairs.len()).sum()
    }

    fn file_bytes(&self) -> u64 {
        self.waiting.iter().chain(&self.written).filter_map(|entry| entry.file_bytes).sum()
    }

    fn entry(&mut self, stamps: Stamps) -> Option<&mut Entry> {
        self.waiting.iter_mut().chain(&mut self.written).find(|entry| entry.stamps == stamps)
    }

    /// The oldest interval that has no file.
    fn unkept(&self) -> Option<Arc<Interval>> {
        let mut entries = self.written.iter().chain(&self.waiting);
        entries.find(|entry| entry.file_bytes.is_none())?.interval.clone()
    }
}

/// An interval to be written.
#[derive(Debug)]
pub struct Front {
    /// It.
    pub interval: Arc<Interval>,
    /// This sink took it before; what it takes now it had lost.
    pub again: bool,
}

/// Intervals on their way from the flusher to the sink.
#[derive(Debug)]
pub struct Backlog {
    queue: Mutex<Queue>,
    changed: Condvar,
    limit: usize,
    when_full: WhenFull,
    keep: Option<(Keep, Spool)>,
    state: Arc<State>,
    /// End of what an earlier run of the daemon counted.
    resumed_to_secs: Option<u64>,
}

impl Backlog {
    /// A backlog of at most `limit` intervals in memory alone; what is given up is told to
    /// `state`. Every one of `sinks` (at least one) takes all intervals.
    pub fn new(limit: usize, when_full: WhenFull, sinks: usize, state: Arc<State>) -> Backlog {
        let queue = Queue {
            waiting: VecDeque::new(),
            written: VecDeque::new(),
            places: vec![Place::default(); sinks.max(1)],
            to_save: None,
            saved: None,
            closed: false,
            keep_after: None,
            keep_failure_said: None,
            keep_failing: false,
        };
        Backlog {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            limit,
            when_full,
            keep: None,
            state,
            resumed_to_secs: None,
        }
    }

    /// Keeps intervals on disk too, and begins with those that an earlier run left there.
    ///
    /// Where that cannot be, it is said, and no reason to stay away.
    pub fn keeping(mut self, keep: Keep) -> Backlog {
        match self.resume(&keep) {
            Ok(spool) => self.keep = Some((keep, spool)),
            Err(error) => {
                tracing::error!(
                    "{error}: intervals wait in memory alone, and a restart loses the open step"
                );
                self.show_unkept(&keep, &error, "it is tried again at the next start");
            }
        }
        self
    }

    /// Shows that files of the state directory cannot be written.
    fn show_unkept(&self, keep: &Keep, error: &SpoolError, and_then: &str) {
        let error = format!("{error}; {and_then}");
        self.state.set_state_dir_failure(&keep.state_dir, Some(&error));
    }

    fn resume(&mut self, keep: &Keep) -> Result<Spool, SpoolError> {
        let spool = Spool::open(&keep.state_dir)?;
        let saved = spool.load().unwrap_or_else(|error| {
            tracing::error!("{error}: a part of the step before the start is unknown");
            None
        });
        let acknowledged_to_secs = saved.as_ref().map_or(0, |saved| saved.acknowledged_to_secs);
        let mut queue = self.lock();
        queue.places.fill(Place { acknowledged_to_secs, ..Place::default() });
        for (stamps, bytes) in spool.list()? {
            // Intervals do not overlap; what does was left by another run, and is in the other.
            if queue.waiting.back().is_some_and(|last| last.stamps.to_secs > stamps.from_secs) {
                spool.remove(stamps);
                continue;
            }
            queue.waiting.push_back(Entry {
                stamps,
                interval: None,
                file_bytes: Some(bytes),
                again: stamps.to_secs <= acknowledged_to_secs,
            });
        }
        let spooled_to_secs = queue.waiting.back().map(|entry| entry.stamps.to_secs);
        let unwritten = queue.waiting.iter().filter(|entry| !entry.again).count();
        if unwritten > 0 {
            tracing::info!(
                "{unwritten} intervals wait in {} since the last run: they are written first",
                spool.directory().display()
            );
        }
        let mut resumed_to_secs = spooled_to_secs;
        if let Some(saved) = saved {
            for interval in saved.open {
                // Newer counts of the same step are in the spool.
                if spooled_to_secs.is_some_and(|spooled| spooled > interval.from_secs) {
                    continue;
                }
                tracing::info!(
                    "the counts from {} to {} were saved by the last run: they are written first",
                    interval.from_secs,
                    interval.to_secs
                );
                queue.waiting.push_back(Entry {
                    stamps: Stamps::of(&interval),
                    interval: Some(Arc::new(interval)),
                    file_bytes: None,
                    again: false,
                });
            }
            resumed_to_secs = resumed_to_secs.max(Some(saved.covered_to_secs));
        }
        drop(queue);
        self.resumed_to_secs = resumed_to_secs;
        Ok(spool)
    }

    /// End of what an earlier run of the daemon counted, in seconds since 1970: what comes with an
    /// earlier stamp no file can take.
    pub fn resumed_to_secs(&self) -> Option<u64> {
        self.resumed_to_secs
    }

    /// How often the counts of the open step are to be saved, if they are.
    pub fn save_every(&self) -> Option<Duration> {
        self.keep.as_ref().map(|(keep, _)| keep.save_every)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole after every statement.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends an interval.
    pub fn push(&self, interval: Interval) {
        let mut queue = self.lock();
        while queue.waiting.len() >= self.limit && self.when_full == WhenFull::Wait {
            queue = self.wait(queue);
        }
        queue.waiting.push_back(Entry {
            stamps: Stamps::of(&interval),
            interval: Some(Arc::new(interval)),
            file_bytes: None,
            again: false,
        });
        self.enforce(&mut queue);
        self.note(&queue);
        self.changed.notify_all();
    }

    /// Saves what is counted of the open step, in place of what was saved before.
    pub(super) fn save(&self, open: OpenStep) {
        if self.keep.is_some() {
            self.lock().to_save = Some(open);
            self.changed.notify_all();
        }
    }

    /// Counts a ledger that came while the clock was set back as lost.
    pub(super) fn give_up_set_back(&self, ledger: &Ledger) {
        let lost = given_up(ledger.iter().map(|(_, traffic)| traffic));
        self.state.write().clock_set_back.merge(&lost);
    }

    /// What waits and is in memory.
    #[cfg(test)]
    pub(super) fn in_memory(&self) -> Vec<Arc<Interval>> {
        self.lock().waiting.iter().filter_map(|entry| entry.interval.clone()).collect()
    }

    /// Brings the queue within its limits.
    fn enforce(&self, queue: &mut Queue) {
        if let Some((keep, spool)) = &self.keep {
            // What is on disk need not be in memory, but for the first ones that wait.
            for entry in queue.waiting.iter_mut().skip(keep.memory_intervals.max(1)) {
                if entry.file_bytes.is_some() {
                    entry.interval = None;
                }
            }
            for entry in queue.written.iter_mut().filter(|entry| entry.file_bytes.is_some()) {
                entry.interval = None;
            }
            while let (Some(first), Some(last)) = (queue.written.front(), queue.written.back()) {
                let unmade =
                    queue.unmade_since_secs().is_some_and(|since| first.stamps.to_secs >= since);
                let due = first.stamps.to_secs + keep.again_secs <= last.stamps.to_secs && !unmade;
                if !due && queue.file_bytes() <= keep.bytes_max {
                    break;
                }
                let Some(entry) = queue.written.pop_front() else { break };
                spool.remove(entry.stamps);
                if unmade {
                    self.state.write().unkept_before_creation += 1;
                    tracing::warn!(
                        "sflow_spool_bytes is reached: the interval from {} to {} is not kept any \
                         longer, and a kill would lose its updates that wait for their files",
                        entry.stamps.from_secs,
                        entry.stamps.to_secs
                    );
                }
            }
            while queue.waiting.len() > 2 && {
                let oldest = queue.waiting[1].stamps.to_secs;
                let newest = queue.waiting[queue.waiting.len() - 1].stamps.to_secs;
                oldest + keep.secs_max < newest || queue.file_bytes() > keep.bytes_max
            } {
                self.drop_oldest(queue);
            }
        }
        if self.when_full == WhenFull::Wait {
            return;
        }
        let in_memory =
            |queue: &Queue| queue.waiting.iter().filter(|entry| entry.interval.is_some()).count();
        while queue.waiting.len() > 2
            && (in_memory(queue) > self.limit || queue.pairs() > BACKLOG_PAIRS_MAX)
        {
            // The disk has them, or nobody.
            let kept = |entry: &&mut Entry| entry.interval.is_some() && entry.file_bytes.is_some();
            match queue.waiting.iter_mut().skip(1).rfind(kept) {
                Some(entry) => entry.interval = None,
                None => self.drop_oldest(queue),
            }
        }
    }

    /// Gives up the oldest interval but the one in front, which is being written, and may be in
    /// its files in part.
    fn drop_oldest(&self, queue: &mut Queue) {
        let Some(entry) = queue.waiting.remove(1) else { return };
        let mut interval = entry.interval;
        if let (Some((_, spool)), Some(_)) = (&self.keep, entry.file_bytes) {
            // Its sums are wanted.
            interval = interval.or_else(|| spool.read(entry.stamps).ok().map(Arc::new));
            spool.remove(entry.stamps);
        }
        if entry.again {
            return;
        }
        let pairs = interval.as_ref().map_or(&[][..], |interval| &interval.pairs);
        let lost = given_up(pairs.iter().map(|pair| &pair.traffic));
        let mut write = self.state.write();
        write.intervals_dropped += 1;
        write.dropped.merge(&lost);
        drop(write);
        tracing::error!(
            "the backlog is full: the interval from {} to {} is given up, with {} bytes that {} \
             pairs exchanged",
            entry.stamps.from_secs,
            entry.stamps.to_secs,
            lost.bytes,
            lost.pairs
        );
    }

    /// Says that nothing more will come.
    pub fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        // One more attempt.
        queue.keep_after = None;
        self.changed.notify_all();
    }

    /// Waits for `time`, or until there is an interval for a sink or the backlog is closed; returns
    /// whether there is one of these.
    pub fn wait_work(&self, sink: usize, time: Duration) -> bool {
        let idle = |queue: &mut Queue| queue.next_of(sink).is_none() && !queue.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), time, idle);
        !idle(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// The oldest interval that a sink has not taken, until [`Backlog::done`] says so; `None` when
    /// the backlog is closed and there is none. For one thread of each sink.
    pub fn front(&self, sink: usize) -> Option<Front> {
        let mut queue = self.lock();
        loop {
            let acknowledged_to_secs = queue.places[sink].acknowledged_to_secs;
            let Some(entry) = queue.next_of(sink) else {
                if queue.closed {
                    return None;
                }
                queue = self.wait(queue);
                continue;
            };
            let stamps = entry.stamps;
            let again = stamps.to_secs <= acknowledged_to_secs;
            if let Some(interval) = &entry.interval {
                return Some(Front { interval: interval.clone(), again });
            }
            drop(queue);
            let read = self.keep.as_ref().map(|(_, spool)| spool.read(stamps));
            queue = self.lock();
            let place = queue.waiting.iter().position(|entry| entry.stamps == stamps);
            match (read, place) {
                // It was given up meanwhile, or another sink could not read it either.
                (_, None) => {}
                (Some(Ok(mut interval)), Some(place)) => {
                    // One before it was given up.
                    interval.after_hole |= (1..interval.from_secs).contains(&acknowledged_to_secs);
                    queue.waiting[place].interval = Some(Arc::new(interval));
                }
                (Some(Err(error)), Some(place)) => {
                    let entry = queue.waiting.remove(place);
                    if entry.is_some_and(|entry| entry.again) {
                        tracing::warn!("{error}: it was written before");
                    } else {
                        self.state.write().intervals_dropped += 1;
                        tracing::error!("{error}: this interval is lost");
                    }
                    self.note(&queue);
                }
                (None, _) => unreachable!("without a spool every interval is in memory"),
            }
        }
    }

    /// What a sink took of intervals that end at `since_secs` or later waits for files that are to
    /// be made: they are kept until it says otherwise, to be given again after a restart.
    pub fn keep_since(&self, sink: usize, since_secs: Option<u64>) {
        let mut queue = self.lock();
        if queue.places[sink].unmade_since_secs != since_secs {
            queue.places[sink].unmade_since_secs = since_secs;
            self.enforce(&mut queue);
            self.note(&queue);
        }
    }

    /// Whether the interval that ends at `to_secs` is kept on disk.
    pub fn has_kept(&self, to_secs: u64) -> bool {
        let queue = self.lock();
        let mut entries = queue.waiting.iter().chain(&queue.written);
        entries.any(|entry| entry.stamps.to_secs == to_secs && entry.file_bytes.is_some())
    }

    /// Says that a sink has written the interval that [`Backlog::front`] gave it. Returns whether
    /// that was the last one that it waited for.
    pub fn done(&self, sink: usize, interval: &Interval) -> bool {
        let mut queue = self.lock();
        let place = &mut queue.places[sink];
        place.given_to_secs = interval.to_secs;
        place.acknowledged_to_secs = place.acknowledged_to_secs.max(interval.to_secs);
        let acknowledged_to_secs = queue.acknowledged_to_secs();
        let mut completed = false;
        for entry in &mut queue.waiting {
            if !entry.again && entry.stamps.to_secs <= acknowledged_to_secs {
                entry.again = true;
                completed = true;
            }
        }
        let given_to_secs =
            queue.places.iter().map(|place| place.given_to_secs).min().unwrap_or(u64::MAX);
        while queue.waiting.front().is_some_and(|entry| entry.stamps.to_secs <= given_to_secs) {
            let entry = queue.waiting.pop_front();
            if self.keep.is_some() {
                queue.written.extend(entry);
            }
        }
        if self.keep.is_some() {
            self.enforce(&mut queue);
        }
        self.note(&queue);
        self.changed.notify_all();
        completed
    }

    /// Lets what a sink took lately be given to it again: it may have lost it.
    pub fn rewind(&self, sink: usize) {
        let again_secs = self.keep.as_ref().map_or(0, |(keep, _)| keep.again_secs);
        let mut queue = self.lock();
        let place = &mut queue.places[sink];
        let begin_secs = place.acknowledged_to_secs.saturating_sub(again_secs);
        place.given_to_secs = place.given_to_secs.min(begin_secs);
        let given_to_secs = place.given_to_secs;
        while let Some(entry) =
            queue.written.pop_back_if(|entry| entry.stamps.to_secs > given_to_secs)
        {
            queue.waiting.push_front(entry);
        }
        self.note(&queue);
    }

    /// Waits for `time`, or until the backlog is closed; returns whether it is.
    pub fn wait_closed(&self, time: Duration) -> bool {
        let queue = self.lock();
        let waited = self.changed.wait_timeout_while(queue, time, |queue| !queue.closed);
        waited.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    /// How many intervals wait that were not written before.
    pub fn len(&self) -> usize {
        self.lock().waiting.iter().filter(|entry| !entry.again).count()
    }

    /// Whether none waits that was not written before.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether what waits survives the end of the process.
    pub fn is_kept(&self) -> bool {
        self.keep.is_some()
    }

    /// Writes files until the backlog is closed and everything is on disk, or cannot be.
    pub fn run_keeper(&self) {
        let Some((keep, spool)) = &self.keep else { return };
        let mut queue = self.lock();
        loop {
            queue.keep_after = queue.keep_after.filter(|after| *after > Instant::now());
            let ready = queue.keep_after.is_none();
            let interval = if ready { queue.unkept() } else { None };
            let open = if ready && interval.is_none() { queue.to_save.take() } else { None };
            if let Some(interval) = interval {
                drop(queue);
                let written = spool.write(&interval);
                let stamps = Stamps::of(&interval);
                drop(interval);
                queue = self.lock();
                match (written, queue.entry(stamps)) {
                    (Ok(bytes), Some(entry)) => {
                        entry.file_bytes = Some(bytes);
                        self.kept_again(&mut queue, keep);
                    }
                    (Ok(_), None) => spool.remove(stamps),
                    (Err(error), _) => self.keep_failed(&mut queue, keep, &error),
                }
                self.enforce(&mut queue);
                self.note(&queue);
                self.changed.notify_all();
            } else if let Some(open) = open {
                let acknowledged_to_secs = queue.acknowledged_to_secs();
                drop(queue);
                let saved = open.into_saved(acknowledged_to_secs);
                let result = saved.as_ref().map(|saved| spool.save(saved));
                queue = self.lock();
                match result {
                    Some(Ok(_)) => {
                        queue.saved = saved.filter(|saved| saved.open.is_empty());
                        self.kept_again(&mut queue, keep);
                    }
                    Some(Err(error)) => self.keep_failed(&mut queue, keep, &error),
                    None => {}
                }
            } else if queue.closed {
                return;
            } else {
                let wait = queue.keep_after.map(|after| {
                    after.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
                });
                queue = match wait {
                    Some(wait) => {
                        let waited = self.changed.wait_timeout(queue, wait);
                        waited.unwrap_or_else(PoisonError::into_inner).0
                    }
                    None => self.wait(queue),
                };
            }
        }
    }

    fn kept_again(&self, queue: &mut Queue, keep: &Keep) {
        if std::mem::take(&mut queue.keep_failing) {
            queue.keep_failure_said = None;
            self.state.set_state_dir_failure(&keep.state_dir, None);
            tracing::info!("the state directory takes files again");
        }
    }

    fn keep_failed(&self, queue: &mut Queue, keep: &Keep, error: &SpoolError) {
        queue.keep_after = Some(Instant::now() + KEEP_RETRY);
        queue.keep_failing = true;
        self.state.write().keep_failures += 1;
        self.show_unkept(keep, error, "it is tried again every few seconds");
        if queue.keep_failure_said.is_none_or(|said| said.elapsed() >= KEEP_REPEAT) {
            queue.keep_failure_said = Some(Instant::now());
            tracing::error!("{error}: a kill would lose what waits, and the open step");
        }
    }

    /// At the end, when no sink writes any more: saves how far they came, which the last saving
    /// could not know. Without that the next start would give them again what they have.
    pub fn settle(&self) {
        let Some((keep, spool)) = &self.keep else { return };
        let mut queue = self.lock();
        let acknowledged_to_secs = queue.acknowledged_to_secs();
        if let Some(saved) = queue.saved.take()
            && saved.acknowledged_to_secs != acknowledged_to_secs
            && let Err(error) = spool.save(&Saved { acknowledged_to_secs, ..saved })
        {
            self.keep_failed(&mut queue, keep, &error);
        }
    }

    /// At the end: how many intervals wait on disk for the next start, and how many nowhere.
    pub fn left(&self) -> (usize, usize) {
        let queue = self.lock();
        let (kept, lost): (Vec<_>, Vec<_>) = queue
            .waiting
            .iter()
            .filter(|entry| !entry.again)
            .partition(|entry| entry.file_bytes.is_some());
        (kept.len(), lost.len())
    }

    fn note(&self, queue: &Queue) {
        let mut write = self.state.write();
        write.backlog = queue.waiting.iter().filter(|entry| !entry.again).count();
        write.spool_bytes = queue.file_bytes();
    }
}

/// The sums of what is lost with some pairs.
fn given_up<'a>(pairs: impl Iterator<Item = &'a Traffic>) -> GivenUp {
    let mut lost = GivenUp::default();
    for traffic in pairs {
        let [samples4, samples6] = traffic.samples.map(u64::from);
        lost.merge(&GivenUp {
            pairs: 1,
            samples: samples4 + samples6,
            packets: traffic.packets[0].saturating_add(traffic.packets[1]),
            bytes: traffic.bytes[0].saturating_add(traffic.bytes[1]),
        });
    }
    lost
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;
    use std::thread;

    use super::*;
    use crate::agent::Agents;
    use crate::flush::{Open, PairTraffic};
    use crate::ixp::VliId;

    fn state() -> Arc<State> {
        Arc::new(State::new(Agents::new(1, 1), 1))
    }

    /// Ten bytes in one packet.
    fn interval(from_secs: u64, to_secs: u64) -> Interval {
        let traffic = Traffic { bytes: [10, 0], packets: [1, 0], samples: [1, 0] };
        let pair = PairTraffic { source: VliId(1), destination: VliId(2), traffic };
        Interval {
            from_secs,
            to_secs,
            after_hole: false,
            lans: Arc::new([]),
            pairs: vec![pair],
            vlans: Vec::new(),
        }
    }

    fn keep(directory: &Path) -> Keep {
        Keep {
            state_dir: directory.to_owned(),
            memory_intervals: 2,
            secs_max: 86_400,
            bytes_max: 1 << 20,
            again_secs: 0,
            save_every: Duration::from_secs(60),
        }
    }

    fn backlog(keep: Keep) -> Backlog {
        Backlog::new(100, WhenFull::DropOldest, 1, state()).keeping(keep)
    }

    /// Ends of the intervals as they come out, with whether they were given before; empties it.
    fn drain(backlog: &Backlog) -> Vec<(u64, bool, bool)> {
        backlog.close();
        let mut out = Vec::new();
        while let Some(Front { interval, again }) = backlog.front(0) {
            out.push((interval.to_secs, interval.after_hole, again));
            backlog.done(0, &interval);
        }
        out
    }

    fn files(directory: &Path) -> usize {
        fs::read_dir(directory.join("spool")).unwrap().count()
    }

    /// Would break if updates that wait for their files left the disk without a word.
    #[test]
    fn what_waits_for_its_files_and_finds_no_room_on_disk_is_counted() {
        for (since_secs, unkept) in [(Some(600), 1), (None, 0)] {
            let directory = tempfile::tempdir().unwrap();
            let state = state();
            let keep = Keep { bytes_max: 0, again_secs: 900, ..keep(directory.path()) };
            let backlog = Backlog::new(100, WhenFull::DropOldest, 1, state.clone()).keeping(keep);
            backlog.push(interval(0, 300));
            backlog.push(interval(300, 600));
            // The first is in its files, the second waits for some that are to be made.
            backlog.keep_since(0, since_secs);
            assert_eq!(drain(&backlog).len(), 2);
            backlog.run_keeper();
            assert_eq!(files(directory.path()), 0);
            assert_eq!(state.write().unkept_before_creation, unkept);
        }
    }

    #[test]
    fn a_full_backlog_drops_the_oldest_that_is_not_being_written() {
        let state = state();
        let backlog = Backlog::new(3, WhenFull::DropOldest, 1, state.clone());
        for n in 0..5 {
            backlog.push(interval(n, n + 1));
        }
        let order: Vec<_> = backlog.in_memory().iter().map(|i| i.from_secs).collect();
        assert_eq!(order, [0, 3, 4]);
        let write = state.write().clone();
        assert_eq!((write.backlog, write.intervals_dropped), (3, 2));
        assert_eq!(write.dropped, GivenUp { pairs: 2, samples: 2, packets: 2, bytes: 20 });
    }

    #[test]
    fn what_waits_is_on_disk_and_comes_out_in_order_after_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let first = backlog(keep(directory.path()));
        thread::scope(|scope| {
            scope.spawn(|| first.run_keeper());
            for n in 1..=5 {
                first.push(interval(n * 300, n * 300 + 300));
            }
            first.close();
        });
        // Two in memory, the others on disk alone; nothing is taken off: the process was killed.
        assert_eq!(first.in_memory().len(), 2);
        assert_eq!(first.left(), (5, 0));
        drop(first);

        let second = backlog(keep(directory.path()));
        assert_eq!(second.resumed_to_secs(), Some(1_800));
        second.push(interval(2_000, 2_100));
        let order: Vec<_> = drain(&second).into_iter().map(|(to, ..)| to).collect();
        assert_eq!(order, [600, 900, 1_200, 1_500, 1_800, 2_100]);
        assert_eq!(files(directory.path()), 0, "nothing is kept to be given again");
    }

    #[test]
    fn what_was_written_is_given_again_and_then_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let backlog = backlog(Keep { again_secs: 600, ..keep(directory.path()) });
        for n in 1..=4 {
            backlog.push(interval(n * 300, n * 300 + 300));
            let front = backlog.front(0).unwrap();
            assert!(!front.again && backlog.done(0, &front.interval));
        }
        backlog.push(interval(1_500, 1_800));
        backlog.rewind(0);
        assert_eq!(backlog.len(), 1);
        assert_eq!(
            drain(&backlog),
            [(1_200, false, true), (1_500, false, true), (1_800, false, false)]
        );
    }

    /// Would break if what a sink took after all was saved were given to it again as new.
    #[test]
    fn what_a_sink_takes_at_the_end_is_known_at_the_next_start() {
        for settled in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let keep = || Keep { again_secs: 900, ..keep(directory.path()) };
            let first = backlog(keep());
            first.push(interval(300, 600));
            let open = Open {
                step_secs: 300,
                steps: BTreeMap::new(),
                covered_to_secs: Some(600),
                lans: Arc::new([]),
            };
            first.save(OpenStep { open, to_secs: 0 });
            first.close();
            first.run_keeper();
            assert!(first.done(0, &first.front(0).unwrap().interval));
            if settled {
                first.settle();
            }
            let second = backlog(keep());
            assert_eq!((second.resumed_to_secs(), second.is_empty()), (Some(600), settled));
        }
    }

    /// Would break if what the sink took, and has in no file yet, lived in its memory alone.
    #[test]
    fn what_waits_for_new_files_is_kept_until_they_are_made() {
        let directory = tempfile::tempdir().unwrap();
        let backlog = backlog(keep(directory.path()));
        thread::scope(|scope| {
            scope.spawn(|| backlog.run_keeper());
            for n in 1..=4 {
                backlog.push(interval(n * 300, n * 300 + 300));
            }
            backlog.close();
        });
        for since_secs in [None, Some(900), Some(900), Some(900)] {
            let front = backlog.front(0).unwrap();
            backlog.keep_since(0, since_secs);
            backlog.done(0, &front.interval);
        }
        assert_eq!([600, 900, 1_500].map(|to| backlog.has_kept(to)), [false, true, true]);
        assert_eq!(files(directory.path()), 3);
        backlog.keep_since(0, Some(1_500));
        assert_eq!([900, 1_200, 1_500].map(|to| backlog.has_kept(to)), [false, false, true]);
        backlog.keep_since(0, None);
        assert_eq!(files(directory.path()), 0);
    }

    #[test]
    fn each_sink_goes_at_its_own_pace_and_an_interval_is_done_when_all_took_it() {
        let directory = tempfile::tempdir().unwrap();
        let keep = Keep { again_secs: 600, ..keep(directory.path()) };
        let backlog = Backlog::new(100, WhenFull::DropOldest, 2, state()).keeping(keep.clone());
        let take = |sink: usize| {
            let front = backlog.front(sink).unwrap();
            (front.interval.to_secs, front.again, backlog.done(sink, &front.interval))
        };
        for n in 1..=6 {
            backlog.push(interval(n * 300, n * 300 + 300));
            assert_eq!(take(0), (n * 300 + 300, false, false));
        }
        assert!(!backlog.wait_work(0, Duration::ZERO) && backlog.wait_work(1, Duration::ZERO));
        assert_eq!((backlog.len(), backlog.left()), (6, (0, 6)));
        assert_eq!([take(1), take(1)], [(600, false, true), (900, false, true)]);
        assert_eq!(backlog.len(), 4);
        // What one of them may have lost is given to it alone, as far as it is to be.
        backlog.rewind(0);
        assert_eq!([take(0), take(0)], [(1_800, true, false), (2_100, true, false)]);
        assert!(!backlog.wait_work(0, Duration::ZERO));
        assert_eq!(take(1), (1_200, false, true));
        // Killed, with everything on disk: both are given what not both have.
        backlog.close();
        backlog.run_keeper();
        drop(backlog);
        let backlog = Backlog::new(100, WhenFull::DropOldest, 2, state()).keeping(keep);
        assert_eq!(backlog.front(0).unwrap().interval.to_secs, 900);
        assert_eq!(backlog.front(1).unwrap().interval.to_secs, 900);
    }

    #[test]
    fn limits_of_age_and_bytes_give_up_the_oldest_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let bytes = crate::flush::format::encode(&interval(300, 600)).len() as u64;
        for (keep, expected) in [
            (Keep { secs_max: 600, ..keep(directory.path()) }, vec![600, 1_200, 1_500, 1_800]),
            (Keep { bytes_max: 2 * bytes, ..keep(directory.path()) }, vec![600, 1_800]),
        ] {
            let state = state();
            let backlog =
                Backlog::new(100, WhenFull::DropOldest, 1, state.clone()).keeping(keep.clone());
            thread::scope(|scope| {
                scope.spawn(|| backlog.run_keeper());
                for n in 1..=5 {
                    backlog.push(interval(n * 300, n * 300 + 300));
                }
                backlog.close();
            });
            let lost = 5 - expected.len() as u64;
            let write = state.write().clone();
            assert_eq!(write.intervals_dropped, lost, "{keep:?}");
            let sums = GivenUp { pairs: lost, samples: lost, packets: lost, bytes: 10 * lost };
            assert_eq!(write.dropped, sums);
            let order: Vec<_> = drain(&backlog).into_iter().map(|(to, ..)| to).collect();
            assert_eq!(order, expected);
        }
    }

    #[test]
    fn a_hole_in_the_spool_is_one_in_the_files() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path()).unwrap();
        for (from, to) in [(300, 600), (600, 900), (900, 1_200)] {
            spool.write(&interval(from, to)).unwrap();
        }
        // The one in the middle is damaged.
        let path = directory.path().join("spool/000000000600-000000000900.interval");
        fs::write(&path, "torn").unwrap();
        let state = state();
        let backlog = Backlog::new(100, WhenFull::DropOldest, 1, state.clone());
        let backlog = backlog.keeping(keep(directory.path()));
        assert_eq!(drain(&backlog), [(600, false, false), (1_200, true, false)]);
        assert_eq!(state.write().intervals_dropped, 1);
        assert!(path.with_extension("interval.refused").exists());
    }

    #[test]
    fn a_state_directory_that_cannot_be_leaves_the_memory() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("spool"), "a file").unwrap();
        let backlog = backlog(keep(directory.path()));
        assert!(!backlog.is_kept());
        backlog.push(interval(300, 600));
        backlog.run_keeper();
        assert_eq!(backlog.left(), (0, 1));
        assert_eq!(drain(&backlog), [(600, false, false)]);
    }
}
