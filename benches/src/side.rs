//! One database to measure, and the operations that are measured, in slices.
//!
//! Which side and which operation it is, is decided once per slice, so that a loop holds nothing but the operation.

use std::{fmt, hint::black_box};

use lazurite::{StateBackend, ValueState};
use rocksdb::{DB, ReadOptions, WriteOptions};

use crate::Result;

/// The table, and so the column family.
pub(crate) const TABLE: &str = "records";

/// The key groups of the table.
pub const KEY_GROUPS: u16 = 128;

/// A value: a counter and a text of 100 bytes.
pub type Value = (u64, String);

/// Entries, each one twice: as what a program has, and as the bytes that are stored.
pub struct Data {
    /// What `ValueState` is given.
    pub typed: Vec<(String, Value)>,
    /// What RocksDB is given.
    pub raw: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Data {
    /// A copy of the entries `picks`, made just now, as a program makes the keys that it asks for.
    pub fn select(&self, picks: &[u32]) -> Data {
        let picks = picks.iter().map(|&pick| pick as usize);
        Data {
            typed: picks.clone().map(|pick| self.typed[pick].clone()).collect(),
            raw: picks.map(|pick| self.raw[pick].clone()).collect(),
        }
    }

    /// Reads all of it, so that it is in the processor's cache.
    pub(crate) fn touch(&self) {
        let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        for ((key, (_, text)), (raw_key, raw_value)) in self.typed.iter().zip(&self.raw) {
            black_box(sum(key.as_bytes()) ^ sum(text.as_bytes()) ^ sum(raw_key) ^ sum(raw_value));
        }
    }
}

/// Which way to the data is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideKind {
    /// The `rocksdb` crate on RocksDB's own Env.
    Plain,
    /// The same once more on a copy of its own: how far its ratio is from 1 is what cannot be told from noise.
    Control,
    /// The `rocksdb` crate on Lazurite's env: a `UnionEnv` over POSIX files.
    Env,
    /// As `Plain`, but it decodes what it reads and encodes the values it writes, as its program would have to.
    Coded,
    /// Lazurite's `ValueState`, which encodes keys and values.
    Typed,
}

impl SideKind {
    /// All of them.
    pub const ALL: [SideKind; 5] = [
        Self::Plain,
        Self::Control,
        Self::Env,
        Self::Coded,
        Self::Typed,
    ];

    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            SideKind::Plain => "plain",
            SideKind::Control => "control",
            SideKind::Env => "env",
            SideKind::Coded => "coded",
            SideKind::Typed => "typed",
        }
    }
}

/// An operation to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Reads a value: pinned, in RocksDB; decoded, in `ValueState`.
    Get,
    /// Writes a value over an older one.
    Put,
    /// Writes values and then a file of level 0 of them.
    PutAndFlush,
    /// Walks over all entries of a key group; an operation is one entry. `ValueState` decodes keys and values.
    Iterate,
    /// The same, but `ValueState` decodes the values only.
    IterateValues,
    /// The same, but `ValueState` decodes nothing.
    IterateEncoded,
}

/// One open database.
pub struct Side {
    /// Which it is.
    pub kind: SideKind,
    pub(crate) store: Store,
}

pub(crate) enum Store {
    Raw {
        db: DB,
        read: ReadOptions,
        write: WriteOptions,
    },
    Typed {
        // Closes the database when dropped, so it must live as long as the table is used.
        backend: Box<StateBackend>,
        table: ValueState<String, Value>,
    },
}

impl Side {
    /// Does `work` on the entries `data`, or on the key group of the first of them. Gives the number of operations.
    ///
    /// # Errors
    /// What RocksDB answers; a key that is missing.
    pub fn run(&self, work: Work, data: &Data) -> Result<usize> {
        let coded = self.kind == SideKind::Coded;
        match (&self.store, work) {
            (Store::Raw { db, read, .. }, Work::Get) if coded => coded_get(db, read, data),
            (Store::Raw { db, write, .. }, Work::Put) if coded => coded_put(db, write, data),
            (Store::Raw { db, .. }, Work::Iterate) if coded => coded_iterate(db, data),
            (Store::Raw { db, read, .. }, Work::Get) => raw_get(db, read, data),
            (Store::Raw { db, write, .. }, Work::Put) => raw_put(db, write, data),
            (Store::Raw { db, .. }, Work::IterateValues) if coded => coded_iterate_values(db, data),
            (Store::Raw { db, .. }, Work::Iterate | Work::IterateValues | Work::IterateEncoded) => {
                raw_iterate(db, data)
            }
            (Store::Raw { db, write, .. }, Work::PutAndFlush) => {
                let done = raw_put(db, write, data)?;
                db.flush_cf(&column(db)?)?;
                Ok(done)
            }
            (Store::Typed { table, .. }, Work::Get) => typed_get(table, data),
            (Store::Typed { table, .. }, Work::Put) => typed_put(table, data),
            (Store::Typed { table, .. }, Work::Iterate) => typed_iterate(table, data),
            (Store::Typed { table, .. }, Work::IterateValues) => typed_iterate_values(table, data),
            (Store::Typed { table, .. }, Work::IterateEncoded) => {
                typed_iterate_encoded(table, data)
            }
            (Store::Typed { table, backend }, Work::PutAndFlush) => {
                let done = typed_put(table, data)?;
                backend.flush()?;
                Ok(done)
            }
        }
    }
}

pub(crate) fn column(db: &DB) -> Result<std::sync::Arc<rocksdb::BoundColumnFamily<'_>>> {
    db.cf_handle(TABLE)
        .ok_or_else(|| "the column family is missing".into())
}

fn key_group(data: &Data) -> u16 {
    let first = data.raw.first();
    first
        .and_then(|(key, _)| key.first_chunk::<2>())
        .map_or(0, |group| u16::from_be_bytes(*group))
}

// None of these is inlined, so that a profiler can be told to look at one of them.

#[inline(never)]
fn raw_get(db: &DB, read: &ReadOptions, data: &Data) -> Result<usize> {
    let column = column(db)?;
    for (key, _) in &data.raw {
        match db.get_pinned_cf_opt(&column, key, read)? {
            Some(value) => black_box(value.len()),
            None => return Err(missing()),
        };
    }
    Ok(data.raw.len())
}

#[inline(never)]
fn typed_get(table: &ValueState<String, Value>, data: &Data) -> Result<usize> {
    for (key, _) in &data.typed {
        match table.get(key)? {
            Some(value) => black_box(&value),
            None => return Err(missing()),
        };
    }
    Ok(data.raw.len())
}

#[inline(never)]
fn raw_put(db: &DB, write: &WriteOptions, data: &Data) -> Result<usize> {
    let column = column(db)?;
    for (key, value) in &data.raw {
        db.put_cf_opt(&column, key, value, write)?;
    }
    Ok(data.raw.len())
}

#[inline(never)]
fn typed_put(table: &ValueState<String, Value>, data: &Data) -> Result<usize> {
    for (key, value) in &data.typed {
        table.put(key, value)?;
    }
    Ok(data.raw.len())
}

#[inline(never)]
fn raw_iterate(db: &DB, data: &Data) -> Result<usize> {
    walk(db, key_group(data), |key, value| {
        black_box((key, value));
        Ok(())
    })
}

#[inline(always)]
fn walk(db: &DB, group: u16, mut f: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<usize> {
    let mut read = ReadOptions::default();
    read.set_iterate_lower_bound(group.to_be_bytes());
    read.set_iterate_upper_bound((group + 1).to_be_bytes());
    let mut iter = db.raw_iterator_cf_opt(&column(db)?, read);
    let mut entries = 0;
    iter.seek_to_first();
    while let Some((key, value)) = iter.item() {
        f(key, value)?;
        entries += 1;
        iter.next();
    }
    iter.status()?;
    Ok(entries)
}

#[inline(never)]
fn coded_get(db: &DB, read: &ReadOptions, data: &Data) -> Result<usize> {
    let column = column(db)?;
    for (key, _) in &data.raw {
        match db.get_pinned_cf_opt(&column, key, read)? {
            Some(value) => black_box(&postcard::from_bytes::<Value>(&value)?),
            None => return Err(missing()),
        };
    }
    Ok(data.raw.len())
}

#[inline(never)]
fn coded_put(db: &DB, write: &WriteOptions, data: &Data) -> Result<usize> {
    let column = column(db)?;
    for ((key, _), (_, value)) in data.raw.iter().zip(&data.typed) {
        let value = postcard::to_stdvec(value)?;
        db.put_cf_opt(&column, key, &value, write)?;
    }
    Ok(data.raw.len())
}

#[inline(never)]
fn coded_iterate(db: &DB, data: &Data) -> Result<usize> {
    walk(db, key_group(data), |key, value| {
        // The key follows its group and its length.
        let (key, _) = postcard::take_from_bytes::<String>(&key[3..])?;
        black_box(&(key, postcard::from_bytes::<Value>(value)?));
        Ok(())
    })
}

#[inline(never)]
fn coded_iterate_values(db: &DB, data: &Data) -> Result<usize> {
    walk(db, key_group(data), |_, value| {
        black_box(&postcard::from_bytes::<Value>(value)?);
        Ok(())
    })
}

#[inline(never)]
fn typed_iterate_values(table: &ValueState<String, Value>, data: &Data) -> Result<usize> {
    let (mut iter, mut entries) = (table.iter_key_group(key_group(data))?, 0);
    while let Some(entry) = iter.next_entry() {
        black_box(&entry?.value()?);
        entries += 1;
    }
    Ok(entries)
}

#[inline(never)]
fn typed_iterate_encoded(table: &ValueState<String, Value>, data: &Data) -> Result<usize> {
    let (mut iter, mut entries) = (table.iter_key_group(key_group(data))?, 0);
    while let Some(entry) = iter.next_entry() {
        let entry = entry?;
        black_box((entry.encoded_key(), entry.encoded_value()));
        entries += 1;
    }
    Ok(entries)
}

#[inline(never)]
fn typed_iterate(table: &ValueState<String, Value>, data: &Data) -> Result<usize> {
    let mut entries = 0;
    for entry in table.iter_key_group(key_group(data))? {
        black_box(&entry?);
        entries += 1;
    }
    Ok(entries)
}

fn missing() -> Box<dyn std::error::Error + Send + Sync> {
    "an entry is not there".into()
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Side({})", self.kind.name())
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} entries)", self.raw.len())
    }
}
