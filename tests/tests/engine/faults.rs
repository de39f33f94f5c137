//! Fail the i-th operation, for every i: of the store and of the disk, in every phase of a state's life.
//!
//! After each fault: an error that names its cause or a right answer; no half snapshot that looks complete; and, once the
//! fault is gone, the same directory and the same store work again. See [`lazurite_tests::sweep`]
//! and [`lazurite_tests::rig`].

use std::{sync::mpsc::channel, time::Duration};

use lazurite::{Durability, LoadPolicy, Result, StateBackend};
use lazurite_env::{Effect, ErrorKind, Op};
use lazurite_tests::{
    model::{Model, check, write},
    rig::{LEN, Rig},
    sweep::{Fault, Ops, Swept, sweep},
};

const REMOTE: [Fault; 9] = [
    Fault::Once(Effect::Fail(ErrorKind::PermissionDenied)),
    Fault::Once(Effect::Fail(ErrorKind::Unavailable)),
    Fault::Once(Effect::FailAfter(ErrorKind::Unavailable)),
    Fault::Once(Effect::FailAfter(ErrorKind::Io)),
    Fault::Once(Effect::Torn(ErrorKind::Io)),
    Fault::Once(Effect::Short),
    Fault::Once(Effect::Corrupt),
    Fault::From(Effect::Fail(ErrorKind::PermissionDenied)),
    Fault::From(Effect::Corrupt),
];

/// A store that says of an object which it has that it has none.
const LOOKUPS: [Fault; 2] = [
    Fault::Once(Effect::Fail(ErrorKind::NotFound)),
    Fault::From(Effect::Fail(ErrorKind::NotFound)),
];

const LOCAL: [Fault; 7] = [
    Fault::Once(Effect::Fail(ErrorKind::Io)),
    Fault::Once(Effect::Fail(ErrorKind::Unavailable)),
    Fault::Once(Effect::FailAfter(ErrorKind::Io)),
    Fault::Once(Effect::Torn(ErrorKind::NoSpace)),
    Fault::Once(Effect::Short),
    Fault::From(Effect::Fail(ErrorKind::Io)),
    Fault::From(Effect::Fail(ErrorKind::NoSpace)),
];

/// Sweeps every fault; those that hit any operation must hit at least `at_least` operations.
fn sweep_all<S>(
    name: &str,
    ops: Ops,
    at_least: u64,
    prepare: impl Fn() -> (Rig, S) + Sync,
    run: impl Fn(&Rig, S) -> Result<()> + Sync,
) {
    let faults: &[Fault] = match ops {
        Ops::Remote => &REMOTE,
        Ops::Lookups => &LOOKUPS,
        Ops::Local | Ops::Cache => &LOCAL,
    };
    for fault in faults {
        let Swept { injected, errors } = sweep(name, ops, *fault, &prepare, &run);
        if matches!(
            fault,
            Fault::Once(Effect::Fail(_)) | Fault::From(Effect::Fail(_))
        ) {
            assert!(
                injected >= at_least,
                "{fault:?} hit {injected} operations only"
            );
            // What is denied once may be found when it is asked for again.
            let healed = ops == Ops::Lookups && matches!(fault, Fault::Once(_));
            assert!(errors > 0 || healed, "{fault:?} was never noticed");
        }
    }
}

fn fill(backend: &StateBackend, model: &mut Model) -> Result<()> {
    write(backend, model, 0..60, [], 1, LEN)?;
    backend.flush()?;
    write(backend, model, 40..100, [3], 2, LEN)
}

/// A first life: from nothing to a snapshot.
fn first(ops: Ops, at_least: u64) {
    let prepare = || (Rig::new(Durability::Snapshot), ());
    sweep_all("first", ops, at_least, prepare, |rig, ()| {
        let backend = rig.builder().open()?;
        let mut model = Model::new();
        fill(&backend, &mut model)?;
        rig.snapshot(&backend, &model)?;
        check(&backend, &model)
    });
}

/// The second snapshot of a running backend, which deletes the first.
fn second(ops: Ops, at_least: u64) {
    let prepare = || {
        let rig = Rig::new(Durability::Snapshot);
        let backend = rig.builder().open().unwrap();
        let mut model = Model::new();
        fill(&backend, &mut model).unwrap();
        rig.snapshot(&backend, &model).unwrap();
        (rig, (backend, model))
    };
    sweep_all(
        "second",
        ops,
        at_least,
        prepare,
        |rig, (backend, mut model)| {
            write(&backend, &mut model, 90..130, [7, 8], 3, LEN)?;
            let outcome = rig.snapshot(&backend, &model);
            if outcome.is_err() && ops == Ops::Remote {
                // The store is back: the same backend goes on.
                rig.plan.disable();
                write(&backend, &mut model, 125..135, [], 4, LEN).unwrap();
                rig.snapshot(&backend, &model).expect("the next snapshot");
            }
            check(&backend, &model)?;
            outcome.map(drop)
        },
    );
}

/// A rig whose store has two snapshots' worth of files, and whose directory is gone.
fn stored() -> (Rig, Model) {
    let rig = Rig::new(Durability::Snapshot);
    let backend = rig.builder().open().unwrap();
    let mut model = Model::new();
    fill(&backend, &mut model).unwrap();
    rig.snapshot(&backend, &model).unwrap();
    write(&backend, &mut model, 90..130, [7, 8], 3, LEN).unwrap();
    rig.snapshot(&backend, &model).unwrap();
    drop(backend);
    std::fs::remove_dir_all(rig.dir()).unwrap();
    (rig, model)
}

/// A restore, reads before, during and after the download.
fn restore(ops: Ops, policy: LoadPolicy, at_least: u64) {
    let (template, model) = stored();
    let prepare = || (template.fork(), model.clone());
    sweep_all("restore", ops, at_least, prepare, |rig, model| {
        let backend = rig.builder().load_policy(policy).open()?;
        assert_eq!(backend.restored().unwrap().snapshot_id, 2);
        check(&backend, &model)?;
        backend.wait_until_local()?;
        assert_eq!(backend.tier().remote_files, 0);
        check(&backend, &model)
    });
}

/// A restart on a directory that has every file.
fn reopen(ops: Ops, durability: Durability, at_least: u64) {
    let (mut template, mut model) = stored();
    template.durability = durability;
    let backend = template.builder().open().unwrap();
    backend.wait_until_local().unwrap();
    if durability == Durability::Wal {
        write(&backend, &mut model, 10..20, [21, 22], 5, LEN).unwrap();
        backend.flush().unwrap();
        write(&backend, &mut model, 15..25, [], 6, LEN).unwrap();
        template.keep(&model);
    }
    drop(backend);
    let prepare = || (template.fork(), model.clone());
    sweep_all("reopen", ops, at_least, prepare, |rig, model| {
        let backend = rig.builder().open()?;
        check(&backend, &model)?;
        backend.wait_until_local()?;
        check(&backend, &model)
    });
}

/// A restart on a store with snapshots that are not known yet and one that was never completed, then a snapshot, which
/// deletes all others.
fn restarted(ops: Ops, at_least: u64) {
    let template = Rig::new(Durability::Snapshot);
    let backend = template.builder().retained_snapshots(3).open().unwrap();
    let mut model = Model::new();
    let mut kept = Model::new();
    for version in 1..=4 {
        write(
            &backend,
            &mut model,
            version * 10..version * 20,
            [3],
            version,
            LEN,
        )
        .unwrap();
        if version == 4 {
            template.plan.set_filter(|op| op == Op::PutIfAbsent, "");
            template.plan.fail_from(0, ErrorKind::PermissionDenied);
            template.plan.enable();
            template.snapshot(&backend, &model).unwrap_err();
            template.plan.disable();
        } else {
            template.snapshot(&backend, &model).unwrap();
            kept = model.clone();
        }
    }
    drop(backend);
    let prepare = || (template.fork(), kept.clone());
    sweep_all("restarted", ops, at_least, prepare, |rig, mut model| {
        let backend = rig.builder().open()?;
        assert_eq!(backend.restored().unwrap().snapshot_id, 3);
        write(&backend, &mut model, 50..60, [11], 5, LEN)?;
        let outcome = rig.snapshot(&backend, &model);
        check(&backend, &model)?;
        outcome.map(drop)
    });
}

/// Files that are sent in pieces: larger than one of 8 MiB.
#[test]
fn remote_snapshot_of_large_files() {
    let faults = [
        Fault::Once(Effect::Fail(ErrorKind::PermissionDenied)),
        Fault::Once(Effect::FailAfter(ErrorKind::Unavailable)),
        Fault::Once(Effect::Torn(ErrorKind::Io)),
    ];
    for fault in faults {
        let prepare = || (Rig::new(Durability::Snapshot), ());
        let swept = sweep("large", Ops::Remote, fault, prepare, |rig, ()| {
            let backend = rig.builder().open()?;
            let mut model = Model::new();
            write(&backend, &mut model, 0..9, [], 1, 1 << 20)?;
            rig.snapshot(&backend, &model)?;
            check(&backend, &model)
        });
        assert!(
            swept.injected >= 4 && swept.errors > 0,
            "{fault:?}: {swept:?}"
        );
    }
}

#[test]
fn remote_first_snapshot() {
    first(Ops::Remote, 5);
}

#[test]
fn remote_second_snapshot() {
    second(Ops::Remote, 6);
}

#[test]
fn remote_restart_and_snapshot() {
    restarted(Ops::Remote, 15);
}

#[test]
fn remote_lazy_restore() {
    restore(Ops::Remote, LoadPolicy::Lazy, 8);
}

#[test]
fn remote_on_demand_restore() {
    restore(Ops::Remote, LoadPolicy::OnDemand, 8);
}

#[test]
fn remote_eager_restore() {
    restore(Ops::Remote, LoadPolicy::Eager, 8);
}

#[test]
fn remote_reopen() {
    reopen(Ops::Remote, Durability::Snapshot, 4);
}

#[test]
fn remote_reopen_with_log() {
    reopen(Ops::Remote, Durability::Wal, 2);
}

#[test]
fn a_store_that_denies_what_it_has_at_a_lazy_restore() {
    restore(Ops::Lookups, LoadPolicy::Lazy, 6);
}

#[test]
fn a_store_that_denies_what_it_has_at_a_on_demand_restore() {
    restore(Ops::Lookups, LoadPolicy::OnDemand, 6);
}

#[test]
fn a_store_that_denies_what_it_has_at_a_eager_restore() {
    restore(Ops::Lookups, LoadPolicy::Eager, 6);
}

#[test]
fn a_store_that_denies_what_it_has_at_a_restart_and_a_snapshot() {
    restarted(Ops::Lookups, 6);
}

#[test]
fn a_store_that_denies_what_it_has_at_a_reopen() {
    reopen(Ops::Lookups, Durability::Snapshot, 3);
}

#[test]
fn a_store_that_denies_what_it_has_at_a_reopen_with_log() {
    reopen(Ops::Lookups, Durability::Wal, 1);
}

#[test]
fn local_first_snapshot() {
    first(Ops::Local, 300);
}

#[test]
fn local_second_snapshot() {
    second(Ops::Local, 100);
}

#[test]
fn local_lazy_restore() {
    restore(Ops::Local, LoadPolicy::Lazy, 200);
}

#[test]
fn local_eager_restore() {
    restore(Ops::Local, LoadPolicy::Eager, 200);
}

#[test]
fn local_reopen() {
    reopen(Ops::Local, Durability::Snapshot, 200);
}

#[test]
fn local_reopen_with_log() {
    reopen(Ops::Local, Durability::Wal, 200);
}

/// What is kept of remote files is a convenience: where its disk breaks, reads go to the store, and no error ever shows.
#[test]
fn no_fault_of_the_cache_is_ever_an_error() {
    let (template, model) = stored();
    let prepare = || (template.fork(), model.clone());
    for fault in LOCAL {
        let swept = sweep("cache", Ops::Cache, fault, prepare, |rig, model| {
            // Filled by the first, used by the second; what is left of a fault is found by the third.
            for _ in 0..3 {
                let backend = rig.builder().load_policy(LoadPolicy::OnDemand).open()?;
                check(&backend, &model)?;
            }
            Ok(())
        });
        assert_eq!(swept.errors, 0, "{fault:?}");
        let at_least = match fault {
            Fault::Once(Effect::Torn(_) | Effect::Short) => 5,
            _ => 20,
        };
        assert!(swept.injected >= at_least, "{fault:?}: {swept:?}");
    }
}

/// RocksDB opens the table files behind an open, and an error there once made it wait for ever when it closed: see
/// `engine/src/rocks/events.rs`.
#[test]
fn a_failed_background_open_does_not_hang() {
    let (rig, _) = stored();
    let backend = rig.builder().open().unwrap();
    backend.wait_until_local().unwrap();
    drop(backend);
    rig.plan.set_filter(|op| op == Op::OpenRandom, ".sst");
    rig.plan.fail_from(0, ErrorKind::Io);
    rig.plan.enable();
    let backend = rig.builder().open().unwrap();
    while rig.plan.injected() == 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(200));
    let (done, closed) = channel();
    std::thread::spawn(move || {
        drop(backend);
        done.send(())
    });
    closed
        .recv_timeout(Duration::from_secs(10))
        .expect("the backend closes");
}
