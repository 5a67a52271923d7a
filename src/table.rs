//! A hash table for the two look-ups that every sample makes.
//!
//! Open addressing, in which a key lies beside its value: a look-up in a cold cache costs one
//! miss where a general map costs two, and its few instructions let the misses of neighbouring
//! samples overlap. Keys are 64 bits wide; nothing is ever removed.

/// A place of a [`Table`], with its key.
pub trait Place: Copy {
    /// An empty place: its key is [`NO_KEY`].
    const EMPTY: Self;

    /// The key.
    fn key(&self) -> u64;

    /// Makes the place one of `key`.
    fn set_key(&mut self, key: u64);
}

/// The key of empty places; no other place may have it.
pub const NO_KEY: u64 = u64::MAX;

/// Places by key.
#[derive(Clone, Debug)]
pub struct Table<P> {
    /// A power of two of places, at least half of them empty: every probe ends.
    places: Vec<P>,
    len: usize,
}

impl<P: Place> Default for Table<P> {
    fn default() -> Table<P> {
        Table { places: vec![P::EMPTY; 8], len: 0 }
    }
}

/// Fibonacci hashing: the upper half of the product depends on all bits of the key.
#[inline]
fn hash(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}

impl<P: Place> Table<P> {
    /// How many places are used.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The index of the place of `key`; without one, that of the empty place where it would be.
    #[inline(always)]
    fn probe(&self, key: u64) -> Result<usize, usize> {
        let mask = self.places.len() - 1;
        let mut at = hash(key) & mask;
        loop {
            let found = self.places[at].key();
            if found == key {
                return Ok(at);
            }
            if found == NO_KEY {
                return Err(at);
            }
            at = (at + 1) & mask;
        }
    }

    /// The place of `key`.
    #[inline(always)]
    pub fn get(&self, key: u64) -> Option<&P> {
        self.probe(key).ok().map(|at| &self.places[at])
    }

    /// The place of `key`, which is made if there is none.
    #[inline(always)]
    pub fn entry(&mut self, key: u64) -> &mut P {
        let at = self.probe(key).unwrap_or_else(|_| self.insert(key));
        &mut self.places[at]
    }

    #[cold]
    fn insert(&mut self, key: u64) -> usize {
        if self.len * 2 >= self.places.len() {
            let larger = vec![P::EMPTY; self.places.len() * 2];
            for place in std::mem::replace(&mut self.places, larger) {
                if place.key() != NO_KEY {
                    let (Ok(at) | Err(at)) = self.probe(place.key());
                    self.places[at] = place;
                }
            }
        }
        let (Ok(at) | Err(at)) = self.probe(key);
        self.places[at].set_key(key);
        self.len += 1;
        at
    }

    /// The used places, in no order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.places.iter_mut().filter(|place| place.key() != NO_KEY)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy)]
    struct Count {
        key: u64,
        count: u32,
    }

    impl Place for Count {
        const EMPTY: Count = Count { key: NO_KEY, count: 0 };

        fn key(&self) -> u64 {
            self.key
        }

        fn set_key(&mut self, key: u64) {
            self.key = key;
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(
            keys in prop::collection::vec(prop_oneof![0u64..50, any::<u64>(), Just(NO_KEY - 1)], 0..500),
            absent in any::<u64>(),
        ) {
            let mut table = Table::<Count>::default();
            let mut map = HashMap::new();
            for key in keys.into_iter().filter(|&key| key != NO_KEY) {
                table.entry(key).count += 1;
                *map.entry(key).or_insert(0) += 1;
            }
            prop_assert_eq!(table.len(), map.len());
            prop_assert!(table.places.len() >= 2 * table.len());
            for (key, count) in &map {
                prop_assert_eq!(table.get(*key).map(|place| place.count), Some(*count));
            }
            prop_assert_eq!(table.get(absent).is_some(), map.contains_key(&absent));
            let counts: HashMap<_, _> =
                table.iter_mut().map(|place| (place.key, place.count)).collect();
            prop_assert_eq!(counts, map);
        }
    }
}
