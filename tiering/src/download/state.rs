//! What the download threads and their callers share: the queue, the switches, the progress.
//!
//! One mutex, never held across I/O, and one condition variable that is notified at every change.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use lazurite_env::{Error, ErrorKind, Result};

use super::{
    hot::Hot,
    meter::{Meter, eta},
    pace::Pace,
    progress::DownloadProgress,
    transfer::Outcome,
};
use crate::{catalog::Entry, sync::lock};

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    changed: Condvar,
    parts: AtomicU64,
    pace: Arc<Pace>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) hot: Hot,
    /// By heat, then by level, then by name.
    queue: BTreeMap<(Reverse<u64>, u8, String), Arc<Entry>>,
    pub(super) heat: HashMap<String, u64>,
    /// Files that the disk budget had no room for, by name. They go back into the queue when everything else was tried and
    /// some time has passed.
    aside: BTreeMap<String, Arc<Entry>>,
    aside_until: Option<Instant>,
    active: HashSet<String>,
    workers: usize,
    pub(super) stopped: bool,
    /// How many times it was stopped: waiters notice it even if it was started again.
    stops: u64,
    /// How many times it was started: sleepers notice it.
    starts: u64,
    /// How many times a file ended, or went to sleep: who waits for its room notices it.
    ends: u64,
    /// Bytes of the files in `progress.failed`.
    failed_bytes: u64,
    /// Whose error is `progress.no_space`.
    no_space_of: String,
    /// Measures since the first thread was hired.
    meter: Meter,
    pub(super) progress: DownloadProgress,
}

/// A moment in the life of a download: what happened since does not let a thread sleep.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    starts: u64,
    ends: u64,
}

impl Shared {
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// The store brought bytes.
    pub fn came(&self, bytes: u64) {
        lock(&self.state).meter.add(Instant::now(), bytes);
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut lock(&self.state));
        self.changed.notify_all();
        result
    }

    pub(super) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more thread, which must call [`next`](Self::next) until that gives `None`.
    pub fn hire(&self) {
        let mut state = lock(&self.state);
        if state.workers == 0 {
            state.meter.go_on(Instant::now());
        }
        state.workers += 1;
    }

    /// Takes back a [`hire`](Self::hire) whose thread does not run.
    pub fn dismiss(&self) {
        self.change(|state| state.workers -= 1);
    }

    pub fn workers(&self) -> usize {
        lock(&self.state).workers
    }

    /// Adds the entries that are neither queued, nor under way, nor failed. How many there are to do now.
    pub fn enqueue(&self, entries: Vec<Arc<Entry>>) -> usize {
        self.change(|state| {
            let failed: HashSet<_> = state
                .progress
                .failed
                .iter()
                .map(|(name, _)| name.clone())
                .collect();
            for entry in entries {
                let name = entry.name();
                if state.active.contains(name)
                    || failed.contains(name)
                    || state.aside.contains_key(name)
                {
                    continue;
                }
                let len = entry.file().len;
                if state.put_in_turn(entry) {
                    state.progress.files_total += 1;
                    state.progress.bytes_total += len;
                }
            }
            state.queue.len() + state.active.len()
        })
    }

    /// The next file; `None` where there is none or the thread must end. Blocks while paused, and while all that is left was
    /// put aside a short while ago.
    ///
    /// With `None` the thread counts as ended, under the same lock: whoever queues a file after that sees it missing.
    pub fn next(&self) -> Option<Arc<Entry>> {
        let mut state = lock(&self.state);
        while !state.stopped {
            if state.queue.is_empty() && state.aside.is_empty() {
                break;
            }
            if state.progress.paused {
                state = self.wait(state);
                continue;
            }
            if let Some((_, entry)) = state.queue.pop_first() {
                state.active.insert(entry.name().to_owned());
                return Some(entry);
            }
            let now = Instant::now();
            let until = state.aside_until.unwrap_or(now);
            if until > now {
                let woken = self.changed.wait_timeout(state, until - now);
                state = woken.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                state.take_back();
                self.changed.notify_all();
            }
        }
        state.workers -= 1;
        self.changed.notify_all();
        None
    }

    /// The disk budget has no room for `entry`, nor for longer files: they wait for `wait`, while shorter ones come.
    pub fn put_aside(&self, entry: &Arc<Entry>, wait: Duration) {
        self.change(|state| {
            state.end(entry);
            let queue = std::mem::take(&mut state.queue).into_values();
            let (mut aside, queue): (Vec<_>, Vec<_>) =
                queue.partition(|other| other.file().len >= entry.file().len);
            aside.push(entry.clone());
            for entry in aside {
                state.aside.insert(entry.name().to_owned(), entry);
            }
            for entry in queue {
                state.put_in_turn(entry);
            }
            state
                .aside_until
                .get_or_insert_with(|| Instant::now() + wait);
        });
    }

    pub fn finished(&self, entry: &Entry, outcome: Outcome) {
        self.change(|state| {
            state.end(entry);
            match outcome {
                Outcome::Promoted => state.progress.files_done += 1,
                Outcome::Abandoned | Outcome::Crowded | Outcome::Refused => {
                    state.progress.files_total -= 1;
                    state.progress.bytes_total -= entry.file().len;
                }
            }
        });
    }

    pub fn failed(&self, entry: &Entry, error: Error) {
        self.change(|state| {
            state.end(entry);
            state.progress.failed.push((entry.name().to_owned(), error));
            state.failed_bytes += entry.file().len;
        });
    }

    /// Forgets the failures, whose files are not counted until they are queued again, and ends every sleep.
    pub fn clear_failures(&self) {
        self.change(|state| {
            state.starts += 1;
            state.progress.files_total -= state.progress.failed.len() as u64;
            state.progress.bytes_total -= std::mem::take(&mut state.failed_bytes);
            state.progress.failed.clear();
            state.progress.no_space = None;
            state.take_back();
        });
    }

    pub fn no_space(&self, entry: &Entry, error: Error) {
        self.change(|state| {
            state.no_space_of = entry.name().to_owned();
            state.progress.no_space = Some(error);
        });
    }

    /// What the disk budget says of a file that is about to be put aside.
    pub fn no_room(&self, error: Error) {
        lock(&self.state).progress.no_room = Some(error);
    }

    /// Begins a new count, as the catalog is another one. Nothing is queued or under way.
    pub fn reset_progress(&self) {
        self.change(|state| {
            state.failed_bytes = 0;
            state.hot = Hot::default();
            state.progress = DownloadProgress {
                paused: state.progress.paused,
                ..DownloadProgress::default()
            };
        });
    }

    /// A number that no other `.part` file of this download has.
    pub fn next_part(&self) -> u64 {
        self.parts.fetch_add(1, Ordering::Relaxed)
    }

    pub fn set_heat(&self, heat: HashMap<String, u64>) {
        // Nobody waits for this one. Those that wait in the queue move to their new places.
        let mut state = lock(&self.state);
        state.heat = heat;
        for entry in std::mem::take(&mut state.queue).into_values() {
            state.put_in_turn(entry);
        }
    }

    pub fn set_paused(&self, paused: bool) {
        self.change(|state| {
            state.progress.paused = paused;
            if !paused {
                state.meter.go_on(Instant::now());
            }
        });
        self.pace.set_paused(paused);
    }

    /// Stopping also forgets the queue.
    pub fn set_stopped(&self, stopped: bool) {
        self.change(|state| {
            state.stopped = stopped;
            if stopped {
                state.stops += 1;
                state.take_back();
                for entry in std::mem::take(&mut state.queue).into_values() {
                    state.progress.files_total -= 1;
                    state.progress.bytes_total -= entry.file().len;
                }
            }
        });
    }

    pub fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    pub fn stops(&self) -> u64 {
        lock(&self.state).stops
    }

    /// Blocks while paused; false where the thread must end.
    pub fn go_on(&self) -> bool {
        let mut state = lock(&self.state);
        while state.progress.paused && !state.stopped {
            state = self.wait(state);
        }
        !state.stopped
    }

    /// Ends every sleep. Files that wait for space are tried again, so that what is said of it is new.
    pub fn wake(&self) {
        self.change(|state| {
            state.starts += 1;
            state.progress.no_space = None;
            state.take_back();
        });
    }

    /// This moment.
    pub fn mark(&self) -> Mark {
        let state = lock(&self.state);
        Mark {
            starts: state.starts,
            ends: state.ends,
        }
    }

    /// Waits, less where the download was started again since `mark`; false, at once, where the thread must end. The
    /// room that its file had is others' meanwhile.
    pub fn sleep(&self, duration: Duration, mark: Mark) -> bool {
        self.change(|state| state.ends += 1);
        self.wait_until(duration, |state| state.starts != mark.starts)
    }

    /// The same for a file that waits for room: less, too, where another has ended since.
    pub fn wait_for_room(&self, duration: Duration, mark: Mark) -> bool {
        self.wait_until(duration, |state| {
            state.starts != mark.starts || state.ends != mark.ends
        })
    }

    fn wait_until(&self, duration: Duration, condition: impl Fn(&State) -> bool) -> bool {
        let until = Instant::now() + duration;
        let mut state = lock(&self.state);
        while !state.stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || condition(&state) {
                return true;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    pub fn add_bytes(&self, n: u64) {
        // Nobody waits for this one.
        lock(&self.state).progress.bytes_done += n;
    }

    pub fn take_bytes(&self, n: u64) {
        lock(&self.state).progress.bytes_done -= n;
    }

    pub fn progress(&self) -> DownloadProgress {
        let state = lock(&self.state);
        let mut progress = state.progress.clone();
        if state.aside.is_empty() {
            progress.no_room = None;
        }
        progress.bytes_per_second = state.meter.rate(Instant::now()) as u64;
        if !progress.paused {
            let left = progress.bytes_total.saturating_sub(progress.bytes_done);
            progress.eta = eta(
                left - state.failed_bytes.min(left),
                progress.bytes_per_second,
            );
        }
        progress
    }

    /// Blocks until no thread works any more; an error where something failed for good, or nothing is left but what the disk
    /// budget has no room for, or it was stopped more often than `stops` times.
    pub fn wait_until_idle(&self, stops: u64) -> Result<()> {
        let mut state = lock(&self.state);
        loop {
            let progress = &state.progress;
            if let Some((_, error)) = progress.failed.first() {
                return Err(error.clone());
            }
            if let Some(error) = &progress.no_space {
                return Err(error.clone());
            }
            if state.queue.is_empty()
                && state.active.is_empty()
                && !state.aside.is_empty()
                && let Some(error) = &progress.no_room
            {
                return Err(error.clone());
            }
            if state.stops != stops {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "wait for download",
                    "",
                    "the download was stopped",
                ));
            }
            if state.workers == 0 {
                return Ok(());
            }
            state = self.wait(state);
        }
    }
}

impl State {
    /// Queues `entry`; true where it was not queued.
    fn put_in_turn(&mut self, entry: Arc<Entry>) -> bool {
        let name = entry.name().to_owned();
        let heat = self.heat.get(&name).copied().unwrap_or_default();
        let at = (Reverse(heat), entry.facts.level, name);
        self.queue.insert(at, entry).is_none()
    }

    /// Queues what was put aside.
    fn take_back(&mut self) {
        self.aside_until = None;
        for entry in std::mem::take(&mut self.aside).into_values() {
            self.put_in_turn(entry);
        }
    }

    /// `entry` is not under way any more.
    fn end(&mut self, entry: &Entry) {
        self.active.remove(entry.name());
        self.ends += 1;
        if self.no_space_of == entry.name() {
            self.progress.no_space = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_since_the_mark_ends_a_sleep() {
        let (shared, hour) = (Shared::default(), Duration::from_secs(3600));
        let mark = shared.mark();
        shared.wake();
        assert!(shared.sleep(hour, mark));
        // To sleep is to give room back.
        assert!(shared.wait_for_room(hour, Mark { starts: 1, ends: 0 }));
        assert!(shared.wait_for_room(Duration::ZERO, shared.mark()));
    }
}
