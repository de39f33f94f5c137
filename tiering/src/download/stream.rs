//! The transfer past the cache: ranged GETs from front to back into `<name>.<n>.part`, verified as it is written, synced,
//! renamed. One that ends half way begins anew.
//!
//! Two kinds of files come this way: all of them on an Env without sparse files; and those that one request brings whole,
//! of which the cache has nothing. There is nothing to resume of these, so neither a map nor a second look is worth its time.

use std::{collections::VecDeque, path::Path, sync::Arc};

use lazurite_env::{Error, ErrorKind, Result, WritableFile};

use super::{
    DownloadOptions,
    state::Shared,
    transfer::{Chunk, Outcome, promote},
};
use crate::{
    ChecksumHasher,
    cache::Object,
    catalog::{Entry, Residency},
    union::Core,
};

/// True where one request brings all of a file that is not in memory, and the cache has nothing of it.
pub(super) fn is_quicker(
    core: &Core,
    options: &DownloadOptions,
    entry: &Entry,
    object: &Object,
) -> bool {
    let body = match entry.facts.tail {
        Some(tail) if entry.tail().is_some() => tail.offset,
        _ => entry.file().len,
    };
    body <= options.chunk_bytes as u64 && !core.cache.has_bytes(object.id)
}

/// [`transfer`] of a file that the cache makes room for, as for all that comes to the disk.
pub(super) fn transfer_small(
    core: &Core,
    shared: &Arc<Shared>,
    options: &DownloadOptions,
    entry: &Entry,
) -> Result<Outcome> {
    let Some(_room) = core.cache.room_for(entry.file().len)? else {
        return Ok(Outcome::Crowded);
    };
    transfer(core, shared, options, entry)
}

/// Brings `entry` here and promotes it. Blocks. Leaves no `.part` file behind unless even deleting that fails.
pub(super) fn transfer(
    core: &Core,
    shared: &Arc<Shared>,
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
        Outcome::Promoted => promote(core, entry, |path| core.base.rename(&part, path)),
        outcome => Ok(outcome),
    });
    if matches!(result, Ok(Outcome::Promoted)) {
        transfer.written = 0;
    } else {
        // Where this fails too, the next open removes it.
        let _ = core.base.delete(&part);
    }
    result
}

struct Transfer<'a> {
    core: &'a Core,
    shared: &'a Arc<Shared>,
    options: &'a DownloadOptions,
    entry: &'a Entry,
    /// Bytes counted as done.
    written: u64,
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        self.shared.take_bytes(self.written);
    }
}

impl Transfer<'_> {
    /// Writes and syncs all bytes to `part` and verifies them.
    fn write(&mut self, part: &Path) -> Result<Outcome> {
        let mut out = self.core.base.create(part)?;
        let mut hasher = ChecksumHasher::new();
        let file = self.entry.file();
        let object = Object::new(file);
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
                let range = requested..end;
                window.push_back(Chunk::request(self.core, self.shared, &object, range));
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
            .core
            .cache
            .min_free_bytes()
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
