//! `_metadata`: everything that a restore must know before it reads anything else.
//!
//! One framed document (a header line with format, version, length and checksum, then JSON; see
//! [`lazurite_tiering::framed`]), so that a person can read it, a newer version is told from a corrupt one, and no bit
//! of it is trusted before the checksum was verified. One table file stands on each line.
//!
//! In a savepoint's, objects stand by their names in its directory; in memory by their keys, as everywhere.
//!
//! Invariants that [`SnapshotMetadata::decode`] checks, and a commit before it writes: every key lies below the job or what it has claimed, every
//! name is a RocksDB table file's, no name or object stands twice in a subtask, an object that two subtasks name is the same to both,
//! no two subtasks of an operator have a key group in common, every tail lies inside its file and inside its object, no
//! object holds more tails than bytes, and no sum of lengths overflows.

mod subtask;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use lazurite_env::{ErrorKind, remote::Key};
use lazurite_tiering::{Checksum, framed};
use serde::{Deserialize, Serialize};

pub use subtask::{ManifestRef, SnapshotFile, SubtaskState, TailsRef};

use super::place::{Bounds, Place};
use crate::{Error, Result};

/// The format's name in the header line.
const FORMAT: &str = "lazurite-snapshot";
/// The version that this code reads and writes. 1 had no subtasks.
const VERSION: u32 = 2;

/// No `_metadata` is longer, and none that is longer is written or read: some 700,000 table files. It is read whole.
pub(crate) const MAX_METADATA_BYTES: u64 = 256 << 20;

/// What a snapshot is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotMetadata {
    /// The job that took it.
    pub job: String,
    /// Its number, growing within the job.
    pub id: u64,
    /// Who completed it: the local directory of a job's only backend, or a coordinator, by its random token.
    pub writer: String,
    /// When it was taken, in milliseconds since 1970-01-01 UTC, by the writer's clock.
    pub created_unix_ms: u64,
    /// What the user gave with it as a whole, by name.
    pub user_metadata: BTreeMap<String, UserValue>,
    /// The directories of other jobs and of savepoints that the job has claimed, and of which this snapshot names objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claimed: Vec<String>,
    /// The claimed snapshot that the job began with, for as long as it counts among those that are retained: its directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// Objects that are not of this snapshot and that its writers still used when it was completed: they stay until the next one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_use: Vec<String>,
    /// A savepoint: it lies in a directory of its own, with all that it needs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub savepoint: bool,
    /// The states that it is made of, by operator and then by key group. None: see [`is_fence`](Self::is_fence).
    pub subtasks: Vec<SubtaskState>,
}

/// A user's value: text where it is UTF-8, so that a person can read it, else hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserValue {
    /// UTF-8.
    Text(String),
    /// Any other bytes, two lower-case digits a byte.
    Hex(String),
}

impl UserValue {
    /// Keeps `bytes` in the readable form where there is one.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => UserValue::Text(text.to_owned()),
            Err(_) => UserValue::Hex(bytes.iter().map(|b| format!("{b:02x}")).collect()),
        }
    }

    /// The bytes that were given; `None` where the hexadecimal is not any.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            UserValue::Text(text) => Some(text.clone().into_bytes()),
            UserValue::Hex(hex) => (hex.len() % 2 == 0 && hex.is_ascii())
                .then(|| {
                    (0..hex.len())
                        .step_by(2)
                        .map(|i| u8::from_str_radix(&hex[i..i + 2], 16).ok())
                        .collect()
                })
                .flatten(),
        }
    }
}

impl SnapshotMetadata {
    /// The table files of all subtasks. One that two subtasks share comes twice.
    pub fn files(&self) -> impl Iterator<Item = &SnapshotFile> {
        self.subtasks.iter().flat_map(|subtask| &subtask.files)
    }

    /// True where it holds no state, and so is no snapshot: a coordinator has taken over the job at this number.
    pub fn is_fence(&self) -> bool {
        self.subtasks.is_empty()
    }

    /// Bytes of all table files; those of a file that two subtasks share once.
    pub fn data_bytes(&self) -> u64 {
        let files: HashMap<&str, u64> = self.files().map(|f| (&*f.key, f.len)).collect();
        sum(files.into_values()).unwrap_or(u64::MAX)
    }

    /// Every object that this snapshot needs, its `_metadata` left out.
    pub(crate) fn objects(&self) -> Result<HashSet<Key>> {
        let mut objects = HashSet::new();
        for subtask in &self.subtasks {
            objects.extend(subtask.keys()?);
        }
        Ok(objects)
    }

    /// The same, and what its writers still used: nothing needs either for the sake of this snapshot once it is gone.
    pub(crate) fn objects_and_in_use(&self) -> Result<HashSet<Key>> {
        let mut objects = self.objects()?;
        for key in &self.in_use {
            objects.insert(Key::new(key.as_str())?);
        }
        Ok(objects)
    }

    /// The bytes of the `_metadata` that is to lie at `place`, which can be read again.
    ///
    /// # Errors
    /// Where they would be more than a reader takes, or not pass its checks.
    pub(crate) fn encode(&self, place: &Place) -> Result<Vec<u8>> {
        let path = place.metadata();
        self.check(place)
            .map_err(|reason| corrupt(&path, format!("it could not be read again: {reason}")))?;
        self.encode_within(place, MAX_METADATA_BYTES)
    }

    fn encode_within(&self, place: &Place, max: u64) -> Result<Vec<u8>> {
        let bytes = match place {
            Place::Snapshot(..) => self.encode_any(&place.metadata())?,
            Place::Savepoint(_) => {
                let mut metadata = self.clone();
                metadata.each_key(|key| -> Result<()> {
                    *key = name_of(key).to_owned();
                    Ok(())
                })?;
                metadata.encode_any(&place.metadata())?
            }
        };
        if bytes.len() as u64 > max {
            return Err(Error::InvalidOption {
                option: "metadata",
                reason: format!(
                    "with it the snapshot's own would have {} bytes, and nothing reads more than {max}; give \
                     less with the snapshot",
                    bytes.len()
                ),
            });
        }
        Ok(bytes)
    }

    fn encode_any(&self, path: &Key) -> Result<Vec<u8>> {
        let json = |e: serde_json::Error| corrupt(path, format!("cannot be written as JSON: {e}"));
        let head = SnapshotMetadata {
            subtasks: Vec::new(),
            ..self.clone()
        };
        let mut body = open_list(serde_json::to_string_pretty(&head).map_err(json)?);
        for (i, subtask) in self.subtasks.iter().enumerate() {
            let head = SubtaskState {
                files: Vec::new(),
                ..subtask.clone()
            };
            let head = open_list(serde_json::to_string_pretty(&head).map_err(json)?);
            body.push_str(if i == 0 { "\n    " } else { ",\n    " });
            body.push_str(&head.replace('\n', "\n    "));
            for (i, file) in subtask.files.iter().enumerate() {
                body.push_str(if i == 0 { "\n        " } else { ",\n        " });
                body.push_str(&serde_json::to_string(file).map_err(json)?);
            }
            body.push_str("\n      ]\n    }");
        }
        body.push_str("\n  ]\n}\n");
        Ok(framed::encode(FORMAT, VERSION, body.as_bytes()))
    }

    /// Reads and checks the `_metadata` that lies at `place`.
    pub(crate) fn decode(place: &Place, bytes: &[u8]) -> Result<Self> {
        let path = place.metadata();
        let (version, body) =
            framed::decode(FORMAT, VERSION, path.as_str(), bytes).map_err(|error| {
                match error.kind() {
                    ErrorKind::Corruption => corrupt(&path, error.message().to_owned()),
                    _ => error.into(),
                }
            })?;
        if version < VERSION {
            return Err(corrupt(
                &path,
                format!(
                    "it is of format version {version}, from before this program's first release; this one reads version {VERSION}"
                ),
            ));
        }
        let mut metadata: SnapshotMetadata = serde_json::from_slice(body).map_err(|e| {
            corrupt(
                &path,
                format!("the checksum is right but the content is not: {e}"),
            )
        })?;
        if let Place::Savepoint(dir) = place {
            let absolute = metadata.each_key(|key| {
                if key.contains('/') {
                    return Err(format!("{key:?} is not the name of an object beside it"));
                }
                *key = format!("{dir}/{key}");
                Ok(())
            });
            absolute.map_err(|reason| corrupt(&path, reason))?;
        }
        metadata
            .check(place)
            .map_err(|reason| corrupt(&path, reason))?;
        Ok(metadata)
    }

    /// Gives every key that it names to `change`.
    fn each_key<E>(
        &mut self,
        mut change: impl FnMut(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        for subtask in &mut self.subtasks {
            subtask.each_key(&mut change)?;
        }
        Ok(())
    }

    /// What is wrong with it, if anything: nothing in it is trusted before.
    fn check(&self, place: &Place) -> Result<(), String> {
        let claimed = self.claimed.iter().map(|dir| Key::new(dir.as_str()));
        let claimed: Vec<Key> = claimed
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        match place {
            Place::Snapshot(layout, id) if self.job != layout.job().as_str() || self.id != *id => {
                return Err(format!(
                    "it says that it is snapshot {} of job {}",
                    self.id, self.job
                ));
            }
            Place::Snapshot(..) if self.savepoint => {
                return Err("it is a savepoint's, which lies in a directory of its own".into());
            }
            Place::Savepoint(_) if !self.savepoint => {
                return Err(
                    "it is that of a job's snapshot, which is nothing without the job's directory"
                        .into(),
                );
            }
            Place::Savepoint(_)
                if !claimed.is_empty() || self.origin.is_some() || !self.in_use.is_empty() =>
            {
                return Err("it is a savepoint's, and names what lies elsewhere".into());
            }
            _ => {}
        }
        let bounds = match place {
            Place::Snapshot(layout, _) => Bounds::new(layout.job(), &claimed),
            Place::Savepoint(dir) => Bounds::of(dir),
        };
        for key in &self.in_use {
            bounds.check(key).map_err(|e| e.to_string())?;
            if !is_object(key) {
                return Err(format!("{key} is nothing that anybody reads"));
            }
        }
        if let Some(origin) = &self.origin {
            let origin = Place::parse(origin).map_err(|e| e.to_string())?;
            bounds
                .check(origin.metadata().as_str())
                .map_err(|e| e.to_string())?;
        }
        let mut objects: HashMap<&str, (u64, Checksum)> = HashMap::new();
        for (i, subtask) in self.subtasks.iter().enumerate() {
            subtask.check(&bounds)?;
            for (key, len, checksum) in subtask.objects() {
                if *objects.entry(key).or_insert((len, checksum)) != (len, checksum) {
                    return Err(format!("{key} stands in it with two contents"));
                }
            }
            for other in &self.subtasks[..i] {
                subtask.check_beside(other)?;
            }
        }
        if sum(objects.values().map(|(len, _)| *len)).is_none() {
            return Err("the lengths of its objects overflow".into());
        }
        check_user(&self.user_metadata)
    }
}

fn corrupt(path: &Key, reason: String) -> Error {
    Error::SnapshotCorrupt {
        path: path.to_string(),
        reason,
    }
}

/// True of the key of a table file, of tails, or of a manifest: what a snapshot is made of.
pub(crate) fn is_object(key: &str) -> bool {
    let name = name_of(key);
    name.ends_with(".sst") || name.ends_with(".tails") || name.starts_with("manifest-")
}

/// The last part of a key.
fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// JSON that ends in an empty list, up to where its first element goes.
fn open_list(mut json: String) -> String {
    let end = json.rfind("[]").unwrap_or(json.len());
    json.truncate(end);
    json.push('[');
    json
}

fn check_user(user: &BTreeMap<String, UserValue>) -> Result<(), String> {
    match user.iter().find(|(_, value)| value.bytes().is_none()) {
        Some((name, _)) => Err(format!("the user metadata {name:?} is not hexadecimal")),
        None => Ok(()),
    }
}

/// The user's metadata as bytes. `path` names the snapshot in errors.
pub(crate) fn user_bytes(
    user: &BTreeMap<String, UserValue>,
    path: &str,
) -> Result<BTreeMap<String, Vec<u8>>> {
    user.iter()
        .map(|(name, value)| match value.bytes() {
            Some(bytes) => Ok((name.clone(), bytes)),
            None => Err(Error::SnapshotCorrupt {
                path: path.to_owned(),
                reason: format!("the user metadata {name:?} is not hexadecimal"),
            }),
        })
        .collect()
}

/// Refuses a name that is in `seen`.
fn once<'a>(seen: &mut HashSet<&'a str>, name: &'a str) -> Result<(), String> {
    if seen.insert(name) {
        Ok(())
    } else {
        Err(format!("{name} stands in it twice"))
    }
}

/// `None` where it overflows.
fn sum(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0u64, u64::checked_add)
}
