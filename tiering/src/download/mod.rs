//! [`Downloader`]: brings remote table files to the local disk behind the reads.
//!
//! A few threads take files, the hottest first where that is [known](Downloader::set_heat), then by level, then by name,
//! and [transfer](transfer) each. They block on the local
//! disk, so they are threads of their own; only their requests run on the I/O runtime.
//!
//! # What becomes of a failure
//! * Temporary (the store is away): the thread waits, longer each time, and tries the same file again, for ever.
//! * No space: likewise, but it waits longest at once. The file goes on being read remotely.
//! * No room in the disk budget: it is put aside, with all longer ones, and the thread goes on with others. When these were
//!   tried and as long a wait is over, those aside have their turn again. No failure, and no warning: state may be larger
//!   than the disk for good.
//! * No space while other files are under way that may give it back: it waits for one of them to end. No failure.
//! * Anything else, a wrong checksum above all: three attempts, then the file is recorded as failed and stays remote
//!   until [`Downloader::start`] is called again.
//!
//! Before the first file they [warm](warm) what is said to be [hot](Downloader::set_chunk_heat) of files that more than one
//! request brings. Until that has ended nobody takes a file, so that nothing is asked for twice.
//!
//! What came of a file stays in the [cache](crate::cache) until it is promoted, also over a restart.

mod hot;
mod meter;
mod pace;
mod progress;
mod state;
mod stream;
mod transfer;
mod warm;

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use lazurite_env::{Error, ErrorKind, Result};

use crate::{cache::PAGE_BYTES, catalog::Entry, sync::lock, union::Core};
pub use progress::DownloadProgress;
use state::{Mark, Shared};
use transfer::{Outcome, transfer};

/// How many times a file is tried whose failure is not temporary, and a hot range whose is.
const ATTEMPTS: u32 = 3;

/// The longest wait between two attempts, as a multiple of the first.
const MAX_BACKOFF: u32 = 128;

/// How long a file waits for others to give their room back before it looks again, as a multiple of the first wait.
const ROOM_BACKOFF: u32 = 8;

/// How the background download behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownloadOptions {
    /// Files that are downloaded at once, a thread each. Defaults to 8, so that the link is busy while some are verified and
    /// synced; at least 1.
    pub parallel_files: usize,
    /// Bytes per request, rounded up to 1 KiB. Larger ones hold reads up for longer, smaller ones cost more requests.
    /// Defaults to 1 MiB; at least 1.
    pub chunk_bytes: usize,
    /// Requests per file that are begun and not yet stored; how many of them are sent at once is decided by what the link
    /// holds. Defaults to 4; at least 1. Memory is at most the product of these three.
    pub parallel_chunks: usize,
    /// The wait after the first temporary failure. It doubles with each further one, up to 128 times; a full disk waits
    /// that longest. Defaults to 250 ms, so up to 32 s.
    pub first_backoff: Duration,
}

impl Default for DownloadOptions {
    fn default() -> Self {
        DownloadOptions {
            parallel_files: 8,
            chunk_bytes: 1 << 20,
            parallel_chunks: 4,
            first_backoff: Duration::from_millis(250),
        }
    }
}

impl DownloadOptions {
    /// Bytes per request, in whole pages.
    fn request_bytes(&self) -> u64 {
        let bytes = (self.chunk_bytes as u64).max(1);
        bytes.next_multiple_of(PAGE_BYTES)
    }
}

/// The background download of one [`UnionEnv`](crate::UnionEnv). Dropping it stops it. Any thread may call it.
pub struct Downloader {
    core: Arc<Core>,
    options: DownloadOptions,
    shared: Arc<Shared>,
    /// Held while threads are started or joined; never by the threads themselves.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for Downloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Downloader")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Downloader {
    pub(crate) fn new(core: Arc<Core>, options: DownloadOptions) -> Self {
        Downloader {
            core,
            options,
            shared: Arc::default(),
            threads: Mutex::default(),
        }
    }

    /// Begins to download every file that is remote now, and returns at once. Where it runs already, files that became
    /// remote since are added. Files that had failed, or that wait for space, are tried again. Does not end a [`pause`](Self::pause).
    ///
    /// # Errors
    /// Where the operating system gives no thread. What was started goes on.
    pub fn start(&self) -> Result<()> {
        self.shared.clear_failures();
        self.launch(Duration::ZERO)
    }

    /// Like [`start`](Self::start), but the first request is made only `delay` later: the first reads after a restore have
    /// the link to themselves. [`start`](Self::start) and [`wait_until_local`](Self::wait_until_local) end the delay.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_after(&self, delay: Duration) -> Result<()> {
        self.launch(delay)
    }

    fn launch(&self, delay: Duration) -> Result<()> {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        let remote = self.core.catalog.remote_entries();
        if self.shared.workers() == 0 {
            self.shared.plan_warming(&remote, &self.options);
        }
        let waiting = self.shared.enqueue(remote);
        let wanted = waiting.min(self.options.parallel_files.max(1));
        // A start from here on ends the delay, also where its thread does not run yet.
        let mark = self.shared.mark();
        while self.shared.workers() < wanted {
            let (core, shared, options) = (self.core.clone(), self.shared.clone(), self.options);
            // Counted before it runs, so that nobody sees a download without workers.
            self.shared.hire();
            let thread = std::thread::Builder::new()
                .name("lazurite-download".into())
                .spawn(move || work(&core, &shared, &options, delay, mark));
            match thread {
                Ok(thread) => threads.push(thread),
                Err(e) => {
                    self.shared.dismiss();
                    return Err(Error::from_io("start", "download thread", e));
                }
            }
        }
        Ok(())
    }

    /// Tells how hot files are, by name, in any unit: the hottest come first, those that are not named last. What was told
    /// before is forgotten.
    pub fn set_heat(&self, heat: HashMap<String, u64>) {
        self.shared.set_heat(heat);
    }

    /// Tells which chunks of 64 KiB of which files are hot, by name: for each chunk from the first on a level from 0 (it is
    /// not) to 3. What was told before and not begun is forgotten; what does not fit the files is passed over.
    ///
    /// The next [`start`](Self::start) where it does not run brings those of remote files into the chunk cache, the hottest first,
    /// before it brings any file: in requests of up to [`chunk_bytes`](DownloadOptions::chunk_bytes), as neighbours are equally hot. They count as
    /// requests of the download. At most a quarter of what is remote is brought so, and nothing that has no room: no more than
    /// half of what the cache may take, with a [disk budget](crate::CacheOptions::disk_budget_bytes) a quarter of that, and
    /// nothing is evicted for it. Files that one request brings whole are not: those come as quickly as a whole.
    pub fn set_chunk_heat(&self, heat: HashMap<String, Vec<u8>>) {
        self.shared.set_chunk_heat(heat);
    }

    /// Makes the threads rest after the chunk that they are at. Requests on their way are kept, none is sent.
    pub fn pause(&self) {
        self.shared.set_paused(true);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.set_paused(false);
    }

    /// Ends the download and waits for its threads, which takes no longer than one local write, sync or look through a file.
    /// Of half-done files stays what came; [`start`](Self::start) goes on from there.
    pub fn stop(&self) {
        drop(self.stop_and_hold());
    }

    /// Begins to count anew, without the failures of before. Called while it is stopped and held.
    pub(crate) fn reset_progress(&self) {
        self.shared.reset_progress();
    }

    /// Stops, and lets nobody start while the guard lives.
    pub(crate) fn stop_and_hold(&self) -> impl Sized + '_ {
        let mut threads = lock(&self.threads);
        self.shared.set_stopped(true);
        for thread in threads.drain(..) {
            // Panics were caught and recorded.
            let _ = thread.join();
        }
        self.shared.set_stopped(false);
        threads
    }

    /// How far it is. Cheap: a short lock, no I/O.
    pub fn progress(&self) -> DownloadProgress {
        self.shared.progress()
    }

    /// Blocks until every catalogued file is local, starting the download where it does not run. While it is paused,
    /// or the store is away, this waits.
    ///
    /// # Errors
    /// The first failure that waiting will not heal: a corrupt or missing object, or a disk without space (which the
    /// download goes on retrying). `NoSpace`, too, once everything is local that the disk budget has room for.
    /// `Unavailable` where [`stop`](Self::stop) was called meanwhile.
    pub fn wait_until_local(&self) -> Result<()> {
        self.shared.wake();
        loop {
            if self.core.catalog.remote() == 0 {
                return Ok(());
            }
            let stops = self.shared.stops();
            if self.shared.workers() == 0 {
                self.launch(Duration::ZERO)?;
            }
            self.shared.wait_until_idle(stops)?;
        }
    }
}

impl Drop for Downloader {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The life of a download thread.
fn work(core: &Core, shared: &Arc<Shared>, options: &DownloadOptions, delay: Duration, mark: Mark) {
    // Where it must end at once, `next` says so.
    shared.sleep(delay, mark);
    // What it had taken is given back; a range at a time is no reason to give up the files.
    let _ = catch_unwind(AssertUnwindSafe(|| warm::warm(core, shared, options)));
    while let Some(entry) = shared.next() {
        // An Env of the user's may panic; the file must not stay under way for ever.
        let bring = AssertUnwindSafe(|| bring(core, shared, options, &entry));
        if catch_unwind(bring).is_err() {
            let error = Error::new(ErrorKind::Panicked, "download", entry.name(), "");
            shared.failed(&entry, error);
        }
    }
}

/// Transfers one file, again and again where that may help, and records what became of it.
fn bring(core: &Core, shared: &Arc<Shared>, options: &DownloadOptions, entry: &Arc<Entry>) {
    let file = entry.file();
    let span =
        tracing::info_span!("promotion", name = entry.name(), key = %file.key, len = file.len);
    let _in_span = span.enter();
    let (mut refusals, mut waits) = (0, 0u32);
    loop {
        let mark = shared.mark();
        let error = match transfer(core, shared, options, entry) {
            Ok(Outcome::Crowded) => {
                if shared.wait_for_room(options.first_backoff * ROOM_BACKOFF, mark) {
                    continue;
                }
                return shared.finished(entry, Outcome::Abandoned);
            }
            Ok(Outcome::Refused) => {
                return shared.put_aside(entry, options.first_backoff * MAX_BACKOFF);
            }
            Ok(outcome) => {
                if outcome == Outcome::Promoted {
                    tracing::debug!("promoted");
                }
                return shared.finished(entry, outcome);
            }
            Err(error) => error,
        };
        let full = error.kind() == ErrorKind::NoSpace;
        if !full && !error.is_temporary() {
            refusals += 1;
            tracing::warn!(%error, attempt = refusals, "file could not be promoted");
            if refusals == ATTEMPTS {
                return shared.failed(entry, error);
            }
        } else {
            tracing::warn!(%error, "download waits and tries again");
        }
        if full {
            shared.no_space(entry, error);
        }
        let factor = if full {
            MAX_BACKOFF
        } else {
            (1 << waits.min(7)).min(MAX_BACKOFF)
        };
        waits += 1;
        let wait = jittered(options.first_backoff * factor, entry.name(), waits);
        if !shared.sleep(wait, mark) {
            return shared.finished(entry, Outcome::Abandoned);
        }
    }
}

/// `wait`, up to a quarter longer by chance, so that many processes do not come back at one instant. In one
/// process the same file and attempt always get the same.
fn jittered(wait: Duration, name: &str, attempt: u32) -> Duration {
    let seed = u64::from(std::process::id()) << 32 | u64::from(attempt);
    let chance = xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed) as u32;
    wait + (wait / 4).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}
