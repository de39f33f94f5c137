//! One file from the remote store to the db directory: the missing pages into the cache's sparse file, the whole verified,
//! synced, renamed.
//!
//! Nothing becomes local that was not verified as a whole, as it is on the disk: the length and the xxh3-128. Between the
//! last look at the entry and the rename its `moving` lock is held, so that a file deleted meanwhile does not come back.
//! Where a transfer ends half way, by whatever way, its pages stay and the next one goes on from there. Where the disk is
//! full or the whole is wrong, nothing of it stays.

use std::{
    collections::VecDeque,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use lazurite_env::{Error, ErrorKind, Result, remote::Key};

use super::{DownloadOptions, state::Shared, stream};
use crate::{
    cache::{Hold, Object, PAGE_BYTES, flight::get_exact},
    catalog::{Entry, Residency},
    stats::Counters,
    sync::lock,
    union::Core,
};

/// How often a thread that waits for the network looks whether it must end.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Missing ranges are asked for together where what lies between them is no more than this: less than the pages of one block of
/// the default size. Where the link is the limit, a block that a read brought and the download brings again costs more time
/// than processing the record that read it took; so blocks are left out one by one, at a request more for each. A chunk that was
/// warmed is longer still.
const GAP_BYTES: u64 = 16 << 10;

/// Nor than this part of a request, where requests are small.
const GAP_SHARE: u64 = 16;

/// How often the missing pages of a file are fetched before its disk counts as unreadable: pages may turn out bad when the
/// whole is verified, and readers may drop some while others come.
const PASSES: u32 = 8;

/// How a transfer ended, where nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The file is local.
    Promoted,
    /// It was deleted meanwhile, or the download was stopped.
    Abandoned,
    /// Other downloads have the room that it needs.
    Crowded,
    /// The disk budget has no room for it, nor for any longer file.
    Refused,
}

/// Brings `entry` here and promotes it. Blocks.
pub(super) fn transfer(
    core: &Core,
    shared: &Arc<Shared>,
    options: &DownloadOptions,
    entry: &Entry,
) -> Result<Outcome> {
    let result = if entry.residency() == Residency::Remote {
        transfer_remote(core, shared, options, entry)
    } else {
        Ok(Outcome::Abandoned)
    };
    let residency = entry.residency();
    if residency == Residency::Gone || matches!(result, Ok(Outcome::Promoted)) {
        // Deleted before its file was there to go with it; or readers began to keep some of it again before it was local.
        core.uncache(entry.file());
    }
    match result {
        Err(_) if residency != Residency::Remote => Ok(Outcome::Abandoned),
        result => result,
    }
}

fn transfer_remote(
    core: &Core,
    shared: &Arc<Shared>,
    options: &DownloadOptions,
    entry: &Entry,
) -> Result<Outcome> {
    let _admitted = match core.admit(entry) {
        Ok(Some(admitted)) => admitted,
        Ok(None) => return Ok(Outcome::Crowded),
        Err(error) => {
            // With state larger than the disk this is how it always is.
            tracing::debug!(%error, "not brought");
            shared.no_room(error);
            return Ok(Outcome::Refused);
        }
    };
    let object = Object::new(entry.file());
    if stream::is_quicker(core, options, entry, &object) {
        return stream::transfer_small(core, shared, options, entry);
    }
    let hold = match core.cache.hold(&object) {
        Ok(Some(hold)) => hold,
        Ok(None) => return Ok(Outcome::Crowded),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return stream::transfer(core, shared, options, entry);
        }
        Err(error) => return Err(error),
    };
    let mut transfer = Transfer {
        core,
        shared,
        options,
        entry,
        object: &object,
        hold,
        counted: 0,
    };
    let result = transfer.run();
    match &result {
        // These bytes stay.
        Ok(Outcome::Promoted) => transfer.counted = 0,
        // Others may finish with what it had.
        Err(error) if error.kind() == ErrorKind::NoSpace => transfer.hold.discard(),
        _ => {}
    }
    result
}

struct Transfer<'a> {
    core: &'a Core,
    shared: &'a Arc<Shared>,
    options: &'a DownloadOptions,
    entry: &'a Entry,
    object: &'a Arc<Object>,
    hold: Hold,
    /// Bytes counted as done.
    counted: u64,
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.shared.take_bytes(self.counted);
    }
}

impl Transfer<'_> {
    fn run(&mut self) -> Result<Outcome> {
        self.hold.drop_bad()?;
        for _ in 0..PASSES {
            self.hold.check()?;
            self.recount();
            if !self.hold.is_whole() && self.fill()? == Outcome::Abandoned {
                return Ok(Outcome::Abandoned);
            }
            self.recount();
            if self.hold.is_whole() && self.hold.seal()? {
                return promote(self.core, self.entry, |path| self.hold.promote(path));
            }
        }
        Err(Error::new(
            ErrorKind::Io,
            "download",
            self.hold.data_path(),
            "what is written to this file is not read back: check the disk",
        ))
    }

    /// Sets what is counted as done to what is there.
    fn recount(&mut self) {
        let there = self.hold.resident_bytes();
        self.shared.take_bytes(self.counted.saturating_sub(there));
        self.shared.add_bytes(there.saturating_sub(self.counted));
        self.counted = there;
    }

    /// Stores what is missing.
    fn fill(&mut self) -> Result<Outcome> {
        let file = self.entry.file();
        let tail = self.entry.tail();
        // What the tail bundle holds need not come again; the checksum is over all of it all the same.
        let body_end = tail.as_ref().map_or(file.len, |(offset, _)| *offset);
        let most = (self.options.chunk_bytes as u64)
            .max(1)
            .next_multiple_of(PAGE_BYTES);
        let gap = GAP_BYTES.min(most / GAP_SHARE);
        let (mut asked, mut uncounted) = (0, 0);
        let mut window = VecDeque::new();
        loop {
            if !self.shared.go_on() || self.entry.residency() != Residency::Remote {
                return Ok(Outcome::Abandoned);
            }
            while window.len() < self.options.parallel_chunks.max(1)
                && let Some(range) = self.hold.next_missing(asked..body_end, most, gap)
            {
                asked = range.end;
                let chunk = Chunk::request(self.core, self.shared, self.object, range.clone());
                window.push_back((range.start, chunk));
            }
            let Some((start, chunk)) = window.pop_front() else {
                break;
            };
            let Some(bytes) = chunk.receive(self.shared, &file.key)? else {
                return Ok(Outcome::Abandoned);
            };
            let rest = tail
                .as_ref()
                .filter(|_| start + bytes.len() as u64 == body_end);
            match rest {
                Some((_, tail)) => self.store(start, &joined(&bytes, body_end, tail))?,
                None => self.store(start, &bytes)?,
            }
            // It looks at the whole file, and requests may be small.
            uncounted += bytes.len() as u64;
            if uncounted >= most {
                self.recount();
                uncounted = 0;
            }
        }
        if let Some((offset, tail)) = tail {
            let first = offset.next_multiple_of(PAGE_BYTES);
            if first < file.len {
                self.store(first, &tail.slice((first - offset) as usize..))?;
            }
        }
        Ok(Outcome::Promoted)
    }

    fn store(&mut self, start: u64, bytes: &Bytes) -> Result<()> {
        let root = &self.core.layout.root;
        let keep = self.core.cache.min_free_bytes();
        let needed = keep.saturating_add(bytes.len() as u64);
        let free = self.core.base.free_space(root)?;
        // Where others took what was reserved, the cache gives way.
        if free < needed && !self.core.cache.keep_promises() {
            return Err(Error::new(
                ErrorKind::NoSpace,
                "download",
                root,
                format!(
                    "{free} bytes are free, {needed} are needed: free some, or go on reading remotely"
                ),
            ));
        }
        self.hold.store(start, bytes)
    }
}

/// Pieces of a range, none longer than `most`.
pub(super) fn cut(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let starts = (range.start..end).step_by(most as usize);
    starts.map(move |start| start..(start + most).min(end))
}

/// `bytes`, which end at `at`, and what follows them in their last page.
pub(super) fn joined(bytes: &Bytes, at: u64, tail: &Bytes) -> Bytes {
    let rest = (at.next_multiple_of(PAGE_BYTES) - at) as usize;
    let mut joined = BytesMut::with_capacity(bytes.len() + rest);
    joined.extend_from_slice(bytes);
    joined.extend_from_slice(&tail[..rest.min(tail.len())]);
    joined.freeze()
}

/// Gives the verified file its name, by `rename`, unless the entry was deleted meanwhile.
pub(super) fn promote(
    core: &Core,
    entry: &Entry,
    rename: impl FnOnce(&Path) -> Result<()>,
) -> Result<Outcome> {
    core.catalog.settle()?;
    {
        let _moving = lock(&entry.moving);
        if entry.residency() != Residency::Remote {
            return Ok(Outcome::Abandoned);
        }
        // What it took of the cache's room is the tables' before it is free.
        let landing = core.land(entry);
        rename(&core.layout.db.join(entry.name()))?;
        landing.landed(entry);
        // While a demotion, which keeps a tail, has to wait.
        entry.set_stored();
        entry.drop_tail();
    }
    if let Err(error) = core.base.sync_dir(&core.layout.db) {
        // It is local and right; only a power cut may make it remote again.
        tracing::warn!(%error, "promoted file is not yet durable");
    }
    Ok(Outcome::Promoted)
}

/// A request on its way. Dropping it ends the request.
pub(super) struct Chunk {
    receiver: Receiver<Result<Bytes>>,
    task: tokio::task::JoinHandle<()>,
}

impl Chunk {
    /// Asks for a range as soon as the budget and the pace let it.
    pub fn request(
        core: &Core,
        shared: &Arc<Shared>,
        object: &Arc<Object>,
        range: Range<u64>,
    ) -> Chunk {
        let (sender, receiver) = mpsc::sync_channel(1);
        let (store, moves) = (core.store.clone(), core.moves.clone());
        let counters = core.counters.clone();
        let (budget, shared) = (core.budget.clone(), shared.clone());
        let object = object.clone();
        let task = core.runtime.spawn(async move {
            let admitted = shared.pace().admit(range.end - range.start).await;
            // In turn too: whoever is admitted waits for the budget first.
            budget.take(range.end - range.start).await;
            let admitted = admitted.sent_now();
            Counters::add(&counters.download_requests, 1);
            let result = get_exact(&*store, &moves, &object, range).await;
            if let Ok(bytes) = &result {
                Counters::add(&counters.download_bytes, bytes.len() as u64);
                admitted.arrived(counters.bytes_in());
                shared.came(bytes.len() as u64);
            }
            drop(admitted);
            // The thread that asked may have given up.
            let _ = sender.send(result);
        });
        Chunk { receiver, task }
    }

    /// Waits for the bytes; `None` where the download is stopped first.
    pub fn receive(self, shared: &Shared, key: &Key) -> Result<Option<Bytes>> {
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
