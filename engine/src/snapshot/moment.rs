//! [`Moment`]: when something was, by two clocks.

use std::time::{Duration, Instant, SystemTime};

/// A moment. How long ago it is counts for what others may have done meanwhile, so the clock that shows more is believed: the monotonic one
/// stands still while a machine is suspended, and the other may be set back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    instant: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Moment {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// How long ago it is.
    pub(crate) fn age(&self) -> Duration {
        let by_wall = self.wall.elapsed().unwrap_or_default();
        by_wall.max(self.instant.elapsed())
    }
}
