//! The effective sampling rate: what a sample stands for by the agent's own count of packets.
//!
//! `sample_pool` counts every packet that could have been sampled. Its growth over the samples that
//! were received in the same time is the effective sampling rate (sFlow v5, section 5, struct
//! flow_sample): it is higher than the nominal one where samples were dropped or lost, and so
//! repairs the sums.
//!
//! Samples are counted when they come, long before it is known what was lost beside them. Hence a
//! factor for each data source, by which the nominal rate is multiplied: from the growth of pool
//! and samples over the last [`WINDOW_SAMPLES`] samples or so, and from what is owed. Owed is, to
//! the packet, by how much the pool has grown beyond what was counted; it is paid over the samples
//! of about one window. So the packets counted of a data source follow its pool, and differ from it
//! by no more than what is owed, however often the factor changes. It is the packets to come that
//! carry the correction: they are attributed to whoever speaks then.
//!
//! A pool is believed where it varies, that is, where it does not grow by the sampling rate for
//! each sample number, as those do that are made up from it; and as long as the factor is within
//! [`FACTOR_MIN`] and [`FACTOR_MAX`]. Else the nominal rate is used.

use serde::Serialize;

/// Samples of a data source over which the factor is taken.
pub const WINDOW_SAMPLES: u32 = 2_000;

/// Samples before which no factor is used.
const SAMPLES_MIN: f64 = 200.0;

/// A pool that tells of fewer packets than this, over the nominal rate, is not believed.
pub const FACTOR_MIN: f64 = 1.0 / 8.0;

/// The same of more packets.
pub const FACTOR_MAX: f64 = 16.0;

/// A pause longer than this in which more than a window was lost is a hole, not a loss: what comes
/// afterwards must not carry it.
const HOLE_MILLIS: u64 = 60_000;

/// The factor 1, in fixed point.
pub(super) const ONE: u32 = 1 << 16;

/// Whether a factor is used, and if not, why.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Too few samples to tell.
    #[default]
    Unknown,
    /// The pool proves itself.
    Proven,
    /// It grows by the sampling rate for each sample number.
    MadeUp,
    /// The factor is beyond [`FACTOR_MIN`] and [`FACTOR_MAX`].
    Implausible,
}

/// The effective sampling rate of one data source.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// Whether the factor is used.
    pub trust: Trust,
    /// Growth of the pool over the window, in packets, and samples in it.
    window_packets: f64,
    window_samples: f64,
    owed_packets: f64,
    folds: u64,
    last_millis: u64,
    factor: u32,
}

impl Default for Scaling {
    fn default() -> Scaling {
        Scaling {
            trust: Trust::Unknown,
            window_packets: 0.0,
            window_samples: 0.0,
            owed_packets: 0.0,
            folds: 0,
            last_millis: 0,
            factor: ONE,
        }
    }
}

/// What was folded of a data source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// Of the pool.
    pub(super) packets: u64,
    /// Samples that came meanwhile.
    pub(super) samples: u64,
    /// The rate that they were multiplied with, before the factor.
    pub(super) rate: u32,
    /// The factor that they were multiplied with.
    pub(super) factor: u32,
    /// Folds so far in which the pool varied.
    pub(super) varied: u64,
    pub(super) stamp_millis: u64,
}

/// Multiplies a rate by a factor in fixed point; what is cut off is carried to the next one.
#[inline]
pub(super) fn apply(rate: u32, factor: u32, carry: &mut u32) -> u32 {
    let product = u64::from(rate) * u64::from(factor) + u64::from(*carry);
    #[expect(clippy::cast_possible_truncation, reason = "the lower 16 bits")]
    let rest = (product & u64::from(ONE - 1)) as u32;
    *carry = rest;
    u32::try_from(product >> 16).unwrap_or(u32::MAX)
}

impl Scaling {
    /// The factor that is used, 1 where none is.
    pub fn factor(&self) -> f64 {
        f64::from(self.factor) / f64::from(ONE)
    }

    /// Takes growth in, and returns the factor for the samples to come.
    pub(super) fn fold(&mut self, growth: &Growth) -> u32 {
        let Growth { packets, samples, rate, factor, varied, stamp_millis } = *growth;
        let pause_millis = stamp_millis.saturating_sub(self.last_millis);
        self.last_millis = stamp_millis;
        if samples == 0 || rate == 0 {
            return self.factor;
        }
        let rate = f64::from(rate);
        let (packets, samples) = (packets as f64, samples as f64);
        let window = f64::from(WINDOW_SAMPLES);
        if pause_millis > HOLE_MILLIS && packets > (window + samples) * rate {
            return self.factor;
        }
        self.folds += 1;
        let keep = (1.0 - samples / window).max(0.0);
        self.window_packets = self.window_packets * keep + packets;
        self.window_samples = self.window_samples * keep + samples;
        self.owed_packets += packets - samples * rate * f64::from(factor) / f64::from(ONE);
        if self.window_samples < SAMPLES_MIN {
            return self.factor;
        }
        let base = self.window_packets / (self.window_samples * rate);
        self.trust = if varied * 2 < self.folds {
            Trust::MadeUp
        } else if !(FACTOR_MIN..=FACTOR_MAX).contains(&base) {
            Trust::Implausible
        } else {
            Trust::Proven
        };
        if self.trust != Trust::Proven {
            self.owed_packets = 0.0;
            self.factor = ONE;
            return ONE;
        }
        // Nobody owes more than a window.
        let owed_max = base * rate * self.window_samples;
        self.owed_packets = self.owed_packets.clamp(-owed_max, owed_max);
        let factor = base + self.owed_packets / (rate * self.window_samples);
        let factor = factor.clamp(base / 2.0, base * 2.0) * f64::from(ONE);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1/16 and 32"
        )]
        let factor = factor.round() as u32;
        self.factor = factor;
        factor
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts a second each of so many samples made and received, and returns the packets of the
    /// pool and those counted.
    fn count(seconds: &[(u32, u32)], rate: u32, mut pool_of: impl FnMut(u32) -> u64) -> (u64, u64) {
        let mut scaling = Scaling::default();
        let (mut factor, mut carry, mut varied) = (ONE, 0, 0);
        let (mut pool, mut counted) = (0, 0);
        for (second, &(made, received)) in (1..).zip(seconds) {
            let packets = pool_of(made);
            pool += packets;
            for _ in 0..received {
                counted += u64::from(apply(rate, factor, &mut carry));
            }
            varied += u64::from(packets != u64::from(made) * u64::from(rate));
            let samples = received.into();
            let stamp_millis = second * 1_000;
            factor = scaling.fold(&Growth { packets, samples, rate, factor, varied, stamp_millis });
        }
        (pool, counted)
    }

    #[test]
    fn what_is_lost_is_counted_all_the_same() {
        // A third is lost, from the first sample on.
        let seconds = vec![(90, 60); 600];
        let (pool, counted) = count(&seconds, 1_000, |made| u64::from(made) * 1_000 + 7);
        assert!(counted.abs_diff(pool) * 1_000 < pool * 5, "{counted} of {pool}");
        // In bursts.
        let seconds: Vec<_> = (0..600).map(|n| (90, if n % 50 < 5 { 9 } else { 90 })).collect();
        let (pool, counted) = count(&seconds, 1_000, |made| u64::from(made) * 1_000 + 7);
        assert!(counted.abs_diff(pool) * 1_000 < pool * 15, "{counted} of {pool}");
    }

    #[test]
    fn a_pool_that_is_made_up_is_not_believed() {
        let seconds = vec![(90, 60); 600];
        let (_, counted) = count(&seconds, 1_000, |made| u64::from(made) * 1_000);
        assert_eq!(counted, 600 * 60 * 1_000);
    }

    #[test]
    fn a_pool_beyond_reason_is_not_believed() {
        for pool_of in [|_: u32| 1_u64, |made: u32| u64::from(made) * 1_000_003] {
            let (_, counted) = count(&vec![(90, 90); 600], 1_000, pool_of);
            assert_eq!(counted, 600 * 90 * 1_000);
        }
    }

    #[test]
    fn a_long_hole_is_not_carried_by_what_follows() {
        let mut scaling = Scaling::default();
        let growth = |packets, stamp_millis| Growth {
            packets,
            samples: 50,
            rate: 1_000,
            factor: ONE,
            varied: 1_000,
            stamp_millis,
        };
        for second in 1..=100 {
            scaling.fold(&growth(50_000, second * 1_000));
        }
        let factor = scaling.fold(&growth(600 * 50_000, 700_000));
        assert_eq!(factor, ONE);
    }

    proptest! {
        /// Whatever the rate and the factor: nothing is cut off for good.
        #[test]
        fn rounding_is_carried(rates in prop::collection::vec((1u32..1 << 24, 1u32..8 << 16), 1..200)) {
            let mut carry = 0;
            let mut exact = 0u64;
            let mut applied = 0u64;
            for (rate, factor) in rates {
                exact += u64::from(rate) * u64::from(factor);
                applied += u64::from(apply(rate, factor, &mut carry));
            }
            prop_assert_eq!(exact, (applied << 16) + u64::from(carry));
        }
    }
}
