//! Iterators over tables.
//!
//! Each sees its table as it was when the iterator was made, whatever is written meanwhile, and keeps nobody from writing.
//! The files of that moment stay on disk until it is dropped, so do not keep it for long. After an error an iterator ends.

use std::{fmt, sync::Arc};

use super::{
    Table,
    key::{self, StoredKey},
    map::MapTable,
    value::ValueTable,
};
use crate::{codec::CodecError, error::Result, rocks::Cursor};

/// The entries of one namespace that a cursor comes by.
pub(super) struct Scan {
    cursor: Cursor,
    namespace: Arc<[u8]>,
    done: bool,
}

impl Scan {
    pub(super) fn new(cursor: Cursor, namespace: Arc<[u8]>) -> Scan {
        Scan {
            cursor,
            namespace,
            done: false,
        }
    }

    fn next<K, R>(
        &mut self,
        table: &Table<K>,
        decode: impl FnOnce(StoredKey<'_>, &[u8]) -> Result<R>,
    ) -> Option<Result<R>> {
        if self.done {
            return None;
        }
        let item = loop {
            let (stored, value) = match self.cursor.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break None,
                Err(error) => break Some(Err(error)),
            };
            let Some(stored) = key::parse(stored) else {
                let error = CodecError::new("it is not made of key group, key and namespace");
                break Some(Err(table.codec_error("stored key", error)));
            };
            // Namespaces stand behind the key, so those of other namespaces lie in between.
            if *stored.namespace == *self.namespace {
                break Some(decode(stored, value));
            }
        };
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

/// The entries of a [`ValueState`](super::ValueState), by key group and then in no particular order.
pub struct ValueIter<K: 'static, V: 'static> {
    pub(super) scan: Scan,
    pub(super) table: Arc<ValueTable<K, V>>,
}

impl<K, V> Iterator for ValueIter<K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        let ValueTable { table, value_codec } = &*self.table;
        self.scan.next(table, |stored, value| {
            Ok((
                table.decode("key", &table.key_codec, stored.key)?,
                table.decode("value", value_codec, value)?,
            ))
        })
    }
}

/// The entries of a [`MapState`](super::MapState): key, user key and user value; by key group, then key by key in no
/// particular order, then in the order of the encoded user keys.
pub struct MapIter<K: 'static, UK: 'static, UV: 'static> {
    pub(super) scan: Scan,
    pub(super) table: Arc<MapTable<K, UK, UV>>,
}

impl<K, UK, UV> Iterator for MapIter<K, UK, UV> {
    type Item = Result<(K, UK, UV)>;

    fn next(&mut self) -> Option<Self::Item> {
        let MapTable {
            table,
            user_key_codec,
            value_codec,
        } = &*self.table;
        self.scan.next(table, |stored, value| {
            Ok((
                table.decode("key", &table.key_codec, stored.key)?,
                table.decode("user key", user_key_codec, stored.user_key)?,
                table.decode("value", value_codec, value)?,
            ))
        })
    }
}

/// The entries of one key of a [`MapState`](super::MapState): user key and user value, in the order of the encoded user
/// keys.
pub struct MapEntries<K: 'static, UK: 'static, UV: 'static> {
    pub(super) scan: Scan,
    pub(super) table: Arc<MapTable<K, UK, UV>>,
}

impl<K, UK, UV> Iterator for MapEntries<K, UK, UV> {
    type Item = Result<(UK, UV)>;

    fn next(&mut self) -> Option<Self::Item> {
        let MapTable {
            table,
            user_key_codec,
            value_codec,
        } = &*self.table;
        self.scan.next(table, |stored, value| {
            Ok((
                table.decode("user key", user_key_codec, stored.user_key)?,
                table.decode("value", value_codec, value)?,
            ))
        })
    }
}

impl<K, V> fmt::Debug for ValueIter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueIter({})", self.table.table.name())
    }
}

impl<K, UK, UV> fmt::Debug for MapIter<K, UK, UV> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapIter({})", self.table.table.name())
    }
}

impl<K, UK, UV> fmt::Debug for MapEntries<K, UK, UV> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapEntries({})", self.table.table.name())
    }
}
