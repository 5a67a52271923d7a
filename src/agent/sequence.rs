//! Where a datagram stands in its agent's stream: what is missing, late, doubled, or new.
//!
//! A datagram's sequence number, its uptime and the time at which it came decide what it is:
//!
//! - *next, or ahead*: the numbers between are missing. A jump is believed as far as the uptime
//!   between the two datagrams allows ([`DATAGRAMS_PER_MILLI_MAX`]).
//! - *late*: within the window, not seen yet: it was missing, and is no longer.
//! - *duplicate*: within the window, seen: counted as such; its samples are counted, because two
//!   senders behind one address may share numbers, and a network that duplicates is the rarer.
//! - anything else is a *restart, or another sender* behind the same agent address and sub-agent:
//!   it starts a number space of its own, beside at most three others. Nothing is missing then.
//!
//! Numbers and uptimes wrap at 2^32; all differences are taken modulo 2^32.

/// Width of a sequence window, in datagrams, where one worker hears an agent's datagrams in the
/// order in which they came.
pub(super) const WINDOW: u32 = 4_096;

/// Width of a sequence window, in datagrams, where several workers hear parts of an agent: one of
/// them may be behind by what its socket's buffer holds, while the others go on. At the default
/// of the buffer that is 58,254 datagrams of six samples, of each of two workers. A power of two,
/// as [`WINDOW`] is; a bit each, hence 16 KiB.
pub(super) const WINDOW_SPREAD: u32 = 131_072;

/// Number spaces that are kept of an agent.
const SPACES_MAX: usize = 4;

/// No agent sends more datagrams than this in a millisecond of its uptime: a jump that would
/// need more is no loss.
pub const DATAGRAMS_PER_MILLI_MAX: u32 = 100;

/// How much later an agent may have sent a datagram than its uptime says: many step their uptime
/// coarsely, and send in bursts.
const UPTIME_SLACK_MILLIS: u32 = 100;

/// Jumps up to this many datagrams are believed whatever the uptime says.
const NEAR: u32 = 64;

/// Two datagrams of one sender agree on when it started to within so much, in milliseconds.
const BOOT_TOLERANCE_MILLIS: u32 = 10_000;

/// Losses on the way to the collector, as far as numbers tell.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SequenceCounts {
    /// Datagrams missing.
    pub gaps: u64,
    /// Datagrams that came after their successors.
    pub late: u64,
    /// Datagrams that came twice.
    pub duplicates: u64,
    /// Restarts, and senders that share an agent address and sub-agent id.
    pub resets: u64,
}

impl SequenceCounts {
    /// Adds `other`.
    pub(super) fn merge(&mut self, other: SequenceCounts) {
        self.gaps += other.gaps;
        self.late += other.late;
        self.duplicates += other.duplicates;
        self.resets += other.resets;
    }
}

/// One datagram's place in its agent's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Sequence number.
    pub number: u32,
    /// The agent's uptime in milliseconds.
    pub uptime_millis: u32,
    /// When it came, in milliseconds, modulo 2^32.
    pub stamp_millis: u32,
}

impl Mark {
    fn boot(self) -> u32 {
        self.stamp_millis.wrapping_sub(self.uptime_millis)
    }
}

/// One number space: the datagrams of one sender since it started.
#[derive(Clone, Debug)]
struct Space {
    highest: Mark,
    /// Bit `number % window` of each of the last `window` numbers: whether it came.
    seen: Box<[u64]>,
    /// For the choice of the space to forget.
    used: u64,
}

enum Place {
    Ahead(u32),
    Behind(u32),
    Elsewhere,
}

impl Space {
    fn new(mark: Mark, window: u32) -> Space {
        // What came before the first datagram is not known, hence not missing.
        let seen = vec![u64::MAX; window as usize / 64].into_boxed_slice();
        Space { highest: mark, seen, used: 0 }
    }

    fn bit(number: u32, window: u32) -> (usize, u64) {
        // The window is a power of two: numbers keep their place over the wrap.
        let place = number & (window - 1);
        ((place / 64) as usize, 1 << (place % 64))
    }

    fn place(&self, mark: Mark, window: u32) -> Place {
        let ahead = mark.number.wrapping_sub(self.highest.number);
        let behind = self.highest.number.wrapping_sub(mark.number);
        let apart = mark.boot().wrapping_sub(self.highest.boot()).cast_signed().unsigned_abs();
        let same_boot = apart <= BOOT_TOLERANCE_MILLIS;
        let uptime = mark.uptime_millis.wrapping_sub(self.highest.uptime_millis);
        // Across a wrap of the uptime, and where datagrams overtook each other, the difference is
        // large or negative; as a negative one it allows nothing but the slack.
        let possible = u32::try_from(uptime.cast_signed().max(0)).unwrap_or(0);
        let possible = possible.saturating_add(UPTIME_SLACK_MILLIS);
        if ahead != 0 && ahead <= NEAR {
            Place::Ahead(ahead)
        } else if behind <= NEAR && (same_boot || behind == 0) {
            Place::Behind(behind)
        } else if same_boot
            && ahead < 1 << 31
            && ahead <= possible.saturating_mul(DATAGRAMS_PER_MILLI_MAX)
        {
            Place::Ahead(ahead)
        } else if same_boot && behind < window {
            Place::Behind(behind)
        } else {
            Place::Elsewhere
        }
    }
}

/// The number spaces of one agent.
#[derive(Clone, Debug)]
pub struct Sequence {
    spaces: Vec<Space>,
    turn: u64,
    counts: SequenceCounts,
    window: u32,
}

impl Default for Sequence {
    fn default() -> Sequence {
        Sequence::new(WINDOW)
    }
}

impl Sequence {
    /// No datagram yet; late ones are told up to `window` numbers behind, a power of two of at
    /// least 64.
    pub(super) fn new(window: u32) -> Sequence {
        Sequence { spaces: Vec::new(), turn: 0, counts: SequenceCounts::default(), window }
    }

    /// Takes the place of one more datagram into account.
    pub fn take(&mut self, mark: Mark) {
        self.turn += 1;
        let turn = self.turn;
        let window = self.window;
        // Nearly every datagram: the next one of the only sender.
        if let [space] = &mut self.spaces[..]
            && mark.number == space.highest.number.wrapping_add(1)
        {
            let (word, bit) = Space::bit(mark.number, window);
            space.seen[word] |= bit;
            space.highest = mark;
            space.used = turn;
            return;
        }
        // The nearest space: a jump that was too far for one began another, and what follows the
        // jump must not be taken for one more jump of the first.
        let nearest = self.spaces.iter_mut().min_by_key(|space| match space.place(mark, window) {
            Place::Ahead(apart) | Place::Behind(apart) => apart,
            Place::Elsewhere => u32::MAX,
        });
        if let Some(space) = nearest {
            match space.place(mark, window) {
                Place::Ahead(ahead) => {
                    self.counts.gaps += u64::from(ahead) - 1;
                    if ahead >= window {
                        space.seen.fill(0);
                    } else {
                        for step in 1..ahead {
                            let number = space.highest.number.wrapping_add(step);
                            let (word, bit) = Space::bit(number, window);
                            space.seen[word] &= !bit;
                        }
                    }
                    let (word, bit) = Space::bit(mark.number, window);
                    space.seen[word] |= bit;
                    space.highest = mark;
                    space.used = turn;
                    return;
                }
                Place::Behind(_) => {
                    let (word, bit) = Space::bit(mark.number, window);
                    if space.seen[word] & bit == 0 {
                        space.seen[word] |= bit;
                        self.counts.gaps = self.counts.gaps.saturating_sub(1);
                        self.counts.late += 1;
                    } else {
                        self.counts.duplicates += 1;
                    }
                    space.used = turn;
                    return;
                }
                Place::Elsewhere => {}
            }
        }
        let mut space = Space::new(mark, window);
        space.used = turn;
        if !self.spaces.is_empty() {
            self.counts.resets += 1;
        }
        if self.spaces.len() < SPACES_MAX {
            self.spaces.push(space);
        } else if let Some(oldest) = self.spaces.iter_mut().min_by_key(|space| space.used) {
            *oldest = space;
        }
    }

    /// What the numbers tell so far.
    pub fn counts(&self) -> SequenceCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A well-behaved sender: one datagram every 10 ms.
    fn mark(number: u32) -> Mark {
        let millis = number.wrapping_mul(10);
        Mark { number, uptime_millis: millis, stamp_millis: millis.wrapping_add(5_000) }
    }

    fn counts(marks: impl IntoIterator<Item = Mark>) -> SequenceCounts {
        let mut sequence = Sequence::default();
        for mark in marks {
            sequence.take(mark);
        }
        sequence.counts()
    }

    #[test]
    fn gaps_are_what_is_missing() {
        let lost = [17, 18, 900, 5_000];
        let marks = (1..=20_000).filter(|n| !lost.contains(n)).map(mark);
        assert_eq!(counts(marks), SequenceCounts { gaps: 4, ..Default::default() });
    }

    #[test]
    fn an_outage_of_the_path_is_counted_whole() {
        let marks = (1..=100).chain(60_100..60_200).map(mark);
        assert_eq!(counts(marks), SequenceCounts { gaps: 59_999, ..Default::default() });
    }

    #[test]
    fn bursts_within_one_millisecond_of_uptime_lose_what_they_lose() {
        // 2,000 datagrams a burst, of which the middle is lost; the uptime stands still meanwhile.
        let marks = (0..20u32).flat_map(|burst| {
            let millis = burst * 20;
            let numbers = (1..=2_000u32).filter(|n| !(500..1_500).contains(n));
            numbers.map(move |n| Mark {
                number: burst * 2_000 + n,
                uptime_millis: millis,
                stamp_millis: millis + 5_000,
            })
        });
        assert_eq!(counts(marks), SequenceCounts { gaps: 20_000, ..Default::default() });
    }

    #[test]
    fn a_jump_too_far_for_one_space_is_counted_by_none() {
        let far = |n: u32| Mark { number: n, uptime_millis: 5_000, stamp_millis: 10_000 };
        let marks = (1..=500).map(mark).chain((400_000..400_100).map(far));
        assert_eq!(counts(marks), SequenceCounts { resets: 1, ..Default::default() });
    }

    #[test]
    fn a_late_datagram_was_never_lost() {
        let mut order: Vec<u32> = (1..=4_000).collect();
        for pair in order.chunks_mut(50) {
            pair.reverse();
        }
        let result = counts(order.into_iter().map(mark));
        // The first chunk begins at its end: what came before the first datagram is not missing.
        assert_eq!((result.gaps, result.resets), (0, 0));
        assert!(result.late > 3_000, "{result:?}");
    }

    #[test]
    fn duplicates_are_no_gaps() {
        let marks = (1..=100).flat_map(|n| [mark(n), mark(n)]);
        assert_eq!(counts(marks), SequenceCounts { duplicates: 100, ..Default::default() });
    }

    #[test]
    fn numbers_and_uptimes_wrap() {
        let marks = (0..1_000u32).filter(|n| n % 100 != 50).map(|n| {
            let number = n.wrapping_sub(500);
            let uptime_millis = n.wrapping_mul(10).wrapping_sub(3_000);
            Mark { number, uptime_millis, stamp_millis: n * 10 }
        });
        assert_eq!(counts(marks), SequenceCounts { gaps: 10, ..Default::default() });
    }

    #[test]
    fn a_restart_loses_nothing() {
        let second = |n: u32| Mark { stamp_millis: 2_000_000 + n * 10, ..mark(n) };
        for length in [10, 500, 100_000] {
            let marks = (1..=length).map(mark).chain((1..=2_000).map(second));
            let result = counts(marks);
            assert_eq!((result.gaps, result.resets), (0, 1), "after {length}");
        }
    }

    #[test]
    fn two_senders_behind_one_address_do_not_explode() {
        // Number spaces that are far apart, close together, and equal.
        for offset in [3_000_000_000, 300_000, 2_000, 0u32] {
            let marks = (1..=5_000u32).flat_map(|n| {
                let other = Mark {
                    number: n.wrapping_add(offset),
                    uptime_millis: n * 10 + 900_000,
                    ..mark(n)
                };
                [mark(n), other]
            });
            let result = counts(marks);
            assert!(result.gaps <= u64::from(NEAR), "{offset}: {result:?}");
            assert!(result.resets <= 4, "{offset}: {result:?}");
        }
    }

    #[test]
    fn two_workers_that_fold_in_turns_agree_with_one() {
        let lost = |n: &u32| n.is_multiple_of(97);
        let all: Vec<_> = (1..=9_000u32).filter(|n| !lost(n)).collect();
        let mut sequence = Sequence::default();
        for block in all.chunks(256) {
            for parity in [1, 0] {
                block.iter().filter(|n| *n % 2 == parity).for_each(|&n| sequence.take(mark(n)));
            }
        }
        let expected = u64::from(9_000u32 / 97);
        assert_eq!(sequence.counts().gaps, expected, "{:?}", sequence.counts());
    }

    #[test]
    fn a_worker_may_be_behind_by_what_its_socket_holds() {
        let lost = |n: &u32| n.is_multiple_of(97);
        let mut sequence = Sequence::new(WINDOW_SPREAD);
        // At 50 datagrams a millisecond.
        let mark = |number: u32| Mark {
            number,
            uptime_millis: number / 50,
            stamp_millis: 5_000 + number / 50,
        };
        for turn in 0..4 {
            let block = turn * 110_000..(turn + 1) * 110_000;
            for parity in [0, 1] {
                let numbers = block.clone().filter(|n| n % 2 == parity && !lost(n));
                numbers.for_each(|n| sequence.take(mark(n)));
            }
        }
        // The first number is lost, which nobody can know.
        let expected = u64::from(439_999u32 / 97);
        let result = sequence.counts();
        assert_eq!((result.gaps, result.resets), (expected, 0), "{result:?}");
    }

    proptest! {
        #[test]
        fn no_sender_makes_the_counts_explode(
            marks in prop::collection::vec((any::<u32>(), any::<u32>(), 0u32..1_000_000), 1..300)
        ) {
            let mut marks: Vec<_> = marks
                .into_iter()
                .map(|(number, uptime_millis, stamp_millis)| Mark {
                    number, uptime_millis, stamp_millis,
                })
                .collect();
            marks.sort_by_key(|mark| mark.stamp_millis);
            let span = u64::from(marks[marks.len() - 1].stamp_millis - marks[0].stamp_millis);
            let count = marks.len() as u64;
            let result = counts(marks);
            // No more than an agent could have sent in the time, for each of the spaces, with
            // what the tolerance of the clocks adds for each datagram.
            let bound = (span + count * 2 * u64::from(BOOT_TOLERANCE_MILLIS)) * 100 + count * 64;
            prop_assert!(result.gaps <= bound, "{:?} > {}", result, bound);
        }
    }
}
