//! A state for other key groups than it was written for, composed of those of several subtasks. No table file is read or written: one
//! MANIFEST is made of theirs, and their files are catalogued as they lie in the store.
//!
//! * Files without a key of the wanted range are left out.
//! * A table is one column family again where that is possible: what is next to each other joins as long as it may
//!   ([`may_join`]). Where a file reaches beyond the range of what it is wanted for, and what lies there is not as the neighbour has it, the
//!   neighbour has a column family of its own. Nothing hides what such a file holds beyond: nobody looks for it there ([`TableColumn`]).
//!
//! So a chain of these never has to look into a file, and state that was split comes together as it was, before any compaction.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Restored, Wanted, fetch::Fetched, local::SmallFiles};
use crate::{
    Error, Result,
    key_groups::KeyGroupRange,
    rocks::manifest::{self, Manifest, Part},
    snapshot::{SnapshotFile, SubtaskState, TailsRef},
    table::{TableColumn, TableSchema, Tables},
};

/// The state of the key groups `wanted`, of which `sources` hold each one once, in ascending order. `local`: the numbers of table files that
/// are on the local disk, by their objects.
pub(super) fn compose(
    sources: &[&SubtaskState],
    fetched: Vec<Fetched>,
    wanted: Wanted<'_>,
    local: &HashMap<String, u64>,
) -> Result<Restored> {
    let mut manifests = Vec::with_capacity(sources.len());
    for (state, fetched) in sources.iter().zip(&fetched) {
        let small = SmallFiles::new(&state.manifest, &fetched.manifest)?;
        let bytes = small.manifest().cloned().unwrap_or_default();
        manifests.push(Manifest::decode(&state.manifest.key, &bytes)?);
    }
    let files: Vec<HashMap<u64, &SnapshotFile>> = sources.iter().map(|s| by_number(s)).collect();
    // The same bytes may lie at two places: two subtasks may have copied a file that they share.
    let file = |source: usize, number: u64| files[source].get(&number);
    let content = |source: usize, number: u64| {
        let file = file(source, number)?;
        Some((file.len, file.checksum))
    };
    let tables = tables(sources)?;
    let (mut columns, mut parts) = (Vec::new(), Vec::new());
    for table in &tables {
        let groups = groups(&manifests, parts_of(sources, table, wanted.range), content);
        let column = match groups.len() {
            1 => TableColumn::whole,
            _ => TableColumn::part,
        };
        for group in groups {
            let into = columns.len();
            columns.push(column(&table.name, group.range));
            parts.extend(group.parts.into_iter().map(|part| Part { into, ..part }));
        }
    }
    let targets: Vec<String> = columns.iter().map(|c| c.column.clone()).collect();
    let composed = manifest::compose(&manifests, &targets, &parts, content, |source, number| {
        // What is on the local disk keeps its name, and so its bytes.
        local.get(&file(source, number)?.key).copied()
    })?;
    let dropped = composed.dropped.iter();
    tracing::info!(
        range = %wanted.range,
        columns = columns.len(),
        files = composed.files.len(),
        dropped_files = dropped.map(|dropped| dropped.files).sum::<u64>(),
        "composed",
    );
    let mut tails = Tails::default();
    let files = composed
        .files
        .iter()
        .map(|file| {
            let source = sources[file.source];
            let stored = files[file.source].get(&file.number).copied();
            let stored = stored.filter(|stored| stored.len == file.len);
            let stored = stored.ok_or_else(|| disagree(source, file.number))?;
            Ok(SnapshotFile {
                name: table_file(file.new_number),
                level: file.level,
                tail: stored.tail.map(|(object, offset)| {
                    let bytes = &fetched[file.source].tails[object as usize];
                    (tails.index(&source.tails[object as usize], bytes), offset)
                }),
                ..stored.clone()
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Restored {
        tables: Tables {
            schemas: tables,
            columns,
        },
        small: SmallFiles::composed(composed.manifest_number, composed.manifest.encode()?),
        files,
        tails: tails.objects,
        tails_bytes: tails.bytes,
    })
}

/// What becomes one column family: parts that follow one another.
struct Group<'a> {
    range: KeyGroupRange,
    parts: Vec<Part<'a>>,
}

/// The declarations of all tables of all sources.
fn tables(sources: &[&SubtaskState]) -> Result<Vec<TableSchema>> {
    let mut tables: Vec<TableSchema> = Vec::new();
    for table in sources.iter().flat_map(|state| &state.tables) {
        match tables.iter().find(|known| known.name == table.name) {
            Some(known) => known.check_compatible(table)?, // as `SnapshotMetadata::decode` did
            None => tables.push(table.clone()),
        }
    }
    Ok(tables)
}

/// Who gives which key groups of a table, in ascending order. A source without the table gives nothing for its own: they count all the
/// same, for the file of another source may reach there.
fn parts_of<'a>(
    sources: &[&'a SubtaskState],
    table: &'a TableSchema,
    wanted: KeyGroupRange,
) -> Vec<(KeyGroupRange, Part<'a>)> {
    let mut parts = Vec::new();
    for (source, state) in sources.iter().enumerate() {
        let own = state.columns.iter().filter(|c| c.table == table.name);
        let mut own: Vec<(KeyGroupRange, &str)> =
            own.map(|c| (c.key_group_range, &*c.column)).collect();
        if own.is_empty() {
            own.push((state.key_group_range, "")); // no column family has this name
        }
        own.sort_unstable_by_key(|(range, _)| range.start());
        for (range, column) in own {
            if let Some(keep) = range.intersection(wanted) {
                let part = Part {
                    source,
                    column,
                    into: 0,
                    keep: (keep.start(), keep.end()),
                };
                parts.push((keep, part));
            }
        }
    }
    parts
}

/// Joins what may be joined, from the first part on.
fn groups<'a, C: PartialEq>(
    manifests: &[Manifest],
    parts: Vec<(KeyGroupRange, Part<'a>)>,
    content: impl Fn(usize, u64) -> C,
) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for (range, part) in parts {
        if let Some(last) = groups.last_mut()
            && last
                .parts
                .iter()
                .all(|other| manifest::may_join(manifests, other, &part, &content))
        {
            last.range = last.range.hull(range);
            last.parts.push(part);
        } else {
            let parts = vec![part];
            groups.push(Group { range, parts });
        }
    }
    groups
}

/// The table files of a state by their numbers.
fn by_number(state: &SubtaskState) -> HashMap<u64, &SnapshotFile> {
    let number = |file: &SnapshotFile| file.name.strip_suffix(".sst")?.parse().ok();
    let files = state.files.iter();
    files
        .filter_map(|file| Some((number(file)?, file)))
        .collect()
}

fn table_file(number: u64) -> String {
    format!("{number:06}.sst")
}

fn disagree(state: &SubtaskState, number: u64) -> Error {
    Error::SnapshotCorrupt {
        path: state.manifest.key.clone(),
        reason: format!(
            "it names {} of a length that the snapshot does not know",
            table_file(number)
        ),
    }
}

/// The tails objects that are needed, each once.
#[derive(Default)]
struct Tails {
    objects: Vec<TailsRef>,
    bytes: Vec<Bytes>,
}

impl Tails {
    fn index(&mut self, object: &TailsRef, bytes: &Bytes) -> u32 {
        let known = self.objects.iter().position(|known| known == object);
        let index = known.unwrap_or_else(|| {
            self.objects.push(object.clone());
            self.bytes.push(bytes.clone());
            self.objects.len() - 1
        });
        index as u32 // there are no more than in the snapshot, whose numbers are these
    }
}
