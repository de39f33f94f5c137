//! Tables: typed, keyed state over RocksDB's columns.
//!
//! A table is one column family, named by the table, or after a change of parallelism one for each part of its key groups. Its keys are laid out in [`key`]; what it was declared as is its
//! [`TableSchema`], which every snapshot records.
//!
//! Invariants:
//! * Every operation on a key checks that its key group is one that the backend owns. A foreign key is an error, never a
//!   write that a later rescale would lose.
//! * A handle of a table stays valid for as long as it lives; after the backend is closed its operations are
//!   [`Error::Closed`].
//!
//! Crash story: a write is atomic, also over several tables in one [`WriteBatch`]. When it is durable is the backend's
//! durability: at the next complete snapshot, or with the write-ahead log when the write returns.

mod batch;
mod columns;
mod descriptor;
mod iter;
pub(crate) mod key;
mod map;
mod schema;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use crate::{
    codec::{CodecError, CodecHandle},
    error::{Error, Result},
    key_groups::KeyGroupRange,
    rocks::{Columns, Cursor, Db},
};

pub use batch::WriteBatch;
pub use columns::TableColumn;
pub(crate) use columns::{Tables, check_columns};
pub(crate) use descriptor::check_table_name;
pub use descriptor::{MapStateDescriptor, TableDescriptor, ValueStateDescriptor};
pub use iter::{MapEntries, MapEntry, MapIter, ValueEntry, ValueIter};
pub use map::MapState;
pub(crate) use schema::check_name;
pub use schema::{TableKind, TableSchema};
pub use value::ValueState;

/// What a table needs of its backend.
#[derive(Debug)]
pub(crate) struct TableContext {
    /// The database.
    pub db: Arc<Db>,
    /// How many key groups there are in all (the maximum parallelism).
    pub key_groups: u16,
    /// The key groups that this backend owns.
    pub range: KeyGroupRange,
}

/// What value and map tables have in common.
struct Table<K: 'static> {
    context: Arc<TableContext>,
    name: Arc<str>,
    columns: Columns,
    key_codec: CodecHandle<K>,
}

impl<K> Table<K> {
    fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` with the bytes of (key group, key, namespace), in a buffer that it may extend.
    fn with_prefix<R>(
        &self,
        key: &K,
        namespace: &[u8],
        f: impl FnOnce(&mut Vec<u8>) -> Result<R>,
    ) -> Result<R> {
        key::with_buffer(|buffer| {
            self.append_prefix(key, namespace, buffer)?;
            f(buffer)
        })
    }

    fn append_prefix(&self, key: &K, namespace: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let key_group = key::append_prefix(out, self.context.key_groups, namespace, |out| {
            self.key_codec.encode(key, out)
        })
        .map_err(|source| self.codec_error("key", source))?;
        self.check_key_group(key_group)
    }

    fn check_key_group(&self, key_group: u16) -> Result<()> {
        let range = self.context.range;
        if range.contains(key_group) {
            return Ok(());
        }
        Err(Error::KeyGroupOutOfRange { key_group, range })
    }

    /// Runs `f` with the bytes of a value.
    fn with_encoded<T, R>(
        &self,
        what: &'static str,
        codec: &CodecHandle<T>,
        value: &T,
        f: impl FnOnce(&[u8]) -> Result<R>,
    ) -> Result<R> {
        key::with_buffer(|buffer| {
            self.append(what, codec, value, buffer)?;
            f(buffer)
        })
    }

    fn append<T>(
        &self,
        what: &'static str,
        codec: &CodecHandle<T>,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        codec
            .encode(value, out)
            .map_err(|source| self.codec_error(what, source))
    }

    #[inline]
    fn decode<T>(&self, what: &'static str, codec: &CodecHandle<T>, bytes: &[u8]) -> Result<T> {
        codec
            .decode(bytes)
            .map_err(|source| self.codec_error(what, source))
    }

    #[cold]
    #[inline(never)]
    fn codec_error(&self, what: &'static str, source: CodecError) -> Error {
        Error::Codec {
            table: self.name().to_string(),
            what,
            source,
        }
    }

    /// Every entry of the key groups that the backend owns.
    fn cursor(&self) -> Result<Cursor> {
        let (lower, upper) = key::group_bounds(self.context.range);
        self.columns.cursor(lower, upper)
    }

    /// Every entry of one key group.
    fn group_cursor(&self, key_group: u16) -> Result<Cursor> {
        self.check_key_group(key_group)?;
        let (lower, upper) = key::group_bounds(KeyGroupRange::new(key_group, key_group)?);
        self.columns.cursor(lower, upper)
    }

    fn check_batch(&self, batch: &WriteBatch) -> Result<()> {
        if batch.is_of(&self.context.db) {
            Ok(())
        } else {
            Err(Error::ForeignBatch)
        }
    }
}
