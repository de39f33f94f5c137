//! One column family: the reads and writes of a table.

use std::{fmt, mem, ops::Deref, sync::Arc};

use rocksdb::{AsColumnFamilyRef, BoundColumnFamily, DBPinnableSlice};

use super::{db::Db, error};
use crate::error::Result;

/// A column family. Cloning is two counters; an operation takes no lock of ours.
#[derive(Clone)]
pub(crate) struct Column {
    // Declared, and so dropped, before `db`.
    handle: Arc<BoundColumnFamily<'static>>,
    db: Arc<Db>,
    name: Arc<str>,
}

/// A value that was read: pinned where RocksDB has it, without a copy, or a copy that another thread made.
pub(crate) enum Value<'a> {
    /// Pins a block of the cache or a memtable: decode it and let go.
    Pinned(DBPinnableSlice<'a>),
    /// A copy.
    Owned(Vec<u8>),
}

impl Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Value::Pinned(slice) => slice,
            Value::Owned(bytes) => bytes,
        }
    }
}

impl Column {
    pub(super) fn find(db: &Arc<Db>, name: &str) -> Option<Column> {
        let handle = db.db.cf_handle(name)?;
        // SAFETY: only the lifetime changes, which says that the handle must not outlive the `DB` it came from. That `DB`
        // is owned by `*db`, of which this `Column` keeps an `Arc`. No method gives the handle away without one, and
        // `handle` is declared before `db`, so it is dropped first.
        let handle = unsafe {
            mem::transmute::<Arc<BoundColumnFamily<'_>>, Arc<BoundColumnFamily<'static>>>(handle)
        };
        Some(Column {
            handle,
            db: db.clone(),
            name: name.into(),
        })
    }

    /// The name of the column family.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The database that it is in.
    pub(crate) fn db(&self) -> &Arc<Db> {
        &self.db
    }

    pub(super) fn handle(&self) -> &(impl AsColumnFamilyRef + use<>) {
        &self.handle
    }

    /// The value of `key`. May block on the disk or the network.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Value<'_>>> {
        self.db.check_open()?;
        self.db
            .db
            .get_pinned_cf_opt(&self.handle, key, &self.db.read)
            .map(|value| value.map(Value::Pinned))
            .map_err(|e| self.error("read", e))
    }

    /// Sets the value of `key`.
    pub(crate) fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.db.check_open()?;
        self.db
            .db
            .put_cf_opt(&self.handle, key, value, &self.db.write)
            .map_err(|e| self.error("write to", e))
    }

    /// Removes `key`; nothing where it is missing. Reads nothing.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<()> {
        self.db.check_open()?;
        self.db
            .db
            .delete_cf_opt(&self.handle, key, &self.db.write)
            .map_err(|e| self.error("write to", e))
    }

    /// Removes the keys from `from` up to but not `to`, with one tombstone. Reads nothing.
    pub(crate) fn delete_range(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.db.check_open()?;
        self.db
            .db
            .delete_range_cf_opt(&self.handle, from, to, &self.db.write)
            .map_err(|e| self.error("write to", e))
    }

    /// Compacts everything into the last level. For tests and measurements: reads and rewrites the whole table.
    pub(crate) fn compact(&self) -> Result<()> {
        self.db.check_open()?;
        self.db
            .db
            .compact_range_cf(&self.handle, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    pub(super) fn error(&self, operation: &'static str, error: rocksdb::Error) -> crate::Error {
        error::map(operation, &self.name, error)
    }
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Column({} of {:?})", self.name, self.db)
    }
}
