//! The thread that gets rid of what table files hold beyond the key groups of a backend that was restored for fewer.
//!
//! It begins once every file is local, so that it never fetches one, and rewrites one file at a time in its level, from the last level
//! up, where the disk has room for it twice. It rests after each for as long as that took. It ends when no file reaches beyond any more, or with the backend.
//!
//! A rewrite that fails is tried again some times and then given up, until the next open: nothing depends on it.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use lazurite_env::{Env, Error as EnvError};
use lazurite_tiering::UnionEnv;

use crate::{
    Error, Result,
    rocks::{Db, Straddler},
};

/// How often it looks whether all files are local.
const LOOK: Duration = Duration::from_millis(200);
/// How long it waits for a compaction that is in the way, and after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// The same where only ordinary compactions can go on.
const IDLE: Duration = Duration::from_secs(5);
/// The longest rest after a rewrite.
const REST: Duration = Duration::from_secs(1);
/// How often a file is tried.
const TRIES: u32 = 5;

/// The thread. Dropping it waits for its end: close the database first.
#[derive(Debug)]
pub(crate) struct Clipper {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Clipper {
    /// Begins where any file of `db` reaches beyond its key groups; `None` where none does. Reads nothing.
    pub(crate) fn start(db: &Arc<Db>, union: &Arc<UnionEnv>) -> Result<Option<Clipper>> {
        let files = db.straddlers()?;
        db.clip_columns_of(&files);
        if files.is_empty() {
            return Ok(None);
        }
        let bytes = files.iter().map(|file| file.len).sum::<u64>();
        tracing::info!(
            files = files.len(),
            bytes,
            "files reach beyond the key groups; what lies outside goes once all are local"
        );
        let stop = Arc::<Stop>::default();
        let (db, union, stopped) = (db.clone(), union.clone(), stop.clone());
        let thread = thread::Builder::new()
            .name("lazurite-clip".into())
            .spawn(move || run(&db, &union, &stopped))
            .map_err(|e| EnvError::from_io("start", "the thread that clips files", e))?;
        Ok(Some(Clipper {
            stop,
            thread: Some(thread),
        }))
    }

    /// Has the thread end after what it is at. Does not wait.
    pub(crate) fn stop(&self) {
        *self.stop.lock() = true;
        self.stop.changed.notify_all();
    }
}

impl Drop for Clipper {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // what it panicked with was printed
        }
    }
}

impl Stop {
    fn lock(&self) -> std::sync::MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; `true` where the thread is to end.
    fn wait(&self, time: Duration) -> bool {
        let stopped = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(stopped, time, |stopped| !*stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn run(db: &Db, union: &UnionEnv, stop: &Stop) {
    let mut failures = HashMap::<String, u32>::new();
    let mut rest = Duration::ZERO;
    loop {
        if stop.wait(rest) {
            return;
        }
        if union.remote_files() > 0 {
            rest = LOOK;
            continue;
        }
        let Ok(files) = db.straddlers() else {
            return; // closed
        };
        db.clip_columns_of(&files);
        if files.is_empty() {
            tracing::info!("no file reaches beyond the key groups any more");
            return;
        }
        let tries = |file: &Straddler| failures.get(&file.name).copied().unwrap_or(0);
        let due = files
            .iter()
            .filter(|file| file.is_due() && tries(file) < TRIES);
        let Some(file) = due.max_by_key(|file| file.level) else {
            rest = IDLE;
            continue;
        };
        // A disk that is full by this would be an error of the whole database.
        if union
            .free_space(union.db_dir())
            .is_ok_and(|free| free / 2 < file.len)
        {
            rest = IDLE;
            continue;
        }
        let begun = Instant::now();
        rest = match db.rewrite(file) {
            Ok(true) => begun.elapsed().min(REST),
            Ok(false) => AGAIN,
            Err(Error::Closed) => return,
            Err(error) => {
                let tries = tries(file) + 1;
                tracing::warn!(%error, tries, "a file could not be clipped; it takes more space than it must");
                failures.insert(file.name.clone(), tries);
                AGAIN * tries
            }
        };
    }
}
