//! A table that keeps the rows with most traffic of late, and counts the others together.

use std::collections::HashMap;
use std::hash::Hash;

use foldhash::fast::FixedState;

/// What was seen under a key.
#[derive(Clone, Debug)]
pub(super) struct Row<D> {
    /// Samples, ever.
    pub(super) samples: u64,
    /// Packets that they stand for.
    pub(super) packets: u64,
    /// Samples, halved whenever the table decays or is pruned: what is decided by.
    pub(super) recent: u64,
    /// First sample, in milliseconds since 1970.
    pub(super) first_millis: u64,
    /// Last sample.
    pub(super) last_millis: u64,
    /// The rest, as it was seen last.
    pub(super) detail: D,
}

/// Rows by key: as many as the limit, and for a while twice as many, so that one that comes late
/// can show what it has.
#[derive(Clone, Debug)]
pub(super) struct Bounded<K, D> {
    rows: HashMap<K, Row<D>, FixedState>,
    limit: usize,
    /// Samples of rows that were given up.
    pub(super) others: u64,
}

impl<K: Copy + Eq + Hash, D> Bounded<K, D> {
    pub(super) fn new(limit: usize) -> Bounded<K, D> {
        Bounded { rows: HashMap::default(), limit, others: 0 }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Row<D>)> {
        self.rows.iter()
    }

    /// Adds to the row of `key`.
    pub(super) fn add(&mut self, key: K, row: Row<D>) {
        if let Some(known) = self.rows.get_mut(&key) {
            known.samples += row.samples;
            known.packets = known.packets.saturating_add(row.packets);
            known.recent += row.recent;
            known.first_millis = known.first_millis.min(row.first_millis);
            if row.last_millis >= known.last_millis {
                known.last_millis = row.last_millis;
                known.detail = row.detail;
            }
            return;
        }
        if self.rows.len() >= 2 * self.limit {
            self.prune();
        }
        self.rows.insert(key, row);
    }

    /// Adds all rows of `other`, and empties it.
    pub(super) fn merge(&mut self, other: &mut Bounded<K, D>) {
        for (key, row) in other.rows.drain() {
            self.add(key, row);
        }
        self.others += std::mem::take(&mut other.others);
    }

    /// Keeps as many rows as the limit, those with most samples of late.
    fn prune(&mut self) {
        let mut recent: Vec<u64> = self.rows.values().map(|row| row.recent).collect();
        let (_, &mut least, _) = recent.select_nth_unstable_by(self.limit, |a, b| b.cmp(a));
        let mut room = self.limit;
        let others = &mut self.others;
        self.rows.retain(|_, row| {
            let kept = row.recent > least;
            room -= usize::from(kept);
            kept || row.recent == least || {
                *others += row.samples;
                false
            }
        });
        // Of those that are equal at the limit, as many as there is room for.
        self.rows.retain(|_, row| {
            let kept = row.recent > least || room > 0;
            if row.recent == least && kept {
                room -= 1;
            } else if !kept {
                *others += row.samples;
            }
            kept
        });
        self.decay();
    }

    /// Lets what was seen until now weigh half.
    pub(super) fn decay(&mut self) {
        for row in self.rows.values_mut() {
            row.recent /= 2;
        }
    }

    /// Forgets rows whose last sample came before `millis`.
    pub(super) fn forget_before(&mut self, millis: u64) {
        self.rows.retain(|_, row| row.last_millis >= millis);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(samples: u64, at_millis: u64) -> Row<u64> {
        Row {
            samples,
            packets: samples * 100,
            recent: samples,
            first_millis: at_millis,
            last_millis: at_millis,
            detail: at_millis,
        }
    }

    #[test]
    fn the_heavy_rows_stay_and_nothing_is_lost() {
        let mut table = Bounded::new(10);
        let mut sent = 0;
        for round in 0..1_000u64 {
            // Five that send always, and a crowd of which each sends once.
            for heavy in 0..5u64 {
                table.add(heavy, row(3, round));
                sent += 3;
            }
            table.add(1_000 + round, row(1, round));
            sent += 1;
            assert!(table.rows.len() <= 20);
        }
        for heavy in 0..5 {
            assert_eq!(table.rows[&heavy].samples, 3_000);
            assert_eq!(table.rows[&heavy].packets, 300_000);
            assert_eq!(table.rows[&heavy].first_millis, 0);
            assert_eq!(table.rows[&heavy].detail, 999);
        }
        let kept: u64 = table.rows.values().map(|row| row.samples).sum();
        assert_eq!(kept + table.others, sent);
        // One that begins late, among the old ones, is kept as well.
        for round in 1_000..1_100u64 {
            table.add(7, row(50, round));
            table.add(5_000 + round, row(1, round));
        }
        assert_eq!(table.rows[&7].samples, 5_000);
        let mut other = table.clone();
        table.merge(&mut other);
        assert!(other.rows.is_empty());
        assert_eq!(table.rows[&7].samples, 10_000);
        table.forget_before(1_050);
        assert!(!table.rows.contains_key(&0));
    }

    #[test]
    fn equal_rows_are_cut_at_the_limit() {
        let mut table = Bounded::new(4);
        for key in 0..9u64 {
            table.add(key, row(1, 0));
        }
        assert_eq!((table.rows.len(), table.others), (5, 4));
    }
}
