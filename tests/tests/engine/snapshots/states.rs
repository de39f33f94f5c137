//! That a snapshot comes back as it was: any of them, with tables of every kind.

use std::collections::BTreeMap;

use lazurite::{
    Codec, CodecError, LoadPolicy, MapStateDescriptor, RawBytes, Restore, ValueStateDescriptor,
};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{assert_tidy, open};

#[test]
fn an_older_snapshot_comes_back_by_its_number() {
    let world = World::new();
    let backend = world.builder().retained_snapshots(4).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    for version in 1..=4 {
        fill(&table, 0..100 * version, version, 60);
        snapshot(&backend);
    }
    drop((table, backend));
    for (id, lose) in [(2, true), (4, false), (1, false), (3, true)] {
        if lose {
            world.lose_disk();
        }
        let backend = world
            .builder()
            .retained_snapshots(4)
            .restore(Restore::Snapshot(id))
            .open()
            .unwrap();
        assert_eq!(backend.restored().unwrap().snapshot_id, id);
        let table = backend.value_state(&COUNTS).unwrap();
        assert_eq!(table.iter().unwrap().count() as u64, 100 * id);
        assert_eq!(table.get(&99).unwrap(), Some(value(99, id, 60)));
    }
    // What comes after a return to an older one has the next number, and is the newest.
    let backend = world
        .builder()
        .retained_snapshots(9)
        .restore(Restore::Snapshot(2))
        .open()
        .unwrap();
    backend
        .value_state(&COUNTS)
        .unwrap()
        .put(&5000, &vec![1])
        .unwrap();
    assert_eq!(snapshot(&backend).id, 5);
    drop(backend);
    let (backend, table) = open(&world);
    assert_eq!(backend.restored().unwrap().snapshot_id, 5);
    assert_eq!(table.iter().unwrap().count(), 201);
}

#[test]
fn restore_empty_begins_anew_and_numbers_go_on() {
    let world = World::new();
    let (backend, table) = open(&world);
    fill(&table, 0..100, 1, 50);
    snapshot(&backend);
    drop((table, backend));
    for lose in [false, true] {
        if lose {
            world.lose_disk();
        }
        let backend = world.builder().restore(Restore::Empty).open().unwrap();
        assert!(backend.restored().is_none());
        assert!(backend.tables().is_empty());
        let other = ValueStateDescriptor::<String, String>::new("counts"); // not the old table's types
        assert_eq!(
            backend.value_state(&other).unwrap().iter().unwrap().count(),
            0
        );
        assert_eq!(world.ids(), [1], "nothing is deleted by opening");
    }
    let backend = world.builder().restore(Restore::Empty).open().unwrap();
    backend
        .value_state(&COUNTS)
        .unwrap()
        .put(&1, &vec![9])
        .unwrap();
    assert_eq!(snapshot(&backend).id, 2);
    assert_eq!(world.ids(), [2]);
    assert_tidy(&world);
    drop(backend);
    let (_backend, table) = open(&world);
    assert_eq!(table.iter().unwrap().count(), 1);
}

/// Writes numbers as decimal text.
struct Decimal;

impl Codec<u64> for Decimal {
    fn id(&self) -> &str {
        "decimal-1"
    }

    fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.to_string().as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<u64, CodecError> {
        std::str::from_utf8(bytes)
            .map_err(CodecError::new)?
            .parse()
            .map_err(CodecError::new)
    }
}

#[test]
fn tables_of_every_kind_come_back() {
    static VISITS: MapStateDescriptor<String, u32, (String, bool)> =
        MapStateDescriptor::new("visits");
    let own = || ValueStateDescriptor::<u64, u64>::with_codecs("own", Decimal, Decimal);
    let raw = || {
        MapStateDescriptor::<u64, Vec<u8>, Vec<u8>>::with_codecs("raw", Decimal, RawBytes, RawBytes)
    };
    let world = World::new();
    let (backend, counts) = open(&world);
    let visits = backend.map_state(&VISITS).unwrap();
    let (numbers, bytes) = (
        backend.value_state(&own()).unwrap(),
        backend.map_state(&raw()).unwrap(),
    );
    for key in 0..200u64 {
        counts.put(&key, &value(key, 0, 20)).unwrap();
        counts.in_namespace(b"w1").put(&key, &vec![1]).unwrap();
        counts.in_namespace([0, 255]).put(&key, &vec![2]).unwrap();
        numbers.put(&key, &(key * key)).unwrap();
        for sub in 0..3u32 {
            visits
                .put(
                    &format!("user-{key}"),
                    &sub,
                    &(format!("page {sub}"), sub == 1),
                )
                .unwrap();
        }
        bytes
            .put(&key, &vec![0xff; key as usize % 5], &vec![key as u8])
            .unwrap();
        bytes.put(&key, &vec![0xff, 0xff, 0], &vec![]).unwrap();
    }
    visits.clear(&"user-7".into()).unwrap();
    visits
        .in_namespace("other")
        .put(&"user-7".into(), &9, &("x".into(), false))
        .unwrap();
    counts.remove(&8).unwrap();
    snapshot(&backend);
    drop((counts, visits, numbers, bytes, backend));
    world.lose_disk();

    let backend = world
        .builder()
        .table(&COUNTS)
        .table(&VISITS)
        .table(&own())
        .table(&raw())
        .open()
        .unwrap();
    assert_eq!(backend.tables().len(), 4);
    let (counts, visits) = (
        backend.value_state(&COUNTS).unwrap(),
        backend.map_state(&VISITS).unwrap(),
    );
    let (numbers, bytes) = (
        backend.value_state(&own()).unwrap(),
        backend.map_state(&raw()).unwrap(),
    );
    for key in 0..200u64 {
        assert_eq!(
            counts.get(&key).unwrap(),
            (key != 8).then(|| value(key, 0, 20))
        );
        assert_eq!(counts.in_namespace(b"w1").get(&key).unwrap(), Some(vec![1]));
        assert_eq!(
            counts.in_namespace([0, 255]).get(&key).unwrap(),
            Some(vec![2])
        );
        assert_eq!(numbers.get(&key).unwrap(), Some(key * key));
        let entries: Result<Vec<_>, _> = visits.entries(&format!("user-{key}")).unwrap().collect();
        assert_eq!(entries.unwrap().len(), if key == 7 { 0 } else { 3 });
        assert_eq!(
            bytes.get(&key, &vec![0xff; key as usize % 5]).unwrap(),
            Some(vec![key as u8])
        );
        assert_eq!(bytes.get(&key, &vec![0xff, 0xff, 0]).unwrap(), Some(vec![]));
    }
    assert_eq!(visits.iter().unwrap().count(), 199 * 3);
    assert_eq!(visits.in_namespace("other").iter().unwrap().count(), 1);
    assert_eq!(counts.in_namespace(b"w1").iter().unwrap().count(), 200);
}

#[test]
fn random_chains_of_snapshots_and_restores_agree_with_a_model() {
    for seed in 0..4 {
        let mut rng = StdRng::seed_from_u64(seed);
        let world = World::new();
        let retained = rng.random_range(1..=4);
        let mut current: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut kept: BTreeMap<u64, BTreeMap<u64, Vec<u8>>> = BTreeMap::new();
        let builder = |policy| {
            world
                .builder()
                .load_policy(policy)
                .retained_snapshots(retained)
        };
        let mut backend = builder(LoadPolicy::Lazy).open().unwrap();
        for step in 0..20 {
            let table = backend.value_state(&COUNTS).unwrap();
            for _ in 0..rng.random_range(0..300) {
                let key = rng.random_range(0..400);
                if rng.random_bool(0.2) {
                    table.remove(&key).unwrap();
                    current.remove(&key);
                } else {
                    let bytes = value(key, rng.random(), rng.random_range(0..200));
                    table.put(&key, &bytes).unwrap();
                    current.insert(key, bytes);
                }
            }
            match rng.random_range(0..4) {
                0 => backend.compact().unwrap(),
                1 => backend.flush().unwrap(),
                _ => {}
            }
            let found: Result<BTreeMap<_, _>, _> = table.iter().unwrap().collect();
            assert_eq!(found.unwrap(), current, "seed {seed}, step {step}");
            if rng.random_bool(0.7) {
                let id = snapshot(&backend).id;
                kept.insert(id, current.clone());
                while kept.len() > retained {
                    kept.pop_first();
                }
                assert_eq!(
                    world.ids(),
                    kept.keys().copied().collect::<Vec<_>>(),
                    "seed {seed}, step {step}"
                );
            }
            if rng.random_bool(0.5) {
                drop((table, backend));
                if rng.random_bool(0.5) {
                    world.lose_disk();
                }
                let policy = [LoadPolicy::Eager, LoadPolicy::Lazy, LoadPolicy::OnDemand]
                    [rng.random_range(0..3)];
                let older = kept.keys().copied().nth(rng.random_range(0..retained));
                let restore = match older {
                    Some(id) if rng.random_bool(0.5) => Restore::Snapshot(id),
                    _ => Restore::Latest,
                };
                current = match restore {
                    Restore::Snapshot(id) => kept[&id].clone(),
                    _ => kept
                        .last_key_value()
                        .map(|(_, state)| state.clone())
                        .unwrap_or_default(),
                };
                backend = builder(policy).restore(restore).open().unwrap();
            }
        }
        for id in world.ids() {
            assert!(world.verify(id).is_empty(), "seed {seed}, snapshot {id}");
        }
    }
}
