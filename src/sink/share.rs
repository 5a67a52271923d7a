//! Which part of the tree a sink feeds, where several take a part each.
//!
//! The part is chosen by rendezvous hashing with equal weights: each sink has a number for each
//! VLI, and the highest one has the VLI. So a sink that comes takes its part from all others, one
//! that goes leaves its part to all others, and nothing else moves. The hash is fixed
//! (docs/design.md, "Shares"): operators lay their disks out by it.

use std::fmt;
use std::sync::Arc;

use super::tree::File;
use crate::ixp::{VlanTag, VliId};

/// What is added to a VLAN tag, so that it is no VLI.
const TAGS_FROM: u64 = 1 << 32;

/// A part of the tree: by default the whole.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Share {
    /// Of each sink; none: there is only one.
    seeds: Arc<[u64]>,
    number: usize,
}

impl Share {
    /// The parts of sinks with these names, one each. The order of the names does not matter.
    pub fn of_all(names: &[String]) -> Vec<Share> {
        let seeds: Arc<[u64]> = names.iter().map(|name| seed(name)).collect();
        (0..names.len()).map(|number| Share { seeds: seeds.clone(), number }).collect()
    }

    /// The place of this part's sink in the list of the names.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Whether it is the whole tree.
    pub fn is_whole(&self) -> bool {
        self.seeds.len() < 2
    }

    /// Whether the files named after a VLI are in this part: its individuals, and the pairs as seen
    /// from it.
    pub fn has_vli(&self, vli: VliId) -> bool {
        self.has_key(u64::from(vli.0))
    }

    /// Whether the aggregates of a VLAN are in this part.
    pub fn has_vlan(&self, vlan: VlanTag) -> bool {
        self.has_key(TAGS_FROM + u64::from(vlan.as_u16()))
    }

    /// Whether a file is in this part.
    pub fn has(&self, file: &File) -> bool {
        match *file {
            File::Pair { vli, .. } | File::Individual { vli, .. } => self.has_vli(vli),
            File::Aggregate { vlan, .. } => self.has_vlan(vlan),
        }
    }

    fn has_key(&self, key: u64) -> bool {
        let weight = |seed: u64| (mix(seed ^ mix(key)), seed);
        self.is_whole()
            || self.seeds.iter().all(|&other| weight(other) <= weight(self.seeds[self.number]))
    }
}

/// Behind the path of the tree: nothing for the whole.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seeds.len() {
            0 | 1 => Ok(()),
            all => write!(f, " (share {} of {all})", self.number + 1),
        }
    }
}

/// FNV-1a of 64 bits.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// One step of SplitMix64.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] =
        ["unix:/run/rrdcached-a.sock", "unix:/run/rrdcached-b.sock", "rrd.example:42217"];

    fn shares(names: &[&str]) -> Vec<Share> {
        Share::of_all(&names.iter().map(|&name| name.into()).collect::<Vec<_>>())
    }

    fn holder(names: &[&str], has: impl Fn(&Share) -> bool) -> usize {
        let shares = shares(names);
        let mut holders = shares.iter().filter(|share| has(share));
        let holder = holders.next().unwrap().number();
        assert!(holders.next().is_none(), "one holder");
        holder
    }

    /// Would break if a release moved files: operators lay their disks out by this.
    #[test]
    fn the_hash_is_that_of_the_documentation() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(seed(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(seed("a"), 0xaf63_dc4c_8601_ec8c);
        let of_vlis: Vec<usize> =
            (1..=16).map(|vli| holder(&NAMES, |share| share.has_vli(VliId(vli)))).collect();
        assert_eq!(of_vlis, VLIS_1_TO_16);
        let of_tags: Vec<usize> =
            (1..=8).map(|tag| holder(&NAMES, |share| share.has_vlan(VlanTag::new(tag)))).collect();
        assert_eq!(of_tags, TAGS_1_TO_8);
    }

    const VLIS_1_TO_16: [usize; 16] = [2, 0, 0, 2, 2, 0, 2, 0, 1, 2, 2, 1, 2, 0, 0, 1];
    const TAGS_1_TO_8: [usize; 8] = [1, 0, 0, 0, 0, 2, 1, 1];

    #[test]
    fn a_sink_that_goes_moves_its_part_alone_and_parts_are_alike() {
        let mut counts = [0; 3];
        for vli in (1..=3_000).map(VliId) {
            let of_three = holder(&NAMES, |share| share.has_vli(vli));
            counts[of_three] += 1;
            let of_two = holder(&NAMES[..2], |share| share.has_vli(vli));
            assert!(of_three == 2 || of_three == of_two, "{vli:?}");
        }
        assert!(counts.iter().all(|&count| (900..1_100).contains(&count)), "{counts:?}");
        assert!(Share::default().has_vli(VliId(1)) && Share::default().has_vlan(VlanTag::new(1)));
        assert!(shares(&NAMES[..1])[0].is_whole());
    }
}
