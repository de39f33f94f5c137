//! [`Heat`]: how often users read each table file, as of late.
//!
//! RocksDB counts the reads of gets and iterators by itself (one of 1,024, local and remote files alike), so this costs them
//! nothing. It is looked at when a snapshot is taken; what was counted before fades. A snapshot's metadata carries it, and
//! the next restore downloads the hottest files first. It only ever orders: no value of it can do harm.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{chunks::ChunkHeat, metadata::SnapshotFile};

/// A read of so long ago counts half.
pub(super) const HALF_LIFE: Duration = Duration::from_secs(600);

/// Heat beyond this is this: sums stay exact, and nobody reads so much in a half-life.
const MAX: u64 = 1 << 50;

/// The heat of the live files, by name.
#[derive(Debug, Default)]
pub(crate) struct Heat {
    /// That of their parts.
    pub(crate) chunks: ChunkHeat,
    files: HashMap<String, FileHeat>,
    looked: Option<Instant>,
}

#[derive(Debug, Default)]
struct FileHeat {
    reads: f64,
    /// RocksDB's count when it was last looked at.
    counted: u64,
}

impl Heat {
    /// What a snapshot says, whatever it says.
    pub(crate) fn of(files: &[SnapshotFile]) -> Self {
        let heats = files.iter().filter_map(|file| {
            let heat = FileHeat {
                reads: file.heat?.min(MAX) as f64,
                counted: 0,
            };
            Some((file.name.clone(), heat))
        });
        Heat {
            chunks: ChunkHeat::of_files(files),
            files: heats.collect(),
            looked: None,
        }
    }

    /// Takes in RocksDB's counts of all live files; those of other files are forgotten.
    pub(crate) fn look(&mut self, now: Instant, counts: &HashMap<String, u64>) {
        let since = self
            .looked
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let keep = 0.5f64.powf(since.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.looked = Some(now);
        self.files.retain(|name, _| counts.contains_key(name));
        for (name, &count) in counts {
            let file = self.files.entry(name.clone()).or_default();
            let new = count.saturating_sub(file.counted).min(MAX);
            file.reads = (file.reads * keep + new as f64).min(MAX as f64);
            file.counted = count;
        }
    }

    /// The heat of a file, rounded; `None` where that is 0.
    pub(crate) fn of_file(&self, name: &str) -> Option<u64> {
        let heat = self.files.get(name)?.reads.round() as u64;
        (heat > 0).then_some(heat)
    }

    /// Of all files that have any.
    pub(crate) fn all(&self) -> HashMap<String, u64> {
        let names = self.files.keys();
        names
            .filter_map(|name| Some((name.clone(), self.of_file(name)?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(files: &[(&str, u64)]) -> HashMap<String, u64> {
        let named = files.iter().map(|(name, n)| ((*name).to_owned(), *n));
        named.collect()
    }

    #[test]
    fn reads_fade_by_half_and_are_counted_once() {
        let (mut heat, now) = (Heat::default(), Instant::now());
        heat.look(now, &counts(&[("a", 4096), ("b", 0)]));
        heat.look(now, &counts(&[("a", 4096), ("b", 1024)]));
        assert_eq!(
            (heat.of_file("a"), heat.of_file("b")),
            (Some(4096), Some(1024))
        );
        heat.look(now + HALF_LIFE, &counts(&[("a", 4096), ("b", 5120)]));
        assert_eq!(
            (heat.of_file("a"), heat.of_file("b")),
            (Some(2048), Some(512 + 4096))
        );
        // Gone, and a count that begins anew.
        heat.look(now + HALF_LIFE, &counts(&[("b", 10)]));
        assert_eq!(
            (heat.of_file("a"), heat.of_file("b")),
            (None, Some(512 + 4096))
        );
        heat.look(now + 1000 * HALF_LIFE, &counts(&[("b", 10)]));
        assert_eq!((heat.of_file("b"), heat.all().len()), (None, 0));
    }

    #[test]
    fn absurd_counts_stay_in_bounds() {
        let (mut heat, now) = (Heat::default(), Instant::now());
        for i in 0..100 {
            let count = if i % 2 == 0 { u64::MAX } else { 0 };
            heat.look(now, &counts(&[("a", count)]));
        }
        assert_eq!(heat.of_file("a"), Some(MAX));
    }
}
