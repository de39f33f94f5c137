//! What is hot when a snapshot is written, from all who know a part of it: the union what is read of files, RocksDB's block
//! cache what is read so often that it never comes to a file.

use std::{collections::HashMap, ops::Range, time::Instant};

use lazurite_env::Activity;

use super::{
    capture::CapturedFile,
    chunks::{CHUNK_BYTES, MAX_LEVEL},
    context::Context,
    layout,
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
        for chunk in cached.get(name).into_iter().flat_map(|bits| ones(bits)) {
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

/// The chunks of which the block cache holds a block, a bit for each, by file. It may hold millions of blocks, so they are
/// marked as they are told.
fn cached_chunks<'a>(
    context: &Context,
    db: &Db,
    files: &'a [CapturedFile],
) -> HashMap<&'a str, Vec<u64>> {
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
    let ids: Vec<&str> = keys.iter().map(|key| layout::unique_id(key)).collect();
    let mut chunks: HashMap<&str, Vec<u64>> = HashMap::new();
    // A database that is being closed has nothing to tell.
    let _ = db.cached_blocks(&ids, |block| {
        let file = &files[block.file];
        if block.offset < file.len {
            // All of it, or it is not warm.
            let end = file.len.min(block.offset + block.memory.max(1));
            let touched = block.offset / CHUNK_BYTES..end.div_ceil(CHUNK_BYTES);
            mark(chunks.entry(&file.name).or_default(), touched);
        }
    });
    chunks
}

fn mark(bits: &mut Vec<u64>, chunks: Range<u64>) {
    for chunk in chunks {
        let word = (chunk / 64) as usize;
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        bits[word] |= 1 << (chunk % 64);
    }
}

fn ones(bits: &[u64]) -> impl Iterator<Item = usize> {
    let chunks = 0..bits.len() * 64;
    chunks.filter(|chunk| bits[chunk / 64] >> (chunk % 64) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_is_told_once_and_in_order() {
        let mut bits = Vec::new();
        mark(&mut bits, 130..132);
        for chunks in [62..66, 0..1, 63..65, 7..7] {
            mark(&mut bits, chunks);
        }
        assert_eq!(
            ones(&bits).collect::<Vec<_>>(),
            [0, 62, 63, 64, 65, 130, 131]
        );
        assert_eq!((bits.len(), ones(&[]).count()), (3, 0));
    }
}
