//! Many keys at once, in about one round trip where they are remote.
//!
//! RocksDB's batched `MultiGet` goes file by file: over n remote files it waits n times, one after another. So where any
//! file is remote, each key is first looked for in memory, and what memory cannot answer is read by a pool of threads, one
//! plain get per key.
//!
//! The look into memory is one `Get` per key on purpose. `MultiGet` of RocksDB 11.8.1 does not honour the block cache tier:
//! it reads data blocks from files all the same, and where a key's search goes on into a second block that is not cached,
//! it answers "found" with an empty value. `Get` answers `Incomplete`.

use rocksdb::ErrorKind;

use super::{
    column::{Column, Value},
    columns::Columns,
    db::Db,
};
use crate::error::{Error, Result};

impl Columns {
    fn db(&self) -> &Db {
        self.any().db()
    }

    /// The values of `keys`, in their order; a key may be there twice. Each key has its newest value at the time when it
    /// was read: with writers at work, not one point in time. May block on the disk or the network; safe to call from an
    /// async runtime's worker, which it blocks.
    pub(crate) fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value<'_>>>> {
        self.db().check_open()?;
        if self.db().has_remote_files() {
            return self.multi_get_cold(keys);
        }
        if let Some(column) = self.only() {
            return column.multi_get_local(keys);
        }
        // Each column is asked once.
        let mut values: Vec<_> = keys.iter().map(|_| None).collect();
        for column in self.all() {
            let (places, own): (Vec<usize>, Vec<&[u8]>) = (0..)
                .zip(keys)
                .filter(|(_, key)| self.of(key).name() == column.name())
                .map(|(place, key)| (place, *key))
                .unzip();
            for (place, value) in places.into_iter().zip(column.multi_get_local(&own)?) {
                values[place] = value;
            }
        }
        Ok(values)
    }

    fn multi_get_cold(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value<'_>>>> {
        let (mut values, missing) = self.look_in_memory(keys)?;
        if let [index] = missing[..] {
            values[index] = self.get(keys[index])?;
            return Ok(values);
        }
        let jobs = missing.iter().map(|index| keys[*index].to_vec()).collect();
        let read = self.db().pool.map(jobs, self.reader());
        for (index, value) in missing.into_iter().zip(read) {
            let value = value.ok_or_else(|| self.panicked())?;
            values[index] = value?.map(Value::Owned);
        }
        Ok(values)
    }

    /// As [`multi_get`](Self::multi_get), waiting without a thread: what memory cannot answer is read by the pool. Where no
    /// file is remote it is read at once, from the local disk. Reads that were begun go on where the future is dropped.
    pub(crate) async fn multi_get_async(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value<'_>>>> {
        self.db().check_open()?;
        if !self.db().has_remote_files() {
            return self.multi_get(keys);
        }
        let (mut values, missing) = self.look_in_memory(keys)?;
        let jobs = missing.iter().map(|index| keys[*index].to_vec());
        let reads = self.db().pool.spawn(jobs, self.reader());
        for (index, read) in missing.into_iter().zip(reads) {
            let value = read.await.map_err(|_| self.panicked())?;
            values[index] = value?.map(Value::Owned);
        }
        Ok(values)
    }

    /// Has the pool begin to read what memory cannot answer of `keys`, and forgets the values: their blocks are in the block
    /// cache then. Nothing where no file is remote.
    pub(crate) fn prefetch(&self, keys: &[&[u8]]) -> Result<()> {
        self.db().check_open()?;
        if self.db().has_remote_files() {
            let (_, missing) = self.look_in_memory(keys)?;
            let jobs = missing.iter().map(|index| keys[*index].to_vec());
            drop(self.db().pool.spawn(jobs, self.reader()));
        }
        Ok(())
    }

    /// What memory knows of `keys`, and the places of those that only files can answer.
    fn look_in_memory(&self, keys: &[&[u8]]) -> Result<(Vec<Option<Value<'_>>>, Vec<usize>)> {
        let db = self.db();
        let (mut values, mut missing) = (Vec::with_capacity(keys.len()), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            let column = self.of(key);
            values.push(
                match db
                    .db
                    .get_pinned_cf_opt(column.handle(), key, &db.read_cached)
                {
                    Ok(value) => value.map(Value::Pinned),
                    Err(error) if error.kind() == ErrorKind::Incomplete => {
                        missing.push(index);
                        None
                    }
                    Err(error) => return Err(column.error("read", error)),
                },
            );
        }
        Ok((values, missing))
    }

    /// Reads one key, on whatever thread.
    fn reader(&self) -> impl Fn(Vec<u8>) -> Result<Option<Vec<u8>>> + Send + Sync + 'static {
        let columns = self.clone();
        move |key| Ok(columns.get(&key)?.map(|value| value.to_vec()))
    }

    fn panicked(&self) -> Error {
        Error::RocksDb {
            operation: "read",
            target: self.any().name().to_string(),
            kind: lazurite_env::ErrorKind::Panicked,
            message: "a reading thread panicked".to_string(),
            cause: None,
        }
    }
}

impl Column {
    /// The values of `keys`, all files being local.
    fn multi_get_local(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value<'_>>>> {
        let db = self.db();
        db.db
            .batched_multi_get_cf_opt(self.handle(), keys.iter().copied(), false, &db.read)
            .into_iter()
            .map(|value| match value {
                Ok(value) => Ok(value.map(Value::Pinned)),
                Err(error) => Err(self.error("read", error)),
            })
            .collect()
    }
}
