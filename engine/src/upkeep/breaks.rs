//! What damage to an object means: which snapshots, which states of them, which key groups of which tables.

use std::collections::HashMap;

use lazurite_env::remote::Key;
use lazurite_tiering::Checksum;
use serde::Serialize;

use super::{
    Damage,
    reading::{Unreadable, UnreadableCause},
};
use crate::{
    KeyGroupRange, Result, SnapshotStore,
    restore::SmallFiles,
    rocks::manifest::{Manifest, ManifestFile, is_exclusive, user_key},
    snapshot::{Problem, SnapshotMetadata, SubtaskState},
};

/// A snapshot that cannot be restored as it was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Broken {
    /// Its job.
    pub job: String,
    /// Its number; 0 where nobody knows who has claimed the job.
    pub id: u64,
    /// Which of its states need the object. None where that is not known: all of them.
    pub states: Vec<BrokenState>,
}

/// A state of a snapshot that needs a damaged object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BrokenState {
    /// Whose state it is.
    pub operator: String,
    /// All key groups of the state.
    pub key_group_range: KeyGroupRange,
    /// What of it lies in the object, or cannot be found without it. None where the manifest cannot be read, or where the object holds
    /// nothing that the state still needs.
    pub tables: Vec<BrokenTable>,
}

/// Key groups of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BrokenTable {
    /// The table.
    pub table: String,
    /// From the key group of the first key to that of the last. Not each between them need be concerned.
    pub key_group_range: KeyGroupRange,
}

/// The states of a snapshot, and what is in their files as soon as somebody asks.
pub(super) struct Scopes<'a> {
    of: &'a SnapshotStore,
    metadata: &'a SnapshotMetadata,
    /// By state. `None`: the manifest cannot be read.
    spans: HashMap<usize, Option<Spans>>,
}

/// What the table files hold, by their numbers.
type Spans = HashMap<u64, BrokenTable>;

impl<'a> Scopes<'a> {
    pub(super) fn new(of: &'a SnapshotStore, metadata: &'a SnapshotMetadata) -> Self {
        Scopes {
            of,
            metadata,
            spans: HashMap::new(),
        }
    }

    /// The states that need the object `key`, of this length and checksum.
    ///
    /// # Errors
    /// Where the store cannot be reached. A manifest that is damaged is none.
    pub(super) fn of(&mut self, key: &str, content: (u64, Checksum)) -> Result<Vec<BrokenState>> {
        let mut states = Vec::new();
        for (at, state) in self.metadata.subtasks.iter().enumerate() {
            let is_named = |(of, len, checksum): (&str, u64, Checksum)| {
                of == key && (len, checksum) == content
            };
            if !state.objects().any(is_named) {
                continue;
            }
            let mut tables = match state.manifest.key == key {
                true => whole(state),
                false => self.tables(at, state, key)?,
            };
            tables.sort_unstable();
            tables.dedup();
            states.push(BrokenState {
                operator: state.operator.clone(),
                key_group_range: state.key_group_range,
                tables: joined(tables),
            });
        }
        Ok(states)
    }

    /// What the table file `key` holds, or those whose tails are in it.
    fn tables(&mut self, at: usize, state: &SubtaskState, key: &str) -> Result<Vec<BrokenTable>> {
        if !self.spans.contains_key(&at) {
            let spans = spans(self.of, state)?;
            self.spans.insert(at, spans);
        }
        let Some(Some(spans)) = self.spans.get(&at) else {
            return Ok(Vec::new());
        };
        let needs = |tail: Option<(u32, u64)>| {
            let object = tail.and_then(|(object, _)| state.tails.get(object as usize));
            object.is_some_and(|object| object.key == key)
        };
        let files = state.files.iter().filter(|f| f.key == key || needs(f.tail));
        let tables = files.filter_map(|file| {
            let number = file.name.strip_suffix(".sst")?.parse().ok()?;
            spans.get(&number).cloned()
        });
        Ok(tables.collect())
    }
}

/// All that the state holds.
fn whole(state: &SubtaskState) -> Vec<BrokenTable> {
    let columns = state.columns.iter().map(|column| BrokenTable {
        table: column.table.clone(),
        key_group_range: column.key_group_range,
    });
    columns.collect()
}

/// Ranges of a table that overlap or follow one another, as one. Takes them sorted.
fn joined(tables: Vec<BrokenTable>) -> Vec<BrokenTable> {
    let mut joined: Vec<BrokenTable> = Vec::new();
    for next in tables {
        match joined.last_mut() {
            Some(last)
                if last.table == next.table
                    && next.key_group_range.start()
                        <= last.key_group_range.end().saturating_add(1) =>
            {
                last.key_group_range = last.key_group_range.hull(next.key_group_range);
            }
            _ => joined.push(next),
        }
    }
    joined
}

/// What the files of a state hold, by its manifest; `None` where that cannot be read.
fn spans(of: &SnapshotStore, state: &SubtaskState) -> Result<Option<Spans>> {
    let manifest = &state.manifest;
    let (store, key, len) = (of.store.clone(), Key::new(&*manifest.key)?, manifest.len);
    let bytes = match of.wait(async move { store.get_range(&key, 0..len).await }) {
        Ok(bytes) => bytes,
        Err(error) if error.is_temporary() => return Err(error),
        Err(_) => return Ok(None),
    };
    if Checksum::of(&bytes) != manifest.checksum {
        return Ok(None);
    }
    let Ok(small) = SmallFiles::new(manifest, &bytes) else {
        return Ok(None);
    };
    let decoded = small
        .manifest()
        .map(|of| Manifest::decode(&manifest.key, of));
    let Some(Ok(decoded)) = decoded else {
        return Ok(None);
    };
    let mut spans = Spans::new();
    for column in &state.columns {
        let files = decoded
            .column(&column.column)
            .into_iter()
            .flat_map(|of| &of.files);
        for file in files {
            // What lies beyond the column's range is no part of the table.
            if let Some(range) = groups(file).and_then(|of| of.intersection(column.key_group_range))
            {
                let table = BrokenTable {
                    table: column.table.clone(),
                    key_group_range: range,
                };
                spans.insert(file.number, table);
            }
        }
    }
    Ok(Some(spans))
}

/// The key groups from a file's first key to its last.
fn groups(file: &ManifestFile) -> Option<KeyGroupRange> {
    let group = |key: &[u8]| Some(u16::from_be_bytes(*key.first_chunk()?));
    let (first, last) = (user_key(&file.smallest), user_key(&file.largest));
    // The end of a range of deletions, where that is the first of all keys of a group: it is of the group before.
    let is_end = is_exclusive(&file.largest) && last.len() == 2;
    let last = group(last)?.checked_sub(is_end.into())?;
    KeyGroupRange::new(group(first)?, last).ok()
}

impl From<Unreadable> for Damage {
    fn from(of: Unreadable) -> Self {
        let Unreadable {
            job,
            id,
            key,
            cause,
            reason,
        } = of;
        let problem = match cause {
            UnreadableCause::Corrupt => Problem::CorruptMetadata { reason },
            UnreadableCause::Newer => Problem::NewerMetadata { reason },
            UnreadableCause::Denied => Problem::DeniedMetadata { reason },
        };
        let states = Vec::new();
        Damage {
            key,
            problem,
            breaks: vec![Broken { job, id, states }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, start: u16, end: u16) -> BrokenTable {
        BrokenTable {
            table: name.into(),
            key_group_range: KeyGroupRange::new(start, end).unwrap(),
        }
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let tables = vec![
            table("a", 0, 3),
            table("a", 2, 5),
            table("a", 6, 6),
            table("a", 9, 9),
            table("b", 10, 12),
        ];
        let expected = [table("a", 0, 6), table("a", 9, 9), table("b", 10, 12)];
        assert_eq!(joined(tables), expected);
    }

    #[test]
    fn key_groups_are_told_by_the_first_and_the_last_key() {
        let internal = |user: &[u8], footer: u64| [user, &footer.to_le_bytes()].concat();
        let file = |smallest: &[u8], largest: Vec<u8>| ManifestFile {
            number: 1,
            level: 0,
            len: 1,
            smallest: internal(smallest, 1),
            largest,
            smallest_seqno: 0,
            largest_seqno: 0,
            epoch: 0,
            custom: Vec::new(),
        };
        let range = |start, end| KeyGroupRange::new(start, end).ok();
        let sentinel = ((1u64 << 56) - 1) << 8 | 0xF;
        let of = |largest| groups(&file(&[0, 3, 9], largest));
        assert_eq!(of(internal(&[1, 2, 0], 1)), range(3, 258));
        assert_eq!(of(internal(&[1, 2], sentinel)), range(3, 257));
        assert_eq!(of(internal(&[1, 2, 0], sentinel)), range(3, 258));
        assert_eq!(of(internal(&[1], 1)), None);
        assert_eq!(of(internal(&[0, 1, 0], 1)), None);
        assert_eq!(groups(&file(&[], internal(&[0, 1, 0], 1))), None);
    }
}
