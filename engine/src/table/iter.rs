//! Iterators over tables.
//!
//! Each sees its table as it was when the iterator was made, whatever is written meanwhile, and keeps nobody from writing.
//! The files of that moment stay on disk until it is dropped, so do not keep it for long. After an error an iterator ends.
//!
//! As an [`Iterator`] each gives owned keys and values. Its `next_entry` gives the entry as it is stored, and what is asked
//! of it is decoded: making two owned strings costs more than going to the next entry, so a walk that passes over entries,
//! or looks at a part of each, is faster that way.

use std::{fmt, sync::Arc};

use super::{
    Table,
    key::{self, StoredKey},
    map::MapTable,
    value::ValueTable,
};
use crate::{
    codec::CodecError,
    error::{Error, Result},
    rocks::Cursor,
};

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

    /// Goes to the next entry and gives its stored key and value.
    // Inlined, or the parts are copied from frame to frame, which costs as much as finding them.
    #[inline(always)]
    fn next<K>(&mut self, table: &Table<K>) -> Result<Option<(StoredKey<'_>, &[u8])>, Box<Error>> {
        if self.done {
            return Ok(None);
        }
        // Namespaces stand behind the key, so those of other namespaces lie in between. What is no key is not passed over.
        let ours = |key: &[u8]| key::parse(key).is_none_or(|key| *key.namespace == *self.namespace);
        match self.cursor.next_where(ours) {
            Ok(Some((stored, value))) => match key::parse(stored) {
                Some(key) => Ok(Some((key, value))),
                None => {
                    self.done = true;
                    Err(no_key(table))
                }
            },
            ended => {
                self.done = true;
                ended.map(|_| None)
            }
        }
    }
}

#[cold]
fn no_key<K>(table: &Table<K>) -> Box<Error> {
    let error = CodecError::new("it is not made of key group, key and namespace");
    Box::new(table.codec_error("stored key", error))
}

/// The entries of a [`ValueState`](super::ValueState), by key group and then in no particular order.
pub struct ValueIter<K: 'static, V: 'static> {
    pub(super) scan: Scan,
    pub(super) table: Arc<ValueTable<K, V>>,
}

impl<K, V> ValueIter<K, V> {
    /// Goes to the next entry, as [`next`](Iterator::next) does, and gives it undecoded. May block on the disk or the
    /// network; decoding does not.
    ///
    /// # Errors
    /// What reading fails with; the iterator has ended then. `None` after the last entry.
    ///
    /// ```
    /// # use lazurite::{Result, ValueState};
    /// /// The sum of all counts; the keys are not decoded.
    /// fn sum(counts: &ValueState<String, u64>) -> Result<u64> {
    ///     let (mut iter, mut sum) = (counts.iter()?, 0);
    ///     while let Some(entry) = iter.next_entry() {
    ///         sum += entry?.value()?;
    ///     }
    ///     Ok(sum)
    /// }
    /// ```
    #[inline(always)]
    pub fn next_entry(&mut self) -> Option<Result<ValueEntry<'_, K, V>>> {
        let table = &*self.table;
        match self.scan.next(&table.table) {
            Ok(Some((key, value))) => Some(Ok(ValueEntry { key, value, table })),
            Ok(None) => None,
            Err(error) => Some(Err(*error)),
        }
    }
}

impl<K, V> Iterator for ValueIter<K, V> {
    type Item = Result<(K, V)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self
            .next_entry()?
            .and_then(|entry| Ok((entry.key()?, entry.value()?)));
        self.scan.done |= item.is_err();
        Some(item)
    }
}

/// An entry of a [`ValueState`](super::ValueState), as it is stored. Each method decodes anew.
pub struct ValueEntry<'a, K: 'static, V: 'static> {
    key: StoredKey<'a>,
    value: &'a [u8],
    table: &'a ValueTable<K, V>,
}

impl<'a, K, V> ValueEntry<'a, K, V> {
    /// The key group.
    pub fn key_group(&self) -> u16 {
        self.key.key_group()
    }

    /// The key. [`Error::Codec`](crate::Error::Codec) where its bytes are none.
    #[inline]
    pub fn key(&self) -> Result<K> {
        let ValueTable { table, .. } = self.table;
        table.decode("key", &table.key_codec, self.key.key)
    }

    /// The value. [`Error::Codec`](crate::Error::Codec) where its bytes are none.
    #[inline]
    pub fn value(&self) -> Result<V> {
        let ValueTable { table, value_codec } = self.table;
        table.decode("value", value_codec, self.value)
    }

    /// The bytes that the key's codec made.
    pub fn encoded_key(&self) -> &'a [u8] {
        self.key.key
    }

    /// The bytes that the value's codec made.
    pub fn encoded_value(&self) -> &'a [u8] {
        self.value
    }
}

/// The entries of a [`MapState`](super::MapState): key, user key and user value; by key group, then key by key in no
/// particular order, then in the order of the encoded user keys.
pub struct MapIter<K: 'static, UK: 'static, UV: 'static> {
    pub(super) scan: Scan,
    pub(super) table: Arc<MapTable<K, UK, UV>>,
}

impl<K, UK, UV> MapIter<K, UK, UV> {
    /// Goes to the next entry and gives it undecoded. As [`ValueIter::next_entry`].
    #[inline(always)]
    pub fn next_entry(&mut self) -> Option<Result<MapEntry<'_, K, UK, UV>>> {
        self.scan.next_of(&self.table)
    }
}

impl<K, UK, UV> Iterator for MapIter<K, UK, UV> {
    type Item = Result<(K, UK, UV)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self
            .next_entry()?
            .and_then(|entry| Ok((entry.key()?, entry.user_key()?, entry.value()?)));
        self.scan.done |= item.is_err();
        Some(item)
    }
}

/// The entries of one key of a [`MapState`](super::MapState): user key and user value, in the order of the encoded user
/// keys.
pub struct MapEntries<K: 'static, UK: 'static, UV: 'static> {
    pub(super) scan: Scan,
    pub(super) table: Arc<MapTable<K, UK, UV>>,
}

impl<K, UK, UV> MapEntries<K, UK, UV> {
    /// Goes to the next entry and gives it undecoded. As [`ValueIter::next_entry`].
    #[inline(always)]
    pub fn next_entry(&mut self) -> Option<Result<MapEntry<'_, K, UK, UV>>> {
        self.scan.next_of(&self.table)
    }
}

impl<K, UK, UV> Iterator for MapEntries<K, UK, UV> {
    type Item = Result<(UK, UV)>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self
            .next_entry()?
            .and_then(|entry| Ok((entry.user_key()?, entry.value()?)));
        self.scan.done |= item.is_err();
        Some(item)
    }
}

impl Scan {
    #[inline]
    fn next_of<'a, K, UK, UV>(
        &'a mut self,
        table: &'a MapTable<K, UK, UV>,
    ) -> Option<Result<MapEntry<'a, K, UK, UV>>> {
        match self.next(&table.table) {
            Ok(Some((key, value))) => Some(Ok(MapEntry { key, value, table })),
            Ok(None) => None,
            Err(error) => Some(Err(*error)),
        }
    }
}

/// An entry of a [`MapState`](super::MapState), as it is stored. Each method decodes anew.
pub struct MapEntry<'a, K: 'static, UK: 'static, UV: 'static> {
    key: StoredKey<'a>,
    value: &'a [u8],
    table: &'a MapTable<K, UK, UV>,
}

impl<'a, K, UK, UV> MapEntry<'a, K, UK, UV> {
    /// The key group.
    pub fn key_group(&self) -> u16 {
        self.key.key_group()
    }

    /// The key. [`Error::Codec`](crate::Error::Codec) where its bytes are none.
    #[inline]
    pub fn key(&self) -> Result<K> {
        let MapTable { table, .. } = self.table;
        table.decode("key", &table.key_codec, self.key.key)
    }

    /// The user key. [`Error::Codec`](crate::Error::Codec) where its bytes are none.
    #[inline]
    pub fn user_key(&self) -> Result<UK> {
        let MapTable {
            table,
            user_key_codec,
            ..
        } = self.table;
        table.decode("user key", user_key_codec, self.key.user_key)
    }

    /// The user value. [`Error::Codec`](crate::Error::Codec) where its bytes are none.
    #[inline]
    pub fn value(&self) -> Result<UV> {
        let MapTable {
            table, value_codec, ..
        } = self.table;
        table.decode("value", value_codec, self.value)
    }

    /// The bytes that the key's codec made.
    pub fn encoded_key(&self) -> &'a [u8] {
        self.key.key
    }

    /// The bytes that the user key's codec made.
    pub fn encoded_user_key(&self) -> &'a [u8] {
        self.key.user_key
    }

    /// The bytes that the user value's codec made.
    pub fn encoded_value(&self) -> &'a [u8] {
        self.value
    }
}

impl<K, V> fmt::Debug for ValueIter<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueIter({})", self.table.table.name())
    }
}

impl<K, V> fmt::Debug for ValueEntry<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither key nor value: they are the user's data.
        write!(f, "ValueEntry({})", self.table.table.name())
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

impl<K, UK, UV> fmt::Debug for MapEntry<'_, K, UK, UV> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MapEntry({})", self.table.table.name())
    }
}
