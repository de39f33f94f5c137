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

use super::column::{Column, Value};
use crate::error::{Error, Result};

impl Column {
    /// The values of `keys`, in their order; a key may be there twice. Each key has its newest value at the time when it
    /// was read: with writers at work, not one point in time. May block on the disk or the network; safe to call from an
    /// async runtime's worker, which it blocks.
    pub(crate) fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value<'_>>>> {
        self.db().check_open()?;
        if self.db().has_remote_files() {
            return self.multi_get_cold(keys);
        }
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

    fn multi_get_cold(&self, keys: &[&[u8]]) -> Result<Vec<Option<Value<'_>>>> {
        let db = self.db();
        let mut values = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (index, key) in keys.iter().enumerate() {
            values.push(
                match db.db.get_pinned_cf_opt(self.handle(), key, &db.read_cached) {
                    Ok(value) => value.map(Value::Pinned),
                    Err(error) if error.kind() == ErrorKind::Incomplete => {
                        missing.push(index);
                        None
                    }
                    Err(error) => return Err(self.error("read", error)),
                },
            );
        }
        if let [index] = missing[..] {
            values[index] = self.get(keys[index])?;
            return Ok(values);
        }
        let column = self.clone();
        let jobs = missing.iter().map(|index| keys[*index].to_vec()).collect();
        let read = db
            .pool
            .map(jobs, move |key: Vec<u8>| -> Result<Option<Vec<u8>>> {
                Ok(column.get(&key)?.map(|value| value.to_vec()))
            });
        for (index, value) in missing.into_iter().zip(read) {
            let value = value.ok_or_else(|| Error::RocksDb {
                operation: "read",
                target: self.name().to_string(),
                kind: lazurite_env::ErrorKind::Panicked,
                message: "a reading thread panicked".to_string(),
                cause: None,
            })?;
            values[index] = value?.map(Value::Owned);
        }
        Ok(values)
    }
}
