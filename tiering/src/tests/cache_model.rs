//! The chunk cache against plain byte arrays: random reads, activities, budgets, faults, downloads, reopening.

use std::sync::atomic::Ordering::SeqCst;

use lazurite_env::{Activity, Effect, ErrorKind, FaultEnv, FaultPlan, Op};
use proptest::prelude::*;

use super::{cache::*, *};

/// The files 12 to 14 are the objects of seeds 1 to 3.
const LENS: [usize; 3] = [1, 70_000, 300_001];

#[derive(Debug, Clone)]
enum Step {
    Read {
        file: usize,
        at: u32,
        len: u32,
        activity: Activity,
    },
    Many(Vec<(u32, u32)>),
    Budget(u64),
    Reopen,
    /// The power goes; the disk is left as this seed has it.
    PowerCut(u64),
    Faults {
        op: usize,
        chance: f64,
        kind: usize,
    },
    Heal,
    Delete(usize),
    Restore,
    Download,
    Flip(u32),
    Outage,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![1..200u32, 1..20_000u32, 100_000..400_000u32];
    let activity = prop_oneof![
        6 => Just(Activity::Get),
        1 => Just(Activity::Iterate),
        1 => Just(Activity::Compaction),
        1 => Just(Activity::Reread),
    ];
    let budget = prop_oneof![
        Just(0u64),
        0..60_000u64,
        100_000..400_000u64,
        Just(u64::MAX)
    ];
    prop_oneof![
        20 => (0..3usize, 0..310_000u32, len, activity)
            .prop_map(|(file, at, len, activity)| Step::Read { file, at, len, activity }),
        3 => prop::collection::vec((0..310_000u32, 1..10_000u32), 1..8).prop_map(Step::Many),
        3 => budget.prop_map(Step::Budget),
        1 => Just(Step::Reopen),
        1 => (0..1000u64).prop_map(Step::PowerCut),
        2 => (0..OPS.len(), 0.05..0.6f64, 0..3usize)
            .prop_map(|(op, chance, kind)| Step::Faults { op, chance, kind }),
        2 => Just(Step::Heal),
        1 => (0..3usize).prop_map(Step::Delete),
        1 => Just(Step::Restore),
        1 => Just(Step::Download),
        2 => any::<u32>().prop_map(Step::Flip),
        1 => Just(Step::Outage),
    ]
}

const OPS: [Op; 8] = [
    Op::WriteAt,
    Op::Read,
    Op::PunchHole,
    Op::OpenSparse,
    Op::Truncate,
    Op::Delete,
    Op::Sync,
    Op::Rename,
];

struct Model {
    world: World,
    base: MemEnv,
    plan: Arc<FaultPlan>,
    budget: u64,
    union: Option<Arc<UnionEnv>>,
    snapshot: Snapshot,
    /// The disk failed since the union was opened: a file may have stayed that could not be deleted.
    faulty: bool,
}

impl Model {
    fn new() -> Self {
        let world = World::new();
        let files: Vec<_> = (0..3).map(|i| (12 + i, 1 + i, LENS[i as usize])).collect();
        let snapshot = world.snapshot(&files);
        let mut model = Model {
            world,
            base: MemEnv::new(),
            plan: FaultPlan::new(),
            budget: u64::MAX,
            union: None,
            snapshot,
            faulty: false,
        };
        model.open();
        model.snapshot.restore(model.union()).unwrap();
        model
    }

    fn union(&self) -> &UnionEnv {
        self.union.as_ref().unwrap()
    }

    /// On a disk that works: what does not open is another test's.
    fn open(&mut self) {
        self.heal();
        self.union = None;
        self.plan = FaultPlan::new();
        let env = FaultEnv::new(Arc::new(self.base.clone()), self.plan.clone());
        let options = cached_options(&self.world, Arc::new(env), self.budget);
        self.union = Some(UnionEnv::open(options).unwrap());
        self.faulty = false;
    }

    fn heal(&mut self) {
        self.plan.pass();
        self.plan.set_filter(|_| true, "");
    }

    fn bytes(&self, file: usize) -> &Bytes {
        &self.snapshot.contents[&name(12 + file as u64)]
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Read {
                file,
                at,
                len,
                activity,
            } => self.read(*file, *at as usize, *len as usize, *activity),
            Step::Many(ranges) => self.read_many(ranges),
            Step::Budget(bytes) => {
                self.budget = *bytes;
                self.union().set_cache_budget(*bytes);
            }
            Step::Reopen => self.open(),
            Step::PowerCut(seed) => {
                self.union().flush_cache();
                self.base = self.base.crash_clone(*seed);
                self.open();
            }
            Step::Faults { op, chance, kind } => {
                let op = OPS[*op];
                self.plan.set_filter(move |found| found == op, "cache");
                let effect = match kind {
                    0 => Effect::Fail(ErrorKind::Io),
                    1 => Effect::FailAfter(ErrorKind::NoSpace),
                    _ if op == Op::Read => Effect::Short,
                    _ => Effect::Fail(ErrorKind::NoSpace),
                };
                self.plan.probability(*chance, 1, effect);
                self.faulty = true;
            }
            Step::Heal => self.heal(),
            Step::Delete(file) => {
                let _ = self.union().delete(&db(&name(12 + *file as u64)));
            }
            Step::Restore => {
                self.heal();
                self.snapshot.restore(self.union()).unwrap();
            }
            Step::Download => {
                let download = self.union().download();
                download.start().unwrap();
                let _ = download.wait_until_local();
                download.stop();
            }
            Step::Flip(at) => self.flip(*at),
            Step::Outage => self.world.store.outage.store(1, SeqCst),
        }
    }

    fn read(&self, file: usize, at: usize, len: usize, activity: Activity) {
        let Ok(handle) = self.union().open_random(&db(&name(12 + file as u64))) else {
            return;
        };
        let mut buf = vec![0; len];
        match handle.read_at(at as u64, &mut buf, hint(activity)) {
            Ok(n) => {
                let bytes = self.bytes(file);
                let begin = at.min(bytes.len());
                assert!(buf[..n] == bytes[begin..(begin + len).min(bytes.len())]);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }

    fn read_many(&self, ranges: &[(u32, u32)]) {
        let Ok(handle) = self.union().open_random(&db(&name(14))) else {
            return;
        };
        let mut buffers: Vec<Vec<u8>> = ranges
            .iter()
            .map(|(_, len)| vec![0; *len as usize])
            .collect();
        let mut reads: Vec<_> = ranges
            .iter()
            .zip(&mut buffers)
            .map(|((at, _), buf)| lazurite_env::RangeRead {
                offset: u64::from(*at),
                buf,
                result: Ok(0),
            })
            .collect();
        handle.read_many(&mut reads, hint(Activity::MultiGet));
        let bytes = self.bytes(2);
        for read in reads {
            let begin = (read.offset as usize).min(bytes.len());
            let end = (begin + read.buf.len()).min(bytes.len());
            match read.result {
                Ok(n) => assert!(read.buf[..n] == bytes[begin..end]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
    }

    /// Flips a bit in some file of the cache, which may be open.
    fn flip(&self, at: u32) {
        self.union().flush_cache();
        let names = cache_names(&self.base);
        if names.is_empty() {
            return;
        }
        let path = cache_dir().join(&names[at as usize % names.len()]);
        let file = self.base.open_sparse(&path).unwrap();
        let len = file.len().unwrap();
        let at = u64::from(at) * 7919 % len.max(1);
        let mut byte = [0];
        // A hole stays one: what is not there takes no damage.
        if file.read_at(at, &mut byte).unwrap() == 1 && byte[0] != 0 {
            byte[0] ^= 4;
            file.write_at(at, &byte).unwrap();
        }
    }

    fn check(&self, step: &Step) {
        self.union().flush_cache();
        let stats = self.union().stats();
        assert!(
            stats.cache_bytes <= self.budget,
            "{step:?}: {} of {}",
            stats.cache_bytes,
            self.budget
        );
        if !self.faulty {
            let names = cache_names(&self.base).len() as u64;
            assert!(
                names.is_multiple_of(2) && names <= 2 * stats.remote_files + 2,
                "{step:?}"
            );
        }
    }

    /// With the disk healed, everything is right, nothing leaks, and the cache caches.
    fn finish(&mut self) {
        self.budget = u64::MAX;
        self.open();
        self.world.store.outage.store(0, SeqCst);
        let (real, counted) = (allocated(&self.base), self.union().stats().cache_bytes);
        // What may be a file system's own records of a file is not looked into.
        let files = cache_names(&self.base).len() as u64;
        assert!(real <= counted + files * 4 * 4096, "{real} {counted}");
        self.snapshot.restore(self.union()).unwrap();
        for _ in 0..2 {
            for (file, len) in LENS.into_iter().enumerate() {
                self.read(file, 0, len + 10, Activity::Get);
                self.union().flush_cache();
            }
        }
        let stats = self.union().stats();
        let remote = self.union().remote_files() as u64;
        self.world.store.take_requests();
        for (file, len) in LENS.into_iter().enumerate() {
            self.read(file, 0, len, Activity::Get);
        }
        assert!(self.world.store.take_requests().is_empty(), "{stats:?}");
        assert_eq!(stats.cache_disk_failures, 0);
        self.union().download().wait_until_local().unwrap();
        assert!(self.union().stats().remote_files == 0 && remote <= 3);
        for file in 0..3 {
            let path = db(&name(12 + file as u64));
            assert!(read_file(&self.base, &path).unwrap() == *self.bytes(file));
        }
        assert!(cache_names(&self.base).is_empty());
        assert_eq!(self.union().stats().cache_bytes, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_are_right_and_the_budget_holds(steps in prop::collection::vec(step(), 1..60)) {
        let mut model = Model::new();
        for step in &steps {
            model.take(step);
            model.check(step);
        }
        model.finish();
    }
}
