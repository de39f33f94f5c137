//! What both parts of a snapshot work with, shared by the backend and the snapshot's thread.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use lazurite_env::{
    IoRuntime,
    remote::{Key, RemoteStore},
};
use lazurite_env_rocksdb::RocksEnv;
use lazurite_tiering::UnionEnv;

use super::{
    committer::Committer, figures::Figures, heat::Heat, layout::JobLayout, pending::Deadline,
    registry::Registry, retention::History, store::SnapshotStore,
};
use crate::{Result, key_groups::KeyGroupRange};

/// How often somebody looks whether it is his turn.
const LOOK: Duration = Duration::from_millis(5);

/// The parts that a snapshot needs. The locks of registry and heat are only taken by the one snapshot under way, by its start and then by its
/// thread, and shortly by copies made ahead. So it does no harm that some are held across I/O.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Arc<dyn RemoteStore>,
    pub(crate) runtime: IoRuntime,
    pub(crate) layout: JobLayout,
    pub(crate) union: Arc<UnionEnv>,
    pub(crate) rocks_env: Arc<RocksEnv>,
    pub(crate) staging: PathBuf,
    /// The random token of the local directory, by which a commit is known as one's own.
    pub(crate) writer: String,
    pub(crate) committer: Committer,
    /// The operator that this backend is a subtask of.
    pub(crate) operator: String,
    pub(crate) key_groups: u16,
    pub(crate) range: KeyGroupRange,
    pub(crate) upload_threads: usize,
    pub(crate) figures: Figures,
    /// The snapshot that the backend was restored from, where that one holds more than the backend does.
    pub(crate) part_of: Option<u64>,
    registry: Mutex<Registry>,
    heat: Mutex<Heat>,
    /// Held while copies are made for the job, so that nobody makes one twice.
    copying: Mutex<()>,
}

/// What is known of the store when a backend opens.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) registry: Registry,
    pub(crate) history: History,
    pub(crate) heat: Heat,
    /// The snapshot that the backend was restored from, where that one holds more than the backend does.
    pub(crate) part_of: Option<u64>,
    /// The directories that the job has claimed.
    pub(crate) claimed: Vec<Key>,
}

/// The fields of a [`Context`] that are settings.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) staging: PathBuf,
    pub(crate) writer: String,
    /// The operator that this backend is a subtask of.
    pub(crate) operator: String,
    pub(crate) key_groups: u16,
    pub(crate) range: KeyGroupRange,
    pub(crate) retained: usize,
    pub(crate) upload_threads: usize,
}

impl Context {
    pub(crate) fn new(
        store: Arc<dyn RemoteStore>,
        runtime: IoRuntime,
        layout: JobLayout,
        union: Arc<UnionEnv>,
        rocks_env: Arc<RocksEnv>,
        known: Known,
        settings: Settings,
    ) -> Self {
        let Settings {
            staging,
            writer,
            operator,
            key_groups,
            range,
            retained,
            upload_threads,
        } = settings;
        let committer = Committer::new(
            store.clone(),
            runtime.clone(),
            layout.clone(),
            known.claimed,
            writer.clone(),
            retained,
            known.history,
        );
        Context {
            committer,
            store,
            runtime,
            layout,
            union,
            rocks_env,
            staging,
            writer,
            operator,
            key_groups,
            range,
            upload_threads,
            figures: Figures::default(),
            part_of: known.part_of,
            registry: Mutex::new(known.registry),
            heat: Mutex::new(known.heat),
            copying: Mutex::new(()),
        }
    }

    /// The store, for what asks for nothing else.
    pub(crate) fn snapshot_store(&self) -> SnapshotStore {
        SnapshotStore::new(self.store.clone(), self.runtime.clone())
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        // Each change of the registry is one call that cannot panic half-way.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Taken before the registry, and held across requests: who waits for it looks at its own deadline meanwhile.
    pub(super) fn copying(&self, deadline: &Deadline) -> Result<MutexGuard<'_, ()>> {
        loop {
            match self.copying.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(TryLockError::WouldBlock) => {
                    deadline.check()?;
                    std::thread::sleep(LOOK);
                }
            }
        }
    }

    pub(crate) fn heat(&self) -> MutexGuard<'_, Heat> {
        self.heat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
