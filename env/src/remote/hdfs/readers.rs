//! Readers that are kept open: each knows the block locations of its file, so that a read is one round trip.
//!
//! A kept reader may be wrong: blocks move, DataNodes die, a file is replaced. So a read that fails through a kept reader is
//! tried once more through a new one before it counts as failed; writes and deletes of this store drop the reader of their
//! file; and none is kept for longer than [`KEPT_MAX`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdfs_native::file::FileReader;
use tokio::sync::OnceCell;

use super::Failure;

/// Most readers kept; each takes a few hundred bytes for each block of its file.
const READERS_MAX: usize = 4096;

/// Longest that locations are trusted.
const KEPT_MAX: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Readers(Mutex<HashMap<String, Kept>>);

struct Kept {
    /// Opened by the first read that needs it; others wait for that one.
    reader: Arc<OnceCell<FileReader>>,
    opened: Instant,
    used: Instant,
}

/// A reader to use now.
pub(super) struct Found {
    pub(super) reader: Arc<OnceCell<FileReader>>,
    /// It was open before this read.
    pub(super) was_open: bool,
}

impl Readers {
    /// The reader of that file, opened by `open` where none is kept.
    pub(super) async fn get<F>(
        &self,
        path: &str,
        open: impl FnOnce() -> F,
    ) -> Result<Found, Failure>
    where
        F: Future<Output = Result<FileReader, Failure>>,
    {
        let reader = self.cell(path);
        let was_open = reader.initialized();
        // A failed opening leaves the cell empty, and the next read tries again.
        reader.get_or_try_init(open).await?;
        Ok(Found { reader, was_open })
    }

    fn cell(&self, path: &str) -> Arc<OnceCell<FileReader>> {
        let now = Instant::now();
        let mut kept = self.lock();
        if let Some(found) = kept.get_mut(path)
            && now.duration_since(found.opened) < KEPT_MAX
        {
            found.used = now;
            return found.reader.clone();
        }
        if kept.len() >= READERS_MAX {
            // The half that was not used for longest, so that this is rare.
            let mut used: Vec<_> = kept.values().map(|k| k.used).collect();
            let (_, middle, _) = used.select_nth_unstable(READERS_MAX / 2);
            let middle = *middle;
            kept.retain(|_, k| k.used > middle);
        }
        let reader = Arc::<OnceCell<FileReader>>::default();
        kept.insert(
            path.to_owned(),
            Kept {
                reader: reader.clone(),
                opened: now,
                used: now,
            },
        );
        reader
    }

    /// Drops the reader of that file.
    pub(super) fn forget(&self, path: &str) {
        self.lock().remove(path);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
