//! The thread that keeps the disk budget.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lazurite_env::{Error, Result};

use crate::{stats::Counters, sync::lock, union::Core};

/// How often the keeper looks, and the tick of [`OpenFiles`](crate::OpenFiles).
const TICK: Duration = Duration::from_millis(250);

/// Looks take at most one part of so many of the time.
const REST: u32 = 10;

#[derive(Debug, Default)]
pub(super) struct Keeper {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Debug, Default)]
struct State {
    prodded: bool,
    stopped: bool,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Has it look now.
    pub fn prod(&self) {
        lock(&self.state).prodded = true;
        self.told.notify_all();
    }

    pub fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Waits for the next look; false where the keeper must end.
    fn wait(&self, at_least: Duration, tick: Instant) -> bool {
        let earliest = Instant::now() + at_least;
        let mut keeper = lock(&self.state);
        loop {
            let now = Instant::now();
            if keeper.stopped || (now >= earliest && (keeper.prodded || now >= tick)) {
                keeper.prodded = false;
                return !keeper.stopped;
            }
            let until = if keeper.prodded {
                earliest
            } else {
                tick.max(earliest)
            };
            let woken = self
                .told
                .wait_timeout(keeper, until.saturating_duration_since(now));
            keeper = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Core {
    /// Starts the keeper where there is a budget.
    pub fn start_keeper(self: &Arc<Self>) -> Result<()> {
        if !self.disk.is_limited() {
            return Ok(());
        }
        let core = self.clone();
        let thread = std::thread::Builder::new()
            .name("lazurite-disk".into())
            .spawn(move || core.keep())
            .map_err(|e| Error::from_io("start", "disk budget thread", e))?;
        lock(&self.disk.keeper.state).thread = Some(thread);
        Ok(())
    }

    /// Ends the keeper and waits for it, which takes no longer than one demotion. Nothing is demoted from then on but by
    /// [`demote`](Self::demote).
    pub fn stop_keeper(&self) {
        let thread = {
            let mut keeper = lock(&self.disk.keeper.state);
            keeper.stopped = true;
            keeper.thread.take()
        };
        self.disk.keeper.told.notify_all();
        if let Some(thread) = thread {
            // It has nothing to report.
            let _ = thread.join();
        }
    }

    fn keep(&self) {
        let (mut rest, mut tick) = (Duration::ZERO, Instant::now());
        while self.disk.keeper.wait(rest, tick) {
            let begun = Instant::now();
            let ticks = begun >= tick;
            if ticks {
                tick = begun + TICK;
            }
            // An Env of the user's may panic; the budget is kept on all the same.
            let look = AssertUnwindSafe(|| {
                if let Some(open) = self.open_files.get().filter(|_| ticks) {
                    open.tick();
                }
                self.balance();
            });
            if catch_unwind(look).is_err() {
                Counters::add(&self.counters.demotion_failures, 1);
                if self.disk.may_warn() {
                    tracing::warn!("a look at the disk panicked");
                }
            }
            rest = (begun.elapsed() * REST).min(TICK * REST);
        }
    }
}
