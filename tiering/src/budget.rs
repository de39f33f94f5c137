//! [`TransferBudget`]: how many bytes a second the transfers in the background may take, with the reads first.
//!
//! A clock, no bucket: `free_at` is the instant at which everything that was taken so far will have passed at the rate.
//! Transfers wait until it has come; reads never wait, and only move it on, so that what they take is what transfers do
//! not get. A clock that lies in the past has saved up at most [`BURST`].

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::sync::lock;

/// Time that a budget which was not used may make up for: what timers and busy processors are late by.
const BURST: Duration = Duration::from_millis(50);

/// Reads delay the transfers by at most so much, however many there were.
const MAX_DEBT: Duration = Duration::from_secs(1);

/// A waiting transfer looks so often whether the rate was changed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bytes per second that downloads and uploads share. Any thread may call it; nothing of it does I/O.
#[derive(Debug, Default)]
pub struct TransferBudget {
    clock: Mutex<Clock>,
    /// Whose turn it is; first come, first served.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Clock {
    /// `None`: no limit.
    bytes_per_second: Option<u64>,
    free_at: Option<Instant>,
}

impl TransferBudget {
    /// A budget of so many bytes per second; `None`: no limit. 0 counts as 1.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let budget = Self::default();
        budget.set(bytes_per_second);
        budget
    }

    /// Changes the rate, from now on and within 0.1 s for those who wait. What was taken before is forgotten.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        *lock(&self.clock) = Clock {
            bytes_per_second: bytes_per_second.map(|rate| rate.max(1)),
            free_at: None,
        };
    }

    /// The rate; `None`: no limit.
    pub fn bytes_per_second(&self) -> Option<u64> {
        lock(&self.clock).bytes_per_second
    }

    /// Waits until a transfer of `bytes` may begin, and takes them. Dropping it takes nothing.
    pub async fn take(&self, bytes: u64) {
        // Without a limit nobody queues.
        if lock(&self.clock).take(Instant::now(), bytes).is_ok() {
            return;
        }
        let _turn = self.turn.lock().await;
        loop {
            let taken = lock(&self.clock).take(Instant::now(), bytes);
            match taken {
                Ok(()) => return,
                Err(wait) => tokio::time::sleep(wait.min(LOOK_EVERY)).await,
            }
        }
    }

    /// A read brought `bytes`: transfers have so much less.
    pub(crate) fn spend(&self, bytes: u64) {
        lock(&self.clock).spend(Instant::now(), bytes);
    }
}

impl Clock {
    /// Takes `bytes`, or says how long they must wait.
    fn take(&mut self, now: Instant, bytes: u64) -> Result<(), Duration> {
        let wait = self
            .free_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        if !wait.is_zero() {
            return Err(wait);
        }
        self.advance(now, bytes);
        Ok(())
    }

    fn spend(&mut self, now: Instant, bytes: u64) {
        self.advance(now, bytes);
        self.free_at = self.free_at.map(|at| at.min(now + MAX_DEBT));
    }

    fn advance(&mut self, now: Instant, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let from = self.free_at.map_or(earliest, |at| at.max(earliest));
        // A rate of a byte a second and a huge transfer: a day is as good as for ever.
        let seconds = (bytes as f64 / rate as f64).min(86_400.0);
        self.free_at = Some(from + Duration::from_secs_f64(seconds));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn clock(rate: u64) -> (Clock, Instant) {
        let clock = Clock {
            bytes_per_second: Some(rate),
            free_at: None,
        };
        (clock, Instant::now())
    }

    /// Transfers of 64 KiB as quickly as they may, for a second in which reads bring `reads` bytes.
    fn transferred_in_a_second(clock: &mut Clock, from: Instant, reads: u64) -> u64 {
        let mut taken = 0;
        for ms in 0..1000 {
            let now = from + Duration::from_millis(ms);
            clock.spend(now, reads / 1000);
            while clock.take(now, 64 << 10).is_ok() {
                taken += 64 << 10;
            }
        }
        taken
    }

    #[test]
    fn transfers_keep_to_the_rate_and_reads_go_first() {
        let (mut budget, now) = clock(10 * MIB);
        let alone = transferred_in_a_second(&mut budget, now, 0);
        assert!((10 * MIB..11 * MIB).contains(&alone), "{alone}");
        let (mut budget, now) = clock(10 * MIB);
        let beside = transferred_in_a_second(&mut budget, now, 7 * MIB);
        assert!((3 * MIB..4 * MIB).contains(&beside), "{beside}");
    }

    #[test]
    fn a_burst_of_reads_does_not_stop_the_transfers_for_long() {
        let (mut budget, now) = clock(MIB);
        budget.spend(now, 1000 * MIB);
        assert_eq!(budget.take(now, 1), Err(MAX_DEBT));
        assert_eq!(budget.take(now + MAX_DEBT, 1), Ok(()));
    }

    #[test]
    fn without_a_limit_nothing_waits_and_absurd_ones_do_not_overflow() {
        let mut none = Clock::default();
        let now = Instant::now();
        none.spend(now, u64::MAX);
        assert_eq!(none.take(now, u64::MAX), Ok(()));
        assert_eq!(none.take(now, u64::MAX), Ok(()));
        let (mut slow, now) = clock(1);
        slow.take(now, u64::MAX).unwrap();
        slow.spend(now, u64::MAX);
        assert!(slow.take(now, 1).is_err());
        let (mut fast, now) = clock(u64::MAX);
        fast.take(now, u64::MAX).unwrap();
    }

    #[tokio::test]
    async fn a_changed_rate_holds_for_those_who_wait() {
        let budget = TransferBudget::new(Some(1));
        budget.take(1 << 30).await;
        let began = Instant::now();
        let change = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            budget.set(None);
        };
        tokio::join!(budget.take(1), change);
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!(budget.bytes_per_second(), None);
    }
}
