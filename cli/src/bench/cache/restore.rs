//! The first reads after a restore on a lost disk, lazily: from a snapshot that was taken while keys were read by Zipf, and
//! from one of the same files that was taken before anybody read them.

use std::sync::Arc;

use lazurite::{
    LoadPolicy, Restore, SnapshotOptions, SnapshotStore, StateBackendBuilder, TierStats,
};
use lazurite_env::remote::{CountingStore, Key, Listed, RemoteStore};
use serde::Serialize;

use super::Bench;
use crate::{
    bench::{reads::percentile, trace::Distribution},
    error::{Error, Result},
    output::ms,
};

/// The first snapshot stays, also where runs that were killed left others.
const RETAINED: usize = 1_000;

/// Field names are the JSON document's.
#[derive(Debug, Serialize)]
pub(super) struct RestoreRun {
    /// The snapshot says what is hot.
    pub heat: bool,
    /// Characters of `_metadata` that say which chunks are.
    pub hot_text_bytes: usize,
    pub disk_budget_bytes: Option<u64>,
    pub reads: u64,
    pub seconds: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Reads of files that needed no request, of all.
    pub hit_ratio: f64,
    /// Requests for reads, and what they brought.
    pub read_requests: u64,
    pub read_bytes: u64,
    pub warmed_chunks: u64,
    pub warmed_bytes: u64,
    pub download_bytes: u64,
    pub windows: Vec<FirstReads>,
}

/// What had been done when a tenth of the reads had ended: sums since the begin.
#[derive(Debug, Serialize)]
pub(super) struct FirstReads {
    pub until_ms: f64,
    pub reads: u64,
    pub hit_ratio: f64,
    pub read_bytes: u64,
    pub warmed_bytes: u64,
}

impl Bench<'_> {
    /// One run for each snapshot, without and with a disk budget.
    pub fn restores(&self) -> Result<Vec<RestoreRun>> {
        let (heating, first) = (self.args.heat_reads, self.args.first_reads);
        let keys = Distribution::Zipf.trace(self.shape.values(), heating + first);
        let (before, after) = keys.split_at(heating as usize);
        let cold = self.snapshots()?.first().copied();
        let cold = cold.ok_or_else(|| Error::Wrong("the snapshot is gone".into()))?;
        let hot = self.heat_up(cold, before)?;
        let runs = self.restore_both(cold, hot, after);
        // Other benches restore the newest one.
        self.delete(hot)?;
        runs
    }

    fn restore_both(&self, cold: u64, hot: u64, keys: &[u64]) -> Result<Vec<RestoreRun>> {
        let mut runs = Vec::new();
        for budget in [None, Some(self.args.budget_mib << 20)] {
            for (id, heat) in [(cold, false), (hot, true)] {
                runs.push(self.restore(id, heat, budget, keys)?);
            }
        }
        Ok(runs)
    }

    /// Deletes what is a snapshot's own. It has no file that the first one has not.
    fn delete(&self, id: u64) -> Result<()> {
        let dir = Key::new(format!("{}/chk-{id}", self.shape.job()))?;
        let store = self.scene.store.clone();
        self.scene.runtime.wait(async move {
            for listed in store.list(Some(&dir)).await? {
                if let Listed::Object { name, .. } = listed {
                    store.delete(&dir.join(&name)?).await?;
                }
            }
            Ok::<_, lazurite_env::Error>(())
        })?;
        Ok(())
    }

    fn snapshots(&self) -> Result<Vec<u64>> {
        let snapshots = SnapshotStore::new(self.scene.store.clone(), self.scene.runtime.clone());
        let listed = snapshots.list(&self.shape.job())?;
        Ok(listed.into_iter().map(|(id, _)| id).collect())
    }

    fn builder_of(&self, id: u64, store: Arc<dyn RemoteStore>) -> StateBackendBuilder {
        self.builder(store)
            .restore(Restore::Snapshot(id))
            .retained_snapshots(RETAINED)
    }

    /// Reads all of `keys` from local files, and takes a snapshot.
    fn heat_up(&self, cold: u64, keys: &[u64]) -> Result<u64> {
        self.scene.clear()?;
        let store = CountingStore::new(self.scene.store.clone());
        let backend = self
            .builder_of(cold, Arc::new(store.clone()))
            .load_policy(LoadPolicy::Eager)
            .open()?;
        self.read(&backend, keys, &store, None)?;
        let report = backend.snapshot(SnapshotOptions::new())?.wait()?;
        drop(backend);
        self.scene.clear()?;
        Ok(report.id)
    }

    fn restore(
        &self,
        id: u64,
        heat: bool,
        disk_budget_bytes: Option<u64>,
        keys: &[u64],
    ) -> Result<RestoreRun> {
        self.scene.clear()?;
        let snapshots = SnapshotStore::new(self.scene.store.clone(), self.scene.runtime.clone());
        let files = snapshots
            .load(&self.shape.job(), id)?
            .subtasks
            .remove(0)
            .files;
        let texts = files.iter().filter_map(|file| file.hot.as_ref());
        let hot_text_bytes = texts.map(String::len).sum();
        let store = self.scene.behind(self.link())?;
        let mut builder = self.builder_of(id, Arc::new(store.clone()));
        if let Some(bytes) = disk_budget_bytes {
            builder = builder.disk_budget_bytes(bytes);
        }
        let backend = builder.load_policy(LoadPolicy::Lazy).open()?;
        let opened = backend.tier();
        let rate = self.args.first_reads_per_second;
        let read = self.read(&backend, keys, &store, Some(rate))?;
        let tier = backend.tier();
        drop(backend);
        self.scene.clear()?;
        let windows = read.windows.iter().map(|(window, tier)| FirstReads {
            until_ms: window.until_ms,
            reads: window.reads,
            hit_ratio: hit_ratio(&opened, tier),
            read_bytes: tier.remote_bytes,
            warmed_bytes: tier.warmed_bytes,
        });
        let all = &read.latencies;
        Ok(RestoreRun {
            heat,
            hot_text_bytes,
            disk_budget_bytes,
            reads: all.len() as u64,
            seconds: read.took.as_secs_f64(),
            p50_ms: ms(percentile(all, 50)),
            p99_ms: ms(percentile(all, 99)),
            hit_ratio: hit_ratio(&opened, &tier),
            read_requests: tier.remote_requests,
            read_bytes: tier.remote_bytes,
            warmed_chunks: tier.warmed_chunks,
            warmed_bytes: tier.warmed_bytes,
            download_bytes: tier.download_bytes,
            windows: windows.collect(),
        })
    }
}

/// Reads of files that needed no request, of all since `opened`.
fn hit_ratio(opened: &TierStats, now: &TierStats) -> f64 {
    let hits = |tier: &TierStats| tier.local_reads + tier.cache_hits;
    let hits = hits(now) - hits(opened);
    let misses = now.cache_misses - opened.cache_misses;
    hits as f64 / (hits + misses).max(1) as f64
}
