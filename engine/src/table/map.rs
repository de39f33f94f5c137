//! Tables with a map per key.

use std::{fmt, sync::Arc};

use super::{
    Table, TableContext, TableDescriptor, WriteBatch,
    descriptor::MapStateDescriptor,
    iter::{MapEntries, MapIter, Scan},
    key,
};
use crate::{
    codec::CodecHandle,
    error::Result,
    rocks::{Columns, Cursor},
};

pub(super) struct MapTable<K: 'static, UK: 'static, UV: 'static> {
    pub(super) table: Table<K>,
    pub(super) user_key_codec: CodecHandle<UK>,
    pub(super) value_codec: CodecHandle<UV>,
}

/// A map (user key to user value) per key, in one namespace of a table. The map of a key may be larger than memory: each
/// entry is stored by itself. Cheap to clone; every method may be called from any thread at once.
///
/// What blocks and how operations fail is as for [`ValueState`](crate::ValueState).
pub struct MapState<K: 'static, UK: 'static, UV: 'static> {
    table: Arc<MapTable<K, UK, UV>>,
    namespace: Arc<[u8]>,
}

impl<K, UK, UV> MapState<K, UK, UV> {
    /// The caller has checked the descriptor's schema against what is stored, and `columns` are the table's.
    pub(crate) fn new(
        context: Arc<TableContext>,
        columns: Columns,
        descriptor: &MapStateDescriptor<K, UK, UV>,
    ) -> Self {
        let table = Table {
            context,
            name: descriptor.name().into(),
            columns,
            key_codec: descriptor.key_codec.clone(),
        };
        MapState {
            table: Arc::new(MapTable {
                table,
                user_key_codec: descriptor.user_key_codec.clone(),
                value_codec: descriptor.value_codec.clone(),
            }),
            namespace: Arc::default(),
        }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        self.table.table.name()
    }

    /// The same table in another namespace: see [`ValueState::in_namespace`](crate::ValueState::in_namespace).
    pub fn in_namespace(&self, namespace: impl AsRef<[u8]>) -> Self {
        MapState {
            table: self.table.clone(),
            namespace: namespace.as_ref().into(),
        }
    }

    /// The value of `user_key` in the map of `key`.
    pub fn get(&self, key: &K, user_key: &UK) -> Result<Option<UV>> {
        let MapTable {
            table, value_codec, ..
        } = &*self.table;
        self.with_entry(key, user_key, |stored| match table.columns.get(stored)? {
            Some(value) => table.decode("value", value_codec, &value).map(Some),
            None => Ok(None),
        })
    }

    /// As [`get`](Self::get), for async code: see [`ValueState::get_async`](crate::ValueState::get_async).
    pub fn get_async(
        &self,
        key: &K,
        user_key: &UK,
    ) -> impl Future<Output = Result<Option<UV>>> + Send + use<K, UK, UV> {
        let own = self.table.clone();
        let stored = self.with_entry(key, user_key, |stored| Ok(stored.to_vec()));
        async move {
            let MapTable {
                table, value_codec, ..
            } = &*own;
            let stored = stored?;
            let mut values = table.columns.multi_get_async(&[&stored]).await?;
            match values.pop().flatten() {
                Some(value) => table.decode("value", value_codec, &value).map(Some),
                None => Ok(None),
            }
        }
    }

    /// True where the map of `key` has `user_key`. Costs a read.
    pub fn contains(&self, key: &K, user_key: &UK) -> Result<bool> {
        let table = &self.table.table;
        self.with_entry(key, user_key, |stored| {
            Ok(table.columns.get(stored)?.is_some())
        })
    }

    /// Sets the value of `user_key` in the map of `key`. Durable when [`ValueState::put`](crate::ValueState::put) is.
    pub fn put(&self, key: &K, user_key: &UK, value: &UV) -> Result<()> {
        let MapTable {
            table, value_codec, ..
        } = &*self.table;
        self.with_entry(key, user_key, |stored| {
            table.with_encoded("value", value_codec, value, |value| {
                table.columns.put(stored, value)
            })
        })
    }

    /// Removes `user_key` from the map of `key`; nothing where it is not there. Reads nothing.
    pub fn remove(&self, key: &K, user_key: &UK) -> Result<()> {
        let table = &self.table.table;
        self.with_entry(key, user_key, |stored| table.columns.delete(stored))
    }

    /// Removes the whole map of `key`. Reads nothing: it writes one range tombstone, which later reads of the table have to
    /// look at until it is compacted away. So [`remove`](Self::remove) the entries of small maps that are emptied often.
    pub fn clear(&self, key: &K) -> Result<()> {
        let table = &self.table.table;
        table.with_prefix(key, &self.namespace, |prefix| {
            table.columns.delete_range(prefix, &key::prefix_end(prefix))
        })
    }

    /// True where the map of `key` has no entry. Costs a read.
    pub fn is_empty(&self, key: &K) -> Result<bool> {
        let mut cursor = self.key_cursor(key)?;
        let first = cursor.next_where(|_| true).map_err(|error| *error)?;
        Ok(first.is_none())
    }

    /// Adds a [`put`](Self::put) to `batch`.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`](crate::Error::ForeignBatch) where another backend made the batch. After an error the batch is
    /// as it was.
    pub fn put_to(&self, batch: &mut WriteBatch, key: &K, user_key: &UK, value: &UV) -> Result<()> {
        let MapTable {
            table, value_codec, ..
        } = &*self.table;
        table.check_batch(batch)?;
        self.with_entry(key, user_key, |stored| {
            table.with_encoded("value", value_codec, value, |value| {
                batch.put(&table.columns, stored, value);
                Ok(())
            })
        })
    }

    /// Adds a [`remove`](Self::remove) to `batch`. Errors as [`put_to`](Self::put_to).
    pub fn remove_to(&self, batch: &mut WriteBatch, key: &K, user_key: &UK) -> Result<()> {
        let table = &self.table.table;
        table.check_batch(batch)?;
        self.with_entry(key, user_key, |stored| {
            batch.delete(&table.columns, stored);
            Ok(())
        })
    }

    /// Adds a [`clear`](Self::clear) to `batch`. Errors as [`put_to`](Self::put_to).
    pub fn clear_to(&self, batch: &mut WriteBatch, key: &K) -> Result<()> {
        let table = &self.table.table;
        table.check_batch(batch)?;
        table.with_prefix(key, &self.namespace, |prefix| {
            batch.delete_range(&table.columns, prefix, &key::prefix_end(prefix));
            Ok(())
        })
    }

    /// The map of `key` as of now, in the order of the encoded user keys.
    pub fn entries(&self, key: &K) -> Result<MapEntries<K, UK, UV>> {
        let scan = Scan::new(self.key_cursor(key)?, self.namespace.clone());
        Ok(MapEntries {
            scan,
            table: self.table.clone(),
        })
    }

    /// The entries of this namespace in the key groups that the backend owns, as of now. Passes over those of other
    /// namespaces one by one.
    pub fn iter(&self) -> Result<MapIter<K, UK, UV>> {
        let scan = Scan::new(self.table.table.cursor()?, self.namespace.clone());
        Ok(MapIter {
            scan,
            table: self.table.clone(),
        })
    }

    /// The entries of this namespace in one key group, as of now.
    pub fn iter_key_group(&self, key_group: u16) -> Result<MapIter<K, UK, UV>> {
        let scan = Scan::new(
            self.table.table.group_cursor(key_group)?,
            self.namespace.clone(),
        );
        Ok(MapIter {
            scan,
            table: self.table.clone(),
        })
    }

    /// Runs `f` with the stored key of an entry.
    fn with_entry<R>(
        &self,
        key: &K,
        user_key: &UK,
        f: impl FnOnce(&[u8]) -> Result<R>,
    ) -> Result<R> {
        let MapTable {
            table,
            user_key_codec,
            ..
        } = &*self.table;
        table.with_prefix(key, &self.namespace, |stored| {
            table.append("user key", user_key_codec, user_key, stored)?;
            f(stored)
        })
    }

    fn key_cursor(&self, key: &K) -> Result<Cursor> {
        let table = &self.table.table;
        table.with_prefix(key, &self.namespace, |prefix| {
            table
                .columns
                .cursor(prefix.clone(), key::prefix_end(prefix))
        })
    }
}

impl<K, UK, UV> Clone for MapState<K, UK, UV> {
    fn clone(&self) -> Self {
        MapState {
            table: self.table.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

impl<K, UK, UV> fmt::Debug for MapState<K, UK, UV> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapState({})", self.name())
    }
}
