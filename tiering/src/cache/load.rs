//! What an earlier process left in the cache's directory.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use lazurite_env::{FileKind, Result};

use super::{
    Cache, Object, ObjectId,
    file::{CacheFile, object_of, paths},
    geometry::{
        BLOCK_BYTES, CHUNK_BYTES, CHUNKS_PER_GROUP, PAGE_BYTES, chunks_in, disk_bytes, full,
        group_of, runs,
    },
};
use crate::RemoteFile;

/// What a file system may count for its own records of a file.
const RECORDS_BYTES: u64 = 4 * BLOCK_BYTES;

impl Cache {
    /// Takes in the files of the objects `wanted` and removes all others. What cannot be read is not there.
    pub(super) fn load(&self, wanted: &[RemoteFile]) {
        let wanted: HashMap<ObjectId, Arc<Object>> = wanted
            .iter()
            .map(Object::new)
            .map(|object| (object.id, object))
            .collect();
        let entries = self.0.base.list(&self.0.dir).unwrap_or_else(|error| {
            self.disk_failed(&error);
            Vec::new()
        });
        let mut found = BTreeSet::new();
        for entry in entries {
            match object_of(&entry.name) {
                Some(id) if wanted.contains_key(&id) => {
                    found.insert(id);
                }
                _ if entry.kind == FileKind::File => self.delete_file(&entry.name),
                _ => {}
            }
        }
        for id in found {
            if self.state().open_objects() >= self.0.options.open_objects {
                self.delete_files(id, true);
            } else if let Err(error) = self.load_file(&wanted[&id]) {
                self.disk_failed(&error);
                let (data, map) = paths(&self.0.dir, id);
                for path in [data, map] {
                    let _ = self.0.base.delete(&path);
                }
            }
        }
    }

    fn delete_file(&self, name: &str) {
        let path = self.0.dir.join(name);
        if let Err(error) = self.0.base.delete(&path) {
            tracing::warn!(path = %path.display(), %error, "a file that is not needed any more stays");
        }
    }

    fn load_file(&self, object: &Arc<Object>) -> Result<()> {
        let loaded = CacheFile::load(&*self.0.base, &self.0.dir, object)?;
        let Some((file, resident)) = loaded.filter(|(_, resident)| !resident.is_empty()) else {
            self.delete_files(object.id, true);
            return Ok(());
        };
        give_back_the_rest(&file, object.file.len, &resident)?;
        give_back_map_blocks(&file, object.file.len, &resident)?;
        self.state().load(object, file, &resident);
        Ok(())
    }
}

/// Punches out what is on the disk without being resident: pages whose checksum was not yet written when the process ended.
fn give_back_the_rest(file: &CacheFile, len: u64, resident: &[(u32, u64)]) -> Result<()> {
    let expected: u64 = resident.iter().map(|(_, bits)| disk_bytes(*bits)).sum();
    if file.allocated()? <= expected + RECORDS_BYTES {
        return Ok(());
    }
    let mut end = 0;
    for &(chunk, bits) in resident {
        let begin = u64::from(chunk) * CHUNK_BYTES;
        if end < begin {
            file.punch_range(end..begin)?;
        }
        end = begin + CHUNK_BYTES;
        for absent in runs(chunk, full(chunk, len) & !bits) {
            // Only blocks of which no page is resident.
            let from = (absent.start * PAGE_BYTES).next_multiple_of(BLOCK_BYTES);
            let to = absent.end * PAGE_BYTES;
            let to = if to >= len {
                end
            } else {
                to / BLOCK_BYTES * BLOCK_BYTES
            };
            if from < to {
                file.punch_range(from..to)?;
            }
        }
    }
    let all = chunks_in(len) * CHUNK_BYTES;
    if end < all {
        file.punch_range(end..all)?;
    }
    Ok(())
}

/// The same for blocks of the map without a resident page.
fn give_back_map_blocks(file: &CacheFile, len: u64, resident: &[(u32, u64)]) -> Result<()> {
    let used: BTreeSet<u32> = resident.iter().map(|(chunk, _)| group_of(*chunk)).collect();
    let expected = (1 + used.len() as u64) * BLOCK_BYTES;
    if file.map_allocated()? <= expected + RECORDS_BYTES {
        return Ok(());
    }
    let groups = group_of(chunks_in(len) as u32) + 1;
    for group in (0..groups).filter(|group| !used.contains(group)) {
        file.clear_map(group * CHUNKS_PER_GROUP as u32, true)?;
    }
    Ok(())
}
