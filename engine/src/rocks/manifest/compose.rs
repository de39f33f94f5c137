//! One MANIFEST from several: the files of some key groups of some snapshots, under new numbers.
//!
//! Stored keys begin with their key group, two bytes in big-endian order, so the groups of a [`Part`] are one range of
//! keys. A file belongs to a part where its range of keys touches that range. Nothing is known of the inside of a file: one
//! that reaches beyond the range is kept whole and *straddles*.
//!
//! Invariants:
//! * Inside its range, a part reads as its source did: every file that may hold a key of it is there, in the level and in
//!   the order that it had. Sequence numbers stay, and the new database goes on above all of them.
//! * **Outside its range, a straddling file tells old news**: values that were overwritten and keys that were deleted in
//!   files that are not here. Nobody may ever read them. So parts share a column family only where what a file of one holds
//!   of the range of another is what that other's source has there too: the very same file, in the same place of its tree
//!   ([`may_join`]). So the parts of what was one state come together again as they were.
//! * The same arguments give the same result.
//!
//! What RocksDB checks when it opens the result (`CheckConsistencyDetails` of `db/version_builder.cc`) holds: files of a
//! level above 0 do not overlap, since ranges of parts do not. Files of level 0 are ordered by epoch number, and two of the
//! same number must not overlap. Those of different parts do not, but a compaction inside level 0 may join them, under the
//! smallest number of its inputs, to one that overlaps all of them: so where parts meet, every file of level 0 has a
//! number of its own, as `db/import_column_family_job.cc` has it for the same reason.
//! What RocksDB assigns next is above the largest that it finds (`RecoverEpochNumbers` of `db/version_set.cc`).
//!
//! The id of the database is that of the first source that has one: as when a snapshot is restored as it is. RocksDB writes
//! it into the IDENTITY file, which no restore brings (`DBImpl::SetupDBId`). Databases of one id do not meet in the names
//! of files: these have the session in them, which is new at every open.

use std::{collections::HashSet, hash::Hash};

use lazurite_env::ErrorKind;

use super::{
    BYTEWISE, Manifest, ManifestColumn, ManifestFile, age, edit::MAX_FILE_NUMBER, is_exclusive,
    sort, user_key,
};
use crate::{
    error::{Error, Result},
    rocks::DEFAULT_COLUMN,
};

/// What one source gives to one column family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    /// Which of the sources.
    pub source: usize,
    /// The source's column family. A source that does not have it gives nothing.
    pub column: &'a str,
    /// Which of the targets.
    pub into: usize,
    /// The key groups that are wanted, first and last.
    pub keep: (u16, u16),
}

/// What [`compose`] made.
#[derive(Debug)]
pub(crate) struct Composed {
    /// Its column families are the default one, empty, and the targets in their order, with the ids 1 and on.
    pub manifest: Manifest,
    /// A number that no other file has: write the MANIFEST under it, and CURRENT so.
    pub manifest_number: u64,
    /// All table files, those of the first target first.
    pub files: Vec<ComposedFile>,
    /// What no part wanted, for each source.
    pub dropped: Vec<Dropped>,
}

/// A table file of the new database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ComposedFile {
    pub source: usize,
    /// Its number in the source. It may be there more than once: one file for several targets.
    pub number: u64,
    /// Its number in the new database, unique.
    pub new_number: u64,
    /// Which of the targets.
    pub column: usize,
    pub level: u8,
    /// Bytes of the file.
    pub len: u64,
    /// It may hold keys outside the groups that are wanted: see the invariants of this module.
    pub straddles: bool,
}

/// Table files of a source that are not in the new database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub files: u64,
    pub bytes: u64,
}

/// Where a file's keys are, seen from a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// None is in it.
    Outside,
    /// All are.
    Inside,
    /// Some are, and some are not, or may not be.
    Beyond,
}

/// A file on its way, still under its old number.
struct Kept<'a> {
    source: usize,
    file: &'a ManifestFile,
    straddles: bool,
    epoch: u64,
}

/// True where two parts may have the same target: their ranges are apart, and each file of one that may hold keys of the other's range is
/// among the other's files. `content` names the bytes of a file, by source and number.
pub(crate) fn may_join<C: PartialEq>(
    sources: &[Manifest],
    a: &Part,
    b: &Part,
    content: impl Fn(usize, u64) -> C,
) -> bool {
    let knows = |of: &Part, other: &Part| {
        files(sources, of).all(|file| {
            reach(file, other.keep) == Reach::Outside
                || files(sources, other).any(|same| {
                    (same.level, same.epoch) == (file.level, file.epoch)
                        && content(other.source, same.number) == content(of.source, file.number)
                })
        })
    };
    let apart = a.keep.1 < b.keep.0 || b.keep.1 < a.keep.0;
    apart && knows(a, b) && knows(b, a)
}

/// The files of a part: those that may hold keys of its range.
fn files<'a>(sources: &'a [Manifest], part: &Part) -> impl Iterator<Item = &'a ManifestFile> {
    let column = sources
        .get(part.source)
        .and_then(|of| of.column(part.column));
    let (keep, files) = (part.keep, column.map_or(&[][..], |column| &column.files));
    files
        .iter()
        .filter(move |file| reach(file, keep) != Reach::Outside)
}

/// Composes a MANIFEST with the column families `targets`, besides the default one, of `parts` of `sources`.
///
/// `content` names the bytes of a file, by source and number: one that several parts of a target have is there once.
/// A file gets the number that `number_hint` says for its source and its old number, where that is free; else its old one,
/// where that is free; else a new one above all numbers of all sources.
///
/// # Errors
/// [`Error::InvalidOption`] for parts that cannot be: indices out of range, an empty range, a target named twice or as the
/// default column family, and parts of one target that [must not join](may_join). An
/// [unsupported](ErrorKind::Unsupported) [`Error::Env`] for files in another order than that of plain bytes, or without
/// epoch numbers.
pub(crate) fn compose<C: Eq + Hash>(
    sources: &[Manifest],
    targets: &[String],
    parts: &[Part],
    content: impl Fn(usize, u64) -> C,
    number_hint: impl Fn(usize, u64) -> Option<u64>,
) -> Result<Composed> {
    check(sources, targets, parts)?;
    let mut kept = Vec::new();
    for (into, target) in targets.iter().enumerate() {
        let parts: Vec<&Part> = parts.iter().filter(|part| part.into == into).collect();
        kept.push(gather(sources, target, &parts, &content)?);
    }
    let all: Vec<&Kept> = kept.iter().flatten().collect();
    let (numbers, first_free) = numbers(sources, &all, number_hint)?;
    let dropped = dropped(sources, &all);
    let last_sequences = sources.iter().map(|source| source.last_sequence);
    let file_sequences = all.iter().map(|kept| kept.file.largest_seqno);
    let last_sequence = last_sequences.chain(file_sequences).max().unwrap_or(0);

    let mut columns = vec![column(0, DEFAULT_COLUMN)];
    let mut files = Vec::new();
    let mut numbers = numbers.into_iter();
    for (into, (target, kept)) in targets.iter().zip(kept).enumerate() {
        // `check` has seen to it that ids are few.
        let mut column = column(into as u32 + 1, target);
        for (kept, new_number) in kept.into_iter().zip(&mut numbers) {
            files.push(ComposedFile {
                source: kept.source,
                number: kept.file.number,
                new_number,
                column: into,
                level: kept.file.level,
                len: kept.file.len,
                straddles: kept.straddles,
            });
            column.files.push(ManifestFile {
                number: new_number,
                epoch: kept.epoch,
                ..kept.file.clone()
            });
        }
        sort(&mut column.files);
        columns.push(column);
    }
    Ok(Composed {
        manifest: Manifest {
            max_column_family: targets.len() as u32,
            columns,
            last_sequence,
            next_file_number: first_free + 1,
            db_id: sources.iter().find_map(|source| source.db_id.clone()),
        },
        manifest_number: first_free,
        files,
        dropped,
    })
}

fn check(sources: &[Manifest], targets: &[String], parts: &[Part]) -> Result<()> {
    let mut names = HashSet::from([DEFAULT_COLUMN]);
    if let Some(twice) = targets.iter().find(|target| !names.insert(target)) {
        return Err(invalid(format!("column family {twice} is there already")));
    }
    if u32::try_from(targets.len()).is_err() {
        return Err(invalid("there are too many column families".into()));
    }
    for part in parts {
        if part.source >= sources.len() || part.into >= targets.len() || part.keep.0 > part.keep.1 {
            return Err(invalid(format!("{part:?} cannot be")));
        }
    }
    Ok(())
}

/// The files of one target, as a MANIFEST has them, but for their numbers.
fn gather<'a, C: Eq + Hash>(
    sources: &'a [Manifest],
    target: &str,
    parts: &[&Part],
    content: impl Fn(usize, u64) -> C,
) -> Result<Vec<Kept<'a>>> {
    for (i, a) in parts.iter().enumerate() {
        if let Some(b) = parts[..i]
            .iter()
            .find(|b| !may_join(sources, a, b, &content))
        {
            return Err(invalid(format!(
                "of {target}, {a:?} and {b:?} cannot be in one column family; give each one of its own"
            )));
        }
    }
    let (mut kept, mut seen) = (Vec::new(), HashSet::new());
    for part in parts {
        let Some(column) = sources[part.source].column(part.column) else {
            continue;
        };
        if column.comparator != BYTEWISE {
            let reason = format!("its keys are ordered by {}", column.comparator);
            return Err(unsupported(part.column, reason));
        }
        for file in files(sources, part) {
            if file.epoch == 0 {
                let reason = format!("file {} has no epoch number", file.number);
                return Err(unsupported(part.column, reason));
            }
            if !seen.insert(content(part.source, file.number)) {
                continue;
            }
            kept.push(Kept {
                source: part.source,
                file,
                straddles: !is_inside(file, parts),
                epoch: file.epoch,
            });
        }
    }
    if parts.len() > 1 {
        renumber_level_0(&mut kept);
    }
    Ok(kept)
}

/// True where all keys that `file` may hold are in the ranges of `parts`.
fn is_inside(file: &ManifestFile, parts: &[&Part]) -> bool {
    let mut ranges: Vec<(u16, u16)> = parts.iter().map(|part| part.keep).collect();
    ranges.sort_unstable();
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for (start, end) in ranges {
        match runs.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(start) => last.1 = end,
            _ => runs.push((start, end)),
        }
    }
    runs.into_iter()
        .any(|run| reach(file, run) == Reach::Inside)
}

/// Gives each file of level 0 an epoch number of its own: see the module. Of one source, the order stays. What was apart keeps its number,
/// so that the parts of one state are known again however often they meet and part.
fn renumber_level_0(kept: &mut [Kept]) {
    // The newest last; of files that are equally new, those of earlier parts first, since the sort is stable.
    kept.sort_by_key(|kept| (kept.file.level, age(kept.file)));
    let mut last = 0u64;
    for kept in kept.iter_mut().filter(|kept| kept.file.level == 0) {
        last = kept.epoch.max(last.saturating_add(1));
        kept.epoch = last;
    }
}

/// The new numbers of `files`, and the first of those above all.
fn numbers(
    sources: &[Manifest],
    files: &[&Kept],
    hint: impl Fn(usize, u64) -> Option<u64>,
) -> Result<(Vec<u64>, u64)> {
    let mut taken = HashSet::new();
    let mut free = |number: u64| {
        ((1..MAX_FILE_NUMBER).contains(&number) && taken.insert(number)).then_some(number)
    };
    // Hints of all files go before the old number of any.
    let mut numbers: Vec<Option<u64>> = files
        .iter()
        .map(|kept| hint(kept.source, kept.file.number).and_then(&mut free))
        .collect();
    for (number, kept) in numbers.iter_mut().zip(files) {
        *number = number.or_else(|| free(kept.file.number));
    }
    let mut next = sources
        .iter()
        .map(|source| source.next_file_number)
        .chain(taken.iter().map(|number| number + 1))
        .fold(1, u64::max);
    let numbers = numbers
        .into_iter()
        .map(|number| {
            number.unwrap_or_else(|| {
                next += 1;
                next - 1
            })
        })
        .collect();
    // One more will be taken. `MAX_FILE_NUMBER` is far from overflow.
    if next >= MAX_FILE_NUMBER - 1 {
        return Err(unsupported("the sources", "numbers of files are used up"));
    }
    Ok((numbers, next))
}

fn dropped(sources: &[Manifest], kept: &[&Kept]) -> Vec<Dropped> {
    let kept: HashSet<(usize, u64)> = kept
        .iter()
        .map(|kept| (kept.source, kept.file.number))
        .collect();
    let count = |(index, source): (usize, &Manifest)| {
        let files = source.columns.iter().flat_map(|column| &column.files);
        files
            .filter(|file| !kept.contains(&(index, file.number)))
            .fold(Dropped::default(), |sum, file| Dropped {
                files: sum.files + 1,
                bytes: sum.bytes.saturating_add(file.len),
            })
    };
    sources.iter().enumerate().map(count).collect()
}

/// Where the keys of `file` are, seen from the key groups `keep`.
pub(crate) fn reach(file: &ManifestFile, keep: (u16, u16)) -> Reach {
    let begin = keep.0.to_be_bytes();
    // The first key after the range; absent where nothing comes after it.
    let end = keep.1.checked_add(1).map(u16::to_be_bytes);
    let smallest = user_key(&file.smallest);
    let largest = user_key(&file.largest);
    let exclusive = is_exclusive(&file.largest);
    let before = largest < &begin[..] || exclusive && largest == begin;
    let after = end.is_some_and(|end| smallest >= &end[..]);
    let ends_inside = end.is_none_or(|end| largest < &end[..] || exclusive && largest == end);
    match (before || after, smallest >= &begin[..] && ends_inside) {
        (true, _) => Reach::Outside,
        (false, true) => Reach::Inside,
        (false, false) => Reach::Beyond,
    }
}

fn column(id: u32, name: &str) -> ManifestColumn {
    ManifestColumn {
        id,
        name: name.to_string(),
        comparator: BYTEWISE.to_string(),
        files: Vec::new(),
    }
}

fn invalid(reason: String) -> Error {
    Error::InvalidOption {
        option: "parts of a composed manifest",
        reason,
    }
}

fn unsupported(column: &str, reason: impl Into<String>) -> Error {
    lazurite_env::Error::new(ErrorKind::Unsupported, "compose", column, reason).into()
}
