//! What the benches share: where the state and its snapshot are kept, backends on an empty disk behind a simulated link, and
//! several threads that do the same.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lazurite::{
    LoadPolicy, SnapshotStore, StateBackend, StateBackendBuilder, snapshot::SnapshotMetadata,
};
use lazurite_env::{
    IoRuntime,
    remote::{CountingStore, Key, Listed, RemoteStore},
};

use super::shape::{self, Shape};
use crate::{
    error::{Error, Result},
    link::{self, Link},
    output::Format,
    probe,
};

/// A directory with a store of snapshots, which later runs find again, and a local directory that none does.
pub struct Scene {
    work_dir: PathBuf,
    /// Where backends keep what is local.
    pub dir: PathBuf,
    pub runtime: IoRuntime,
    /// With no link before it.
    pub store: Arc<dyn RemoteStore>,
}

impl Scene {
    /// In `work_dir`, else below the user's cache directory; with the store at `remote`, else in that directory.
    pub fn open(work_dir: Option<&PathBuf>, remote: Option<&String>) -> Result<Self> {
        let work_dir = work_dir.cloned().map_or_else(cache_dir, Ok)?;
        let uri = match remote {
            Some(uri) => uri.clone(),
            None => link::file_uri(&work_dir.join("remote"))?,
        };
        let runtime = IoRuntime::new(2)?;
        Ok(Scene {
            dir: work_dir.join("local"),
            store: link::open_store(&uri, &runtime)?,
            runtime,
            work_dir,
        })
    }

    /// What runs may leave beside them.
    pub fn work_dir(&self) -> &Path {
        &self.work_dir
    }

    /// Where states are built.
    pub fn build_dir(&self) -> PathBuf {
        self.work_dir.join("build")
    }

    /// Makes sure that the store holds a snapshot of `shape`. Gives its number of files.
    pub fn ensure(&self, shape: &Shape, format: Format) -> Result<usize> {
        let (store, dir) = (&self.store, self.build_dir());
        shape::ensure(shape, store, &self.runtime, &dir, format)
    }

    /// The newest snapshot of `job`.
    pub fn newest(&self, job: &str) -> Result<Option<SnapshotMetadata>> {
        let snapshots = SnapshotStore::new(self.store.clone(), self.runtime.clone());
        let newest = snapshots.list(job)?.pop();
        Ok(newest.map(|(_, metadata)| metadata).transpose()?)
    }

    /// The same, where the bench has seen that there is one.
    pub fn need(&self, job: &str) -> Result<SnapshotMetadata> {
        let gone = || Error::Wrong("the snapshot is gone".into());
        self.newest(job)?.ok_or_else(gone)
    }

    /// The store behind a link of its own, counted. Anew for each run: what is still under way on the old one is no concern
    /// of the next.
    pub fn behind(&self, link: Link) -> Result<CountingStore> {
        Ok(CountingStore::new(link.slow_down(self.store.clone())?))
    }

    /// A backend of `job` in the local directory, of which nothing is downloaded unless it is told to.
    pub fn builder(&self, job: String, store: Arc<dyn RemoteStore>) -> StateBackendBuilder {
        StateBackend::builder(&self.dir)
            .remote_store(store)
            .io_runtime(self.runtime.clone())
            .job(job)
            .load_policy(LoadPolicy::OnDemand)
    }

    /// Empties the local directory, in which no backend is open.
    pub fn clear(&self) -> Result<()> {
        probe::remove_dir(&self.dir)
    }
}

fn cache_dir() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache
        .map(|dir| dir.join("lazurite/bench"))
        .ok_or_else(|| Error::Usage("there is no home directory: give a --work-dir".into()))
}

/// Deletes every object below `dir`.
pub fn remove(store: &Arc<dyn RemoteStore>, runtime: &IoRuntime, dir: &str) -> Result<()> {
    let (store, dir) = (store.clone(), dir.to_owned());
    Ok(runtime.wait(async move {
        let mut prefixes = vec![Key::new(dir)?];
        while let Some(prefix) = prefixes.pop() {
            for listed in store.list(Some(&prefix)).await? {
                match listed {
                    Listed::Object { name, .. } => store.delete(&prefix.join(&name)?).await?,
                    Listed::Prefix { name } => prefixes.push(prefix.join(&name)?),
                }
            }
        }
        Ok::<_, lazurite_env::Error>(())
    })?)
}

/// Has so many threads do `work`, each with its number; what they give, or the first error.
pub fn by_threads<T: Send>(threads: u64, work: impl Fn(u64) -> Result<T> + Sync) -> Result<Vec<T>> {
    by_threads_while(threads, work, || Ok(()))
}

/// The same, with something done meanwhile by this one. Its error comes after theirs.
pub fn by_threads_while<T: Send>(
    threads: u64,
    work: impl Fn(u64) -> Result<T> + Sync,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        let ended = meanwhile();
        let results = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let all = results.collect::<Result<Vec<_>>>()?;
        ended.map(|()| all)
    })
}
