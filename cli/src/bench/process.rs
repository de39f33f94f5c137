//! `lazurite bench process`: records processed straight after a restore, each a read, a change and a write of its key's value.
//! The clock runs from the begin of the open to the last record: lazy, eager, and, without the restore, with all files local.
//!
//! Records come in batches, as they do from a broker: the values of a batch's keys are read together, and written together. A
//! source has some batches before they are processed: while files are remote, the values of these are prefetched.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite::StateBackend;
use lazurite_env::remote::CountingStore;
use serde::Serialize;

use super::{
    scene::Scene,
    shape::{self, Noise, Shape, Values, value},
    trace::Distribution,
};
use crate::{
    Load,
    error::{Error, Result},
    link::Link,
    output::{self, Format, Table, human_bytes, human_ms, ms},
};

/// Keys whose final values are compared with what they must be.
const CHECKED: u64 = 2_000;
/// The bytes of a value that count its records.
const COUNTER: usize = 8;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Size of the state in MiB, in files of 64 MiB.
    #[arg(long, value_name = "M", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    state_mib: u64,
    /// Bytes of one value.
    #[arg(long, value_name = "B", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(8..=1 << 20))]
    value_bytes: u64,
    /// Records, whose keys follow Zipf's law.
    #[arg(long, value_name = "N", default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// Records of a batch.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    batch: u64,
    /// Batches whose values are prefetched while table files are remote, as of a source that has them already; 0: none.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(0..=1000))]
    ahead: u64,
    /// What every request waits, in milliseconds.
    #[arg(long, value_name = "L", default_value_t = 5, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    latency_ms: u64,
    /// Megabits per second that all requests share.
    #[arg(long, value_name = "W", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    bandwidth_mbps: u64,
    /// Where the state and its snapshot are kept for the next run. Default: ~/.cache/lazurite/bench.
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
struct Report {
    state_bytes: u64,
    files: usize,
    records: u64,
    batch: u64,
    ahead: u64,
    latency_ms: u64,
    bandwidth_mbps: u64,
    runs: Vec<Run>,
    /// How many times longer eager took than lazy, in all.
    eager_over_lazy: f64,
    /// How many times longer lazy took than all local.
    lazy_over_local: f64,
}

#[derive(Debug, Serialize)]
struct Run {
    /// `lazy`, `eager` or `local`.
    load: &'static str,
    open_ms: f64,
    first_batch_ms: f64,
    /// From the begin of the open; of `local`, from its end.
    total_seconds: f64,
    /// When a tenth, two tenths and so on of the records were done.
    tenths_seconds: Vec<f64>,
    remote_requests: u64,
    remote_bytes: u64,
}

/// Builds the state where it is missing, and measures.
pub fn run(args: &Args, format: Format) -> Result<()> {
    let shape = Shape {
        files: args.state_mib.div_ceil(64),
        value_bytes: args.value_bytes,
        state_mib: args.state_mib,
    };
    shape.check()?;
    let scene = Scene::open(args.work_dir.as_ref(), None)?;
    let files = scene.ensure(&shape, format)?;
    let bench = Bench {
        args,
        shape,
        scene,
        keys: Distribution::Zipf.trace(shape.values(), args.records),
    };
    let lazy = bench.run(Some(Load::Lazy))?;
    let eager = bench.run(Some(Load::Eager))?;
    let local = bench.run(None)?;
    let times = |a: &Run, b: &Run| (a.total_seconds / b.total_seconds * 100.0).round() / 100.0;
    let report = Report {
        state_bytes: shape.values() * args.value_bytes,
        files,
        records: args.records,
        batch: args.batch,
        ahead: args.ahead,
        latency_ms: args.latency_ms,
        bandwidth_mbps: args.bandwidth_mbps,
        eager_over_lazy: times(&eager, &lazy),
        lazy_over_local: times(&lazy, &local),
        runs: vec![lazy, eager, local],
    };
    output::report(&report, format, Report::text)
}

struct Bench<'a> {
    args: &'a Args,
    shape: Shape,
    scene: Scene,
    keys: Vec<u64>,
}

impl Bench<'_> {
    /// `None`: with all files local before the clock starts.
    fn run(&self, load: Option<Load>) -> Result<Run> {
        self.scene.clear()?;
        let link = Link {
            latency_ms: self.args.latency_ms,
            bandwidth_mbps: Some(self.args.bandwidth_mbps),
        };
        let counted = match load {
            Some(_) => self.scene.behind(link)?,
            None => CountingStore::new(self.scene.store.clone()),
        };
        let begun = Instant::now();
        let backend = self
            .scene
            .builder(self.shape.job(), Arc::new(counted.clone()))
            .load_policy(load.unwrap_or(Load::Eager).into())
            .rocksdb(self.shape.rocksdb())
            .open()?;
        let open = begun.elapsed();
        let begun = if load.is_some() {
            begun
        } else {
            Instant::now()
        };
        let values = shape::table(&backend)?;
        let done = self.process(&backend, &values, begun)?;
        let counts = counted.snapshot();
        self.check(&values)?;
        drop((values, backend));
        self.scene.clear()?;
        Ok(Run {
            load: match load {
                Some(Load::Lazy) => "lazy",
                Some(Load::Eager) => "eager",
                Some(Load::OnDemand) => "on-demand",
                None => "local",
            },
            open_ms: ms(open),
            first_batch_ms: ms(done.first),
            total_seconds: done.total.as_secs_f64(),
            tenths_seconds: done.tenths.iter().map(Duration::as_secs_f64).collect(),
            remote_requests: counts.total(),
            remote_bytes: counts.bytes_in,
        })
    }

    fn process(&self, backend: &StateBackend, values: &Values, begun: Instant) -> Result<Done> {
        let mut done = Done::default();
        let batches = self.keys.chunks(self.args.batch as usize);
        let count = batches.len();
        // The first batch does not wait for those behind it.
        let mut ahead = batches.clone().skip(1);
        for (index, records) in batches.enumerate() {
            let mut keys = records.to_vec();
            keys.sort_unstable();
            keys.dedup();
            let found = values.multi_get(&keys)?;
            let mut changed: HashMap<u64, Vec<u8>> = HashMap::with_capacity(keys.len());
            for (key, value) in keys.iter().zip(found) {
                let missing = || Error::Wrong(format!("key {key} has no value"));
                changed.insert(*key, value.ok_or_else(missing)?);
            }
            for key in records {
                if let Some(value) = changed.get_mut(key) {
                    let next = counter(value).wrapping_add(1);
                    value[..COUNTER].copy_from_slice(&next.to_le_bytes());
                }
            }
            let mut batch = backend.write_batch();
            for (key, value) in &changed {
                values.put_to(&mut batch, key, value)?;
            }
            backend.write(batch)?;
            let known = if index == 0 {
                done.first = begun.elapsed();
                self.args.ahead
            } else {
                self.args.ahead.min(1)
            };
            for records in ahead.by_ref().take(known as usize) {
                values.prefetch(records)?;
            }
            if (index + 1) * 10 / count != index * 10 / count {
                done.tenths.push(begun.elapsed());
            }
        }
        done.total = begun.elapsed();
        Ok(done)
    }

    /// Compares some values with what the records must have made of them.
    fn check(&self, values: &Values) -> Result<()> {
        let mut noise = Noise::new(2);
        let mut expected: HashMap<u64, u64> = (0..CHECKED)
            .map(|_| self.keys[(noise.next() % self.keys.len() as u64) as usize])
            .map(|key| (key, 0))
            .collect();
        for key in &self.keys {
            if let Some(count) = expected.get_mut(key) {
                *count += 1;
            }
        }
        for (key, count) in expected {
            let mut right = value(key, self.args.value_bytes);
            let counted = counter(&right).wrapping_add(count);
            right[..COUNTER].copy_from_slice(&counted.to_le_bytes());
            if values.get(&key)?.as_deref() != Some(&right[..]) {
                return Err(Error::Wrong(format!(
                    "the value of key {key} is not what {count} records make of it"
                )));
            }
        }
        Ok(())
    }
}

/// The counter that a value begins with; 0 where it is too short for one.
fn counter(value: &[u8]) -> u64 {
    value
        .first_chunk::<COUNTER>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[derive(Debug, Default)]
struct Done {
    first: Duration,
    total: Duration,
    tenths: Vec<Duration>,
}

impl Report {
    fn text(&self) -> String {
        let mut text = format!(
            "{} in {} files; {} records in batches of {}, {} of them prefetched; {} ms a request, {} Mbit/s\n\n",
            human_bytes(self.state_bytes),
            self.files,
            self.records,
            self.batch,
            self.ahead,
            self.latency_ms,
            self.bandwidth_mbps,
        );
        let mut table = Table::new([
            "load",
            "open",
            "first batch",
            "a tenth",
            "half",
            "all records",
            "requests",
            "bytes",
        ]);
        let tenth = |run: &Run, n: usize| match run.tenths_seconds.get(n - 1) {
            Some(seconds) => human_ms(seconds * 1e3),
            None => "-".to_owned(),
        };
        for run in &self.runs {
            table.row([
                run.load.to_owned(),
                human_ms(run.open_ms),
                human_ms(run.first_batch_ms),
                tenth(run, 1),
                tenth(run, 5),
                human_ms(run.total_seconds * 1e3),
                run.remote_requests.to_string(),
                human_bytes(run.remote_bytes),
            ]);
        }
        text += &table.text();
        text += &format!(
            "\n\nin all, eager takes {} times as long as lazy, and lazy {} times as long as all local",
            self.eager_over_lazy, self.lazy_over_local,
        );
        text
    }
}
