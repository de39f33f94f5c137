//! RocksDB's MANIFEST: which files make up a database, read and written without RocksDB.
//!
//! It is there for one thing: state that is restored to other key groups than it was written for needs one MANIFEST made
//! from those of several snapshots, and no table file may be opened for it ([`compose()`]). Why it is our own:
//! `docs/decisions/0011-manifests-are-composed.md`.
//!
//! The format is that of RocksDB 11.8.1, to which the workspace is pinned exactly; each file names the sources that are its
//! authority. With another version, look at them again and run the tests, which read what RocksDB writes and have it open
//! what is written here.
//!
//! Invariants:
//! * What is read is a whole copy. Everything in it is verified or refused, nothing is guessed, and no bytes make it panic.
//! * What cannot be carried over is refused by name: blob files, several paths, user-defined timestamps.
//! * A [`Manifest`] that was decoded or composed encodes to one that decodes to the same.
//!
//! Crash story: none. These are functions from bytes to bytes.

mod compose;
mod edit;
mod log;
mod replay;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashSet;

#[cfg(test)]
pub(crate) use compose::{Composed, ComposedFile, Dropped};
pub(crate) use compose::{Part, Reach, compose, may_join, reach};
use edit::{Edit, MAX_FILE_NUMBER, MAX_SEQUENCE};
use lazurite_env::ErrorKind;
use replay::Replay;

use super::DEFAULT_COLUMN;
use crate::error::{Error, Result};

/// What RocksDB calls the order of plain bytes.
const BYTEWISE: &str = "leveldb.BytewiseComparator";

/// The bytes of an internal key behind the user's: a sequence number and a type (`db/dbformat.h`).
const FOOTER: usize = 8;
/// `kRangeTombstoneSentinel`: the largest sequence number with the type of a range deletion.
const SENTINEL: [u8; FOOTER] = (MAX_SEQUENCE << 8 | 0xF).to_le_bytes();

/// The files of a database, and its counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// By id; the first is the default one, with id 0.
    pub columns: Vec<ManifestColumn>,
    /// No entry of the files has a later sequence number, and what is written next gets a later one.
    pub last_sequence: u64,
    /// Every number of a file that is in use, the MANIFEST's own included, is below it.
    pub next_file_number: u64,
    /// The largest id that a column family has ever had: the next gets a larger one.
    pub max_column_family: u32,
    /// What RocksDB calls the database. Absent: it takes it from the IDENTITY file, or invents it.
    pub db_id: Option<String>,
}

/// A column family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestColumn {
    pub id: u32,
    pub name: String,
    /// The name of the order of its keys.
    pub comparator: String,
    /// As RocksDB has them: by level, in level 0 the newest first, in the others by key.
    pub files: Vec<ManifestFile>,
}

/// A table file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ManifestFile {
    /// What names it: `000012.sst` is 12.
    pub number: u64,
    pub level: u8,
    /// Bytes of the file.
    pub len: u64,
    /// An internal key: see [`user_key`].
    pub smallest: Vec<u8>,
    /// An internal key; where [`is_exclusive`], no key of the file is as large.
    pub largest: Vec<u8>,
    pub smallest_seqno: u64,
    pub largest_seqno: u64,
    /// Orders the files of level 0: the newer has the larger one. 0: unknown, in files of RocksDB before 7.10.
    pub epoch: u64,
    /// More of RocksDB's fields (unique id, times, length of the tail and others), as they were written.
    pub custom: Vec<(u32, Vec<u8>)>,
}

/// Why bytes are not a MANIFEST, and where.
#[derive(Debug)]
struct Problem {
    offset: usize,
    reason: String,
    unsupported: bool,
}

impl Manifest {
    /// Reads the bytes of a MANIFEST, all of them; `path` is for errors. A cut between two records leaves an older
    /// MANIFEST, which nothing in it tells: the caller has checked the length.
    ///
    /// # Errors
    /// [`Error::SnapshotCorrupt`] where they are not what RocksDB wrote, down to the last byte; an
    /// [unsupported](ErrorKind::Unsupported) [`Error::Env`] where they say what this module does not understand or cannot keep.
    pub(crate) fn decode(path: &str, bytes: &[u8]) -> Result<Manifest> {
        let decode = || {
            let mut replay = Replay::default();
            let mut records = log::Records::new(bytes);
            while let Some(record) = records.next()? {
                let edit = Edit::decode(record.offset, &record.bytes)?;
                replay.record(record.offset, edit)?;
            }
            let manifest = replay.finish(bytes.len())?;
            manifest
                .check()
                .map_err(|reason| Problem::corrupt(bytes.len(), reason))?;
            Ok(manifest)
        };
        decode().map_err(|problem: Problem| problem.of(path))
    }

    /// A MANIFEST as RocksDB writes it afresh (`VersionSet::WriteCurrentStateToManifest`). It opens a database without a
    /// WAL: a log that lies about does not count if its number is one that was in use.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where RocksDB would not open it: numbers, names or ids that are there twice or out of range.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        self.check().map_err(|reason| Error::InvalidOption {
            option: "manifest",
            reason,
        })?;
        let mut log = Vec::new();
        if self.db_id.is_some() {
            let edit = Edit {
                db_id: self.db_id.clone(),
                ..Edit::default()
            };
            log::append(&mut log, &edit.encode());
        }
        for column in &self.columns {
            let is_default = column.id == 0;
            let edit = Edit {
                column: column.id,
                column_added: (!is_default).then(|| column.name.clone()),
                comparator: Some(column.comparator.clone()),
                persist_timestamps: Some(true),
                ..Edit::default()
            };
            log::append(&mut log, &edit.encode());
            let edit = Edit {
                column: column.id,
                added: column.files.clone(),
                // Above every log that there was; RocksDB takes larger numbers for those that it creates.
                log_number: Some(self.next_file_number),
                last_sequence: Some(self.last_sequence),
                next_file_number: is_default.then_some(self.next_file_number),
                max_column_family: is_default.then_some(self.max_column_family),
                ..Edit::default()
            };
            log::append(&mut log, &edit.encode());
        }
        let edit = Edit {
            compacted_size: Some(log.len() as u64 + 15), // with this record, about: RocksDB's own estimate
            ..Edit::default()
        };
        log::append(&mut log, &edit.encode());
        Ok(log)
    }

    /// The column family `name`.
    pub(crate) fn column(&self, name: &str) -> Option<&ManifestColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// What RocksDB takes for granted or checks itself. Says what is wrong.
    fn check(&self) -> Result<(), String> {
        let default = self.columns.first();
        if default.is_none_or(|column| column.id != 0 || column.name != DEFAULT_COLUMN) {
            return Err("its first column family is not the default one".into());
        }
        if self.next_file_number > MAX_FILE_NUMBER || self.last_sequence > MAX_SEQUENCE {
            return Err("a counter is out of range".into());
        }
        let mut names = HashSet::new();
        let mut numbers = HashSet::new();
        let mut id_before = None;
        for column in &self.columns {
            if id_before >= Some(column.id) || column.id > self.max_column_family {
                return Err(format!("the id of {} is out of order", column.name));
            }
            id_before = Some(column.id);
            if !names.insert(&column.name) {
                return Err(format!("there are two column families {}", column.name));
            }
            for file in &column.files {
                let number = file.number;
                if number == 0 || number >= self.next_file_number {
                    return Err(format!("the number of file {number} is out of range"));
                }
                if !numbers.insert(number) {
                    return Err(format!("file {number} is there twice"));
                }
                if file.smallest.len() < FOOTER || file.largest.len() < FOOTER {
                    return Err(format!("a key of file {number} is too short"));
                }
                if user_key(&file.smallest) > user_key(&file.largest) {
                    return Err(format!("the keys of file {number} are out of order"));
                }
                if file.smallest_seqno.max(file.largest_seqno) > MAX_SEQUENCE {
                    return Err(format!("a sequence number of file {number} is too large"));
                }
            }
        }
        Ok(())
    }
}

/// The user's key of an internal one. Nothing of bytes that are too short to be one.
pub(crate) fn user_key(internal: &[u8]) -> &[u8] {
    &internal[..internal.len().saturating_sub(FOOTER)]
}

/// True of the largest key of a file that ends with a range deletion: the end of that one, which it does not reach.
pub(crate) fn is_exclusive(largest: &[u8]) -> bool {
    largest.ends_with(&SENTINEL)
}

/// Brings files into the order of [`ManifestColumn::files`].
fn sort(files: &mut [ManifestFile]) {
    files.sort_by(|a, b| {
        let same_level = || match a.level {
            0 => age(b).cmp(&age(a)),
            // The smaller of two equal user keys is the one with the larger footer; no two files begin with the same.
            _ => (user_key(&a.smallest), footer(&b.smallest), a.number).cmp(&(
                user_key(&b.smallest),
                footer(&a.smallest),
                b.number,
            )),
        };
        a.level.cmp(&b.level).then_with(same_level)
    });
}

/// How new a file of level 0 is: `NewestFirstByEpochNumber` of `db/version_builder.cc`, the other way round.
fn age(file: &ManifestFile) -> (u64, u64, u64, u64) {
    let ManifestFile {
        epoch,
        largest_seqno,
        smallest_seqno,
        number,
        ..
    } = *file;
    (epoch, largest_seqno, smallest_seqno, number)
}

fn footer(internal: &[u8]) -> u64 {
    let footer = internal.last_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(footer)
}

impl Problem {
    fn corrupt(offset: usize, reason: impl Into<String>) -> Self {
        Problem {
            offset,
            reason: reason.into(),
            unsupported: false,
        }
    }

    fn unsupported(offset: usize, reason: impl Into<String>) -> Self {
        Problem {
            unsupported: true,
            ..Problem::corrupt(offset, reason)
        }
    }

    fn of(self, path: &str) -> Error {
        let reason = format!("{} (at byte {})", self.reason, self.offset);
        if self.unsupported {
            return lazurite_env::Error::new(ErrorKind::Unsupported, "read", path, reason).into();
        }
        Error::SnapshotCorrupt {
            path: path.to_string(),
            reason,
        }
    }
}
