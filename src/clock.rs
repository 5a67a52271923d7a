//! Time as an input: the clock of the wall, or one that a test, a replay or the demo drives.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where receive and flush take the time from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The system's real-time clock.
    System,
    /// Milliseconds since 1970 that somebody else sets.
    Driven(Arc<AtomicU64>),
}

impl Clock {
    /// A driven clock that shows `millis` until it is set.
    pub fn driven(millis: u64) -> Clock {
        Clock::Driven(Arc::new(AtomicU64::new(millis)))
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub fn now_millis(&self) -> u64 {
        match self {
            // A clock before 1970 reads as 1970. Milliseconds fit into 64 bits for 500 million
            // years.
            Clock::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Clock::Driven(millis) => millis.load(Ordering::Acquire),
        }
    }

    /// Sets a driven clock; the system's clock is left alone.
    pub fn set_millis(&self, now_millis: u64) {
        if let Clock::Driven(millis) = self {
            millis.store(now_millis, Ordering::Release);
        }
    }
}
