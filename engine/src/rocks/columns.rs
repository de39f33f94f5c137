//! The column families of one table.
//!
//! Keys begin with the two bytes of their key group. A table that was brought together from several snapshots has a column family
//! for each range of key groups that came from files of its own; any other has one. Which of them holds a key is told by those two
//! bytes alone, so that entries that a file holds beyond its column's range (it was written when the range was larger) are never
//! found: nothing has to delete or hide them.
//!
//! Invariant: the ranges do not overlap, and together they are all key groups that the table may be asked for.

use std::sync::Arc;

use super::{
    column::{Column, Value},
    cursor::{Cursor, Part},
};
use crate::error::Result;

/// The columns of one table, each for a range of key groups. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    /// Holds all keys that lie before those of `more`.
    first: Column,
    /// The others, by the first key group of each, ascending.
    more: Arc<[(u16, Column)]>,
}

impl Columns {
    /// `columns`, each with the first key group that it holds. `None` where there are none.
    pub(crate) fn new(mut columns: Vec<(u16, Column)>) -> Option<Columns> {
        columns.sort_unstable_by_key(|(start, _)| *start);
        let mut columns = columns.into_iter();
        let (_, first) = columns.next()?;
        Some(Columns {
            first,
            more: columns.collect(),
        })
    }

    /// The only column of its table.
    #[cfg(test)]
    pub(crate) fn one(column: Column) -> Columns {
        Columns {
            first: column,
            more: Arc::default(),
        }
    }

    /// The column that holds `key`.
    #[inline]
    pub(crate) fn of(&self, key: &[u8]) -> &Column {
        if self.more.is_empty() {
            return &self.first;
        }
        self.find(key)
    }

    #[inline(never)]
    fn find(&self, key: &[u8]) -> &Column {
        let group = key
            .first_chunk()
            .map_or(0, |group| u16::from_be_bytes(*group));
        match self.more.partition_point(|(start, _)| *start <= group) {
            0 => &self.first,
            n => &self.more[n - 1].1,
        }
    }

    /// The only column; `None` where there are several.
    pub(super) fn only(&self) -> Option<&Column> {
        self.more.is_empty().then_some(&self.first)
    }

    /// Any of them.
    pub(super) fn any(&self) -> &Column {
        &self.first
    }

    /// All of them, in the order of their keys.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Column> {
        [&self.first]
            .into_iter()
            .chain(self.more.iter().map(|(_, column)| column))
    }

    /// The value of `key`. May block on the disk or the network.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>> {
        self.of(key).get(key)
    }

    /// Sets the value of `key`.
    #[inline]
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.of(key).put(key, value)
    }

    /// Removes `key`; nothing where it is missing. Reads nothing.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<()> {
        self.of(key).delete(key)
    }

    /// Removes the keys from `from` up to but not `to`, with one tombstone. All of them are of one key group. Reads nothing.
    pub(crate) fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.of(from).delete_range(from, to)
    }

    /// The entries from `lower` up to but not `upper`, as of now.
    pub(crate) fn cursor(&self, lower: Vec<u8>, upper: Vec<u8>) -> Result<Cursor> {
        let db = self.first.db();
        db.check_open()?;
        let ends = self
            .more
            .iter()
            .map(|(start, _)| start.to_be_bytes().to_vec());
        let mut parts = Vec::with_capacity(1);
        let mut from = lower;
        for (column, end) in self.all().zip(ends.chain([upper.clone()])) {
            let to = end.min(upper.clone());
            if from < to {
                parts.push(Part {
                    column: column.clone(),
                    lower: from.clone(),
                    upper: to.clone(),
                });
                from = to;
            }
        }
        Cursor::new(db, parts)
    }
}
