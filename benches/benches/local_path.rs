//! Criterion's times of the local path, per operation. It measures one side after the other, so for the ratios use
//! `cargo run --release -p lazurite-benches --bin local-path`, where they take turns.

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use lazurite_benches::{CASES, Result, Scene, Work};
use rand::{Rng, SeedableRng, rngs::StdRng};

const ENTRIES: usize = 200_000;

fn main() -> Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args();
    // Criterion repeats as often as it likes, and each flush would leave a file behind.
    for case in CASES.iter().filter(|case| case.work != Work::PutAndFlush) {
        let scene = Scene::build(case.scene(ENTRIES))?;
        let mut group = criterion.benchmark_group(case.name);
        let mut random = StdRng::seed_from_u64(1);
        for side in scene
            .sides
            .iter()
            .filter(|side| case.sides.contains(&side.kind))
        {
            // What one slice does: the number of entries of a key group is known only when it was walked.
            let ops = side.run(case.work, &scene.data.select(&[0; 100]))?;
            group.throughput(Throughput::Elements(ops as u64));
            group.bench_function(BenchmarkId::from_parameter(side.kind.name()), |bencher| {
                bencher.iter_batched_ref(
                    || {
                        let entries = 0..scene.data.raw.len() as u32;
                        // An iteration is always that of the group which was counted.
                        let picks = (0..100).map(|_| match case.work {
                            Work::Iterate | Work::IterateValues | Work::IterateEncoded => 0,
                            _ => random.random_range(entries.clone()),
                        });
                        scene.data.select(&picks.collect::<Vec<u32>>())
                    },
                    |data| side.run(case.work, data).expect("a slice of operations"),
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}
