//! The process dies, or the power goes, at each step of reads, evictions, a download, promotions and a deletion: what is left
//! is right, nothing leaks, and nothing that was kept is fetched again.

use std::collections::BTreeSet;

use lazurite_env::{Effect, ErrorKind, FaultEnv, FaultPlan};

use super::{cache::*, *};

/// Of the files 12 and 13, seeds 1 and 2.
const LENS: [usize; 2] = [5 * CHUNK as usize + 777, 3 * CHUNK as usize];

struct Machine {
    world: World,
    base: MemEnv,
    plan: Arc<FaultPlan>,
    snapshot: Snapshot,
    union: Arc<UnionEnv>,
}

fn options(world: &World, base: Arc<dyn Env>, budget: u64) -> UnionOptions {
    let mut options = cached_options(world, base, budget);
    // One thread of each kind, so that a step is the same one in each run.
    options.cache.writer_threads = 1;
    options.download.parallel_files = 1;
    options.download.chunk_bytes = CHUNK as usize;
    options
}

impl Machine {
    fn new() -> Self {
        let world = World::new();
        let (base, plan) = (MemEnv::new(), FaultPlan::new());
        let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
        let union = UnionEnv::open(options(&world, Arc::new(env), 4 * CHUNK)).unwrap();
        let snapshot = world.snapshot(&[(12, 1, LENS[0]), (13, 2, LENS[1])]);
        snapshot.restore(&union).unwrap();
        Machine {
            world,
            base,
            plan,
            snapshot,
            union,
        }
    }

    fn bytes(&self, number: u64) -> &Bytes {
        &self.snapshot.contents[&name(number)]
    }

    fn read(&self, union: &UnionEnv, number: u64, at: u64, len: u64) {
        let file = union.open_random(&db(&name(number))).unwrap();
        let read = read_at(&*file, at, len as usize).unwrap();
        let end = (at + len).min(self.bytes(number).len() as u64);
        assert!(read == self.bytes(number)[at as usize..end as usize]);
        union.flush_cache();
    }

    /// Everything that the cache does, on a disk that may fail at any step.
    fn run(&self) {
        let union = &*self.union;
        for at in 0..5 {
            self.read(union, 12, at * CHUNK + 100, 3000);
            self.read(union, 12, at * CHUNK + 20_000, CHUNK - 20_000);
        }
        for at in 0..3 {
            self.read(union, 13, at * CHUNK, 30_000);
        }
        self.read(union, 12, 0, 10_000);
        union.set_cache_budget(CHUNK);
        union.set_cache_budget(u64::MAX);
        self.read(union, 13, 0, CHUNK);
        self.read(union, 12, 2 * CHUNK, 3 * CHUNK);
        let _ = union.download().start();
        let _ = union.download().wait_until_local();
        union.download().stop();
        let _ = union.delete(&db(&name(13)));
        let _ = union.sync_dir(union.db_dir());
    }

    /// The pages of the object in the cache on `disk` that hold its bytes.
    fn kept(&self, disk: &MemEnv, number: u64) -> BTreeSet<u64> {
        kept(disk, &remote_file(number - 11, self.bytes(number))).good
    }

    /// Reopens on `disk`, downloads everything, and looks that all is right and nothing was fetched that was kept.
    fn reopen(&self, disk: &MemEnv, what: &str) {
        let kept = [12, 13].map(|number| self.kept(disk, number));
        let union = UnionEnv::open(options(&self.world, Arc::new(disk.clone()), u64::MAX)).unwrap();
        let (real, counted) = (allocated(disk), union.stats().cache_bytes);
        let files = cache_names(disk).len() as u64;
        assert!(
            real <= counted + files * 4 * 4096,
            "{what}: {real} {counted}"
        );
        self.world.store.take_requests();
        let there: Vec<u64> = [12, 13]
            .into_iter()
            .filter(|&number| union.get(&name(number)).is_some())
            .collect();
        for &number in &there {
            self.read(&union, number, 1000, 2 * CHUNK);
        }
        union.download().wait_until_local().unwrap();
        for (key, range) in self.world.store.take_requests() {
            let kept = &kept[usize::from(key == super::key(2))];
            // An island of a few pages between two gaps is cheaper to fetch than to leave out.
            let mut run = 0;
            for page in range.start / PAGE..range.end.div_ceil(PAGE) {
                run = if kept.contains(&page) { run + 1 } else { 0 };
                assert!(
                    run <= 4,
                    "{what}: page {page} of {key} was kept {range:?} {kept:?} {:?}",
                    union.stats()
                );
            }
        }
        for &number in &there {
            let found = read_file(disk, &db(&name(number))).unwrap();
            assert!(found == *self.bytes(number), "{what}");
        }
        assert!(
            cache_names(disk).is_empty(),
            "{what}: {:?}",
            cache_names(disk)
        );
        assert_eq!(union.stats().cache_bytes, 0, "{what}");
        // What was promoted is durable.
        drop(union);
        let disk = disk.crash_clone(0);
        let union = UnionEnv::open(options(&self.world, Arc::new(disk.clone()), u64::MAX)).unwrap();
        assert_eq!(union.remote_files(), 0, "{what}");
        assert!(cache_names(&disk).is_empty(), "{what}");
    }
}

#[test]
fn at_every_step() {
    let mut most_kept = 0;
    for effect in [
        Effect::Fail(ErrorKind::Io),
        Effect::FailAfter(ErrorKind::Io),
        Effect::Torn(ErrorKind::NoSpace),
    ] {
        for step in 0.. {
            let machine = Machine::new();
            machine.plan.fail_from(step, effect);
            machine.run();
            let injected = machine.plan.injected() > 0;
            let what = format!(
                "{effect:?} from {step}: {:?}",
                machine.plan.injections().first()
            );
            machine.plan.disable();
            // A killed process leaves what it handed to the operating system.
            let disk = machine.base.crash_clone(1);
            most_kept = most_kept.max(machine.kept(&disk, 12).len());
            machine.reopen(&disk, &what);
            for seed in [0, 2, 3, 4] {
                let disk = machine.base.crash_clone(seed);
                machine.reopen(&disk, &format!("{what}, power cut {seed}"));
            }
            if !injected {
                let few = matches!(effect, Effect::Torn(_));
                assert!(
                    step > if few { 20 } else { 100 },
                    "{effect:?}: {step} steps"
                );
                break;
            }
        }
    }
    assert!(most_kept > 250, "{most_kept}");
}

#[test]
fn every_single_failure_is_survived() {
    for effect in [
        Effect::Fail(ErrorKind::Io),
        Effect::FailAfter(ErrorKind::Io),
        Effect::Torn(ErrorKind::NoSpace),
        Effect::Short,
    ] {
        for step in 0.. {
            let machine = Machine::new();
            machine.plan.fail_nth(step, effect);
            machine.run();
            let what = format!(
                "{effect:?} at {step}: {:?}",
                machine.plan.injections().first()
            );
            let injected = machine.plan.injected() > 0;
            machine.plan.disable();
            let union = &*machine.union;
            if union.get(&name(13)).is_some() {
                machine.read(union, 13, 0, 4 * CHUNK);
            }
            machine.read(union, 12, 0, 6 * CHUNK);
            union.download().start().unwrap();
            union.download().wait_until_local().unwrap();
            assert_eq!(union.stats().cache_bytes, 0, "{what}");
            let disk = machine.base.crash_clone(1);
            machine.reopen(&disk, &what);
            if !injected {
                break;
            }
        }
    }
}

/// A download that is killed again and again fetches each byte once, but for what was on its way.
#[test]
fn a_killed_download_goes_on_where_it_was() {
    let world = World::new();
    let len = 64 * CHUNK as usize + 5000;
    let snapshot = world.snapshot(&[(12, 1, len)]);
    let mut disk = MemEnv::new();
    let mut fetched = 0;
    let mut lives = 0;
    loop {
        let plan = FaultPlan::new();
        let env = FaultEnv::new(Arc::new(disk.clone()), plan.clone());
        let mut options = options(&world, Arc::new(env), u64::MAX);
        options.cache.block_reads = false;
        options.download.chunk_bytes = 2 * CHUNK as usize;
        let union = UnionEnv::open(options).unwrap();
        if lives == 0 {
            snapshot.restore(&union).unwrap();
        }
        // Each life is longer than the last: the look through the whole file is done in one.
        plan.fail_from(30 * (lives + 1), ErrorKind::Io);
        let done = union.download().wait_until_local().is_ok();
        union.download().stop();
        plan.disable();
        let requests = world.store.take_requests();
        fetched += requests
            .iter()
            .map(|(_, range)| range.end - range.start)
            .sum::<u64>();
        lives += 1;
        disk = disk.crash_clone(1);
        if done {
            break;
        }
        assert!(lives < 50, "it makes no progress");
    }
    assert!(lives > 3, "{lives}");
    let found = read_file(&disk, &db(&name(12))).unwrap();
    assert!(found == snapshot.contents[&name(12)]);
    // Two requests are on their way at once; after each of three attempts of a life they are lost.
    let most = len as u64 + lives * 3 * 2 * 2 * CHUNK;
    assert!(fetched <= most, "{fetched} of {len} in {lives} lives");
}
