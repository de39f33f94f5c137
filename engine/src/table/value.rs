//! Tables with one value per key.

use std::{fmt, pin::Pin, sync::Arc};

use super::{
    Table, TableContext, TableDescriptor, WriteBatch,
    descriptor::ValueStateDescriptor,
    iter::{Scan, ValueIter},
};
use crate::{
    codec::CodecHandle,
    error::Result,
    rocks::{Columns, Value},
};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(super) struct ValueTable<K: 'static, V: 'static> {
    pub(super) table: Table<K>,
    pub(super) value_codec: CodecHandle<V>,
}

impl<K, V> ValueTable<K, V> {
    async fn get_async(&self, keys: Prefixes) -> Result<Vec<Option<V>>> {
        let columns = &self.table.columns;
        self.decode_all(columns.multi_get_async(&keys.as_slices()).await?)
    }

    fn decode_all(&self, values: Vec<Option<Value<'_>>>) -> Result<Vec<Option<V>>> {
        let ValueTable { table, value_codec } = self;
        values
            .into_iter()
            .map(|value| match value {
                Some(value) => table.decode("value", value_codec, &value).map(Some),
                None => Ok(None),
            })
            .collect()
    }
}

/// One value per key, in one namespace of a table. Cheap to clone; every method may be called from any thread at once.
///
/// Reads may block on the disk, or on the network while the file that holds the key is remote. Writes go to memory, and
/// wait only while RocksDB has too much to flush. Each operation on a key fails with
/// [`Error::KeyGroupOutOfRange`](crate::Error::KeyGroupOutOfRange) where the backend does not own the key's group, with
/// [`Error::Codec`](crate::Error::Codec) where the codec refuses, and with [`Error::Closed`](crate::Error::Closed) after the
/// backend was closed.
pub struct ValueState<K: 'static, V: 'static> {
    table: Arc<ValueTable<K, V>>,
    namespace: Arc<[u8]>,
}

impl<K, V> ValueState<K, V> {
    /// The caller has checked the descriptor's schema against what is stored, and `columns` are the table's.
    pub(crate) fn new(
        context: Arc<TableContext>,
        columns: Columns,
        descriptor: &ValueStateDescriptor<K, V>,
    ) -> Self {
        let table = Table {
            context,
            name: descriptor.name().into(),
            columns,
            key_codec: descriptor.key_codec.clone(),
        };
        ValueState {
            table: Arc::new(ValueTable {
                table,
                value_codec: descriptor.value_codec.clone(),
            }),
            namespace: Arc::default(),
        }
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        self.table.table.name()
    }

    /// The same table in another namespace (a window, say): the same key has a value of its own there. Any bytes; the
    /// namespace that a table starts with is the empty one.
    pub fn in_namespace(&self, namespace: impl AsRef<[u8]>) -> Self {
        ValueState {
            table: self.table.clone(),
            namespace: namespace.as_ref().into(),
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>> {
        let ValueTable { table, value_codec } = &*self.table;
        table.with_prefix(key, &self.namespace, |key| {
            match table.columns.get(key)? {
                Some(value) => table.decode("value", value_codec, &value).map(Some),
                None => Ok(None),
            }
        })
    }

    /// The values of many keys, in their order, for about the price of one read where they are remote. A key may be there
    /// twice. Each value is the newest at the time when it was read: with writers at work, not one point in time.
    pub fn multi_get<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<Vec<Option<V>>> {
        let table = &self.table.table;
        let keys = Prefixes::encode(table, &self.namespace, keys)?;
        self.table
            .decode_all(table.columns.multi_get(&keys.as_slices())?)
    }

    /// As [`get`](Self::get), for async code: while files are remote no thread waits for the network but those of a pool
    /// ([`cold_read_threads`](crate::RocksDbOptions::cold_read_threads)). Where all are local it reads at once, and so blocks as
    /// long as a local read does. Needs no runtime of any kind. Nothing happens before the future is polled. A read that was
    /// begun goes on where the future is dropped, and until it ends the local directory stays locked, also when the backend is
    /// dropped.
    pub fn get_async(&self, key: &K) -> impl Future<Output = Result<Option<V>>> + Send + use<K, V> {
        let own = self.table.clone();
        let keys = Prefixes::encode(&own.table, &self.namespace, [key]);
        async move { Ok(own.get_async(keys?).await?.pop().flatten()) }
    }

    /// As [`multi_get`](Self::multi_get), for async code: see [`get_async`](Self::get_async).
    pub fn multi_get_async<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a K>,
    ) -> BoxFuture<Result<Vec<Option<V>>>> {
        let own = self.table.clone();
        let keys = Prefixes::encode(&own.table, &self.namespace, keys);
        Box::pin(async move { own.get_async(keys?).await })
    }

    /// Begins to bring what reads of `keys` will need, and returns: a program that knows its next records reads them without
    /// waiting later. While files are remote, what memory cannot answer is read by the pool of
    /// [`cold_read_threads`](crate::RocksDbOptions::cold_read_threads), in order and before the reads that come after; where all
    /// are local, nothing is done. A value that cannot be read is an error of the read that asks for it, not of this. The local
    /// directory stays locked until these reads have ended, also when the backend is dropped.
    ///
    /// Ask for no more than the block cache has room for beside what is in use: a block that leaves before it is read costs a
    /// local read or, where the chunk cache is full or off, a request.
    pub fn prefetch<'a>(&self, keys: impl IntoIterator<Item = &'a K>) -> Result<()> {
        let table = &self.table.table;
        let keys = Prefixes::encode(table, &self.namespace, keys)?;
        table.columns.prefetch(&keys.as_slices())
    }

    /// True where `key` has a value. Costs a read.
    pub fn contains(&self, key: &K) -> Result<bool> {
        let table = &self.table.table;
        table.with_prefix(key, &self.namespace, |key| {
            Ok(table.columns.get(key)?.is_some())
        })
    }

    /// Sets the value of `key`. In memory on return; durable at the next complete snapshot, or, with the write-ahead log,
    /// against a crash of the process at once.
    pub fn put(&self, key: &K, value: &V) -> Result<()> {
        let ValueTable { table, value_codec } = &*self.table;
        table.with_prefix(key, &self.namespace, |key| {
            table.with_encoded("value", value_codec, value, |value| {
                table.columns.put(key, value)
            })
        })
    }

    /// Removes the value of `key`; nothing where there is none. Reads nothing.
    pub fn remove(&self, key: &K) -> Result<()> {
        let table = &self.table.table;
        table.with_prefix(key, &self.namespace, |key| table.columns.delete(key))
    }

    /// Adds a [`put`](Self::put) to `batch`.
    ///
    /// # Errors
    /// [`Error::ForeignBatch`](crate::Error::ForeignBatch) where another backend made the batch. After an error the batch is
    /// as it was.
    pub fn put_to(&self, batch: &mut WriteBatch, key: &K, value: &V) -> Result<()> {
        let ValueTable { table, value_codec } = &*self.table;
        table.check_batch(batch)?;
        table.with_prefix(key, &self.namespace, |key| {
            table.with_encoded("value", value_codec, value, |value| {
                batch.put(&table.columns, key, value);
                Ok(())
            })
        })
    }

    /// Adds a [`remove`](Self::remove) to `batch`. Errors as [`put_to`](Self::put_to).
    pub fn remove_to(&self, batch: &mut WriteBatch, key: &K) -> Result<()> {
        let table = &self.table.table;
        table.check_batch(batch)?;
        table.with_prefix(key, &self.namespace, |key| {
            batch.delete(&table.columns, key);
            Ok(())
        })
    }

    /// The entries of this namespace in the key groups that the backend owns, as of now. Passes over those of other
    /// namespaces one by one.
    pub fn iter(&self) -> Result<ValueIter<K, V>> {
        let scan = Scan::new(self.table.table.cursor()?, self.namespace.clone());
        Ok(ValueIter {
            scan,
            table: self.table.clone(),
        })
    }

    /// The entries of this namespace in one key group, as of now.
    pub fn iter_key_group(&self, key_group: u16) -> Result<ValueIter<K, V>> {
        let scan = Scan::new(
            self.table.table.group_cursor(key_group)?,
            self.namespace.clone(),
        );
        Ok(ValueIter {
            scan,
            table: self.table.clone(),
        })
    }
}

/// Encoded keys, one after another.
struct Prefixes {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Prefixes {
    fn encode<'a, K: 'a>(
        table: &Table<K>,
        namespace: &[u8],
        keys: impl IntoIterator<Item = &'a K>,
    ) -> Result<Self> {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for key in keys {
            table.append_prefix(key, namespace, &mut bytes)?;
            ends.push(bytes.len());
        }
        Ok(Prefixes { bytes, ends })
    }

    fn as_slices(&self) -> Vec<&[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[start..*end])
            .collect()
    }
}

impl<K, V> Clone for ValueState<K, V> {
    fn clone(&self) -> Self {
        ValueState {
            table: self.table.clone(),
            namespace: self.namespace.clone(),
        }
    }
}

impl<K, V> fmt::Debug for ValueState<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueState({})", self.name())
    }
}
