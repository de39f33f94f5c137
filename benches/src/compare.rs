//! Slices of all sides in turn, and what their ratios say.
//!
//! A machine is faster in one second than in the next, so the times of two long runs say little about each other.
//! Slices of a few milliseconds that ran one after the other on the same entries do: each round gives one ratio per
//! side, and the middle of all rounds is the result. Each round has an order of its own, and before each slice its keys and
//! values are brought into the processor's cache, where a program that just made them would have them.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::{
    Result,
    scene::{Scene, SceneOptions},
    side::{SideKind, Work},
};

/// One comparison.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What is done.
    pub work: Work,
    /// Bytes of the block cache: small means that nearly every read goes to the page cache.
    pub block_cache_bytes: usize,
    /// Whether there is a write-ahead log.
    pub wal: bool,
    /// Operations of one slice; of an iteration, one key group is a slice.
    pub slice: usize,
    /// Which sides take part; the first one is what the others are compared with.
    pub sides: &'static [SideKind],
}

const CACHED: usize = 256 << 20;

/// Everything that is compared.
pub const CASES: [Case; 8] = [
    Case {
        name: "get-cached",
        work: Work::Get,
        block_cache_bytes: CACHED,
        wal: false,
        slice: 500,
        sides: &SideKind::ALL,
    },
    Case {
        name: "get-page-cache",
        work: Work::Get,
        block_cache_bytes: 256 << 10,
        wal: false,
        slice: 500,
        sides: &SideKind::ALL,
    },
    Case {
        name: "iterate",
        work: Work::Iterate,
        block_cache_bytes: CACHED,
        wal: false,
        slice: 1,
        sides: &SideKind::ALL,
    },
    Case {
        name: "iterate-values",
        work: Work::IterateValues,
        block_cache_bytes: CACHED,
        wal: false,
        slice: 1,
        sides: &SideKind::ALL,
    },
    Case {
        name: "iterate-encoded",
        work: Work::IterateEncoded,
        block_cache_bytes: CACHED,
        wal: false,
        slice: 1,
        sides: &[
            SideKind::Plain,
            SideKind::Control,
            SideKind::Env,
            SideKind::Typed,
        ],
    },
    Case {
        name: "put",
        work: Work::Put,
        block_cache_bytes: CACHED,
        wal: false,
        slice: 500,
        sides: &SideKind::ALL,
    },
    Case {
        name: "put-wal",
        work: Work::Put,
        block_cache_bytes: CACHED,
        wal: true,
        slice: 500,
        sides: &SideKind::ALL,
    },
    // Without `ValueState`: what it adds to a put is seen above.
    Case {
        name: "put-and-flush",
        work: Work::PutAndFlush,
        block_cache_bytes: CACHED,
        wal: false,
        slice: 20_000,
        sides: &[SideKind::Plain, SideKind::Control, SideKind::Env],
    },
];

impl Case {
    /// The databases that it needs.
    pub fn scene(&self, entries: usize) -> SceneOptions {
        SceneOptions {
            disk_budget: false,
            entries,
            block_cache_bytes: self.block_cache_bytes,
            wal: self.wal,
            statistics: false,
        }
    }

    /// The clock of CPU time that holds all the work: a flush runs on another thread, and nothing else does meanwhile.
    fn clock(&self) -> ClockId {
        match self.work {
            Work::PutAndFlush => ClockId::ProcessCPUTime,
            _ => ClockId::ThreadCPUTime,
        }
    }
}

/// The middle half of many numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter of them are below.
    pub low: f64,
    /// Half of them are below.
    pub median: f64,
    /// A quarter of them are above.
    pub high: f64,
}

/// What a side took, and how fast it was against the first side: 1 is as fast, 0.5 takes twice as long.
#[derive(Debug, Clone, Serialize)]
pub struct SideReport {
    /// Its name.
    pub side: &'static str,
    /// Nanoseconds of CPU time of one operation.
    pub cpu_ns: Quartiles,
    /// Nanoseconds of wall time of one operation.
    pub wall_ns: Quartiles,
    /// Speed by CPU time.
    pub cpu_ratio: Quartiles,
    /// Speed by wall time.
    pub wall_ratio: Quartiles,
}

/// A case and its sides.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub case: &'static str,
    /// How many ratios each of the results is the middle of.
    pub rounds: usize,
    /// Operations of a slice, on average.
    pub slice_ops: usize,
    /// The sides, the first one with ratios of 1.
    pub sides: Vec<SideReport>,
}

/// Runs `rounds` rounds of a case on `scene`; with `only`, slices of that side alone, for a profiler: without CPU times.
///
/// # Errors
/// Whatever fails in an operation; no round, or no such side in this case.
pub fn compare(
    case: &Case,
    scene: &Scene,
    rounds: usize,
    only: Option<SideKind>,
) -> Result<CaseReport> {
    let takes_part = |kind| case.sides.contains(&kind) && only.is_none_or(|only| only == kind);
    let sides: Vec<_> = scene
        .sides
        .iter()
        .filter(|side| takes_part(side.kind))
        .collect();
    if sides.is_empty() || rounds == 0 {
        return Err(format!("there is nothing to run of {}", case.name).into());
    }
    let mut random = StdRng::seed_from_u64(1);
    let entries = scene.data.raw.len() as u32;
    let mut samples: Vec<Vec<Sample>> = vec![Vec::with_capacity(rounds); sides.len()];
    for round in 0..warm_up(case) + rounds {
        let picks: Vec<u32> = (0..case.slice)
            .map(|_| random.random_range(0..entries))
            .collect();
        let data = scene.data.select(&picks);
        let mut order: Vec<usize> = (0..sides.len()).collect();
        order.shuffle(&mut random);
        for index in order {
            data.touch();
            // One side alone is for a profiler, and under valgrind rustix cannot find the clock.
            let clock = only.is_none().then(|| case.clock());
            let begun = Clocks::now(clock);
            let ops = sides[index].run(case.work, &data)?;
            let sample = begun.elapsed(clock, ops);
            if round >= warm_up(case) {
                samples[index].push(sample);
            }
        }
    }
    let ops: usize = samples[0].iter().map(|sample| sample.ops).sum();
    Ok(CaseReport {
        case: case.name,
        rounds,
        slice_ops: ops / rounds,
        sides: sides
            .iter()
            .zip(&samples)
            .map(|(side, own)| side_report(side.kind, own, &samples[0]))
            .collect(),
    })
}

/// Rounds that are not counted: they fill the caches and the buffers of threads.
fn warm_up(case: &Case) -> usize {
    match case.work {
        Work::Get | Work::Iterate | Work::IterateValues | Work::IterateEncoded => 100,
        Work::Put => 5,
        Work::PutAndFlush => 1,
    }
}

fn side_report(kind: SideKind, own: &[Sample], first: &[Sample]) -> SideReport {
    let ratio = |of: fn(&Sample) -> f64| {
        quartiles(
            first
                .iter()
                .zip(own)
                .map(|(first, own)| of(first) / of(own)),
        )
    };
    SideReport {
        side: kind.name(),
        cpu_ns: quartiles(own.iter().map(Sample::cpu_ns)),
        wall_ns: quartiles(own.iter().map(Sample::wall_ns)),
        cpu_ratio: ratio(Sample::cpu_ns),
        wall_ratio: ratio(Sample::wall_ns),
    }
}

#[derive(Clone, Copy)]
struct Sample {
    ops: usize,
    cpu: Duration,
    wall: Duration,
}

impl Sample {
    fn cpu_ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.ops as f64
    }

    fn wall_ns(&self) -> f64 {
        self.wall.as_nanos() as f64 / self.ops as f64
    }
}

struct Clocks {
    cpu: Duration,
    wall: Instant,
}

impl Clocks {
    fn now(clock: Option<ClockId>) -> Clocks {
        Clocks {
            wall: Instant::now(),
            cpu: cpu_time(clock),
        }
    }

    fn elapsed(&self, clock: Option<ClockId>, ops: usize) -> Sample {
        Sample {
            ops,
            cpu: cpu_time(clock).saturating_sub(self.cpu),
            wall: self.wall.elapsed(),
        }
    }
}

fn cpu_time(clock: Option<ClockId>) -> Duration {
    let Some(clock) = clock else {
        return Duration::ZERO;
    };
    // Neither part of a clock that starts at 0 is ever negative.
    let time = clock_gettime(clock);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// The quartiles of at least one number.
fn quartiles(numbers: impl Iterator<Item = f64>) -> Quartiles {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted[((sorted.len() - 1) as f64 * part).round() as usize];
    Quartiles {
        low: at(0.25),
        median: at(0.5),
        high: at(0.75),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_those_of_the_sorted_numbers() {
        let of = |numbers: &[f64]| quartiles(numbers.iter().copied());
        assert_eq!(of(&[3.0]).median, 3.0);
        let q = of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((q.low, q.median, q.high), (2.0, 3.0, 4.0));
    }

    #[test]
    fn every_case_runs_on_every_side() {
        for case in CASES {
            let scene = Scene::build(case.scene(500)).unwrap();
            let report = compare(&case, &scene, 2, None).unwrap();
            assert_eq!(report.sides.len(), case.sides.len());
            assert!(report.slice_ops > 0);
            assert_eq!(report.sides[0].cpu_ratio.median, 1.0);
        }
    }
}
