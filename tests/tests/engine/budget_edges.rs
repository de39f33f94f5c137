//! The disk budget and what goes on beside it: other writers, older directories, the end of a backend.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use lazurite::{Durability, Error, Restore, SnapshotOptions, ValueState};
use lazurite_env::{FaultEnv, FaultPlan, Op, PosixEnv, remote::FaultStore};
use lazurite_tests::{COUNTS, GateStore, World, fill, snapshot, value};
use lazurite_tiering::framed;

use super::budget::{BUDGET, LEN, limited};

/// 8 MiB of values: twice the budget.
const KEYS: u64 = 2 * BUDGET / LEN as u64;

fn fill_all(table: &ValueState<u64, Vec<u8>>, version: u64) {
    fill(table, 0..KEYS, version, LEN);
}

#[track_caller]
fn check_all(table: &ValueState<u64, Vec<u8>>, version: u64) {
    for key in 0..KEYS {
        let expected = Some(value(key, version, LEN));
        assert_eq!(table.get(&key).unwrap(), expected, "key {key}");
    }
}

/// A snapshot cannot link what is not here, so nothing goes that it cannot refer to either.
#[test]
fn what_the_next_snapshot_must_upload_again_stays() {
    let world = World::new();
    let builder = || {
        limited(world.builder())
            .durability(Durability::Wal)
            .retained_snapshots(2)
            .disk_budget_bytes(BUDGET * 100)
    };
    let backend = builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill_all(&table, 1);
    snapshot(&backend);
    fill_all(&table, 2);
    backend.compact().unwrap();
    snapshot(&backend);
    drop((table, backend));
    let backend = builder().restore(Restore::Snapshot(1)).open().unwrap();
    backend.wait_until_local().unwrap();
    drop(backend);
    // Of the local files, which are an older snapshot's, the catalog does not say where their tails begin.
    let path = world.dir().join("CATALOG");
    let old = fs::read(&path).unwrap();
    let (version, body) = framed::decode("lazurite-catalog", 2, "CATALOG", &old).unwrap();
    let mut body: serde_json::Value = serde_json::from_slice(body).unwrap();
    for file in body["files"].as_array_mut().unwrap() {
        file["tail"] = serde_json::Value::Null;
    }
    let body = serde_json::to_vec(&body).unwrap();
    fs::write(&path, framed::encode("lazurite-catalog", version, &body)).unwrap();

    let backend = builder().open().unwrap();
    assert!(backend.restored().is_none(), "it goes on in place");
    let table = backend.value_state(&COUNTS).unwrap();
    backend.set_disk_budget_bytes(BUDGET).unwrap();
    assert_eq!(backend.tier().demotions, 0, "{:?}", backend.tier());
    let report = snapshot(&backend);
    assert!(report.uploaded_files > 0);
    // Now it can.
    let tier = backend.tier();
    assert!(tier.demotions > 0 && tier.disk_over_bytes == 0, "{tier:?}");
    check_all(&table, 1);
    assert!(world.verify(report.id).is_empty());
}

#[test]
fn a_snapshot_that_another_writer_does_not_know_of_lets_no_file_go() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let first = limited(world.builder_over(Arc::new(gate.clone())))
        .open()
        .unwrap();
    let table = first.value_state(&COUNTS).unwrap();
    fill_all(&table, 1);
    gate.hold_writes("_metadata");
    let pending = first.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    let second = world.builder_at("second", Arc::new(world.store.clone()));
    let second = second.open().unwrap();
    fill(&second.value_state(&COUNTS).unwrap(), 0..100, 2, LEN);
    assert_eq!(snapshot(&second).id, 2);
    gate.open();
    let error = pending.wait().unwrap_err();
    assert!(matches!(error, Error::SnapshotConflict { .. }), "{error:?}");
    let tier = first.tier();
    assert!(tier.demotions == 0 && tier.local_files > 0, "{tier:?}");
    check_all(&table, 1);
}

/// The links of a snapshot hold the space of files that are demoted after it.
#[test]
fn links_do_not_wait_for_the_deletions_of_old_snapshots() {
    let world = World::new();
    let plan = FaultPlan::new();
    let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
    let backend = limited(world.builder_over(Arc::new(store))).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..100, 1, LEN);
    snapshot(&backend);
    fill(&table, 0..100, 2, LEN);
    let (deletions, links) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    plan.set_filter(
        {
            let (deletions, links) = (deletions.clone(), links.clone());
            let staging = world.dir().join("staging");
            move |op| {
                if op == Op::ObjectDelete {
                    deletions.fetch_add(1, SeqCst);
                    links.fetch_add(fs::read_dir(&staging).unwrap().count() as u64, SeqCst);
                }
                false
            }
        },
        "",
    );
    snapshot(&backend);
    assert!(deletions.load(SeqCst) > 0);
    assert_eq!(links.load(SeqCst), 0);
}

#[test]
fn when_a_backend_has_ended_nobody_looks_at_its_disk() {
    let world = World::new();
    let plan = FaultPlan::new();
    let env = FaultEnv::new(Arc::new(PosixEnv), plan.clone());
    let builder = limited(world.builder()).env(Arc::new(env));
    let backend = builder.open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..100, 1, LEN);
    drop(backend);
    // The table lives on, and what is below it.
    plan.pass();
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(plan.seen(), 0);
    assert!(matches!(table.get(&1), Err(Error::Closed)));
}
