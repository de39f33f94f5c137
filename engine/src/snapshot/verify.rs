//! Reads every byte that a snapshot needs and checks length and checksum: `lazurite snapshots verify`.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use lazurite_env::{
    IoRuntime,
    remote::{Key, RemoteStore},
};
use lazurite_tiering::{Checksum, ChecksumHasher};

use super::{
    metadata::{SnapshotMetadata, SubtaskState},
    store::SnapshotStore,
};
use crate::{Error, Result};

/// Objects read at once.
const PARALLEL: usize = 4;
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// `progress` is called from several threads after each object with its length in bytes. Reads the whole snapshot:
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
        let next = AtomicUsize::new(0);
        let outcome: Mutex<Result<Vec<Finding>>> = Mutex::new(Ok(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| {
                    while let Some(object) = expected.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let checked = check(&self.store, &self.runtime, object);
                        progress(object.len);
                        let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
                        match (&mut *outcome, checked) {
                            (Ok(findings), Ok(problem)) => {
                                findings.extend(problem.map(|problem| Finding {
                                    key: object.key.to_string(),
                                    problem,
                                }))
                            }
                            (Ok(_), Err(error)) => *outcome = Err(error),
                            (Err(_), _) => return,
                        }
                    }
                });
            }
        });
        let mut findings = outcome
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)?;
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
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    object: &Expected,
) -> Result<Option<Problem>> {
    let (sized, key) = (store.clone(), object.key.clone());
    let found = match runtime.wait(async move { sized.len(&key).await }) {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return Ok(Some(Problem::Missing)),
        Err(error) => return Err(error.into()),
    };
    if found != object.len {
        return Ok(Some(Problem::WrongLength {
            expected: object.len,
            found,
        }));
    }
    let mut hasher = ChecksumHasher::new();
    let mut offset = 0;
    while offset < object.len {
        let end = object.len.min(offset + PIECE_BYTES);
        let (store, key) = (store.clone(), object.key.clone());
        match runtime.wait(async move { store.get_range(&key, offset..end).await }) {
            Ok(bytes) => hasher.update(&bytes),
            Err(error) if error.is_not_found() => return Ok(Some(Problem::Missing)),
            Err(error) => return Err(Error::from(error)),
        }
        offset = end;
    }
    let found = hasher.finish();
    Ok(
        (found != object.checksum).then_some(Problem::WrongChecksum {
            expected: object.checksum,
            found,
        }),
    )
}
