//! What is hot of each table file, wherever it is.

use super::UnionEnv;
use crate::cache::{Object, POINTS_MAX};

impl UnionEnv {
    /// How hot each chunk of 64 KiB of the table file `name` is, from its begin: 0 (it is not) to 3, a level for each time
    /// that it is read twice as often as the average of the file, roughly. Empty where none is. Reads of the local file are those that the
    /// [open files](Self::watch_open_files) tell; of a remote one, what the chunk cache keeps because it is read again.
    ///
    /// Afterwards all that was told of it cools down by `halvings`. No I/O.
    pub fn take_chunk_heat(&self, name: &str, halvings: u32) -> Vec<u8> {
        let core = &*self.core;
        let mut levels = match core.open_files.get() {
            Some(open) => open.take_chunk_reads(&core.layout.db.join(name), halvings),
            None => Vec::new(),
        };
        let reads = levels.iter().map(|reads| u64::from(*reads)).sum::<u64>();
        let mean = (reads / (levels.len() as u64).max(1)).max(1);
        for level in &mut levels {
            *level = level_of(*level, mean);
        }
        if let Some(entry) = core.catalog.lookup(name) {
            for (chunk, level) in core.cache.take_levels(&Object::new(entry.file()), halvings) {
                let chunk = chunk as usize;
                if levels.len() <= chunk {
                    levels.resize(chunk + 1, 0);
                }
                levels[chunk] = levels[chunk].max(level);
            }
        }
        let hot = levels.iter().rposition(|level| *level > 0);
        levels.truncate(hot.map_or(0, |last| last + 1));
        levels
    }
}

/// Of a chunk that was seen to be read so often, where that was so often on average: a level for twice as often, and for each
/// doubling beyond. One read that was seen tells nothing; and where all of a file is read alike, it is the file that is hot.
fn level_of(reads: u8, mean: u64) -> u8 {
    let times = u64::from(reads) / mean;
    let doublings = times.checked_ilog2().unwrap_or(0);
    (doublings as u8).min(POINTS_MAX)
}
