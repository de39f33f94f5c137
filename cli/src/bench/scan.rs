//! `lazurite bench scan`: iterators over remote state, with nothing of it on the local disk: which share of the link they
//! use, and what they fetch beyond the range that they walk.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite::{
    MapState, MapStateDescriptor, Restore, RocksDbOptions, SnapshotOptions, StateBackend,
    snapshot::SnapshotMetadata,
};
use serde::Serialize;

use super::{
    scene::Scene,
    shape::{self, Noise, Shape},
};
use crate::{
    error::{Error, Result},
    link::Link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
    probe, progress,
};

/// Bytes of a value.
const VALUE_BYTES: u64 = 1024;

/// The state of the short walks: so many maps of so many entries of so many bytes.
const MAPS: u64 = 16_384;
const MAP_ENTRIES: u64 = 8;
const MAP_VALUE_BYTES: u64 = 128;
const MAPS_JOB: &str = "scan-maps";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the state in MiB.
    #[arg(long, value_name = "M", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// Table files to spread the state over; give it once for each state to measure. Default: files of 64 MiB, then
    /// files of 1 MiB.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    files: Vec<u64>,
    /// What every request waits, in milliseconds.
    #[arg(long, value_name = "L", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    latency_ms: u64,
    /// Megabits per second that all requests share.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    bandwidth_mbps: u64,
    /// Short walks, each of another map of 8 entries.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=MAPS))]
    walks: u64,
    /// Where the state and its snapshot are kept for the next run. Default: ~/.cache/lazurite/bench.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    latency_ms: u64,
    bandwidth_mbps: u64,
    scans: Vec<Scan>,
}

#[derive(Debug, Serialize)]
struct Scan {
    scan: &'static str,
    state_bytes: u64,
    files: usize,
    entries: u64,
    /// What the data blocks of these entries take in the files.
    range_bytes: u64,
    ms: f64,
    /// `range_bytes` in that time, of what the link carries.
    link_share: f64,
    fetched_bytes: u64,
    fetched_over_range: f64,
    requests: u64,
}

/// Builds the states where they are missing, and measures.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let scene = Scene::open(args.work_dir.as_ref(), None)?;
    let bench = Bench { args, scene };
    let files = match &args.files[..] {
        [] => vec![args.state_mib.div_ceil(64), args.state_mib],
        files => files.to_vec(),
    };
    let mut scans = Vec::new();
    for files in files {
        let shape = Shape {
            files,
            value_bytes: VALUE_BYTES,
            state_mib: args.state_mib,
        };
        shape.check()?;
        bench.scene.ensure(&shape, format)?;
        scans.extend(bench.values(&shape)?);
    }
    if bench.scene.newest(MAPS_JOB)?.is_none() {
        bench.build_maps(format)?;
    }
    scans.push(bench.maps()?);
    let report = Report {
        latency_ms: args.latency_ms,
        bandwidth_mbps: args.bandwidth_mbps,
        scans,
    };
    output::report(&report, format, Report::text)
}

struct Bench<'a> {
    args: &'a Args,
    scene: Scene,
}

/// A walk that was measured: entries, and what they cost.
struct Walked {
    entries: u64,
    took: Duration,
    fetched_bytes: u64,
    requests: u64,
}

impl Bench<'_> {
    /// Opens `job` on an empty disk behind a link of its own, and measures `walk`, which gives the number of entries.
    fn measure(
        &self,
        job: &str,
        rocksdb: RocksDbOptions,
        walk: impl FnOnce(&StateBackend) -> Result<u64>,
    ) -> Result<Walked> {
        self.scene.clear()?;
        let link = Link {
            latency_ms: self.args.latency_ms,
            bandwidth_mbps: Some(self.args.bandwidth_mbps),
        };
        let store = self.scene.behind(link)?;
        let backend = self
            .scene
            .builder(job.to_owned(), Arc::new(store.clone()))
            .rocksdb(rocksdb)
            .open()?;
        let before = store.snapshot();
        let begun = Instant::now();
        let entries = walk(&backend)?;
        let took = begun.elapsed();
        // What is still on its way counts too.
        drop(backend);
        std::thread::sleep(Duration::from_millis(200 + 2 * self.args.latency_ms));
        let counts = store.snapshot().since(&before);
        self.scene.clear()?;
        Ok(Walked {
            entries,
            took,
            fetched_bytes: counts.bytes_in,
            requests: counts.total(),
        })
    }

    /// The whole table, one key group in the middle, and the first ten entries of an iterator over all.
    fn values(&self, shape: &Shape) -> Result<Vec<Scan>> {
        let job = shape.job();
        let metadata = self.scene.need(&job)?;
        let group = metadata.subtasks[0].key_groups / 2;
        let all = shape.values();
        let count = |iter: &mut lazurite::ValueIter<u64, Vec<u8>>, most: u64| -> Result<u64> {
            let mut entries = 0;
            while entries < most
                && let Some(entry) = iter.next_entry()
            {
                if entry?.encoded_value().len() as u64 <= VALUE_BYTES / 2 {
                    return Err(Error::Wrong("a value is too short".into()));
                }
                entries += 1;
            }
            Ok(entries)
        };
        let whole = self.measure(&job, shape.rocksdb(), |backend| {
            count(&mut shape::table(backend)?.iter()?, u64::MAX)
        })?;
        if whole.entries != all {
            let entries = whole.entries;
            return Err(Error::Wrong(format!("{entries} entries instead of {all}")));
        }
        let group = self.measure(&job, shape.rocksdb(), |backend| {
            count(&mut shape::table(backend)?.iter_key_group(group)?, u64::MAX)
        })?;
        let first = self.measure(&job, shape.rocksdb(), |backend| {
            count(&mut shape::table(backend)?.iter()?, 10)
        })?;
        let scan = |name, walked| self.scan(name, &metadata, all, walked);
        Ok(vec![
            scan("whole table", whole),
            scan("one key group", group),
            scan("first 10 entries", first),
        ])
    }

    fn scan(
        &self,
        scan: &'static str,
        metadata: &SnapshotMetadata,
        all: u64,
        walked: Walked,
    ) -> Scan {
        let data: u64 = metadata.files().map(|file| file.tail_offset).sum();
        let range_bytes = (data as f64 * walked.entries as f64 / all as f64) as u64;
        let round = |x: f64| (x * 1e4).round() / 1e4;
        let seconds = walked.took.as_secs_f64().max(1e-9);
        Scan {
            scan,
            state_bytes: metadata.files().map(|file| file.len).sum(),
            files: metadata.files().count(),
            entries: walked.entries,
            range_bytes,
            ms: ms(walked.took),
            link_share: round(
                range_bytes as f64 * 8e-6 / seconds / self.args.bandwidth_mbps as f64,
            ),
            fetched_bytes: walked.fetched_bytes,
            fetched_over_range: round(walked.fetched_bytes as f64 / range_bytes.max(1) as f64),
            requests: walked.requests,
        }
    }

    /// Walks through whole maps, each another one, in no order.
    fn maps(&self) -> Result<Scan> {
        let metadata = self.scene.need(MAPS_JOB)?;
        let walked = self.measure(MAPS_JOB, RocksDbOptions::default(), |backend| {
            let maps = maps(backend)?;
            let mut keys = Noise::new(1);
            let mut entries = 0;
            for _ in 0..self.args.walks {
                for entry in maps.entries(&(keys.next() % MAPS))? {
                    entry?;
                    entries += 1;
                }
            }
            Ok(entries)
        })?;
        if walked.entries != self.args.walks * MAP_ENTRIES {
            return Err(Error::Wrong("a map has lost entries".into()));
        }
        Ok(self.scan("short walks", &metadata, MAPS * MAP_ENTRIES, walked))
    }

    fn build_maps(&self, format: Format) -> Result<()> {
        let dir = self.scene.build_dir();
        let backend = StateBackend::builder(&dir)
            .remote_store(self.scene.store.clone())
            .io_runtime(self.scene.runtime.clone())
            .job(MAPS_JOB)
            .restore(Restore::Empty)
            .open()?;
        let maps = maps(&backend)?;
        let bar = progress::items(MAPS, "building the maps", format);
        for key in 0..MAPS {
            let mut batch = backend.write_batch();
            for entry in 0..MAP_ENTRIES {
                let value = shape::value(key * MAP_ENTRIES + entry, MAP_VALUE_BYTES);
                maps.put_to(&mut batch, &key, &entry, &value)?;
            }
            backend.write(batch)?;
            bar.set_position(key);
        }
        backend.compact()?;
        backend.snapshot(SnapshotOptions::new())?.wait()?;
        bar.finish_and_clear();
        drop((maps, backend));
        probe::remove_dir(&dir)
    }
}

fn maps(backend: &StateBackend) -> Result<MapState<u64, u64, Vec<u8>>> {
    Ok(backend.map_state(&MapStateDescriptor::new("maps"))?)
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{} ms a request, {} Mbit/s\n\n",
            self.latency_ms, self.bandwidth_mbps
        );
        let mut table = Table::new([
            "state",
            "files",
            "scan",
            "entries",
            "range",
            "time",
            "of the link",
            "fetched",
            "fetched/range",
            "requests",
        ]);
        for s in &self.scans {
            table.row([
                human_bytes(s.state_bytes),
                s.files.to_string(),
                s.scan.to_owned(),
                s.entries.to_string(),
                human_bytes(s.range_bytes),
                human_ms(s.ms),
                format!("{:.1} %", s.link_share * 100.0),
                human_bytes(s.fetched_bytes),
                format!("{:.3}", s.fetched_over_range),
                s.requests.to_string(),
            ]);
        }
        text += &table.text();
        text
    }
}
