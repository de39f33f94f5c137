//! Each kind of damage is found, with exactly what it breaks, and nothing else is.

use std::sync::atomic::{AtomicU64, Ordering};

use lazurite::{
    Codec, Coordinator, FsckOptions, FsckReport, Postcard, Subtask,
    key_groups::assign_to_key_group,
    snapshot::Problem,
    upkeep::{Broken, BrokenTable, Damage},
};
use lazurite_env::remote::{CountingStore, RequestKind};
use lazurite_tests::{COUNTS, damages};
use lazurite_tiering::{Checksum, framed};

use super::*;

const QUICK: FsckOptions = FsckOptions {
    job: None,
    quick: true,
};

impl Stored {
    fn fsck(&self, options: &FsckOptions) -> FsckReport {
        self.tools().fsck(options, &|_| ()).unwrap()
    }

    /// The snapshots that name an object.
    fn naming(&self, key: &str) -> BTreeSet<(String, u64)> {
        let naming = self
            .snapshots
            .iter()
            .filter(|(job, id, _)| objects(&self.metadata(job, *id)).contains(key));
        naming
            .map(|(job, id, _)| ((*job).to_owned(), *id))
            .collect()
    }
}

fn broken(damage: &Damage) -> BTreeSet<(String, u64)> {
    let of = |broken: &Broken| (broken.job.clone(), broken.id);
    let snapshots: BTreeSet<_> = damage.breaks.iter().map(of).collect();
    assert_eq!(snapshots.len(), damage.breaks.len(), "one comes twice");
    snapshots
}

/// What was found stays a finding where nobody can tell any more what it breaks; where the snapshot has gone, it is none.
#[test]
fn a_snapshot_that_becomes_unreadable_meanwhile_hides_nothing() {
    for is_gone in [false, true] {
        let stored = Stored::new();
        let metadata = "b/chk-1/_metadata";
        let files = objects(&stored.metadata("b", 1));
        let file = files.iter().find(|key| key.ends_with(".sst")).unwrap();
        let mut bytes = stored.get(file);
        bytes[7] ^= 1;
        stored.put(file, &bytes);
        // The objects are read after the snapshots.
        let change = |_| match is_gone {
            true => stored.delete(metadata),
            false => stored.put(metadata, b"damaged"),
        };
        let report = stored.tools().fsck(&FsckOptions::default(), &change);
        let damages = report.unwrap().damages;
        if is_gone {
            assert_eq!(damages, []);
            continue;
        }
        let [damage] = &damages[..] else {
            panic!("{damages:?}")
        };
        assert_eq!(&damage.key, file);
        assert!(matches!(damage.problem, Problem::WrongChecksum { .. }));
        let breaks = Broken {
            job: "b".into(),
            id: 1,
            states: Vec::new(),
        };
        assert_eq!(damage.breaks, [breaks]);
    }
}

#[test]
fn a_whole_store_is_whole_and_each_object_read_once() {
    let stored = Stored::new();
    stored.fail_a_snapshot("a");
    stored.age_all();
    let counting = CountingStore::new(Arc::new(stored.store.clone()));
    let tools = SnapshotStore::new(Arc::new(counting.clone()), RUNTIME.clone());
    let (done, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let report = tools
        .fsck(&FsckOptions::default(), &|progress| {
            done.fetch_max(progress.bytes_done, Ordering::Relaxed);
            total.store(progress.bytes_total, Ordering::Relaxed);
        })
        .unwrap();
    assert!(report.is_ok());
    assert_eq!((report.damages.len(), report.snapshots), (0, 4));
    let mut needed = stored.needed();
    needed.retain(|key| !key.ends_with("/_metadata"));
    let bytes = needed.iter().map(|key| stored.get(key).len() as u64).sum();
    let objects = Count {
        objects: needed.len() as u64,
        bytes,
    };
    assert_eq!((report.objects, report.read_bytes), (objects, bytes));
    assert_eq!((done.into_inner(), total.into_inner()), (bytes, bytes));
    assert_eq!(
        counting.snapshot().of(RequestKind::GetRange),
        needed.len() as u64
    );
    assert_eq!(counting.snapshot().of(RequestKind::Len), 0);
    // Orphans are a note.
    let orphans = report.jobs.iter().flat_map(|job| &job.orphans);
    let orphans: BTreeSet<String> = orphans.map(|of| of.key.clone()).collect();
    assert_eq!(orphans, minus(&stored.keys(), &stored.needed()));
    assert_eq!(stored.fsck(&QUICK).read_bytes, 0);
}

#[test]
fn every_damage_to_every_object_is_found_with_what_it_breaks() {
    let stored = Stored::new();
    let mut needed = stored.needed();
    needed.retain(|key| !key.ends_with("/_metadata"));
    let shared = needed.iter().filter(|key| stored.naming(key).len() > 1);
    assert!(shared.count() > 1, "the snapshots share nothing");
    for key in &needed {
        let (whole, naming) = (stored.get(key), stored.naming(key));
        for (name, damage) in damages() {
            let what = format!("{key} {name}");
            let bytes = damage(whole.clone());
            match &bytes {
                Some(bytes) => stored.put(key, bytes),
                None => stored.delete(key),
            }
            let expected = whole.len() as u64;
            let report = stored.fsck(&FsckOptions::default());
            let [damage] = &report.damages[..] else {
                panic!("{what}: {report:?}");
            };
            assert_eq!(&damage.key, key, "{what}");
            assert_eq!(broken(damage), naming, "{what}");
            let by_content = match (&damage.problem, &bytes) {
                (Problem::Missing, None) => false,
                (Problem::WrongLength { expected: e, found }, Some(bytes)) => {
                    assert_eq!((*e, *found), (expected, bytes.len() as u64), "{what}");
                    false
                }
                (Problem::WrongChecksum { .. }, Some(bytes)) => {
                    assert_eq!(bytes.len() as u64, expected);
                    true
                }
                (problem, _) => panic!("{what}: {problem:?}"),
            };
            for broken in &damage.breaks {
                let [state] = &broken.states[..] else {
                    panic!("{what}: {broken:?}");
                };
                let metadata = stored.metadata(&broken.job, broken.id);
                assert_eq!(state.operator, metadata.subtasks[0].operator);
                assert_eq!(state.key_group_range, metadata.subtasks[0].key_group_range);
                assert!(!state.tables.is_empty(), "{what}");
            }
            let quick = stored.fsck(&QUICK);
            assert_eq!(
                quick.damages,
                if by_content {
                    vec![]
                } else {
                    report.damages.clone()
                },
                "{what}"
            );
            for job in ["a", "b"] {
                let options = FsckOptions {
                    job: Some(job.into()),
                    quick: false,
                };
                let found = stored.fsck(&options).damages.len();
                assert_eq!(found, usize::from(key.starts_with(job)), "{what}");
            }
            stored.put(key, &whole);
        }
    }
    assert!(stored.fsck(&FsckOptions::default()).is_ok());
    stored.check();
}

#[test]
fn several_damages_at_once_are_all_found() {
    let stored = Stored::new();
    let mut expected = BTreeSet::new();
    let mut needed = stored.needed();
    needed.retain(|key| !key.ends_with("/_metadata"));
    for (i, key) in needed.iter().enumerate().filter(|(i, _)| i % 2 == 0) {
        expected.insert((key.clone(), stored.naming(key)));
        let mut bytes = stored.get(key);
        bytes[i % 7] ^= 1;
        stored.put(key, &bytes);
    }
    let found: BTreeSet<_> = stored
        .fsck(&FsckOptions::default())
        .damages
        .iter()
        .map(|of| (of.key.clone(), broken(of)))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn metadata_that_cannot_be_read_is_damage_to_its_snapshot() {
    let stored = Stored::new();
    let key = "a/chk-2/_metadata";
    let whole = stored.get(key);
    let newer = String::from_utf8(whole.clone()).unwrap();
    let newer = newer.replacen("\"version\":2", "\"version\":99", 1);
    let expected = |bytes: &[u8], is_right: fn(&Problem) -> bool| {
        stored.put(key, bytes);
        let report = stored.fsck(&FsckOptions::default());
        let [damage] = &report.damages[..] else {
            panic!("{report:?}");
        };
        assert!(damage.key == key && is_right(&damage.problem), "{damage:?}");
        let a = Broken {
            job: "a".into(),
            id: 2,
            states: Vec::new(),
        };
        assert_eq!(damage.breaks, [a]);
        assert_eq!(report.snapshots, 3);
        // Of another job it is a note.
        let options = FsckOptions {
            job: Some("b".into()),
            quick: false,
        };
        let report = stored.fsck(&options);
        assert!(report.is_ok() && report.unreadable_elsewhere.len() == 1);
    };
    expected(newer.as_bytes(), |of| {
        matches!(of, Problem::NewerMetadata { .. })
    });
    expected(&whole[1..], |of| {
        matches!(of, Problem::CorruptMetadata { .. })
    });
    expected(b"", |of| matches!(of, Problem::CorruptMetadata { .. }));
    // Without it there is no snapshot, and so no damage.
    stored.delete(key);
    let report = stored.fsck(&FsckOptions::default());
    assert!(report.is_ok());
    assert_eq!(report.snapshots, 3);
}

fn checksum_of(text: &str) -> Checksum {
    serde_json::from_str(&format!("{text:?}")).unwrap()
}

/// Two snapshots that say different things of one object: at most one of them can be right.
#[test]
fn snapshots_that_do_not_agree_are_found() {
    let stored = Stored::new();
    let (first, second) = (stored.metadata("a", 1), stored.metadata("a", 2));
    let shared = objects(&first)
        .intersection(&objects(&second))
        .find(|key| key.ends_with(".sst"))
        .cloned()
        .unwrap();
    let file = second.subtasks[0]
        .files
        .iter()
        .find(|f| f.key == shared)
        .unwrap();
    let (right, wrong) = (file.checksum.to_string(), "0".repeat(32));
    let key = "a/chk-2/_metadata";
    let document = String::from_utf8(stored.get(key)).unwrap();
    let (_, body) = document.split_once('\n').unwrap();
    let body = body.replace(&right, &wrong);
    stored.put(
        key,
        &framed::encode("lazurite-snapshot", 2, body.as_bytes()),
    );
    let report = stored.fsck(&FsckOptions::default());
    let [agree, checksum] = &report.damages[..] else {
        panic!("{report:?}");
    };
    let mut naming = stored.naming(&shared);
    let (agree, checksum) = match agree.problem {
        Problem::Contradiction { .. } => (agree, checksum),
        _ => (checksum, agree),
    };
    let contents = vec![
        (file.len, checksum_of(&wrong)),
        (file.len, checksum_of(&right)),
    ];
    assert_eq!(agree.problem, Problem::Contradiction { contents });
    assert_eq!(broken(agree), naming);
    assert!(matches!(checksum.problem, Problem::WrongChecksum { .. }));
    naming.retain(|(_, id)| *id == 2);
    assert_eq!(broken(checksum), naming);
    assert!((&agree.key, &checksum.key) == (&shared, &shared));
    assert_eq!(stored.fsck(&QUICK).damages, std::slice::from_ref(agree));
}

/// Which of the subtasks, and which key groups of which table.
#[test]
fn damage_is_told_by_subtask_table_and_key_groups() {
    let stored = Stored::default();
    let coordinator = Coordinator::builder(stored.tools(), "a").open().unwrap();
    let ranges = [(0, 49), (50, 127)].map(|(start, end)| KeyGroupRange::new(start, end).unwrap());
    let subtasks = ranges.map(|range| Subtask {
        operator: "state".into(),
        key_group_range: range,
    });
    let id = coordinator
        .begin(&subtasks, SnapshotOptions::new())
        .unwrap();
    let group = |key: &u64| {
        let mut bytes = Vec::new();
        Codec::<u64>::encode(&Postcard, key, &mut bytes).unwrap();
        assign_to_key_group(&bytes, 128)
    };
    for range in ranges {
        let dir = fast_tempdir();
        let backend = stored
            .backend(dir.path(), "a")
            .key_group_range(range)
            .open()
            .unwrap();
        let counts = backend.value_state(&COUNTS).unwrap();
        let mirror = backend.value_state(&lazurite_tests::model::MIRROR).unwrap();
        for key in 0..2_000u64 {
            match group(&key) {
                of @ (10..=20 | 60..=70) if range.contains(of) => {
                    counts.put(&key, &vec![1]).unwrap()
                }
                of @ (33 | 99) if range.contains(of) => mirror.put(&key, &vec![1]).unwrap(),
                _ => {}
            }
        }
        let part = backend.snapshot_part(id, SnapshotOptions::new()).unwrap();
        coordinator.acknowledge(part.wait().unwrap()).unwrap();
    }
    let metadata = stored.metadata("a", id);
    let mut seen = BTreeSet::new();
    for (state, bounds) in metadata
        .subtasks
        .iter()
        .zip([[(10, 20), (33, 33)], [(60, 70), (99, 99)]])
    {
        for key in state
            .files
            .iter()
            .map(|f| &f.key)
            .chain([&state.tails[0].key, &state.manifest.key])
        {
            let bytes = stored.get(key);
            stored.delete(key);
            let report = stored.fsck(&QUICK);
            stored.put(key, &bytes);
            let [damage] = &report.damages[..] else {
                panic!("{report:?}");
            };
            let [Broken { states, .. }] = &damage.breaks[..] else {
                panic!("{damage:?}");
            };
            let [broken] = &states[..] else {
                panic!("{damage:?}");
            };
            assert_eq!(broken.key_group_range, state.key_group_range);
            let table = |name: &str, (start, end)| BrokenTable {
                table: name.into(),
                key_group_range: KeyGroupRange::new(start, end).unwrap(),
            };
            let [counts, mirror] = [table("counts", bounds[0]), table("mirror", bounds[1])];
            let range = (state.key_group_range.start(), state.key_group_range.end());
            let kind = if key.ends_with(".sst") {
                assert!(
                    [vec![counts.clone()], vec![mirror.clone()]].contains(&broken.tables),
                    "{broken:?}"
                );
                broken.tables[0].table.clone()
            } else if key.ends_with(".tails") {
                assert_eq!(broken.tables, [counts, mirror]);
                "tails".into()
            } else {
                assert_eq!(
                    broken.tables,
                    [table("counts", range), table("mirror", range)]
                );
                "manifest".into()
            };
            seen.insert((range, kind));
        }
    }
    assert_eq!(seen.len(), 8, "{seen:?}");
}
