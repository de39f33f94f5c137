//! Writes that happen together.

use super::column::Column;

/// Puts and removals in any columns of one database, carried out in order by [`Db::write`](super::Db::write).
///
/// A column is written by its number, so a batch must only be used with columns of one database: the caller checks.
#[derive(Default)]
pub(crate) struct Batch {
    pub(super) batch: rocksdb::WriteBatch,
}

impl Batch {
    /// Sets the value of `key`.
    pub(crate) fn put(&mut self, column: &Column, key: &[u8], value: &[u8]) {
        self.batch.put_cf(column.handle(), key, value);
    }

    /// Removes `key`.
    pub(crate) fn delete(&mut self, column: &Column, key: &[u8]) {
        self.batch.delete_cf(column.handle(), key);
    }

    /// Removes the keys from `from` up to but not `to`.
    pub(crate) fn delete_range(&mut self, column: &Column, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(column.handle(), from, to);
    }

    /// Number of operations.
    pub(crate) fn len(&self) -> usize {
        self.batch.len()
    }

    /// Bytes in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        self.batch.size_in_bytes()
    }
}
