//! The tables of a snapshot, as bytes.

use std::fmt;

use super::SnapshotReader;
use crate::{
    Error, Result,
    codec::CodecError,
    key_groups::{KeyGroupRange, assign_to_key_group},
    rocks::{Columns, Cursor},
    table::{
        TableKind, TableSchema,
        key::{append_prefix, group_bounds, parse, prefix_end},
    },
};

/// Where an entry of a table is: each part as its codec wrote it.
#[derive(Clone, Copy, Default)]
pub struct RawKey<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The namespace: empty for the default one.
    pub namespace: &'a [u8],
    /// The user key, in map tables only.
    pub user_key: &'a [u8],
}

impl RawKey<'_> {
    /// The entry that is there, with this value.
    pub fn entry(&self, key_group: u16, value: Vec<u8>) -> RawEntry {
        RawEntry {
            key_group,
            key: self.key.to_vec(),
            namespace: self.namespace.to_vec(),
            user_key: self.user_key.to_vec(),
            value,
        }
    }
}

/// An entry of a table, each part as its codec wrote it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct RawEntry {
    /// The key's group.
    pub key_group: u16,
    /// The key.
    pub key: Vec<u8>,
    /// The namespace: empty for the default one.
    pub namespace: Vec<u8>,
    /// The user key; empty in value tables.
    pub user_key: Vec<u8>,
    /// The value; in a map table, that of the user key.
    pub value: Vec<u8>,
}

/// A table of a snapshot. Cheap to make.
pub struct SnapshotTable<'r> {
    pub(super) reader: &'r SnapshotReader,
    pub(super) schema: &'r TableSchema,
    pub(super) columns: Columns,
}

impl<'r> SnapshotTable<'r> {
    /// What it was declared as when the snapshot was taken.
    pub fn schema(&self) -> &'r TableSchema {
        self.schema
    }

    /// The group of a key.
    pub fn key_group(&self, key: &[u8]) -> u16 {
        assign_to_key_group(key, self.reader.key_groups())
    }

    /// The value of an entry. Costs one ranged read where no block of it is in memory, and mostly none where there is no such entry.
    ///
    /// # Errors
    /// [`Error::KeyGroupOutOfRange`] where the reader was not opened for the key's group; [`Error::InvalidOption`] where a user key is given
    /// for a table that is no map; [`Error::SnapshotNotFound`] where the job has deleted the snapshot; what the store answered.
    pub fn get(&self, key: RawKey<'_>) -> Result<Option<Vec<u8>>> {
        if self.schema.kind == TableKind::Value && !key.user_key.is_empty() {
            return Err(Error::InvalidOption {
                option: "user key",
                reason: format!("table {} has one value per key", self.schema.name),
            });
        }
        let mut stored = self.prefix(key.key, key.namespace)?;
        stored.extend_from_slice(key.user_key);
        let value = self.columns.get(&stored);
        let value = value.map_err(|error| self.reader.opened.explain(error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Every entry that the reader was opened for, in all namespaces: by key group, then key by key in no particular order, then by namespace and
    /// the bytes of the user keys.
    ///
    /// # Errors
    /// As those of the iterator.
    pub fn entries(&self) -> Result<RawEntries<'r>> {
        let (from, to) = group_bounds(self.reader.key_group_range());
        self.walk(from, to)
    }

    /// The entries of one key group. Nothing else is read.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn entries_of_group(&self, key_group: u16) -> Result<RawEntries<'r>> {
        self.check(key_group)?;
        let (from, to) = group_bounds(KeyGroupRange::new(key_group, key_group)?);
        self.walk(from, to)
    }

    /// The entries of one key, in all namespaces; in a map table, those of all its user keys. Nothing else is read.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn entries_of(&self, key: &[u8]) -> Result<RawEntries<'r>> {
        let mut from = self.prefix(key, b"")?;
        from.pop(); // the length of the namespace
        let to = prefix_end(&from);
        self.walk(from, to)
    }

    fn walk(&self, from: Vec<u8>, to: Vec<u8>) -> Result<RawEntries<'r>> {
        Ok(RawEntries {
            cursor: Some(self.columns.cursor(from, to)?),
            reader: self.reader,
            schema: self.schema,
        })
    }

    fn prefix(&self, key: &[u8], namespace: &[u8]) -> Result<Vec<u8>> {
        let mut stored = Vec::new();
        let group = append_prefix(&mut stored, self.reader.key_groups(), namespace, |out| {
            out.extend_from_slice(key);
            Ok(())
        });
        let group = group.map_err(|source| stored_key(self.schema, source))?;
        self.check(group)?;
        Ok(stored)
    }

    fn check(&self, key_group: u16) -> Result<()> {
        let range = self.reader.key_group_range();
        if range.contains(key_group) {
            return Ok(());
        }
        Err(Error::KeyGroupOutOfRange { key_group, range })
    }
}

/// Entries of a table, as they are stored. Reads ahead. After an error it ends.
pub struct RawEntries<'r> {
    /// `None` after the end.
    cursor: Option<Cursor>,
    reader: &'r SnapshotReader,
    schema: &'r TableSchema,
}

impl Iterator for RawEntries<'_> {
    type Item = Result<RawEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let error = match self.cursor.as_mut()?.next_where(|_| true) {
            Ok(Some((stored, value))) => match parse(stored) {
                Some(key) => {
                    return Some(Ok(RawEntry {
                        key_group: key.key_group(),
                        key: key.key.to_vec(),
                        namespace: key.namespace.to_vec(),
                        user_key: key.user_key.to_vec(),
                        value: value.to_vec(),
                    }));
                }
                None => {
                    let error = CodecError::new("it is not made of key group, key and namespace");
                    Some(stored_key(self.schema, error))
                }
            },
            Ok(None) => None,
            Err(error) => Some(self.reader.opened.explain(*error)),
        };
        self.cursor = None;
        error.map(Err)
    }
}

fn stored_key(schema: &TableSchema, source: CodecError) -> Error {
    Error::Codec {
        table: schema.name.clone(),
        what: "stored key",
        source,
    }
}

impl fmt::Debug for SnapshotTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotTable({})", self.schema.name)
    }
}

impl fmt::Debug for RawEntries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawEntries({})", self.schema.name)
    }
}

impl fmt::Debug for RawEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither key nor value: they are the user's data.
        write!(f, "RawEntry(key group {})", self.key_group)
    }
}

impl fmt::Debug for RawKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawKey({} bytes)", self.key.len())
    }
}
