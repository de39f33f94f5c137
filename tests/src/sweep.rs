//! Fail the i-th operation, for every i: the loop, and what an error must say. What must hold after each fault is the
//! [rig](crate::rig)'s to check.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lazurite::{Error, Result};
use lazurite_env::{Effect, ErrorKind, FaultPlan, Op};

use crate::{
    rig::{Rig, lock},
    watchdog::within,
};

/// The longest that one scenario, with one fault in it, may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Scenarios of one sweep that run at once.
const WORKERS: usize = 8;

/// Which operations a sweep breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ops {
    /// Those of the store.
    Remote,
    /// Those by which the store is asked for one object.
    Lookups,
    /// Those of the local disk.
    Local,
    /// Those of the local disk on what is kept there of remote files.
    Cache,
}

impl Ops {
    fn accepts(self, op: Op) -> bool {
        match self {
            Ops::Remote => op.is_remote(),
            Ops::Lookups => matches!(op, Op::Get | Op::GetRange | Op::ObjectLen),
            Ops::Local | Ops::Cache => !op.is_remote(),
        }
    }

    /// A part of the paths or keys of all of them.
    fn path_part(self) -> &'static str {
        match self {
            Ops::Cache => "/cache/",
            _ => "",
        }
    }
}

/// One way to break operations.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The i-th alone.
    Once(Effect),
    /// The i-th and all after it, until the scenario ended.
    From(Effect),
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Swept {
    /// Scenarios in which a fault was injected: one for each operation.
    pub injected: u64,
    /// Those of them that ended in an error.
    pub errors: u64,
}

/// Prepares a scenario without faults, runs it with the i-th operation that `ops` accepts broken, and checks all that must
/// hold after; for every i from 0 until the scenario has no i-th operation. Several i at once, each with a rig of its own:
/// most of the time is spent where RocksDB sleeps after an error.
///
/// `run` gives `Err` for an error that the engine showed, and panics where an answer was wrong.
pub fn sweep<S>(
    name: &str,
    ops: Ops,
    fault: Fault,
    prepare: impl Fn() -> (Rig, S) + Sync,
    run: impl Fn(&Rig, S) -> Result<()> + Sync,
) -> Swept {
    let (next, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let swept = Mutex::new(Swept::default());
    let work = || {
        let _end = EndOnPanic(&ended);
        while !ended.load(Ordering::SeqCst) {
            let i = next.fetch_add(1, Ordering::SeqCst);
            let what = format!("{name}: {fault:?} at operation {i} of {ops:?}");
            let (injected, error) = hit(&what, ops, fault, i, &prepare, &run);
            let mut swept = lock(&swept);
            swept.injected += u64::from(injected);
            swept.errors += u64::from(error);
            if !injected {
                ended.store(true, Ordering::SeqCst);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
    let swept = *lock(&swept);
    println!("{name}, {ops:?}, {fault:?}: {swept:?}");
    swept
}

/// One scenario with one fault. Says whether the fault was injected, and whether an error showed.
fn hit<S>(
    what: &str,
    ops: Ops,
    fault: Fault,
    i: u64,
    prepare: &impl Fn() -> (Rig, S),
    run: &impl Fn(&Rig, S) -> Result<()>,
) -> (bool, bool) {
    let (rig, state) = prepare();
    rig.plan
        .set_filter(move |op: Op| ops.accepts(op), ops.path_part());
    match fault {
        Fault::Once(effect) => rig.plan.fail_nth(i, effect),
        Fault::From(effect) => rig.plan.fail_from(i, effect),
    }
    let report = Report {
        what: what.to_owned(),
        plan: rig.plan.clone(),
    };
    rig.plan.enable();
    let outcome = within(LIMIT, what, || run(&rig, state));
    rig.plan.disable();
    let injected = rig.plan.injected() > 0;
    if let Err(error) = &outcome {
        assert!(injected, "an error without a fault: {error}");
        check_error(error, fault);
    }
    within(LIMIT, &format!("after {what}"), || rig.check_after());
    drop(report);
    (injected, outcome.is_err())
}

struct EndOnPanic<'a>(&'a AtomicBool);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// An error must say what went wrong, and whether to try again.
fn check_error(error: &Error, fault: Fault) {
    let (Fault::Once(effect) | Fault::From(effect)) = fault;
    let text = error.to_string();
    let kind = match effect {
        Effect::Fail(ErrorKind::NotFound) => {
            let denied =
                text.contains("the store lists this object, but says that it is not there");
            assert!(text.contains("job/"), "it names no object: {text}");
            assert_eq!(error.is_temporary(), denied, "{text}");
            return;
        }
        Effect::Fail(kind) | Effect::FailAfter(kind) | Effect::Torn(kind) => kind,
        // What was read is wrong.
        Effect::Short | Effect::Corrupt => {
            let damage = match error {
                Error::SnapshotCorrupt { .. } | Error::LocalDirectory { .. } => true,
                Error::Env(error) => error.kind() == ErrorKind::Corruption,
                Error::RocksDb { kind, .. } => *kind == ErrorKind::Corruption,
                _ => false,
            };
            assert!(damage && !error.is_temporary(), "{error:?}");
            return;
        }
        Effect::Delay(_) => panic!("a delay is no error: {text}"),
    };
    if text.contains("CURRENT could not be opened, and could a moment later") {
        return; // RocksDB keeps no more of it than that.
    }
    assert!(
        text.contains("injected by a fault plan"),
        "the cause is lost: {text}"
    );
    assert_eq!(
        error.is_temporary(),
        kind == ErrorKind::Unavailable,
        "{text}"
    );
}

/// Says which fault it was when a check fails.
struct Report {
    what: String,
    plan: Arc<FaultPlan>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("*** {}: {:?}", self.what, self.plan.injections().first());
        }
    }
}
