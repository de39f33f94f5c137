//! `_metadata`: everything that a restore must know before it reads anything else.
//!
//! One framed document (a header line with format, version, length and checksum, then JSON; see
//! [`lazurite_tiering::framed`]), so that a person can read it, a newer version is told from a corrupt one, and no bit
//! of it is trusted before the checksum was verified. One table file stands on each line.
//!
//! Invariants that [`SnapshotMetadata::decode`] checks, and a commit before it writes: every key lies below the job, every
//! name is a RocksDB table file's, no name or object stands twice, every tail lies inside its file and inside its object, no
//! object holds more tails than bytes, and no sum of lengths overflows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use lazurite_env::{ErrorKind, remote::Key};
use lazurite_tiering::{Checksum, framed, is_table_name};
use serde::{
    Deserialize, Serialize,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::layout::JobLayout;
use crate::{
    Error, Result,
    key_groups::KeyGroupRange,
    table::{TableSchema, check_table_name},
};

/// The format's name in the header line.
const FORMAT: &str = "lazurite-snapshot";
/// The newest version that this code reads, and the one that it writes.
const VERSION: u32 = 1;

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
    /// The local directory that wrote it, by its random token: tells one's own commit from another writer's.
    pub writer: String,
    /// When it was taken, in milliseconds since 1970-01-01 UTC, by the writer's clock.
    pub created_unix_ms: u64,
    /// The maximum parallelism: the number of key groups that keys are spread over.
    pub key_groups: u16,
    /// The key groups that it holds.
    pub key_group_range: KeyGroupRange,
    /// The tables in it.
    pub tables: Vec<TableSchema>,
    /// What the user gave with it (source positions, say), by name.
    pub user_metadata: BTreeMap<String, UserValue>,
    /// RocksDB's MANIFEST and OPTIONS of the moment, in one object.
    pub manifest: ManifestRef,
    /// The objects that hold the files' tails.
    pub tails: Vec<TailsRef>,
    /// RocksDB's table files, in the order of their names.
    pub files: Vec<SnapshotFile>,
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

/// The object with RocksDB's MANIFEST and OPTIONS: the parts one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestRef {
    /// The object.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// The checksum of all of its bytes.
    pub checksum: Checksum,
    /// The files in it, one after another from its first byte: name and length.
    pub parts: Vec<(String, u64)>,
}

/// An object that holds tails of table files, one after another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailsRef {
    /// The object.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// The checksum of all of its bytes.
    pub checksum: Checksum,
}

/// One table file of a snapshot. Fields that a reader does not know are none of its business: later versions may add some
/// that a restore can do without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// RocksDB's name for it in this snapshot's MANIFEST: `000012.sst`.
    pub name: String,
    /// Its level in the tree.
    pub level: u8,
    /// The object that holds it.
    pub key: String,
    /// Its length in bytes.
    pub len: u64,
    /// The checksum of all of its bytes.
    pub checksum: Checksum,
    /// Where its tail (filters, index, properties, footer) begins: everything from here to its end is in a tails object.
    pub tail_offset: u64,
    /// The checksum of its tail: binds the bytes that `tail` points to to this file.
    pub tail_checksum: Checksum,
    /// Which of the snapshot's tails objects holds the tail, and where in it.
    pub tail: Option<(u32, u64)>,
    /// About how often gets and iterators looked into it, of late; absent where that is not known, or never. The hottest
    /// files are downloaded first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heat: Option<u64>,
    /// Which of its chunks of 64 KiB gets looked into, of late: a digit of base64url for each three, as `docs/FORMAT.md` has it.
    /// Absent where none is hot. A restore brings the hottest first; what is no such text is as good as none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "text_or_nothing"
    )]
    pub hot: Option<String>,
}

/// What a restore can do without is no reason to refuse a snapshot.
fn text_or_nothing<'de, D: serde::Deserializer<'de>>(of: D) -> Result<Option<String>, D::Error> {
    of.deserialize_any(TextOrNothing)
}

/// What is no text is passed over as it is read: as a value it could take many times the memory of its bytes.
struct TextOrNothing;

impl<'de> Visitor<'de> for TextOrNothing {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, of: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(of).map(|_| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, of: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(of).map(|_| None)
    }
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

impl SnapshotFile {
    /// The tail's length in bytes.
    pub fn tail_len(&self) -> u64 {
        self.len.saturating_sub(self.tail_offset)
    }
}

impl SnapshotMetadata {
    /// Bytes of all table files.
    pub fn data_bytes(&self) -> u64 {
        sum(self.files.iter().map(|f| f.len)).unwrap_or(u64::MAX)
    }

    /// Every object that this snapshot needs, its `_metadata` left out.
    pub(crate) fn objects(&self, layout: &JobLayout) -> Result<HashSet<Key>> {
        let files = self.files.iter().map(|f| &f.key);
        let tails = self.tails.iter().map(|t| &t.key);
        files
            .chain(tails)
            .chain([&self.manifest.key])
            .map(|key| layout.own(key))
            .collect()
    }

    /// The bytes of `_metadata`, which can be read again.
    ///
    /// # Errors
    /// Where they would be more than a reader takes, or not pass its checks.
    pub(crate) fn encode(&self, layout: &JobLayout) -> Result<Vec<u8>> {
        self.check(layout, self.id)
            .map_err(|reason| self.corrupt(format!("it could not be read again: {reason}")))?;
        self.encode_within(MAX_METADATA_BYTES)
    }

    fn encode_within(&self, max: u64) -> Result<Vec<u8>> {
        let bytes = self.encode_any()?;
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

    fn encode_any(&self) -> Result<Vec<u8>> {
        let head = SnapshotMetadata {
            files: Vec::new(),
            ..self.clone()
        };
        let json = |e: serde_json::Error| self.corrupt(format!("cannot be written as JSON: {e}"));
        let mut body = serde_json::to_string_pretty(&head).map_err(json)?;
        // The head ends in an empty list of files; write the list anew, one file a line.
        let end = body.rfind("[]").unwrap_or(body.len());
        body.truncate(end);
        body.push('[');
        for (i, file) in self.files.iter().enumerate() {
            body.push_str(if i == 0 { "\n    " } else { ",\n    " });
            body.push_str(&serde_json::to_string(file).map_err(json)?);
        }
        body.push_str("\n  ]\n}\n");
        Ok(framed::encode(FORMAT, VERSION, body.as_bytes()))
    }

    /// Reads and checks the `_metadata` of snapshot `id`.
    pub(crate) fn decode(layout: &JobLayout, id: u64, bytes: &[u8]) -> Result<Self> {
        let path = layout.metadata(id);
        let corrupt = |reason: String| Error::SnapshotCorrupt {
            path: path.to_string(),
            reason,
        };
        let (_, body) = framed::decode(FORMAT, VERSION, path.as_str(), bytes).map_err(|error| {
            match error.kind() {
                ErrorKind::Corruption => corrupt(error.message().to_owned()),
                _ => error.into(),
            }
        })?;
        let metadata: SnapshotMetadata = serde_json::from_slice(body)
            .map_err(|e| corrupt(format!("the checksum is right but the content is not: {e}")))?;
        metadata.check(layout, id).map_err(corrupt)?;
        Ok(metadata)
    }

    /// What is wrong with it, if anything: nothing in it is trusted before.
    fn check(&self, layout: &JobLayout, id: u64) -> Result<(), String> {
        if self.job != layout.job().as_str() || self.id != id {
            return Err(format!(
                "it says that it is snapshot {} of job {}",
                self.id, self.job
            ));
        }
        let files = self.files.iter().map(|f| &f.key);
        let tails = self.tails.iter().map(|t| &t.key);
        let mut objects = HashSet::new();
        for key in files.chain(tails).chain([&self.manifest.key]) {
            layout.own(key).map_err(|error| error.to_string())?;
            once(&mut objects, key)?;
        }
        let mut names = HashSet::new();
        for file in &self.files {
            if !is_table_name(&file.name) {
                return Err(format!("{:?} is not the name of a table file", file.name));
            }
            once(&mut names, &file.name)?;
        }
        self.check_lengths()?;
        let mut parts = HashSet::new();
        for (name, _) in &self.manifest.parts {
            if !is_plain_name(name) {
                return Err(format!("{name:?} is not the name of a file"));
            }
            once(&mut parts, name)?;
        }
        let mut tables = HashSet::new();
        for table in &self.tables {
            check_table_name(&table.name).map_err(|error| error.to_string())?;
            once(&mut tables, &table.name)?;
        }
        let mut user = self.user_metadata.iter();
        match user.find(|(_, value)| value.bytes().is_none()) {
            Some((name, _)) => Err(format!("the user metadata {name:?} is not hexadecimal")),
            None => Ok(()),
        }
    }

    /// Lengths and places: inside what they are a part of, and of a sum that there is.
    fn check_lengths(&self) -> Result<(), String> {
        let mut held: HashMap<u32, u64> = HashMap::new();
        for file in &self.files {
            if !self.holds_tail(file) {
                return Err(format!("the tail of {} lies outside its object", file.name));
            }
            if let Some((object, _)) = file.tail {
                let held = held.entry(object).or_default();
                *held = held.saturating_add(file.tail_len());
                let tails = &self.tails[object as usize]; // `holds_tail` found it
                if *held > tails.len {
                    return Err(format!("{} holds more tails than bytes", tails.key));
                }
            }
        }
        let files = sum(self.files.iter().map(|f| f.len));
        let tails = sum(self.tails.iter().map(|t| t.len));
        if files.is_none() || tails.is_none() {
            return Err("the lengths of its objects overflow".into());
        }
        if sum(self.manifest.parts.iter().map(|(_, len)| *len)) != Some(self.manifest.len) {
            return Err("the parts of its manifest object do not add up".into());
        }
        Ok(())
    }

    fn holds_tail(&self, file: &SnapshotFile) -> bool {
        file.tail_offset <= file.len
            && file.tail.is_none_or(|(object, offset)| {
                let end = offset.checked_add(file.tail_len());
                let tails = self.tails.get(object as usize);
                tails.is_some_and(|tails| end.is_some_and(|end| end <= tails.len))
            })
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::SnapshotCorrupt {
            path: format!("{}/chk-{}/_metadata", self.job, self.id),
            reason,
        }
    }
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

/// A file name without any path in it.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::heat::Heat;

    fn metadata() -> SnapshotMetadata {
        SnapshotMetadata {
            job: "job".into(),
            id: 7,
            writer: "w".into(),
            created_unix_ms: 0,
            key_groups: 4,
            key_group_range: KeyGroupRange::all(4).unwrap(),
            tables: Vec::new(),
            user_metadata: BTreeMap::new(),
            manifest: ManifestRef {
                key: "job/chk-7/manifest".into(),
                len: 8,
                checksum: Checksum::of(b""),
                parts: vec![("CURRENT".into(), 8)],
            },
            tails: Vec::new(),
            files: Vec::new(),
        }
    }

    #[test]
    fn heat_may_be_absent_and_absurd_and_other_fields_unknown() {
        let layout = JobLayout::new("job").unwrap();
        let mut metadata = metadata();
        let file = |number: u64, heat| SnapshotFile {
            name: format!("{number:06}.sst"),
            level: 0,
            key: format!("job/shared/{number}.sst"),
            len: 0,
            checksum: Checksum::of(b""),
            tail_offset: 0,
            tail_checksum: Checksum::of(b""),
            tail: None,
            heat,
            hot: None,
        };
        metadata.files = vec![
            file(1, None),
            file(2, Some(u64::MAX)),
            file(3, Some(u64::MAX)),
        ];
        let bytes = metadata.encode(&layout).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert_eq!(text.matches("heat").count(), 2, "{text}");
        let read = SnapshotMetadata::decode(&layout, 7, &bytes).unwrap();
        assert_eq!(read, metadata);
        assert!(Heat::from_metadata(&read).of("000003.sst") < Some(u64::MAX));
        // As a later version may write it.
        let body = text.split_once('\n').unwrap().1;
        let body = body.replace("\"heat\":18446744073709551615", "\"warmth\":[1.5]");
        let bytes = framed::encode(FORMAT, VERSION, body.as_bytes());
        let read = SnapshotMetadata::decode(&layout, 7, &bytes).unwrap();
        assert_eq!(read.files[1].heat, None);
    }

    #[test]
    fn hot_chunks_may_be_absent_and_anything() {
        let layout = JobLayout::new("job").unwrap();
        let mut metadata = metadata();
        let file = |number: u64, hot: &str| SnapshotFile {
            name: format!("{number:06}.sst"),
            level: 0,
            key: format!("job/shared/{number}.sst"),
            len: 100 << 10,
            checksum: Checksum::of(b""),
            tail_offset: 100 << 10,
            tail_checksum: Checksum::of(b""),
            tail: None,
            heat: None,
            hot: Some(hot.to_owned()),
        };
        let long = "_".repeat(1 << 20);
        metadata.files = vec![
            file(1, "_"),
            file(2, &long),
            file(3, "no text?"),
            file(4, "E"),
        ];
        let bytes = metadata.encode(&layout).unwrap();
        let read = SnapshotMetadata::decode(&layout, 7, &bytes).unwrap();
        assert_eq!(read, metadata);
        let chunks = |metadata: &SnapshotMetadata| Heat::from_metadata(metadata).chunks.all();
        let hot = chunks(&read);
        assert_eq!(hot["000001.sst"], [3, 3], "no more chunks than it has");
        assert_eq!((hot["000004.sst"].as_slice(), hot.len()), (&[0, 1][..], 2));
        // Of another type.
        let text = String::from_utf8(bytes).unwrap();
        let body = text.split_once('\n').unwrap().1;
        let others = [
            "{\"E\":[1,null]}",
            "[0,\"_\",{}]",
            "null",
            "true",
            "-1",
            "7",
            "0.5",
        ];
        for other in others {
            let body = body.replace("\"hot\":\"E\"", &format!("\"hot\":{other}"));
            let bytes = framed::encode(FORMAT, VERSION, body.as_bytes());
            let read = SnapshotMetadata::decode(&layout, 7, &bytes).unwrap();
            assert_eq!(read.files[3].hot, None, "{other}");
            assert_eq!(read.files[..3], metadata.files[..3], "{other}");
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let layout = JobLayout::new("job").unwrap();
        let mut metadata = metadata();
        let bytes = metadata.encode(&layout).unwrap();
        assert_eq!(
            SnapshotMetadata::decode(&layout, 7, &bytes).unwrap(),
            metadata
        );
        assert!(metadata.encode_within(bytes.len() as u64).is_ok());
        let error = metadata.encode_within(bytes.len() as u64 - 1).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        metadata.manifest.parts.push(("CURRENT".into(), 0));
        let error = metadata.encode(&layout).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }
}
