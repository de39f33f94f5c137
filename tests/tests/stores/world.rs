//! A store of any kind, fresh for one test, and backends over it.

use std::{path::PathBuf, sync::Arc, time::Duration};

use lazurite::{RocksDbOptions, SnapshotStore, StateBackend, StateBackendBuilder};
use lazurite_env::{
    IoRuntime,
    remote::{self, CountingStore, Key, Listed, RemoteOptions, RemoteStore},
};
use tempfile::TempDir;

use crate::servers::{InUse, in_use, variable};

/// The kinds of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Memory,
    S3,
    Hdfs,
}

/// All of them.
pub const KINDS: [Kind; 4] = [Kind::File, Kind::Memory, Kind::S3, Kind::Hdfs];

pub struct World {
    pub kind: Kind,
    /// Ends in a prefix that nobody else uses.
    pub uri: String,
    pub runtime: IoRuntime,
    temp: TempDir,
    in_use: Option<InUse>,
}

impl World {
    /// `None`, with a word about it, where there is no server of that kind.
    pub fn new(kind: Kind) -> Option<Self> {
        let mut world = Self::alone(kind)?;
        world.in_use = matches!(kind, Kind::S3 | Kind::Hdfs).then(in_use);
        Some(world)
    }

    /// The same for a test that holds the servers for itself.
    pub fn alone(kind: Kind) -> Option<Self> {
        let temp = tempfile::tempdir().unwrap();
        let unique = format!("{:016x}", rand::random::<u64>());
        let base = match kind {
            Kind::File => format!("file://{}/store", temp.path().display()),
            Kind::Memory => "memory://".to_owned(),
            Kind::S3 => variable("LAZURITE_TEST_S3_URI")?,
            Kind::Hdfs => variable("LAZURITE_TEST_HDFS_URI")?,
        };
        let (place, query) = base.split_once('?').unwrap_or((&base, ""));
        let place = match kind {
            Kind::Memory => format!("{place}{unique}"),
            _ => format!("{}/{unique}", place.trim_end_matches('/')),
        };
        let uri = match query {
            "" => place,
            query => format!("{place}?{query}"),
        };
        Some(World {
            kind,
            uri,
            runtime: IoRuntime::new(2).unwrap(),
            temp,
            in_use: None,
        })
    }

    /// The same store at another address: through a proxy, say.
    pub fn uri_at(&self, endpoint: &str) -> String {
        let (place, query) = self.uri.split_once('?').unwrap_or((&self.uri, ""));
        let others = query
            .split('&')
            .filter(|pair| !pair.is_empty() && !pair.starts_with("endpoint="));
        let endpoint = format!("endpoint={endpoint}");
        let pairs: Vec<_> = others.chain([&*endpoint]).collect();
        format!("{place}?{}", pairs.join("&"))
    }

    /// `http://host:port` of an S3 store. `None`, with a word about it, where it is not one that can be listened to.
    pub fn endpoint(&self) -> Option<String> {
        let query = self.uri.split_once('?').map_or("", |(_, query)| query);
        let endpoint = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("endpoint="))
            .filter(|endpoint| endpoint.starts_with("http://"));
        if endpoint.is_none() {
            println!("left out: the S3 store has no endpoint=http://… in its URI");
        }
        endpoint.map(str::to_owned)
    }

    pub fn store(&self) -> Arc<dyn RemoteStore> {
        self.store_with(&RemoteOptions::default())
    }

    pub fn store_with(&self, options: &RemoteOptions) -> Arc<dyn RemoteStore> {
        remote::open(&self.uri, options, &self.runtime).unwrap()
    }

    /// A path of this test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// Deletes a local directory, as the loss of a machine does.
    pub fn lose(&self, dir: &str) {
        std::fs::remove_dir_all(self.path(dir)).unwrap();
    }

    /// A backend over `store` with the local directory of that name.
    pub fn builder(&self, dir: &str, store: Arc<dyn RemoteStore>) -> StateBackendBuilder {
        StateBackend::builder(self.path(dir))
            .remote_store(store)
            .job("job")
            .io_runtime(self.runtime.clone())
            .snapshot_timeout(Duration::from_secs(120))
            .rocksdb(RocksDbOptions {
                auto_compactions: false,
                block_cache_bytes: 8 << 20,
                ..RocksDbOptions::default()
            })
    }

    pub fn snapshots(&self) -> SnapshotStore {
        SnapshotStore::new(self.store(), self.runtime.clone())
    }

    /// Fails where any object of a snapshot of `job` is not what it should be. Gives the snapshots' numbers.
    pub fn verified(&self, job: &str) -> Vec<u64> {
        let snapshots = self.snapshots();
        let listed = snapshots.list(job).unwrap();
        let each = listed.into_iter().map(|(id, metadata)| {
            let findings = snapshots.verify(&metadata.unwrap(), &|_| ()).unwrap();
            assert!(findings.is_empty(), "snapshot {id}: {findings:?}");
            id
        });
        each.collect()
    }
}

impl Drop for World {
    /// Removes what the test wrote to a server, as far as that works.
    fn drop(&mut self) {
        if self.in_use.is_none() {
            return;
        }
        let Ok(store) = remote::open(&self.uri, &RemoteOptions::default(), &self.runtime) else {
            return;
        };
        let _ = self.runtime.wait(async move {
            let mut prefixes: Vec<Option<Key>> = vec![None];
            while let Some(prefix) = prefixes.pop() {
                for listed in store.list(prefix.as_ref()).await? {
                    let (Listed::Prefix { name } | Listed::Object { name, .. }) = &listed;
                    let key = match &prefix {
                        Some(prefix) => prefix.join(name)?,
                        None => Key::new(name.clone())?,
                    };
                    match listed {
                        Listed::Prefix { .. } => prefixes.push(Some(key)),
                        Listed::Object { .. } => store.delete(&key).await?,
                    }
                }
            }
            Ok(())
        });
    }
}

/// A store that counts, and the counter.
pub fn counted(store: Arc<dyn RemoteStore>) -> (Arc<dyn RemoteStore>, CountingStore) {
    let counting = CountingStore::new(store);
    (Arc::new(counting.clone()), counting)
}

/// The key of that name.
pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}
