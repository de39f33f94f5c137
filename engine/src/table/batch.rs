//! Writes to any tables of one backend that happen together or not at all.

use std::{fmt, sync::Arc};

use crate::{
    error::Result,
    rocks::{Batch, Columns, Db},
};

/// Writes that are carried out together, in the order in which they were added, by the backend's `write`. Nothing happens
/// before. Held in memory: keep it to some megabytes.
///
/// Tables add to it with `put_to`, `remove_to` and `clear_to`.
pub struct WriteBatch {
    batch: Batch,
    db: Arc<Db>,
}

impl WriteBatch {
    pub(crate) fn new(db: Arc<Db>) -> Self {
        WriteBatch {
            batch: Batch::default(),
            db,
        }
    }

    /// Number of writes in it.
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// True where there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it takes.
    pub fn size_bytes(&self) -> usize {
        self.batch.size_bytes()
    }

    /// Carries it out: all of it or nothing.
    pub(crate) fn commit(self) -> Result<()> {
        self.db.write(self.batch)
    }

    pub(crate) fn is_of(&self, db: &Arc<Db>) -> bool {
        Arc::ptr_eq(&self.db, db)
    }

    // The tables have checked `is_of`.

    pub(super) fn put(&mut self, columns: &Columns, key: &[u8], value: &[u8]) {
        self.batch.put(columns.of(key), key, value);
    }

    pub(super) fn delete(&mut self, columns: &Columns, key: &[u8]) {
        self.batch.delete(columns.of(key), key);
    }

    pub(super) fn delete_range(&mut self, columns: &Columns, from: &[u8], to: &[u8]) {
        self.batch.delete_range(columns.of(from), from, to);
    }
}

impl fmt::Debug for WriteBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "WriteBatch({} writes, {} bytes)",
            self.len(),
            self.size_bytes()
        )
    }
}
