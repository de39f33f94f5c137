//! What is hot when a snapshot is written, from all who know a part of it: the union what is read of files, RocksDB's block
//! cache what is read so often that it never comes to a file.

use std::{collections::HashMap, time::Instant};

use lazurite_env::Activity;

use super::{
    capture::CapturedFile,
    chunks::{CHUNK_BYTES, MAX_LEVEL},
    context::Context,
};
use crate::rocks::Db;

/// By how much a chunk is hotter of which the block cache holds a block.
const CACHED_LEVELS: u8 = 2;

/// The texts of the hot chunks of `files`, by name. No request, and no I/O.
pub(super) fn texts(context: &Context, db: &Db, files: &[CapturedFile]) -> HashMap<String, String> {
    let (gets, scans) = bytes_read(context);
    let mut heat = context.heat();
    // What a scan left in the block cache is no heat, and nobody can tell it from the rest.
    let cached = match heat.chunks.are_gets(gets, scans) {
        true => cached_chunks(context, db, files),
        false => HashMap::new(),
    };
    let names = files.iter().map(|file| file.name.as_str());
    heat.chunks.look(Instant::now(), names, |name, halvings| {
        let mut levels = context.union.take_chunk_heat(name, halvings);
        for &chunk in cached.get(name).into_iter().flatten() {
            if levels.len() <= chunk {
                levels.resize(chunk + 1, 0);
            }
            levels[chunk] = (levels[chunk] + CACHED_LEVELS).min(MAX_LEVEL);
        }
        levels
    });
    heat.chunks.texts()
}

/// What gets and iterators read below the block cache so far, in bytes.
fn bytes_read(context: &Context) -> (u64, u64) {
    let local = context.rocks_env.local_reads_by_activity();
    let local = local.map(|(activity, reads)| (activity, reads.bytes));
    let remote = context.union.read_stats().into_iter();
    let remote = remote.map(|row| (row.activity, row.bytes));
    let (mut gets, mut scans) = (0, 0);
    for (activity, bytes) in local.into_iter().chain(remote) {
        match activity {
            Activity::Get | Activity::MultiGet => gets += bytes,
            Activity::Iterate => scans += bytes,
            _ => {}
        }
    }
    (gets, scans)
}

/// The chunks of which the block cache holds a block, each once, by file.
fn cached_chunks<'a>(
    context: &Context,
    db: &Db,
    files: &'a [CapturedFile],
) -> HashMap<&'a str, Vec<usize>> {
    // A table file's object is named by RocksDB's unique id of it.
    let keys: Vec<String> = {
        let registry = context.registry();
        let key = |file: &CapturedFile| {
            registry
                .get(&file.name)
                .map(|stored| stored.key.to_string())
        };
        files
            .iter()
            .map(|file| key(file).unwrap_or_default())
            .collect()
    };
    let ids: Vec<&str> = keys.iter().map(|key| unique_id(key)).collect();
    // A database that is being closed has nothing to tell.
    let blocks = db.cached_blocks(&ids).unwrap_or_default();
    let mut chunks: HashMap<&str, Vec<usize>> = HashMap::new();
    for block in blocks {
        let file = &files[block.file];
        if block.offset < file.len {
            let of = chunks.entry(&file.name).or_default();
            // All of it, or it is not warm.
            let end = file.len.min(block.offset + block.memory.max(1));
            let touched = block.offset / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES);
            of.extend(touched.map(|chunk| chunk as usize));
        }
    }
    for of in chunks.values_mut() {
        of.sort_unstable();
        of.dedup();
    }
    chunks
}

fn unique_id(key: &str) -> &str {
    let name = key.rsplit('/').next().unwrap_or(key);
    name.strip_suffix(".sst").unwrap_or(name)
}
