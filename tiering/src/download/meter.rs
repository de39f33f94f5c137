//! [`Meter`]: bytes per second, as of late, and the time that is left.

use std::time::{Duration, Instant};

/// What came so long ago counts a third of what comes now.
const MEMORY: Duration = Duration::from_secs(5);

/// What takes longer ends nobody knows when.
const LONGEST: Duration = Duration::from_secs(1_000 * 86_400);

/// Bytes and the time that they took, both fading.
#[derive(Debug, Default)]
pub(super) struct Meter {
    at: Option<Instant>,
    bytes: f64,
    seconds: f64,
}

impl Meter {
    /// The time since bytes last came does not count.
    pub fn go_on(&mut self, now: Instant) {
        self.at = Some(now);
    }

    pub fn add(&mut self, now: Instant, bytes: u64) {
        let (before, seconds) = self.faded(now);
        self.bytes = before + bytes as f64;
        self.seconds = seconds;
        self.at = Some(now);
    }

    /// Bytes per second; 0 before any came.
    pub fn rate(&self, now: Instant) -> f64 {
        let (bytes, seconds) = self.faded(now);
        if seconds > 0.0 { bytes / seconds } else { 0.0 }
    }

    fn faded(&self, now: Instant) -> (f64, f64) {
        let since = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let since = since.as_secs_f64();
        let keep = (-since / MEMORY.as_secs_f64()).exp();
        (self.bytes * keep, self.seconds * keep + since)
    }
}

/// How long `left` bytes take; `None` where that is more than anybody waits.
pub(super) fn eta(left: u64, bytes_per_second: u64) -> Option<Duration> {
    if left == 0 {
        return Some(Duration::ZERO);
    }
    if bytes_per_second == 0 {
        return None;
    }
    let eta = Duration::try_from_secs_f64(left as f64 / bytes_per_second as f64);
    eta.ok().filter(|eta| *eta < LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_what_comes_and_pauses_do_not_count() {
        let (mut meter, mut now) = (Meter::default(), Instant::now());
        assert_eq!(meter.rate(now) as u64, 0);
        meter.go_on(now);
        let mut run = |meter: &mut Meter, seconds: u32, rate: u64| {
            for _ in 0..10 * seconds {
                now += Duration::from_millis(100);
                meter.add(now, rate / 10);
            }
            now
        };
        let at = run(&mut meter, 2, 1000);
        assert!((950.0..1050.0).contains(&meter.rate(at)));
        let at = run(&mut meter, 30, 5000);
        assert!((4900.0..5050.0).contains(&meter.rate(at)));
        // Nothing comes: it falls. A pause: it does not.
        assert!(meter.rate(at + Duration::from_secs(10)) < 2500.0);
        meter.go_on(at + Duration::from_secs(3600));
        let rate = meter.rate(at + Duration::from_secs(3600));
        assert!((4900.0..5050.0).contains(&rate), "{rate}");
    }

    #[test]
    fn the_time_left_is_told_where_it_can_be() {
        assert_eq!(eta(0, 0), Some(Duration::ZERO));
        assert_eq!(eta(10, 0), None);
        assert_eq!(eta(10, 4), Some(Duration::from_millis(2500)));
        assert_eq!(eta(u64::MAX, 1), None);
    }
}
