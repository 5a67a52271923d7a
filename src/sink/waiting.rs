//! New files that wait to be made, in order, each with the updates that wait behind it.
//!
//! Making a file takes longer than feeding it, and a flush after which all pairs of a large
//! exchange are new would take minutes. So a flush leaves new files here, and they are made between
//! the flushes, so many a second. A file that is made later begins with the first interval that it
//! waits with, and takes every interval since in order, so that its rows are those that it would
//! have had.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::feed::{Span, Update};
use super::tree::File;

/// Updates that wait for their files, at the most: what the default rate makes in a step; 150 MB.
pub const WAITING_MAX: usize = 1_500_000;

/// Files that are made at once, at the most.
const SLICE: usize = 1000;

/// Files that wait.
#[derive(Default, Debug)]
pub(super) struct Waiting {
    /// Files a second; none: every file is made within its flush.
    per_sec: Option<u32>,
    /// In the order in which they asked, with the number of the interval.
    queue: VecDeque<(File, u64)>,
    members: HashSet<File>,
    /// The intervals that files wait with.
    held: VecDeque<Held>,
    /// The number of the first of them.
    first: u64,
    updates: usize,
    /// Files that may be made at once, and when that was reckoned.
    allowance: f64,
    reckoned: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    span: Span,
    /// Files that are not here were silent.
    totals: HashMap<File, [u64; 2]>,
}

/// What became of updates whose files were not there.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Deferred {
    /// They wait.
    pub(super) waiting: u64,
    /// They are lost.
    pub(super) dropped: u64,
}

impl Waiting {
    pub(super) fn set_pace(&mut self, per_sec: u32) {
        self.per_sec = Some(per_sec.max(1));
    }

    pub(super) fn is_paced(&self) -> bool {
        self.per_sec.is_some()
    }

    /// As if no more could wait.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        self.updates = WAITING_MAX;
    }

    /// Number of files.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// The end of the oldest interval that a file waits with, in seconds since 1970.
    pub(super) fn since_secs(&self) -> Option<u64> {
        let first = self.held.front().filter(|_| !self.queue.is_empty());
        first.map(|held| held.span.to_secs)
    }

    /// Updates that still fit.
    pub(super) fn room(&self) -> usize {
        WAITING_MAX - self.updates
    }

    /// Takes the updates of an interval; of one that came before, those that are not there yet.
    pub(super) fn add(&mut self, span: Span, updates: &[(File, [u64; 2])]) -> Deferred {
        let mut deferred = Deferred::default();
        if updates.is_empty() && self.queue.is_empty() {
            return deferred;
        }
        let again = self.held.back().is_some_and(|last| last.span.to_secs >= span.to_secs);
        if !again {
            self.held.push_back(Held { span, totals: HashMap::new() });
        }
        let number = self.first + self.held.len() as u64 - 1;
        // An older one that is given again: what does not wait has had its turn.
        let older = self.held.back().is_some_and(|last| last.span.to_secs > span.to_secs);
        let mut room = if older { 0 } else { self.room() };
        // The one that was pushed, or the same.
        let Some(held) = self.held.back_mut() else { return deferred };
        for &(file, totals) in updates {
            let silent = totals == [0, 0];
            let is_member = self.members.contains(&file);
            if is_member && (again || silent) {
                deferred.waiting += u64::from(!silent);
                continue;
            }
            if room == 0 {
                // A silent file has nothing to lose, and asks again.
                deferred.dropped += u64::from(!silent);
                continue;
            }
            room -= 1;
            self.updates += 1;
            deferred.waiting += u64::from(!silent);
            held.totals.insert(file, totals);
            if self.members.insert(file) {
                self.queue.push_back((file, number));
            }
        }
        deferred
    }

    /// How many files may be made at once; `all`: whatever the pace. They wait until
    /// [`Waiting::remove`].
    pub(super) fn due(&mut self, now: Instant, all: bool) -> usize {
        let per_sec = f64::from(self.per_sec.unwrap_or(u32::MAX));
        let passed = self.reckoned.map_or(1.0, |at| now.duration_since(at).as_secs_f64());
        self.reckoned = Some(now);
        // Not more than a second's worth is saved up.
        self.allowance = (self.allowance + passed * per_sec).min(per_sec);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number, not below 0"
        )]
        let allowed = if all { SLICE } else { SLICE.min(self.allowance as usize) };
        allowed.min(self.queue.len())
    }

    /// The updates of the first `count` files, by interval, in order.
    pub(super) fn updates(&self, count: usize) -> Vec<(Span, Vec<Update>)> {
        let mut waves = Vec::new();
        for (held, number) in self.held.iter().zip(self.first..) {
            let files = self.queue.iter().take(count).filter(|(_, first)| *first <= number);
            let updates: Vec<Update> = files
                .map(|&(file, first)| Update {
                    file,
                    totals: held.totals.get(&file).copied().unwrap_or_default(),
                    known: first < number,
                    hole: held.span.after_hole,
                    unfed: false,
                })
                .collect();
            if !updates.is_empty() {
                waves.push((held.span, updates));
            }
        }
        waves
    }

    /// The first `count` files have been dealt with.
    pub(super) fn remove(&mut self, count: usize) {
        for (file, _) in self.queue.drain(..count) {
            self.members.remove(&file);
            for held in &mut self.held {
                self.updates -= usize::from(held.totals.remove(&file).is_some());
            }
        }
        self.allowance = (self.allowance - count as f64).max(0.0);
        let next = self.queue.front().map_or(u64::MAX, |&(_, first)| first);
        while self.first < next && self.held.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Gives everything up; returns how many updates that were not silent are lost.
    pub(super) fn give_up(&mut self) -> u64 {
        let lost = self.held.iter().flat_map(|held| held.totals.values());
        let lost = lost.filter(|totals| **totals != [0, 0]).count();
        self.remove(self.queue.len());
        lost as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ixp::{IpProtocol, Unit, VliId};

    fn file(vli: u32) -> File {
        File::Individual { protocol: IpProtocol::V4, unit: Unit::Bytes, vli: VliId(vli) }
    }

    fn span(number: u64) -> Span {
        Span { from_secs: number * 300, to_secs: (number + 1) * 300, after_hole: false }
    }

    #[test]
    fn files_wait_in_order_with_all_their_intervals() {
        let mut waiting = Waiting::default();
        waiting.set_pace(10);
        let deferred = waiting.add(span(1), &[(file(1), [5, 0]), (file(2), [0, 0])]);
        assert_eq!(deferred, Deferred { waiting: 1, dropped: 0 });
        // The same interval once more.
        waiting.add(span(1), &[(file(1), [5, 0]), (file(2), [0, 0])]);
        waiting.add(span(2), &[(file(1), [7, 0]), (file(3), [9, 0])]);
        assert_eq!(waiting.len(), 3);
        let totals = |waiting: &Waiting, count| -> Vec<Vec<(File, u64, bool)>> {
            let waves = waiting.updates(count).into_iter();
            waves
                .map(|(_, updates)| {
                    updates.iter().map(|u| (u.file, u.totals[0], u.known)).collect()
                })
                .collect()
        };
        assert_eq!(
            totals(&waiting, 3),
            [
                vec![(file(1), 5, false), (file(2), 0, false)],
                vec![(file(1), 7, true), (file(2), 0, true), (file(3), 9, false)],
            ]
        );
        waiting.remove(2);
        assert_eq!(totals(&waiting, 1), [vec![(file(3), 9, false)]]);
        assert_eq!(waiting.give_up(), 1);
        assert_eq!((waiting.len(), waiting.room()), (0, WAITING_MAX));
        assert_eq!(waiting.add(span(3), &[]), Deferred::default());
        assert!(waiting.held.is_empty());
    }

    #[test]
    fn the_pace_is_kept() {
        let mut waiting = Waiting::default();
        waiting.set_pace(10);
        let updates: Vec<_> = (0..40).map(|vli| (file(vli), [1, 1])).collect();
        waiting.add(span(1), &updates);
        let mut now = Instant::now();
        let mut made = 0;
        for _ in 0..20 {
            let due = waiting.due(now, false);
            waiting.remove(due);
            made += due;
            now += Duration::from_millis(100);
        }
        assert_eq!(made, 10 + 19, "a second's worth at once, then one in 100 ms");
        assert_eq!(waiting.due(now, true), 11);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let mut waiting = Waiting::default();
        waiting.set_pace(1);
        waiting.updates = WAITING_MAX - 1;
        let deferred =
            waiting.add(span(1), &[(file(1), [1, 0]), (file(2), [1, 0]), (file(3), [0, 0])]);
        assert_eq!(deferred, Deferred { waiting: 1, dropped: 1 });
        assert_eq!(waiting.len(), 1);
    }
}
