//! The state that the cold start is measured on: so many bytes in about so many files, the same on every machine.
//!
//! Values are incompressible and follow from their key alone, so that every read can be checked.

use std::{fs, path::Path, sync::Arc};

use lazurite::{
    Compression, Restore, RocksDbOptions, SnapshotOptions, SnapshotReport, StateBackend,
    ValueState, ValueStateDescriptor, snapshot::SnapshotStore,
};
use lazurite_env::{IoRuntime, remote::RemoteStore};

use crate::{
    error::{Error, Result},
    output::Format,
    progress,
};

/// The table of the bench.
pub type Values = ValueState<u64, Vec<u8>>;

const BATCH: u64 = 1_000;

/// How much state, in how many pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Table files to aim at.
    pub files: u64,
    /// Bytes of one value.
    pub value_bytes: u64,
    /// Bytes of all values, in MiB.
    pub state_mib: u64,
}

impl Shape {
    /// Refuses what RocksDB cannot be brought to.
    pub fn check(&self) -> Result<()> {
        if self.file_bytes() < 64 << 10 {
            return Err(Error::Usage(format!(
                "{} files of {} MiB are smaller than 64 KiB each: take fewer --files or a larger --state-mib",
                self.files, self.state_mib
            )));
        }
        Ok(())
    }

    /// How many values there are; their keys are 0 and up.
    pub fn values(&self) -> u64 {
        ((self.state_mib << 20) / self.value_bytes).max(1)
    }

    fn file_bytes(&self) -> u64 {
        (self.state_mib << 20) / self.files
    }

    /// A job name that no other shape has.
    pub fn job(&self) -> String {
        format!(
            "cold-start-{}x{}-of-{}mib",
            self.files, self.value_bytes, self.state_mib
        )
    }

    /// The options with which the state is written and read.
    pub fn rocksdb(&self) -> RocksDbOptions {
        let state_bytes = self.state_mib << 20;
        RocksDbOptions {
            // Several flushes, whose files overlap: a single one would be moved down as it is, whatever its size.
            write_buffer_bytes: (state_bytes / 8).clamp(64 << 10, 64 << 20) as usize,
            target_file_bytes: self.file_bytes(),
            level_base_bytes: self.file_bytes().max(256 << 20),
            compression: Compression::None,
            ..Default::default()
        }
    }
}

/// The table.
pub fn table(backend: &StateBackend) -> Result<Values> {
    Ok(backend.value_state(&ValueStateDescriptor::new("values"))?)
}

/// The value of `key`: noise that depends on nothing else.
pub fn value(key: u64, bytes: u64) -> Vec<u8> {
    let mut noise = Noise::new(key);
    let mut value = Vec::with_capacity(bytes as usize + 8);
    while (value.len() as u64) < bytes {
        value.extend_from_slice(&noise.next().to_le_bytes());
    }
    value.truncate(bytes as usize);
    value
}

/// SplitMix64: the same numbers on every machine.
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Noise(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Makes sure that `store` holds a snapshot of `shape`; writes one in `dir` where it does not. Gives its number of files.
pub fn ensure(
    shape: &Shape,
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    dir: &Path,
    format: Format,
) -> Result<usize> {
    let snapshots = SnapshotStore::new(store.clone(), runtime.clone());
    let newest = || -> Result<Option<usize>> {
        Ok(match snapshots.list(&shape.job())?.pop() {
            Some((_, metadata)) => Some(metadata?.files().count()),
            None => None,
        })
    };
    if let Some(files) = newest()? {
        return Ok(files);
    }
    build(
        shape,
        &shape.job(),
        store.clone(),
        runtime.clone(),
        dir,
        format,
    )?;
    newest()?
        .ok_or_else(|| Error::Wrong("the snapshot that was just taken is not in the store".into()))
}

/// Writes the state in `dir`, takes a snapshot of it, and removes `dir`.
pub fn build(
    shape: &Shape,
    job: &str,
    store: Arc<dyn RemoteStore>,
    runtime: IoRuntime,
    dir: &Path,
    format: Format,
) -> Result<SnapshotReport> {
    let backend = StateBackend::builder(dir)
        .remote_store(store)
        .io_runtime(runtime)
        .job(job)
        .restore(Restore::Empty)
        .rocksdb(shape.rocksdb())
        .open()?;
    let values = table(&backend)?;
    let bar = progress::items(shape.values(), "building the state", format);
    let mut key = 0;
    while key < shape.values() {
        let mut batch = backend.write_batch();
        let end = shape.values().min(key + BATCH);
        for key in key..end {
            values.put_to(&mut batch, &key, &value(key, shape.value_bytes))?;
        }
        backend.write(batch)?;
        key = end;
        bar.set_position(key);
    }
    bar.set_message("compacting and uploading");
    backend.compact()?;
    let report = backend.snapshot(SnapshotOptions::new())?.wait()?;
    bar.finish_and_clear();
    drop((values, backend));
    fs::remove_dir_all(dir).map_err(Error::file("remove", dir))?;
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_from_their_key() {
        assert_eq!(value(7, 13), value(7, 13));
        assert_ne!(value(7, 13), value(8, 13));
        assert_eq!(value(1, 0).len(), 0);
        assert_eq!(value(1, 1025).len(), 1025);
    }

    #[test]
    fn a_shape_has_its_own_job_and_sound_options() {
        let shape = Shape {
            files: 2000,
            value_bytes: 1024,
            state_mib: 1024,
        };
        shape.check().unwrap();
        shape.rocksdb().validate().unwrap();
        assert_eq!(shape.values(), 1 << 20);
        assert_ne!(
            shape.job(),
            Shape {
                files: 200,
                ..shape
            }
            .job()
        );
        assert!(
            Shape {
                files: 20_000,
                ..shape
            }
            .check()
            .is_err()
        );
    }
}
