//! One file from the remote store to the db directory: ranged GETs into `<name>.<n>.part`, verified, synced, renamed.
//!
//! Nothing becomes local that was not verified as a whole: the length and the xxh3-128 of the bytes as they were
//! written. Between the last look at the entry and the rename its `moving` lock is held, so that a file deleted
//! meanwhile does not come back.

use std::{
    collections::VecDeque,
    ops::Range,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use bytes::Bytes;
use lazurite_env::{Error, ErrorKind, Result, WritableFile, remote::Key};

use super::{DownloadOptions, state::Shared};
use crate::{
    ChecksumHasher,
    catalog::{Entry, Residency},
    fetch::get_exact,
    stats::Counters,
    sync::lock,
    union::Core,
};

/// How often a thread that waits for the network looks whether it must end.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// How a transfer ended, where nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The file is local.
    Promoted,
    /// It was deleted meanwhile, or the download was stopped.
    Abandoned,
}

/// Brings `entry` here and promotes it. Blocks. Leaves no `.part` file behind unless even deleting that fails.
pub(super) fn transfer(
    core: &Core,
    shared: &Shared,
    options: &DownloadOptions,
    entry: &Entry,
) -> Result<Outcome> {
    // A name of its own for each attempt: whatever else is under way, no two write one file.
    let part = format!("{}.{}.part", entry.name(), shared.next_part());
    let part = core.layout.download.join(part);
    let mut transfer = Transfer {
        core,
        shared,
        options,
        entry,
        written: 0,
    };
    let result = transfer.write(&part).and_then(|outcome| match outcome {
        Outcome::Promoted => promote(core, entry, &part),
        Outcome::Abandoned => Ok(Outcome::Abandoned),
    });
    if !matches!(result, Ok(Outcome::Promoted)) {
        shared.take_bytes(transfer.written);
        // Where this fails too, the next open removes it.
        let _ = core.base.delete(&part);
    }
    result
}

struct Transfer<'a> {
    core: &'a Core,
    shared: &'a Shared,
    options: &'a DownloadOptions,
    entry: &'a Entry,
    /// Bytes counted as done.
    written: u64,
}

impl Transfer<'_> {
    /// Writes and syncs all bytes to `part` and verifies them.
    fn write(&mut self, part: &Path) -> Result<Outcome> {
        let mut out = self.core.base.create(part)?;
        let mut hasher = ChecksumHasher::new();
        let file = self.entry.file();
        // What the tail bundle holds need not come again; the checksum is over all of it all the same.
        let tail = self.entry.tail();
        let body_end = tail.as_ref().map_or(file.len, |(offset, _)| *offset);

        let mut window = VecDeque::new();
        let (mut requested, mut received) = (0, 0);
        while received < body_end {
            if !self.shared.go_on() || self.entry.residency() != Residency::Remote {
                return Ok(Outcome::Abandoned);
            }
            while requested < body_end && window.len() < self.options.parallel_chunks.max(1) {
                let end = requested
                    .saturating_add(self.options.chunk_bytes.max(1) as u64)
                    .min(body_end);
                window.push_back(Chunk::request(self.core, self.entry, requested..end));
                requested = end;
            }
            let Some(chunk) = window.pop_front() else {
                break;
            };
            let Some(bytes) = chunk.receive(self.shared, &file.key)? else {
                return Ok(Outcome::Abandoned);
            };
            received += bytes.len() as u64;
            self.append(&mut *out, &mut hasher, &bytes)?;
        }
        if let Some((_, bytes)) = tail {
            self.append(&mut *out, &mut hasher, &bytes)?;
        }

        let actual = hasher.finish();
        if out.len() != file.len || actual != file.checksum {
            return Err(Error::new(
                ErrorKind::Corruption,
                "verify",
                file.key.as_str(),
                format!(
                    "the remote object does not match its checksum: {} bytes with {actual}, expected {} bytes with {}",
                    out.len(),
                    file.len,
                    file.checksum
                ),
            ));
        }
        out.sync()?;
        out.close()?;
        Ok(Outcome::Promoted)
    }

    fn append(
        &mut self,
        out: &mut dyn WritableFile,
        hasher: &mut ChecksumHasher,
        bytes: &[u8],
    ) -> Result<()> {
        let root = &self.core.layout.root;
        let needed = self
            .options
            .keep_free_bytes
            .saturating_add(bytes.len() as u64);
        let free = self.core.base.free_space(root)?;
        if free < needed {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "download",
                root,
                format!(
                    "{free} bytes are free, {needed} are needed: free some, or go on reading remotely"
                ),
            ));
        }
        out.append(bytes)?;
        hasher.update(bytes);
        self.written += bytes.len() as u64;
        self.shared.add_bytes(bytes.len() as u64);
        Ok(())
    }
}

/// Gives the verified file its name, unless the entry was deleted meanwhile.
fn promote(core: &Core, entry: &Entry, part: &Path) -> Result<Outcome> {
    core.catalog.settle()?;
    {
        let _moving = lock(&entry.moving);
        if entry.residency() != Residency::Remote {
            return Ok(Outcome::Abandoned);
        }
        core.base.rename(part, &core.layout.db.join(entry.name()))?;
        core.catalog.set_residency(entry, Residency::Local);
    }
    entry.drop_tail();
    if let Err(error) = core.base.sync_dir(&core.layout.db) {
        // It is local and right; only a power cut may make it remote again.
        tracing::warn!(%error, "promoted file is not yet durable");
    }
    Ok(Outcome::Promoted)
}

/// A request on its way. Dropping it ends the request.
struct Chunk {
    receiver: Receiver<Result<Bytes>>,
    task: tokio::task::JoinHandle<()>,
}

impl Chunk {
    fn request(core: &Core, entry: &Entry, range: Range<u64>) -> Chunk {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (store, counters) = (core.store.clone(), core.counters.clone());
        let key = entry.file().key.clone();
        let task = core.runtime.spawn(async move {
            Counters::add(&counters.download_requests, 1);
            let result = get_exact(&*store, &key, range).await;
            if let Ok(bytes) = &result {
                Counters::add(&counters.download_bytes, bytes.len() as u64);
            }
            // The thread that asked may have given up.
            let _ = sender.send(result);
        });
        Chunk { receiver, task }
    }

    /// Waits for the bytes; `None` where the download is stopped first.
    fn receive(self, shared: &Shared, key: &Key) -> Result<Option<Bytes>> {
        loop {
            match self.receiver.recv_timeout(STOP_CHECK) {
                Ok(result) => return result.map(Some),
                Err(RecvTimeoutError::Timeout) if shared.is_stopped() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(
                        ErrorKind::Panicked,
                        "download",
                        key.as_str(),
                        "the request ended without a result",
                    ));
                }
            }
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.task.abort();
    }
}
