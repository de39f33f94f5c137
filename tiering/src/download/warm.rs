//! Warming: the hot chunks of remote files, before any file comes as a whole.
//!
//! They go the way of all requests of the download: behind the reads, through the pace and the budget. What comes is stored
//! as hot. Where there is no room for one, it ends for all; where the store is away, it waits, and gives a range up that it was
//! often away for: the download of the file waits as long as it must, and holds nobody up.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use lazurite_env::{Error, ErrorKind, Result};

use super::{
    ATTEMPTS, DownloadOptions, MAX_BACKOFF,
    hot::{HotRange, Taken},
    jittered,
    state::Shared,
    transfer::{Chunk, cut, joined},
};
use crate::{
    cache::{Begin, Object, Warm},
    catalog::Residency,
    stats::Counters,
    union::Core,
};

/// A range whose requests were made.
struct Asked<'a> {
    taken: Taken<'a>,
    warm: Warm,
    chunks: VecDeque<(Range<u64>, Chunk)>,
    bytes: u64,
}

/// How a range ended, where nothing failed.
enum Came {
    All,
    /// The download was stopped.
    Stopped,
}

/// Warms until nothing is left to be warmed, by this thread or by others. Blocks.
pub(super) fn warm(core: &Core, shared: &Arc<Shared>, options: &DownloadOptions) {
    use tracing::field::Empty;
    let span = tracing::info_span!("warming", chunks = Empty, bytes = Empty);
    let _in_span = span.enter();
    let most = options.request_bytes() * options.parallel_chunks.max(1) as u64;
    let (mut window, mut asked_bytes) = (VecDeque::<Asked<'_>>::new(), 0);
    let (mut waits, mut warmed) = (0u32, (0, 0));
    loop {
        let mark = shared.mark();
        while asked_bytes < most
            && let Some(taken) = shared.next_hot(core, window.is_empty())
        {
            if let Some(asked) = ask(core, shared, options, taken) {
                asked_bytes += asked.bytes;
                window.push_back(asked);
            }
        }
        let Some(mut asked) = window.pop_front() else {
            span.record("chunks", warmed.0).record("bytes", warmed.1);
            return;
        };
        asked_bytes -= asked.bytes;
        let error = match asked.receive(core, shared) {
            Ok(Came::All) => {
                waits = 0;
                warmed.0 += asked.taken.range.chunks();
                warmed.1 += asked.bytes;
                asked.taken.done();
                continue;
            }
            Ok(Came::Stopped) => {
                // In their order, for the next start.
                window
                    .drain(..)
                    .rev()
                    .for_each(|asked| asked.taken.put_back());
                asked.taken.put_back();
                return;
            }
            Err(error) => error,
        };
        let name = asked.taken.range.entry.name();
        if error.kind() == ErrorKind::NoSpace {
            tracing::debug!(name, %error, "no more is warmed");
            shared.forget_hot();
        } else if error.is_temporary() {
            tracing::warn!(name, %error, "warming waits and tries again");
            let wait = options.first_backoff * (1 << waits.min(7)).min(MAX_BACKOFF);
            waits += 1;
            let wait = jittered(wait, name, waits);
            asked.taken.range.failures += 1;
            if asked.taken.range.failures < ATTEMPTS {
                asked.taken.put_back();
            }
            // Where it must end, the next range says so.
            shared.sleep(wait, mark);
        } else {
            // The download of the file will say what is wrong with it.
            tracing::debug!(name, %error, "a chunk could not be warmed");
        }
    }
}

/// Asks for what is missing of a range; `None` where that is nothing, or has no room.
fn ask<'a>(
    core: &Core,
    shared: &Arc<Shared>,
    options: &DownloadOptions,
    taken: Taken<'a>,
) -> Option<Asked<'a>> {
    let HotRange { entry, bytes, .. } = &taken.range;
    if entry.residency() != Residency::Remote {
        return None;
    }
    let object = Object::new(entry.file());
    let warm = match core.cache.warm(&object, bytes, core.warm_limit()) {
        Ok(Begin::Warm(warm)) => warm,
        Ok(Begin::Here) => {
            taken.done();
            return None;
        }
        Ok(Begin::Refused) => return None,
        Ok(Begin::Full) => {
            tracing::debug!("no more is warmed: there is no room");
            shared.forget_hot();
            return None;
        }
        Err(error) => {
            tracing::debug!(%error, "no more is warmed");
            shared.forget_hot();
            return None;
        }
    };
    let pieces = warm.missing.iter().cloned();
    let pieces = pieces.flat_map(|range| cut(range, options.request_bytes()));
    let chunks: VecDeque<_> = pieces
        .map(|range| {
            let chunk = Chunk::request(core, shared, &object, range.clone());
            (range, chunk)
        })
        .collect();
    let bytes = chunks.iter().map(|(range, _)| range.end - range.start);
    Some(Asked {
        bytes: bytes.sum(),
        taken,
        warm,
        chunks,
    })
}

impl Asked<'_> {
    /// Waits for what was asked for, and stores it.
    fn receive(&mut self, core: &Core, shared: &Shared) -> Result<Came> {
        let HotRange { entry, level, .. } = &self.taken.range;
        let (file, tail) = (entry.file(), entry.tail());
        while let Some((range, chunk)) = self.chunks.pop_front() {
            let Some(mut bytes) = chunk.receive(shared, &file.key)? else {
                return Ok(Came::Stopped);
            };
            let counters = &core.counters;
            Counters::add(&counters.warmed_bytes, bytes.len() as u64);
            if let Some((offset, tail)) = &tail
                && range.end == *offset
            {
                bytes = joined(&bytes, *offset, tail);
            }
            let whole = bytes
                .len()
                .is_multiple_of(crate::cache::PAGE_BYTES as usize);
            if !whole && range.start + bytes.len() as u64 != file.len {
                let why = "its tail went while its chunks came";
                let (operation, key) = ("warm", file.key.as_str());
                return Err(Error::new(ErrorKind::InvalidInput, operation, key, why));
            }
            // As hot as it was told, less one for being read soon.
            self.warm.store(range.start, &bytes, level - 1)?;
        }
        Counters::add(&core.counters.warmed_chunks, self.taken.range.chunks());
        Ok(Came::All)
    }
}
