//! Whether objects are what was written: their lengths and checksums. Reads every byte: `lazurite snapshots verify`, and what
//! `lazurite fsck` takes from it.

use std::collections::HashSet;

use lazurite_env::{ErrorKind, remote::Key};
use lazurite_tiering::{Checksum, ChecksumHasher};
use serde::Serialize;

use super::{
    metadata::{SnapshotMetadata, SubtaskState},
    store::SnapshotStore,
};
use crate::{Error, Result, parallel::in_parallel};

/// Objects read at once.
pub(crate) const PARALLEL_OBJECTS: usize = 4;
/// Bytes asked for in one request.
const PIECE_BYTES: u64 = 8 << 20;

/// One object of a snapshot that is not what it should be.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The object.
    pub key: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Problem {
    /// It is not in the store.
    Missing,
    /// It is shorter or longer than the snapshot says.
    WrongLength {
        /// Bytes by the metadata.
        expected: u64,
        /// Bytes in the store.
        found: u64,
    },
    /// Its bytes are not those that were written.
    WrongChecksum {
        /// By the metadata.
        expected: Checksum,
        /// Of the bytes in the store.
        found: Checksum,
    },
    /// Snapshots do not agree on what it is. Only [`fsck`](SnapshotStore::fsck) looks at more than one.
    Contradiction {
        /// The lengths and checksums that they have for it.
        contents: Vec<(u64, Checksum)>,
    },
    /// A `_metadata` whose bytes are not those that were written.
    CorruptMetadata {
        /// In words.
        reason: String,
    },
    /// A `_metadata` that a newer version of this program wrote.
    NewerMetadata {
        /// In words.
        reason: String,
    },
    /// A `_metadata` that the permissions do not let be read.
    DeniedMetadata {
        /// In words.
        reason: String,
    },
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Missing => f.write_str("missing"),
            Problem::WrongLength { expected, found } => {
                write!(f, "wrong length: {found} bytes, {expected} expected")
            }
            Problem::WrongChecksum { expected, found } => {
                write!(f, "wrong checksum: {found}, {expected} expected")
            }
            Problem::Contradiction { contents } => {
                f.write_str("snapshots do not agree on it:")?;
                for (i, (len, checksum)) in contents.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma} {len} bytes with checksum {checksum}")?;
                }
                Ok(())
            }
            Problem::CorruptMetadata { reason } => f.write_str(reason),
            Problem::NewerMetadata { reason } => f.write_str(reason),
            Problem::DeniedMetadata { reason } => f.write_str(reason),
        }
    }
}

struct Expected {
    key: Key,
    len: u64,
    checksum: Checksum,
}

impl SnapshotStore {
    /// Reads all that `metadata` names and gives what is wrong, in the order of the keys; empty where nothing is.
    ///
    /// `progress` is called from several threads with bytes that were looked at. Reads the whole snapshot:
    /// as long as a full download takes.
    ///
    /// # Errors
    /// Where the store cannot be read: that is no finding.
    pub fn verify(
        &self,
        metadata: &SnapshotMetadata,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<Finding>> {
        let expected = expected(metadata)?;
        let checked = in_parallel(PARALLEL_OBJECTS, &expected, |object| {
            check(self, object, progress)
        })?;
        let mut findings: Vec<Finding> = expected
            .iter()
            .zip(checked)
            .filter_map(|(object, problem)| {
                Some(Finding {
                    key: object.key.to_string(),
                    problem: problem?,
                })
            })
            .collect();
        findings.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(findings)
    }
}

fn expected(metadata: &SnapshotMetadata) -> Result<Vec<Expected>> {
    let mut seen = HashSet::new();
    let objects = metadata.subtasks.iter().flat_map(SubtaskState::objects);
    objects
        .filter(|(key, ..)| seen.insert(*key))
        .map(|(key, len, checksum)| {
            Ok(Expected {
                key: Key::new(key)?,
                len,
                checksum,
            })
        })
        .collect()
}

fn check(
    of: &SnapshotStore,
    object: &Expected,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Option<Problem>> {
    let read = match len_of(of, &object.key)? {
        None => Content::Missing,
        Some(found) if found != object.len => Content::OtherLength(found),
        Some(_) => {
            let read = content(of, &object.key, object.len, progress)?;
            return Ok(object.problem(read));
        }
    };
    progress(object.len);
    Ok(object.problem(read))
}

impl Expected {
    fn problem(&self, read: Content) -> Option<Problem> {
        match read {
            Content::Missing => Some(Problem::Missing),
            Content::OtherLength(found) => Some(Problem::WrongLength {
                expected: self.len,
                found,
            }),
            Content::Checksum(found) => {
                (found != self.checksum).then_some(Problem::WrongChecksum {
                    expected: self.checksum,
                    found,
                })
            }
        }
    }
}

/// The length of an object; `None` where it is missing. One request.
pub(crate) fn len_of(of: &SnapshotStore, key: &Key) -> Result<Option<u64>> {
    let (store, key) = (of.store.clone(), key.clone());
    match of.runtime.wait(async move { store.len(&key).await }) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What came of reading an object.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// It is not there.
    Missing,
    /// It is no more as long as it was.
    OtherLength(u64),
    /// The checksum of its bytes.
    Checksum(Checksum),
}

/// Reads the first `len` bytes of an object, piece by piece; `progress` is told each. An object that ends before them is asked for
/// its length; that one is longer is not seen.
pub(crate) fn content(
    of: &SnapshotStore,
    key: &Key,
    len: u64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Content> {
    let mut hasher = ChecksumHasher::new();
    let mut offset = 0;
    while offset < len {
        let end = len.min(offset + PIECE_BYTES);
        let (store, wanted) = (of.store.clone(), key.clone());
        let read = of
            .runtime
            .wait(async move { store.get_range(&wanted, offset..end).await });
        match read {
            Ok(bytes) => hasher.update(&bytes),
            Err(error) if error.is_not_found() => return Ok(Content::Missing),
            Err(error) if error.kind() == ErrorKind::Corruption => {
                return match len_of(of, key)? {
                    None => Ok(Content::Missing),
                    Some(found) if found != len => Ok(Content::OtherLength(found)),
                    Some(_) => Err(Error::from(error)),
                };
            }
            Err(error) => return Err(Error::from(error)),
        }
        progress(end - offset);
        offset = end;
    }
    Ok(Content::Checksum(hasher.finish()))
}
