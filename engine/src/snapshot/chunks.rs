//! [`ChunkHeat`]: which chunks of 64 KiB of each table file users read, as of late; and its text in a snapshot's metadata.
//!
//! A chunk has a level from 0 (not hot) to 3; the next level is about twice the reads, so a half-life takes one away. It is
//! looked at when a snapshot is written; what a file was before counts on, fading, also where nobody has read it here since a
//! restore. The next restore warms the hottest chunks first. It only orders and warms: no text of it can do harm.
//!
//! # The text
//! A character for three chunks, from the begin of the file: the level of the first one plus 4 times that of the second plus
//! 16 times that of the third, as a digit of [`DIGITS`]. What follows the last hot chunk is left out. All texts of a snapshot
//! have [`MAX_TEXT_BYTES`] at most: the hottest files for their length have one.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use super::{heat::HALF_LIFE, metadata::SnapshotFile};

/// Bytes of a chunk.
pub(crate) const CHUNK_BYTES: u64 = 64 << 10;

/// The highest level.
pub(crate) const MAX_LEVEL: u8 = 3;

/// Those of base64url.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Chunks in a character.
const CHUNKS_PER_DIGIT: usize = 3;

/// All texts of a snapshot together: a restore reads them before anything else, in about a millisecond on a link of 1 Gbit/s.
/// Enough for 24 GiB of files that have a hot chunk near their end.
pub(crate) const MAX_TEXT_BYTES: usize = 128 << 10;

/// The levels of the live files' chunks, by name.
#[derive(Debug, Default)]
pub(crate) struct ChunkHeat {
    files: HashMap<String, Vec<u8>>,
    /// Until when what is known has faded.
    cooled: Option<Instant>,
    reads: Reads,
}

/// Whose reads fill the block cache.
#[derive(Debug, Default)]
struct Reads {
    gets: u64,
    scans: u64,
    are_scans: bool,
}

impl ChunkHeat {
    /// What a snapshot says, whatever it says.
    pub(crate) fn of_files(files: &[SnapshotFile]) -> Self {
        let mut left = MAX_TEXT_BYTES;
        let texts = files.iter().filter_map(|file| {
            let text = file.hot.as_deref()?;
            left = left.checked_sub(text.len())?;
            let levels = decode(text, file.len);
            (!levels.is_empty()).then(|| (file.name.clone(), levels))
        });
        ChunkHeat {
            files: texts.collect(),
            ..ChunkHeat::default()
        }
    }

    /// Told what gets and scans read so far, in bytes: true where gets read as much as scans since the last time; as then
    /// where nobody read anything.
    pub(crate) fn are_gets(&mut self, gets: u64, scans: u64) -> bool {
        let before = &mut self.reads;
        let (new, new_scans) = (
            gets.saturating_sub(before.gets),
            scans.saturating_sub(before.scans),
        );
        if new > 0 || new_scans > 0 {
            before.are_scans = new < new_scans;
        }
        (before.gets, before.scans) = (gets, scans);
        !before.are_scans
    }

    /// Takes in how hot the chunks of the live files are now. `take` tells it of a file by name, and cools what it knows down
    /// by so many halvings. Other files are forgotten.
    pub(crate) fn look<'a>(
        &mut self,
        now: Instant,
        names: impl IntoIterator<Item = &'a str>,
        mut take: impl FnMut(&str, u32) -> Vec<u8>,
    ) {
        let cooled = *self.cooled.get_or_insert(now);
        let lives = now.saturating_duration_since(cooled).as_secs() / HALF_LIFE.as_secs();
        let halvings = u32::try_from(lives).unwrap_or(u32::MAX);
        self.cooled = Some(cooled + HALF_LIFE * halvings);
        let mut live = HashSet::new();
        for name in names {
            live.insert(name);
            let seen = take(name, halvings);
            let known = self.files.get_mut(name);
            let known = match known {
                Some(known) => known,
                None if seen.iter().all(|level| *level == 0) => continue,
                None => self.files.entry(name.to_owned()).or_default(),
            };
            known.resize(known.len().max(seen.len()), 0);
            for (chunk, level) in known.iter_mut().enumerate() {
                let faded = u32::from(*level).saturating_sub(halvings) as u8;
                *level = faded.max(seen.get(chunk).copied().unwrap_or(0));
            }
        }
        self.files.retain(|name, levels| {
            live.contains(name.as_str()) && levels.iter().any(|level| *level > 0)
        });
    }

    /// The levels of all files that have any.
    pub(crate) fn all(&self) -> HashMap<String, Vec<u8>> {
        self.files.clone()
    }

    /// The texts, by file name: as many as there may be, those of the hottest files for their length first.
    pub(crate) fn texts(&self) -> HashMap<String, String> {
        let mut texts: Vec<(f64, &String, String)> = self
            .files
            .iter()
            .filter_map(|(name, levels)| {
                let text = encode(levels)?;
                let heat = |level: &u8| (1u64 << level) - 1;
                let sum: u64 = levels.iter().map(heat).sum();
                Some((sum as f64 / text.len() as f64, name, text))
            })
            .collect();
        texts.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let mut left = MAX_TEXT_BYTES;
        let fits = texts.into_iter().filter_map(|(_, name, text)| {
            // A shorter one may fit yet.
            left = left.checked_sub(text.len())?;
            Some((name.clone(), text))
        });
        fits.collect()
    }
}

/// The text of levels; `None` where no chunk is hot.
fn encode(levels: &[u8]) -> Option<String> {
    let hot = levels.iter().rposition(|level| *level > 0)?;
    let digits = levels[..=hot].chunks(CHUNKS_PER_DIGIT).map(|chunks| {
        let level = |i: usize| usize::from(chunks.get(i).copied().unwrap_or(0).min(MAX_LEVEL));
        char::from(DIGITS[level(0) + 4 * level(1) + 16 * level(2)])
    });
    Some(digits.collect())
}

/// The levels of a text, of a file of so many bytes. Chunks beyond its end are left out; a text that is none has none.
fn decode(text: &str, len: u64) -> Vec<u8> {
    let chunks = usize::try_from(len.div_ceil(CHUNK_BYTES)).unwrap_or(usize::MAX);
    let mut levels = Vec::with_capacity(text.len().min(MAX_TEXT_BYTES) * CHUNKS_PER_DIGIT);
    for digit in text.bytes() {
        let Some(value) = DIGITS.iter().position(|known| *known == digit) else {
            return Vec::new();
        };
        levels.extend([0, 2, 4].map(|shift| (value >> shift) as u8 & MAX_LEVEL));
    }
    levels.truncate(chunks);
    levels
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_text_holds_the_levels_and_nothing_behind_the_last() {
        assert_eq!(encode(&[]), None);
        assert_eq!(encode(&[0, 0, 0, 0]), None);
        // As docs/FORMAT.md has it.
        assert_eq!(encode(&[3, 0, 1, 0, 0, 2, 0]).unwrap(), "Tg");
        assert_eq!(decode("Tg", 7 * CHUNK_BYTES), [3, 0, 1, 0, 0, 2]);
        for len in 1..40 {
            let levels: Vec<u8> = (0..len).map(|i| (i * 7 % 4) as u8).collect();
            let text = encode(&levels);
            let read = text.map_or(Vec::new(), |text| decode(&text, len * CHUNK_BYTES));
            let hot = levels.iter().rposition(|level| *level > 0);
            assert_eq!(
                read[..hot.map_or(0, |i| i + 1)],
                levels[..hot.map_or(0, |i| i + 1)]
            );
            assert!(read.len() as u64 <= len);
        }
    }

    #[test]
    fn hostile_texts_are_cut_or_none() {
        assert_eq!(decode("____", CHUNK_BYTES + 1), [3, 3]);
        assert_eq!(decode("____", 0), [0u8; 0]);
        assert_eq!(decode("_", u64::MAX), [3, 3, 3]);
        for text in ["_ _", "é", "AA=", "\u{0}"] {
            assert_eq!(decode(text, u64::MAX), [0u8; 0], "{text:?}");
        }
    }

    fn levels(of: &[u8]) -> impl FnMut(&str, u32) -> Vec<u8> {
        let of = of.to_vec();
        move |_, _| of.clone()
    }

    #[test]
    fn what_is_known_fades_and_what_is_read_stays() {
        let (mut heat, now) = (ChunkHeat::default(), Instant::now());
        heat.files.insert("a".into(), vec![3, 1, 0, 2]);
        heat.files.insert("gone".into(), vec![3]);
        let names = ["a", "b"];
        heat.look(now, names, levels(&[]));
        assert_eq!(
            heat.all(),
            HashMap::from([("a".to_owned(), vec![3, 1, 0, 2])])
        );
        let mut asked = Vec::new();
        heat.look(now + HALF_LIFE * 3 / 2, names, |name, halvings| {
            asked.push((name.to_owned(), halvings));
            if name == "a" {
                vec![0, 2, 0, 0, 1]
            } else {
                vec![0]
            }
        });
        assert_eq!(asked, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
        assert_eq!(heat.files["a"], [2, 2, 0, 1, 1]);
        assert_eq!(heat.files.len(), 1);
        // Half of the second half-life has passed before; the other half comes now.
        heat.look(now + HALF_LIFE * 2, names, levels(&[]));
        assert_eq!(heat.files["a"], [1, 1, 0, 0, 0]);
        heat.look(now + Duration::from_secs(1 << 40), names, levels(&[]));
        assert!(heat.files.is_empty());
    }

    #[test]
    fn scans_are_told_from_gets() {
        let mut heat = ChunkHeat::default();
        let asked = [
            (0, 0),
            (5, 5),
            (5, 5),
            (6, 7),
            (6, 8),
            (6, 8),
            (9, 8),
            (9, 8),
        ];
        let are = asked.map(|(gets, scans)| heat.are_gets(gets, scans));
        assert_eq!(are, [true, true, true, false, false, false, true, true]);
    }

    #[test]
    fn all_texts_together_have_a_limit_and_the_hottest_have_theirs() {
        let mut heat = ChunkHeat::default();
        let chunks = MAX_TEXT_BYTES * CHUNKS_PER_DIGIT / 4;
        for (file, level) in [1, 3, 2, 1, 1, 2].into_iter().enumerate() {
            heat.files.insert(format!("{file}"), vec![level; chunks]);
        }
        heat.files.insert("short".into(), vec![3]);
        let texts = heat.texts();
        assert!(texts.values().map(String::len).sum::<usize>() <= MAX_TEXT_BYTES);
        let mut names: Vec<_> = texts.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["1", "2", "5", "short"]);
    }
}
