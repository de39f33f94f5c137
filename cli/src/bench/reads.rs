//! Random reads while the state comes back: their latency in windows of time.

use std::time::{Duration, Instant};

use lazurite::StateBackend;
use serde::Serialize;

use super::shape::{Noise, Shape, Values, value};
use crate::{
    error::{Error, Result},
    output::ms,
};

/// Where windows end, in milliseconds since the open began; then each is twice as long as the last.
const WINDOW_ENDS_MS: [u64; 7] = [100, 250, 500, 1_000, 2_000, 4_000, 8_000];
/// How long reads go on once everything is local.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// How often it is looked whether everything is local: seldom enough to cost the reads nothing.
const ASK_EVERY: Duration = Duration::from_millis(1);

/// The reads of one window. Field names are the JSON document's.
#[derive(Debug, Serialize)]
pub struct Window {
    /// Begin and end, since the open began.
    pub from_ms: f64,
    pub to_ms: f64,
    pub reads: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Files local at the end, of how many.
    pub local_files: u64,
    pub files: u64,
}

/// Latencies of random reads, and when the last file became local.
#[derive(Debug, Default)]
pub struct Timeline {
    pub windows: Vec<Window>,
    pub local_ms: Option<f64>,
}

/// Reads values at random, one after another, from `begun` on: until all files are local and a second longer, or until
/// `give_up` has passed. Each value is checked.
pub fn run(
    backend: &StateBackend,
    values: &Values,
    shape: &Shape,
    begun: Instant,
    give_up: Duration,
) -> Result<Timeline> {
    let mut keys = Noise::new(begun.elapsed().as_nanos() as u64);
    let mut timeline = Timeline::default();
    let mut latencies = Vec::new();
    let mut from = begun.elapsed();
    let mut ends = window_ends();
    let mut end = ends.next().unwrap_or(give_up);
    let mut last_end = give_up;
    let mut asked = Duration::ZERO;
    loop {
        let reading = Instant::now();
        read_one(values, keys.next() % shape.values(), shape)?;
        latencies.push(reading.elapsed());
        let now = begun.elapsed();
        let mut all_local = false;
        if timeline.local_ms.is_none() && now > asked + ASK_EVERY {
            asked = now;
            all_local = backend.tier().remote_files == 0;
        }
        if all_local {
            timeline.local_ms = Some(ms(now));
            last_end = now + AFTERWARDS;
        }
        if now >= end || all_local || now >= last_end {
            timeline
                .windows
                .push(window(from, now, &mut latencies, backend));
            from = now;
            // Windows that are over already, after a long read, are left out.
            end = if timeline.local_ms.is_some() {
                last_end
            } else {
                ends.find(|&e| e > now).unwrap_or(give_up)
            };
        }
        if now >= last_end {
            return Ok(timeline);
        }
    }
}

/// Reads the value of `key` and checks it.
pub fn read_one(values: &Values, key: u64, shape: &Shape) -> Result<()> {
    check(key, values.get(&key)?.as_deref(), shape)
}

/// Fails where this is not what was written.
pub fn check(key: u64, found: Option<&[u8]>, shape: &Shape) -> Result<()> {
    if found == Some(&value(key, shape.value_bytes)[..]) {
        return Ok(());
    }
    Err(Error::Wrong(format!(
        "the value of key {key} is not the one that was written"
    )))
}

fn window_ends() -> impl Iterator<Item = Duration> {
    let longer = std::iter::successors(Some(2 * WINDOW_ENDS_MS[WINDOW_ENDS_MS.len() - 1]), |end| {
        end.checked_mul(2)
    });
    WINDOW_ENDS_MS
        .into_iter()
        .chain(longer)
        .map(Duration::from_millis)
}

fn window(
    from: Duration,
    to: Duration,
    latencies: &mut Vec<Duration>,
    backend: &StateBackend,
) -> Window {
    latencies.sort_unstable();
    let tier = backend.tier();
    let window = Window {
        from_ms: ms(from),
        to_ms: ms(to),
        reads: latencies.len(),
        p50_ms: ms(percentile(latencies, 50)),
        p99_ms: ms(percentile(latencies, 99)),
        local_files: tier.local_files,
        files: tier.local_files + tier.remote_files,
    };
    latencies.clear();
    window
}

/// The smallest value that at least `percent` of the sorted values do not exceed; zero of none.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<Duration> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&sorted, 50), Duration::from_micros(100));
        assert_eq!(percentile(&sorted, 99), Duration::from_micros(198));
        assert_eq!(percentile(&sorted[..1], 99), Duration::from_micros(1));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }

    #[test]
    fn windows_grow() {
        let ends: Vec<_> = window_ends().take(9).map(|e| e.as_millis()).collect();
        assert_eq!(
            ends,
            [100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000]
        );
    }
}
