//! The last phase: the process that reads is killed in the middle of its work, and another one goes on in its directory.
//!
//! The process is a real one: this command again, with a hidden option. It reads the trace, tells what the cache answered
//! of the last reads, goes on reading, and dies by SIGKILL. What its cache held then is told by the maps in its directory,
//! as `docs/FORMAT.md` describes them, before anything is opened there.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use lazurite::StateBackend;
use lazurite_env::remote::RemoteStore;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        reads::read_one,
        scene::by_threads,
        shape::{self, Values},
        trace::Distribution,
    },
    Args, Bench,
    kept::{Again, kept_below},
};
use crate::{
    error::{Error, Result},
    output::{self, ms},
};

/// How many reads before and after the kill are compared. The fewer, the more it is chance.
const WINDOWS: [u64; 2] = [1_000, 10_000];

/// The result. Field names are the JSON document's.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Values read before the kill.
    reads: u64,
    /// The last ones before it, and the first ones after.
    before: Vec<Window>,
    after: Vec<Window>,
    /// Hit ratio of the first 1,000 reads after, over that of the last 1,000 before.
    hit_ratio_after_over_before: Option<f64>,
    /// The same of 10,000.
    hit_ratio_after_over_before_10000: Option<f64>,
    /// What the cache held on the disk when the process was dead.
    kept_bytes: u64,
    /// From the call of open to its return.
    reopen_ms: f64,
}

/// Some reads, one after another.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Window {
    reads: u64,
    /// Reads of files that the cache answered, of all that came to it.
    hit_ratio: f64,
    /// Values that were read without a request.
    local_ratio: f64,
    remote_bytes: u64,
    /// After the kill: bytes of those kept that were asked for although they were still there.
    #[serde(default)]
    fetched_again_bytes: u64,
    /// After the kill: bytes of those kept that had gone for others meanwhile, and were asked for.
    #[serde(default)]
    evicted_and_fetched_again_bytes: u64,
}

impl Report {
    pub fn text(&self) -> String {
        let (Some(before), Some(after)) = (self.before.first(), self.after.first()) else {
            return String::new();
        };
        format!(
            "killed and opened again: {:.1} % hits in the last {} reads before, {:.1} % in the first {} after, {:.1} % in the first {}; {} bytes that were kept came again",
            before.hit_ratio * 100.0,
            before.reads,
            after.hit_ratio * 100.0,
            after.reads,
            self.after[self.after.len() - 1].hit_ratio * 100.0,
            self.after[self.after.len() - 1].reads,
            after.fetched_again_bytes,
        )
    }
}

/// Has a process read and die, and goes on.
pub fn run(bench: &Bench<'_>) -> Result<Report> {
    let args = bench.args;
    bench.scene.clear()?;
    let before = read_until_killed(args)?;
    let snapshot = bench.scene.need(&bench.shape.job())?;
    let kept = kept_below(&bench.scene.dir, &snapshot)?;
    let kept_bytes = kept.values().map(|kept| kept.bytes()).sum();
    let store = bench.link().slow_down(bench.scene.store.clone())?;
    let store = Arc::new(Again::new(store, kept));
    let opening = Instant::now();
    let backend = open(bench, store.clone())?;
    let reopen_ms = ms(opening.elapsed());
    let values = shape::table(&backend)?;
    let last = WINDOWS[WINDOWS.len() - 1];
    let keys = Distribution::Zipf.trace(bench.shape.values(), args.reads + last);
    let mut from = args.reads as usize;
    let mut walk = Walk::begin(bench, &backend, &values);
    let mut after = Vec::new();
    for reads in WINDOWS {
        let to = (args.reads + reads) as usize;
        walk.read(&keys[from..to])?;
        after.push(Window {
            fetched_again_bytes: store.there_bytes(),
            evicted_and_fetched_again_bytes: store.gone_bytes(),
            ..walk.window(0)
        });
        from = to;
    }
    drop((values, backend));
    bench.scene.clear()?;
    let over = |i: usize| {
        let (before, after) = (before.get(i)?.hit_ratio, after.get(i)?.hit_ratio);
        (before > 0.0).then(|| (after / before * 1e3).round() / 1e3)
    };
    Ok(Report {
        reads: args.reads,
        hit_ratio_after_over_before: over(0),
        hit_ratio_after_over_before_10000: over(1),
        before,
        after,
        kept_bytes,
        reopen_ms,
    })
}

/// Starts the process, waits until it has read the trace, and kills it. What it told of its last reads.
fn read_until_killed(args: &Args) -> Result<Vec<Window>> {
    let program = std::env::current_exe().map_err(Error::file("find", "this program"))?;
    let mut command = Command::new(&program);
    command.args(["bench", "cache", "--killed"]);
    for (option, value) in [
        ("--state-mib", args.state_mib),
        ("--budget-mib", args.budget_mib),
        ("--reads", args.reads),
        ("--threads", args.threads),
        ("--block-cache-mib", args.block_cache_mib),
        ("--latency-ms", args.latency_ms),
        ("--bandwidth-mbps", args.bandwidth_mbps),
    ] {
        command.args([option, &value.to_string()]);
    }
    if let Some(dir) = &args.work_dir {
        command.arg("--work-dir").arg(dir);
    }
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(Error::file("start", &program))?;
    let mut line = String::new();
    let read = match child.stdout.take() {
        Some(stdout) => BufReader::new(stdout).read_line(&mut line),
        None => Ok(0),
    };
    let killed = child.kill().and_then(|()| child.wait());
    read.map_err(Error::file("read from", &program))?;
    killed.map_err(Error::file("kill", &program))?;
    serde_json::from_str(&line).map_err(|e| {
        Error::Wrong(format!(
            "the process that was to be killed ended by itself: {e}"
        ))
    })
}

/// The process that is killed: reads the trace, tells of its end, and goes on from its begin until it dies.
pub fn be_killed(bench: &Bench<'_>) -> Result<()> {
    std::thread::spawn(|| {
        // Its end means that nobody is there to kill it.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(1);
    });
    let reads = bench.args.reads;
    let backend = open(bench, bench.link().slow_down(bench.scene.store.clone())?)?;
    let values = shape::table(&backend)?;
    let keys = Distribution::Zipf.trace(bench.shape.values(), reads);
    let mut walk = Walk::begin(bench, &backend, &values);
    let mut from = 0;
    for window in WINDOWS.iter().rev() {
        let to = reads.saturating_sub(*window) as usize;
        walk.read(&keys[from..to])?;
        from = to;
    }
    walk.read(&keys[from..])?;
    let windows: Vec<Window> = (1..=WINDOWS.len()).rev().map(|i| walk.window(i)).collect();
    output::line(&serde_json::to_string(&windows).map_err(|e| Error::Output(e.into()))?)?;
    loop {
        walk.read(&keys)?;
    }
}

fn open(bench: &Bench<'_>, store: Arc<dyn RemoteStore>) -> Result<StateBackend> {
    let bytes = bench.args.budget_mib << 20;
    Ok(bench.builder(store).cache_bytes(bytes).open()?)
}

/// Reads by several threads, and what the cache had done when each part of them had ended.
struct Walk<'a> {
    bench: &'a Bench<'a>,
    backend: &'a StateBackend,
    values: &'a Values,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    reads: u64,
    hits: u64,
    misses: u64,
    remote_bytes: u64,
}

impl<'a> Walk<'a> {
    fn begin(bench: &'a Bench<'a>, backend: &'a StateBackend, values: &'a Values) -> Self {
        let mut walk = Walk {
            bench,
            backend,
            values,
            samples: Vec::new(),
        };
        walk.sample(0);
        walk
    }

    fn sample(&mut self, reads: u64) {
        let tier = self.backend.tier();
        self.samples.push(Sample {
            reads,
            hits: tier.cache_hits,
            misses: tier.cache_misses,
            remote_bytes: tier.remote_bytes,
        });
    }

    /// Reads all of `keys` and checks each value.
    fn read(&mut self, keys: &[u64]) -> Result<()> {
        let next = AtomicU64::new(0);
        let work = |_| -> Result<()> {
            while let Some(key) = keys.get(next.fetch_add(1, Relaxed) as usize) {
                read_one(self.values, *key, &self.bench.shape)?;
            }
            Ok(())
        };
        by_threads(self.bench.args.threads, work)?;
        let before = self.samples.last().map_or(0, |sample| sample.reads);
        self.sample(before + keys.len() as u64);
        Ok(())
    }

    /// What was read since the sample `from`.
    fn window(&self, from: usize) -> Window {
        let (first, last) = (self.samples[from], self.samples[self.samples.len() - 1]);
        let (reads, misses) = (last.reads - first.reads, last.misses - first.misses);
        let asked = last.hits - first.hits + misses;
        Window {
            reads,
            hit_ratio: (asked - misses) as f64 / asked.max(1) as f64,
            local_ratio: reads.saturating_sub(misses) as f64 / reads.max(1) as f64,
            remote_bytes: last.remote_bytes - first.remote_bytes,
            fetched_again_bytes: 0,
            evicted_and_fetched_again_bytes: 0,
        }
    }
}
