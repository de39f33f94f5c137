//! [`Pace`]: how many bytes the download asks for before the first of them have come.
//!
//! Too few leave the link idle; all that are more than the link holds wait in front of it, and every read waits behind
//! them. So the bytes on their way are kept near what the link holds, bandwidth times latency, and a few requests more,
//! which keep it busy. Both factors are measured by the download's own requests:
//! * the bandwidth is the largest rate of the last seconds, with what the reads brought: a link that the reads take is
//!   not a slow one;
//! * the latency is the shortest time of a request, less what its bytes took. As requests wait for one another, from
//!   time to time one is sent alone.
//!
//! For each request that ends, at most two are sent: a window that opens at once would send a burst.
//!
//! Where the download itself has too few bytes on their way to see the bandwidth, the window that follows from what it
//! saw is larger than the one it had, and so it grows until the link is full.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::sync::lock;

/// The share of bandwidth times latency that may be on its way, beside some requests.
const GAIN: f64 = 1.25;

/// Requests beside that. One keeps the link busy where nothing else takes time; but a request that ended must be noticed, and
/// the next one be sent and answered, by busy processors too.
const BESIDE: f64 = 2.0;

/// How long a rate is measured.
const EPOCH: Duration = Duration::from_millis(200);

/// The bandwidth is the largest rate of so many epochs.
const EPOCHS: usize = 10;

/// How often a request is sent alone.
const ALONE_EVERY: Duration = Duration::from_secs(10);

/// So much may always be on its way: it takes no time worth measuring.
const FLOOR_BYTES: f64 = (128 << 10) as f64;

/// Admits the download's requests.
#[derive(Debug, Default)]
pub(super) struct Pace {
    window: Mutex<Window>,
    changed: Notify,
    /// First come, first served.
    turn: tokio::sync::Mutex<()>,
}

/// A request on its way. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Admitted {
    pace: Arc<Pace>,
    sent: Sent,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    bytes: u64,
    alone: bool,
}

/// What is on its way, and what was measured. No clock of its own.
#[derive(Debug, Default)]
struct Window {
    paused: bool,
    in_flight: u64,
    /// Requests that may be sent until the next one ends.
    credit: u32,
    /// The bytes of the last request that was sent.
    last: u64,
    /// When this epoch began, and how many bytes had come by then.
    epoch: Option<(Instant, u64)>,
    /// Bytes per second.
    rates: VecDeque<f64>,
    /// The request with the shortest latency: how long it took, in seconds, and its bytes.
    quickest: Option<(f64, f64)>,
    last_alone: Option<Instant>,
    /// The next request waits until no other is on its way.
    next_alone: bool,
}

impl Pace {
    /// Waits until a request of `bytes` may be sent.
    pub async fn admit(self: &Arc<Self>, bytes: u64) -> Admitted {
        let _turn = self.turn.lock().await;
        loop {
            // Before the look, so that no change is missed.
            let changed = self.changed.notified();
            let sent = lock(&self.window).admit(Instant::now(), bytes);
            if let Some(sent) = sent {
                return Admitted {
                    pace: self.clone(),
                    sent,
                };
            }
            changed.await;
        }
    }

    /// While paused, nothing is admitted.
    pub fn set_paused(&self, paused: bool) {
        lock(&self.window).paused = paused;
        self.changed.notify_one();
    }
}

impl Admitted {
    /// It is sent only now.
    pub fn sent_now(mut self) -> Self {
        self.sent.at = Instant::now();
        self
    }

    /// Its bytes came. `came`: the bytes that all requests of downloads and reads brought so far, with these.
    pub fn arrived(&self, came: u64) {
        lock(&self.pace.window).arrived(Instant::now(), self.sent, came);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        lock(&self.pace.window).ended(self.sent);
        // At most one waits: the one whose turn it is.
        self.pace.changed.notify_one();
    }
}

impl Window {
    /// Lets a request pass, where one may.
    fn admit(&mut self, now: Instant, bytes: u64) -> Option<Sent> {
        let alone = self.in_flight == 0;
        // The short last request of a file would else wait until the link is nearly idle, and all others behind it.
        let like = bytes.max(self.last);
        let fits = (self.in_flight as f64) < self.limit(like as f64);
        let may = self.credit > 0 && !self.next_alone && fits;
        if self.paused || !(alone || may) {
            return None;
        }
        self.credit = if alone { 1 } else { self.credit - 1 };
        self.in_flight += bytes;
        self.last = bytes;
        Some(Sent {
            at: now,
            bytes,
            alone,
        })
    }

    fn ended(&mut self, sent: Sent) {
        self.in_flight -= sent.bytes;
        self.credit = 2;
    }

    /// A request of `bytes` may be sent while fewer bytes than this are on their way.
    fn limit(&self, bytes: f64) -> f64 {
        let holds = match (self.bandwidth(), self.quickest) {
            (Some(bandwidth), Some(quickest)) => GAIN * bandwidth * latency(quickest, bandwidth),
            // As many requests as follow, to begin with.
            _ => 0.0,
        };
        holds.max(FLOOR_BYTES) + BESIDE * bytes
    }

    fn bandwidth(&self) -> Option<f64> {
        self.rates.iter().copied().reduce(f64::max)
    }

    fn arrived(&mut self, now: Instant, sent: Sent, came: u64) {
        match self.epoch {
            Some((began, before)) => {
                let took = now.saturating_duration_since(began);
                if took >= EPOCH {
                    self.rates.truncate(EPOCHS - 1);
                    let bytes = came.saturating_sub(before);
                    self.rates.push_front(bytes as f64 / took.as_secs_f64());
                    self.epoch = Some((now, came));
                }
            }
            None => self.epoch = Some((now, came)),
        }
        let took = now.saturating_duration_since(sent.at).as_secs_f64();
        let this = (took, sent.bytes as f64);
        let last_alone = *self.last_alone.get_or_insert(now);
        if self.next_alone && sent.alone {
            // What was measured before is forgotten: the way may have become longer.
            self.quickest = Some(this);
            self.next_alone = false;
            self.last_alone = Some(now);
            return;
        }
        if now.saturating_duration_since(last_alone) >= ALONE_EVERY {
            self.next_alone = true;
        }
        let bandwidth = self.bandwidth().unwrap_or(f64::INFINITY);
        let quicker = |best| latency(this, bandwidth) < latency(best, bandwidth);
        if self.quickest.is_none_or(quicker) {
            self.quickest = Some(this);
        }
    }
}

/// What a request took beyond the time of its bytes, in seconds.
fn latency((took, bytes): (f64, f64), bandwidth: f64) -> f64 {
    (took - bytes / bandwidth).max(0.0)
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
