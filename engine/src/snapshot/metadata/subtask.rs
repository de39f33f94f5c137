//! [`SubtaskState`]: what one backend gives to a snapshot, and what makes up its part of `_metadata`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use lazurite_env::remote::Key;
use lazurite_tiering::{Checksum, is_table_name};
use serde::{
    Deserialize, Serialize,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{UserValue, once, sum};
use crate::{
    Result,
    key_groups::KeyGroupRange,
    snapshot::place::Bounds,
    table::{TableColumn, TableSchema, check_columns, check_name, check_table_name},
};

/// The state of one subtask of an operator: the key groups of one backend at the moment of a snapshot. Serializable, so that it
/// can be sent to whoever completes the snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubtaskState {
    /// The operator that it is a subtask of.
    pub operator: String,
    /// The local directory that wrote it, by its random token: tells one's own commit from another writer's.
    pub writer: String,
    /// The maximum parallelism: the number of key groups that keys are spread over.
    pub key_groups: u16,
    /// The key groups that it holds.
    pub key_group_range: KeyGroupRange,
    /// The tables in it.
    pub tables: Vec<TableSchema>,
    /// The column families that hold the tables. Those of one table hold the subtask's key groups, each one once.
    pub columns: Vec<TableColumn>,
    /// What the user gave with it (source positions, say), by name.
    pub user_metadata: BTreeMap<String, UserValue>,
    /// RocksDB's MANIFEST and OPTIONS of the moment, in one object.
    pub manifest: ManifestRef,
    /// The objects that hold the files' tails.
    pub tails: Vec<TailsRef>,
    /// RocksDB's table files, in the order of their names.
    pub files: Vec<SnapshotFile>,
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

impl SnapshotFile {
    /// The tail's length in bytes.
    pub fn tail_len(&self) -> u64 {
        self.len.saturating_sub(self.tail_offset)
    }
}

impl SubtaskState {
    /// Bytes of all table files.
    pub fn data_bytes(&self) -> u64 {
        sum(self.files.iter().map(|f| f.len)).unwrap_or(u64::MAX)
    }

    /// Every object that it needs, with its length and checksum.
    pub(crate) fn objects(&self) -> impl Iterator<Item = (&str, u64, Checksum)> {
        let files = self.files.iter().map(|f| (&*f.key, f.len, f.checksum));
        let tails = self.tails.iter().map(|t| (&*t.key, t.len, t.checksum));
        let manifest = &self.manifest;
        files
            .chain(tails)
            .chain([(&*manifest.key, manifest.len, manifest.checksum)])
    }

    /// As [`objects`](Self::objects), their keys alone.
    pub(crate) fn keys(&self) -> Result<Vec<Key>> {
        self.objects().map(|(key, ..)| Ok(Key::new(key)?)).collect()
    }

    /// Gives every key that it names to `change`.
    pub(crate) fn each_key<E>(
        &mut self,
        mut change: impl FnMut(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        let files = self.files.iter_mut().map(|file| &mut file.key);
        let tails = self.tails.iter_mut().map(|object| &mut object.key);
        let mut keys = files.chain(tails).chain([&mut self.manifest.key]);
        keys.try_for_each(&mut change)
    }

    /// What is wrong with two states of one snapshot, if anything.
    pub(super) fn check_beside(&self, other: &SubtaskState) -> Result<(), String> {
        if self.operator != other.operator {
            return Ok(());
        }
        let operator = &self.operator;
        if self.key_groups != other.key_groups {
            return Err(format!(
                "the subtasks of {operator} have numbers of key groups that differ"
            ));
        }
        if self
            .key_group_range
            .intersection(other.key_group_range)
            .is_some()
        {
            return Err(format!(
                "two subtasks of {operator} have key groups in common: {} and {}",
                self.key_group_range, other.key_group_range
            ));
        }
        for table in &self.tables {
            if let Some(same) = other.tables.iter().find(|same| same.name == table.name) {
                table
                    .check_compatible(same)
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self, bounds: &Bounds) -> Result<(), String> {
        check_name("operator", &self.operator).map_err(|error| error.to_string())?;
        if self.key_group_range.end() >= self.key_groups {
            return Err(format!(
                "the key groups {} are not among {}",
                self.key_group_range, self.key_groups
            ));
        }
        let mut objects = HashSet::new();
        for (key, ..) in self.objects() {
            bounds.check(key).map_err(|error| error.to_string())?;
        }
        // A table file may be there twice: in column families that each hold a part of it.
        for key in self
            .tails
            .iter()
            .map(|t| &t.key)
            .chain([&self.manifest.key])
        {
            once(&mut objects, key)?;
        }
        if let Some(file) = self.files.iter().find(|file| objects.contains(&*file.key)) {
            return Err(format!("{} stands in it as two things", file.key));
        }
        let mut names = HashSet::new();
        let mut contents: HashMap<&str, &SnapshotFile> = HashMap::new();
        for file in &self.files {
            if !is_table_name(&file.name) {
                return Err(format!("{:?} is not the name of a table file", file.name));
            }
            once(&mut names, &file.name)?;
            let same = contents.entry(&file.key).or_insert(file);
            if (same.tail, same.tail_offset, same.tail_checksum)
                != (file.tail, file.tail_offset, file.tail_checksum)
            {
                return Err(format!("{} stands in it with two tails", file.key));
            }
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
        check_columns(&self.tables, &self.columns, self.key_group_range)?;
        super::check_user(&self.user_metadata)
    }

    /// Lengths and places: inside what they are a part of, and of a sum that there is.
    fn check_lengths(&self) -> Result<(), String> {
        let mut held: HashMap<u32, u64> = HashMap::new();
        let mut tails = HashSet::new();
        for file in &self.files {
            if !self.holds_tail(file) {
                return Err(format!("the tail of {} lies outside its object", file.name));
            }
            // A file that is there twice has one tail.
            let tail = file.tail.filter(|tail| tails.insert((*tail, &*file.key)));
            if let Some((object, _)) = tail {
                let held = held.entry(object).or_default();
                *held = held.saturating_add(file.tail_len());
                let of = &self.tails[object as usize]; // `holds_tail` found it
                if *held > of.len {
                    return Err(format!("{} holds more tails than bytes", of.key));
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
}

/// A file name without any path in it.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}
