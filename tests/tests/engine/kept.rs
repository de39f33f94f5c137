//! A local directory that was kept: what of it is used again, and when it is refused.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use lazurite::{
    Durability, Error, LoadPolicy, Restore, StateBackend, StateBackendBuilder, ValueState,
};
use lazurite_tests::{COUNTS, World, assert_same, fill, snapshot, tree, value};

/// A world whose job has one snapshot in three files, and the directory that wrote it.
fn world() -> World {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for part in 0..3 {
        fill(&table, part * 200..(part + 1) * 200, 0, 100);
        backend.flush().unwrap();
    }
    snapshot(&backend);
    world
}

#[track_caller]
fn check(table: &ValueState<u64, Vec<u8>>) {
    for key in 0..600 {
        assert_eq!(
            table.get(&key).unwrap(),
            Some(value(key, 0, 100)),
            "key {key}"
        );
    }
    assert_eq!(table.iter().unwrap().count(), 600);
}

/// Opens, expects so many reused files, and checks everything.
#[track_caller]
fn assert_reuses(world: &World, files: u64) -> StateBackend {
    let backend = world.builder().open().unwrap();
    let report = backend.restored().unwrap();
    assert_eq!(
        (report.snapshot_id, report.files, report.reused_files),
        (1, 3, files)
    );
    check(&backend.value_state(&COUNTS).unwrap());
    backend
}

#[test]
fn every_file_is_used_again_and_none_is_downloaded() {
    let world = world();
    world.store.start_recording();
    let backend = assert_reuses(&world, 3);
    assert_eq!(
        backend.restored().unwrap().reused_bytes,
        backend.restored().unwrap().bytes
    );
    backend.wait_until_local().unwrap();
    let records = world.store.take_recording();
    assert!(
        records.iter().all(|r| !r.key.ends_with(".sst")),
        "{records:#?}"
    );
    assert_eq!(backend.tier().remote_files, 0);
    assert_eq!(snapshot(&backend).uploaded_files, 0);
}

#[test]
fn writes_after_the_snapshot_are_gone_and_its_files_are_used_again() {
    let world = world();
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..900, 7, 100);
    backend.flush().unwrap();
    backend.compact().unwrap(); // the snapshot's files are gone from the disk
    drop((table, backend));
    let backend = world.builder().open().unwrap();
    check(&backend.value_state(&COUNTS).unwrap());
}

#[test]
fn what_was_downloaded_is_used_again() {
    let world = world();
    world.lose_disk();
    let backend = world
        .builder()
        .load_policy(LoadPolicy::OnDemand)
        .open()
        .unwrap();
    assert_eq!(backend.restored().unwrap().reused_files, 0);
    drop(backend);
    let backend = world
        .builder()
        .load_policy(LoadPolicy::OnDemand)
        .open()
        .unwrap();
    assert_eq!(backend.restored().unwrap().reused_files, 0);
    backend.wait_until_local().unwrap();
    drop(backend);
    drop(assert_reuses(&world, 3));
    let names: Vec<String> = world.metadata(1).files().map(|f| f.name.clone()).collect();
    fs::remove_file(world.dir().join("db").join(&names[1])).unwrap();
    assert_reuses(&world, 2).wait_until_local().unwrap();
    fs::write(world.dir().join("db").join(&names[0]), b"short").unwrap();
    assert_reuses(&world, 2).wait_until_local().unwrap();
    assert_reuses(&world, 3);
}

#[test]
fn garbage_in_the_database_directory_does_no_harm() {
    let world = world();
    let db = world.dir().join("db");
    for name in [
        "999999.sst",
        "000000.sst",
        "x.sst",
        "notes.txt",
        "000001.log",
        "MANIFEST-999999",
        "CURRENT.dbtmp",
        "CATALOG",
    ] {
        fs::write(db.join(name), b"garbage").unwrap();
    }
    fs::write(db.join("CURRENT"), b"MANIFEST-999999\n").unwrap();
    for name in [
        "CATALOG.tmp",
        "LAZURITE.tmp",
        "download/000001.sst.1.part",
        "tails/x.tails",
        "tails/x.tails.tmp",
    ] {
        fs::write(world.dir().join(name), b"garbage").unwrap();
    }
    fs::create_dir_all(world.dir().join("staging/chk-9")).unwrap();
    fs::write(world.dir().join("staging/chk-9/000001.sst"), b"garbage").unwrap();
    let backend = assert_reuses(&world, 3);
    snapshot(&backend);
    assert!(world.verify(2).is_empty());
    drop(backend);
    for name in ["999999.sst", "x.sst"] {
        assert!(!db.join(name).exists(), "{name}");
    }
}

#[test]
fn a_damaged_local_file_is_never_served() {
    let world = world();
    let file = world.metadata(1).subtasks[0].files[1].clone();
    let path = world.dir().join("db").join(&file.name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[file.tail_offset as usize / 2] ^= 1;
    fs::write(&path, bytes).unwrap();
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let mut failed = 0;
    for key in 0..600 {
        match table.get(&key) {
            Ok(found) => assert_eq!(found, Some(value(key, 0, 100))),
            Err(Error::RocksDb {
                kind: lazurite_env::ErrorKind::Corruption,
                ..
            }) => failed += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!((1..=200).contains(&failed), "{failed}");
}

#[test]
fn a_damaged_catalog_starts_over() {
    let damages: [fn(Vec<u8>) -> Vec<u8>; 4] = [
        |_| Vec::new(),
        |bytes| bytes[..bytes.len() / 2].to_vec(),
        |_| b"nonsense\n".to_vec(),
        |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            bytes
        },
    ];
    let world = world();
    let path = world.dir().join("CATALOG");
    for damage in damages {
        fs::write(&path, damage(fs::read(&path).unwrap())).unwrap();
        assert_reuses(&world, 0).wait_until_local().unwrap();
    }
    fs::remove_file(&path).unwrap();
    assert_reuses(&world, 0).wait_until_local().unwrap();
    assert_reuses(&world, 3);
}

#[test]
fn half_a_restore_is_finished() {
    let world = world();
    let names: Vec<String> = world.metadata(1).files().map(|f| f.name.clone()).collect();
    let dir = world.dir();
    let remove = |name: &str| fs::remove_file(dir.join(name)).unwrap();
    remove("db/CURRENT");
    drop(assert_reuses(&world, 3));
    remove("db/CURRENT");
    remove(&format!("db/{}", names[2]));
    assert_reuses(&world, 2).wait_until_local().unwrap();
    // Cut while the small files were written.
    remove("db/CURRENT");
    for name in tree(&dir.join("db"))
        .into_keys()
        .filter(|name| name.starts_with("OPTIONS"))
    {
        remove(&format!("db/{name}"));
    }
    for name in tree(&dir.join("db"))
        .into_keys()
        .filter(|name| name.starts_with("MANIFEST"))
    {
        fs::write(dir.join("db").join(name), b"half").unwrap();
    }
    drop(assert_reuses(&world, 3));
    fs::remove_dir_all(dir.join("db")).unwrap();
    fs::remove_dir_all(dir.join("tails")).unwrap();
    assert_reuses(&world, 0).wait_until_local().unwrap();
    fs::remove_file(dir.join("TABLES")).unwrap();
    assert_reuses(&world, 3);
}

fn wal(builder: StateBackendBuilder) -> StateBackendBuilder {
    builder.durability(Durability::Wal)
}

#[test]
fn with_the_log_every_acknowledged_write_outlives_a_drop() {
    let world = World::new();
    for round in 0..4u64 {
        let backend = wal(world.builder()).open().unwrap();
        assert!(backend.restored().is_none(), "it goes on in place");
        let table = backend.value_state(&COUNTS).unwrap();
        assert_eq!(table.iter().unwrap().count() as u64, 100 * round);
        fill(&table, 100 * round..100 * (round + 1), round, 100);
        if round == 1 {
            snapshot(&backend);
        }
        if round == 2 {
            let report = snapshot(&backend);
            assert!(
                report.reused_files >= 1,
                "the files of snapshot 1 are known: {report:?}"
            );
        }
    }
    let backend = wal(world.builder()).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for key in 0..400 {
        assert_eq!(table.get(&key).unwrap(), Some(value(key, key / 100, 100)));
    }
    drop((table, backend));
    // Asked for by its number, the snapshot comes back all the same.
    let id = *world.ids().last().unwrap();
    let backend = wal(world.builder())
        .restore(Restore::Snapshot(id))
        .open()
        .unwrap();
    assert_eq!(
        backend
            .value_state(&COUNTS)
            .unwrap()
            .iter()
            .unwrap()
            .count(),
        300
    );
}

#[test]
fn a_restore_that_fails_leaves_the_log_as_it_was() {
    let world = World::new();
    let backend = wal(world.builder()).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..100, 0, 100);
    snapshot(&backend);
    fill(&table, 100..600, 0, 100);
    drop((table, backend));
    let key = world.metadata(1).subtasks[0].files[0].key.clone();
    let old = world.damage(&key, |_| None);
    let before = tree(&world.dir());
    let error = wal(world.builder())
        .restore(Restore::Snapshot(1))
        .open()
        .unwrap_err();
    assert!(matches!(error, Error::SnapshotCorrupt { .. }), "{error:?}");
    assert_same(&before, &tree(&world.dir()), "a failed restore");
    world.heal(&key, &old);
    let backend = wal(world.builder()).open().unwrap();
    check(&backend.value_state(&COUNTS).unwrap());
}

const CHILD: &str = "LAZURITE_KEPT_CHILD";

/// The process that is killed: writes and tells what was acknowledged. Does nothing as a test of its own.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(root) = std::env::var(CHILD) else {
        return;
    };
    let root = Path::new(&root);
    let backend = wal(StateBackend::builder(root.join("local")))
        .remote(format!("file://{}", root.join("store").display()))
        .job("job")
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let begin = table.iter().unwrap().count() as u64;
    for key in begin.. {
        table.put(&key, &value(key, 0, 100)).unwrap();
        println!("acknowledged {key}");
        match key % 1000 {
            500 => backend.flush().unwrap(),
            999 => drop(snapshot(&backend)),
            _ => {}
        }
    }
}

#[test]
fn with_the_log_every_acknowledged_write_outlives_kill_9() {
    let world = World::new();
    let root = world.dir().parent().unwrap().to_owned();
    let mut acknowledged = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "kept::child_that_writes_until_it_is_killed",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, &root)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let goal = acknowledged + 137 + 400 * round;
        for line in lines {
            let line = line.unwrap();
            if let Some((_, key)) = line.rsplit_once("acknowledged ") {
                acknowledged = key.parse::<u64>().unwrap() + 1;
                if acknowledged == goal {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(
            acknowledged >= goal,
            "the child ended by itself after {acknowledged} writes"
        );
        let backend = wal(world.builder()).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        for key in 0..acknowledged {
            assert_eq!(
                table.get(&key).unwrap(),
                Some(value(key, 0, 100)),
                "round {round}, key {key}"
            );
        }
        let count = table.iter().unwrap().count() as u64;
        assert!(
            (acknowledged..=acknowledged + 1).contains(&count),
            "round {round}: {count}, {acknowledged}"
        );
        acknowledged = count;
    }
}

#[test]
fn a_log_that_another_directory_has_left_behind_is_refused() {
    let world = World::new();
    let store = || Arc::new(world.store.clone());
    let old = wal(world.builder_at("local", store())).open().unwrap();
    fill(&old.value_state(&COUNTS).unwrap(), 0..100, 0, 100);
    snapshot(&old);
    drop(old);
    let new = wal(world.builder_at("new", store())).open().unwrap();
    assert_eq!(new.restored().unwrap().snapshot_id, 1);
    fill(&new.value_state(&COUNTS).unwrap(), 100..600, 0, 100);
    // Until the other one has taken a snapshot, nothing tells them apart.
    snapshot(&new);
    drop(new);
    let before = tree(&world.dir());
    let error = wal(world.builder()).open().unwrap_err();
    assert!(
        matches!(&error, Error::LocalDirectory { reason, .. } if reason.contains("another directory")),
        "{error:?}"
    );
    assert_same(&before, &tree(&world.dir()), "stale");
    // The one that wrote it goes on, and the old one may be told to restore.
    let new = wal(world.builder_at("new", store())).open().unwrap();
    check(&new.value_state(&COUNTS).unwrap());
    drop(new);
    let back = wal(world.builder())
        .restore(Restore::Snapshot(2))
        .open()
        .unwrap();
    check(&back.value_state(&COUNTS).unwrap());
    drop(back);
    let again = wal(world.builder()).open().unwrap();
    assert!(again.restored().is_none());
    check(&again.value_state(&COUNTS).unwrap());
}

#[test]
fn a_log_of_other_key_groups_is_refused() {
    let world = World::new();
    let backend = wal(world.builder()).open().unwrap();
    fill(&backend.value_state(&COUNTS).unwrap(), 0..600, 0, 100);
    drop(backend);
    // No snapshot tells how it was written: the directory must.
    let before = tree(&world.dir());
    let half = lazurite::KeyGroupRange::new(0, 63).unwrap();
    let others = [
        wal(world.builder()).key_groups(64),
        wal(world.builder()).key_group_range(half),
    ];
    for builder in others {
        let error = builder.open().unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidOption { .. }
                    | Error::LocalDirectory { .. }
                    | Error::RangeNotCovered { .. }
            ),
            "{error:?}"
        );
        assert_same(&before, &tree(&world.dir()), "other key groups");
    }
    let backend = wal(world.builder()).open().unwrap();
    check(&backend.value_state(&COUNTS).unwrap());
}

#[test]
fn directories_of_others_are_left_alone() {
    let world = world();
    let refused = |builder: StateBackendBuilder, why: &str| {
        let error = builder.open().unwrap_err();
        assert!(
            matches!(&error, Error::LocalDirectory { reason, .. } if reason.contains(why)),
            "{error:?}"
        );
        assert!(!error.is_temporary());
    };
    let before = tree(&world.dir());
    refused(world.builder().job("other"), "belongs to job");
    refused(
        wal(world.builder()).job("other").restore(Restore::Empty),
        "belongs to job",
    );
    assert_same(&before, &tree(&world.dir()), "another job's");

    let foreign = world.builder_dir("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), b"years of work").unwrap();
    let before = tree(&foreign);
    refused(
        world.builder_at("foreign", Arc::new(world.store.clone())),
        "not a directory of this engine",
    );
    assert_same(&before, &tree(&foreign), "a stranger's");

    let backend = world.builder().open().unwrap();
    let before = tree(&world.dir().join("db"));
    refused(world.builder(), "another backend");
    refused(world.builder().restore(Restore::Empty), "another backend");
    assert_same(&before, &tree(&world.dir().join("db")), "in use");
    check(&backend.value_state(&COUNTS).unwrap());
}
