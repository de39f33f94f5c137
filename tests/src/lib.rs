//! What the integration tests share: a world with a counted store and a local directory that can be lost.

pub mod chain;
mod gate;
mod look;
pub mod model;
pub mod rig;
pub mod sweep;
pub mod watchdog;

use std::{path::PathBuf, sync::Arc, time::Duration};

use lazurite::{
    RocksDbOptions, SnapshotOptions, SnapshotReport, StateBackend, StateBackendBuilder, ValueState,
    ValueStateDescriptor,
};
use lazurite_env::{
    IoRuntime,
    remote::{self, CountingStore, RemoteOptions, RemoteStore},
};
use tempfile::TempDir;

pub use gate::GateStore;
pub use look::{assert_same, damages, tree};

/// The table that most tests use.
pub static COUNTS: ValueStateDescriptor<u64, Vec<u8>> = ValueStateDescriptor::new("counts");

/// A store on disk, a local directory beside it, and what both are reached through.
pub struct World {
    /// Counts every request.
    pub store: CountingStore,
    /// Runs every request.
    pub runtime: IoRuntime,
    temp: TempDir,
}

impl World {
    /// An empty store and no local directory.
    pub fn new() -> Self {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let runtime = IoRuntime::new(2).expect("I/O threads");
        let uri = format!("file://{}/store", temp.path().display());
        let store =
            remote::open(&uri, &RemoteOptions::default(), &runtime).expect("a store on disk");
        World {
            store: CountingStore::new(store),
            runtime,
            temp,
        }
    }

    /// The local directory.
    pub fn dir(&self) -> PathBuf {
        self.temp.path().join("local")
    }

    /// The store's directory on disk, to look into and to damage.
    pub fn store_dir(&self) -> PathBuf {
        self.temp.path().join("store")
    }

    /// A backend's options over this world: job `job`, small memtables, no retries to wait for.
    pub fn builder(&self) -> StateBackendBuilder {
        self.builder_over(Arc::new(self.store.clone()))
    }

    /// The same over another store.
    pub fn builder_over(&self, store: Arc<dyn RemoteStore>) -> StateBackendBuilder {
        self.builder_at("local", store)
    }

    /// The local directory of that name.
    pub fn builder_dir(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The same builder with a local directory of that name.
    pub fn builder_at(&self, name: &str, store: Arc<dyn RemoteStore>) -> StateBackendBuilder {
        StateBackend::builder(self.builder_dir(name))
            .remote_store(store)
            .job("job")
            .io_runtime(self.runtime.clone())
            .snapshot_timeout(Duration::from_secs(60))
            .rocksdb(RocksDbOptions {
                block_cache_bytes: 8 << 20,
                ..RocksDbOptions::default()
            })
    }

    /// Deletes the local directory, as the loss of a machine does.
    pub fn lose_disk(&self) {
        std::fs::remove_dir_all(self.dir()).expect("the local directory can be removed");
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// A value of `len` bytes that differs for each key and version and does not compress.
pub fn value(key: u64, version: u64, len: usize) -> Vec<u8> {
    // Mixed, so that the streams of neighbouring keys do not overlap.
    let mut state = mix(key ^ mix(version));
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bytes.extend_from_slice(&mix(state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The finaliser of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Writes `keys` at `version`.
pub fn fill(
    table: &ValueState<u64, Vec<u8>>,
    keys: impl IntoIterator<Item = u64>,
    version: u64,
    len: usize,
) {
    for key in keys {
        table.put(&key, &value(key, version, len)).expect("a write");
    }
}

/// Takes a snapshot and waits for it.
pub fn snapshot(backend: &StateBackend) -> SnapshotReport {
    let pending = backend
        .snapshot(SnapshotOptions::new())
        .expect("the synchronous part");
    pending.wait().expect("the asynchronous part")
}
