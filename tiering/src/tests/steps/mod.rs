//! The machine dies at each step of each operation on the catalog: before every change to the disk and in the middle of every
//! write. Once as by a kill, where all that was handed to the operating system is there, and several times as by a power
//! cut. What is left is opened, and:
//! * every name reads as its object; the names are those before or after each change, in order, and those that were
//!   promised are kept;
//! * every file below the root is accounted for;
//! * a download that goes on asks for no byte that is on the disk, and for none twice (an object with two names comes for
//!   each). By a kill no more is lost than was on its way, [`IN_FLIGHT`](machine::IN_FLIGHT): what was stored is never asked
//!   for again. By a power cut besides what was not synced; a table whose promotion was is never asked for again;
//! * the operation, done again, ends where it should have.
//!
//! Steps are enumerated: one run of an operation gives all of them, and they are counted by another Env too.

mod env;
mod inspect;
mod kill;
mod machine;
mod script;

use std::{
    collections::BTreeSet,
    sync::{Mutex, atomic::Ordering::SeqCst},
};

use env::{CHANGES, Moment, StepEnv, Steps};
use inspect::{Asked, Wreck, inspect, tables};
use lazurite_env::{EnvExt, Op, TraceEnv};
use machine::{OBJECTS, PAGES_OF_15, Progress, Run, bytes_of, objects};
use script::{CASES, Case};

use super::{cache::kept, *};
use crate::{sync::lock, test_store::TestStore};

/// Files and objects by their numbers, sorted.
type Names = &'static [(u64, u64)];

/// Power cuts at each moment: everything that was not synced is lost, or any part of it.
const SEEDS: [u64; 5] = [0, 2, 3, 4, 5];
/// Nothing is lost.
const KILL: u64 = 1;

/// What must be known of a case at work to judge what it leaves.
struct Recorder {
    disk: Arc<dyn Env>,
    store: Arc<TestStore>,
    progress: Arc<Progress>,
    /// The change that is being made.
    under_way: Option<(Op, PathBuf)>,
    /// Tables that hold an object, and whose names are durable.
    synced: BTreeSet<String>,
    asked: Asked,
    /// Changes, and moments: a write has two.
    changes: u64,
    moments: u64,
}

impl Recorder {
    fn new(disk: Arc<dyn Env>, store: Arc<TestStore>, progress: Arc<Progress>) -> Self {
        store.take_requests();
        let mut recorder = Recorder {
            disk,
            store,
            progress,
            under_way: None,
            synced: BTreeSet::new(),
            asked: Asked::new(),
            changes: 0,
            moments: 0,
        };
        recorder.look();
        recorder
    }

    fn look(&mut self) {
        let objects = OBJECTS.map(|(seed, _)| bytes_of(seed).to_vec());
        self.synced = tables(&*self.disk);
        self.synced.retain(|name| {
            let found = self.disk.read_to_vec(&db(name), 1 << 20).unwrap();
            objects.contains(&found)
        });
    }

    /// To be told of each moment before it comes, and of the end.
    fn record(&mut self, moment: Option<&Moment<'_>>) {
        if let Some((op, path)) = self.under_way.take() {
            match op {
                Op::SyncDir if path == db("") => self.look(),
                Op::Delete | Op::Rename | Op::Create if path.parent() == db("x").parent() => {
                    let name = path.file_name().and_then(|name| name.to_str());
                    self.synced.remove(name.unwrap());
                }
                _ => {}
            }
        }
        self.asked.extend(self.store.take_requests());
        self.moments += 1;
        if let Some(moment) = moment {
            self.changes += u64::from(!moment.middle);
            self.under_way = Some((moment.op, moment.path.to_owned()));
        }
    }

    fn wreck(&self, what: String, disk: Arc<dyn Env>, was_killed: bool, reads: bool) -> Wreck {
        Wreck {
            what,
            disk,
            was_killed,
            is_read_first: reads,
            begun: self.progress.begun.load(SeqCst),
            durable: self.progress.durable.load(SeqCst),
            is_local: self.progress.is_local.load(SeqCst),
            synced: self.synced.clone(),
            asked: self.asked.clone(),
        }
    }
}

fn describe(case: &Case, moment: Option<&Moment<'_>>, number: u64) -> String {
    match moment {
        Some(Moment { op, path, middle }) => {
            let when = if *middle {
                "in the middle of"
            } else {
                "before"
            };
            format!(
                "{}, {when} step {number}, {op} {}",
                case.name,
                path.display()
            )
        }
        None => format!("{}, after its end", case.name),
    }
}

/// The files below `below` of `base` as an Env of their own.
fn disk_below(base: &Arc<dyn Env>, below: &Path, steps: &Arc<Steps>) -> StepEnv {
    StepEnv {
        base: base.clone(),
        below: below.to_owned(),
        steps: steps.clone(),
        has_sparse_files: true,
    }
}

/// Carries `case` out below `below` and tells of each moment before it comes, and of the end. Its changes and moments.
fn perform(
    case: &'static Case,
    base: Arc<dyn Env>,
    below: &Path,
    mut tell: impl FnMut(&Recorder, String) + Send + 'static,
) -> (u64, u64) {
    let (world, steps) = (objects(), Arc::<Steps>::default());
    let disk = Arc::new(disk_below(&base, below, &Arc::default()));
    let stepped = StepEnv {
        has_sparse_files: case.has_sparse_files,
        ..disk_below(&base, below, &steps)
    };
    let env = Arc::new(TraceEnv::with_events_max(Arc::new(stepped), 0));
    let progress = Arc::<Progress>::default();
    let run = Run {
        world: &world,
        env: env.clone(),
        union: (case.prepare)(&world, env.clone()),
        progress: progress.clone(),
        again: false,
    };
    assert_eq!(run.union.is_some(), case.is_open);
    if case.keeps_pages {
        let pages = kept(&*disk, &remote_file(4, &bytes_of(4))).good;
        assert_eq!(pages, PAGES_OF_15.into(), "{}", case.name);
    }
    let calls = || -> u64 { CHANGES.iter().map(|op| env.count(*op).calls).sum() };
    let before = calls();
    let mut recorder = Recorder::new(disk, world.store.clone(), progress);
    let (sender, ended) = std::sync::mpsc::channel();
    let record = Arc::new(Mutex::new(move |moment: Option<&Moment<'_>>| {
        recorder.record(moment);
        tell(&recorder, describe(case, moment, recorder.changes));
        if moment.is_none() {
            sender.send((recorder.changes, recorder.moments)).unwrap();
        }
    }));
    let each = record.clone();
    steps.watch(move |moment| lock(&each)(Some(moment)));
    (case.run)(&run);
    steps.unwatch();
    let calls = calls() - before;
    lock(&record)(None);
    let (changes, moments) = ended.recv().unwrap();
    assert_eq!(changes, calls, "{}: as another Env counts", case.name);
    assert!(changes >= case.at_least, "{}: {changes} steps", case.name);
    (changes, moments)
}

#[test]
fn a_kill_and_power_cuts_at_every_step() {
    let world = objects();
    let (mut steps, mut all, mut inspected) = (0, 0, 0);
    for case in CASES {
        let (disk, wrecks) = (MemEnv::new(), Arc::new(Mutex::new(Vec::new())));
        let left = wrecks.clone();
        let base = Arc::new(disk.clone());
        let (changes, moments) = perform(case, base, Path::new("/"), move |recorder, what| {
            let wreck = |seed, reads| {
                let how = if seed == KILL { "killed" } else { "power cut" };
                let disk = Arc::new(disk.crash_clone(seed));
                recorder.wreck(
                    format!("{what}: {how}, seed {seed}"),
                    disk,
                    seed == KILL,
                    reads,
                )
            };
            let cuts = SEEDS.map(|seed| wreck(seed, seed % 2 == 0));
            let mut wrecks = lock(&left);
            wrecks.extend([true, false].map(|reads| wreck(KILL, reads)));
            wrecks.extend(cuts);
        });
        println!("{}: {changes} steps, {moments} moments", case.name);
        for wreck in lock(&wrecks).iter() {
            inspect(case, &world, wreck);
            inspected += 1;
        }
        (steps, all) = (steps + changes, all + moments);
    }
    let operations = CASES.len();
    println!("{operations} operations, {steps} steps, {all} moments, {inspected} wrecks");
    assert_eq!(inspected, all * (2 + SEEDS.len() as u64));
}
