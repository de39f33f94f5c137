//! Options that cannot be right, or that do not fit what is stored.

use std::time::Duration;

use lazurite::{
    Error, KeyGroupRange, MapStateDescriptor, RawBytes, RocksDbOptions, SnapshotOptions,
    StateBackend, StateBackendBuilder, ValueStateDescriptor,
};
use lazurite_tests::{COUNTS, World, snapshot};

use super::{assert_opens, assert_refused, open_error, world};

#[test]
fn tables_of_other_types_and_codecs() {
    let world = world();
    let mismatch = |error: &Error| matches!(error, Error::TableMismatch { .. });
    let other_value = ValueStateDescriptor::<u64, String>::new("counts");
    let other_key = ValueStateDescriptor::<u32, Vec<u8>>::new("counts");
    let other_codec =
        ValueStateDescriptor::<u64, Vec<u8>>::with_codecs("counts", lazurite::Postcard, RawBytes);
    let other_kind = MapStateDescriptor::<u64, u64, Vec<u8>>::new("counts");
    assert_refused(&world, "value type", |b| b.table(&other_value), mismatch);
    assert_refused(&world, "key type", |b| b.table(&other_key), mismatch);
    assert_refused(&world, "codec", |b| b.table(&other_codec), mismatch);
    assert_refused(&world, "kind", |b| b.table(&other_kind), mismatch);
    assert_refused(
        &world,
        "second",
        |b| b.table(&COUNTS).table(&other_value),
        mismatch,
    );
    // Undeclared, they are found out when they are asked for, and the backend goes on.
    let backend = world.builder().open().unwrap();
    assert!(mismatch(&backend.value_state(&other_value).unwrap_err()));
    assert!(mismatch(&backend.value_state(&other_key).unwrap_err()));
    assert!(mismatch(&backend.value_state(&other_codec).unwrap_err()));
    assert!(mismatch(&backend.map_state(&other_kind).unwrap_err()));
    drop(backend);
    assert_opens(&world);
}

#[test]
fn key_groups_that_were_not_written() {
    let world = world();
    let range = |start, end| KeyGroupRange::new(start, end).unwrap();
    assert_refused(
        &world,
        "key groups",
        |b| b.key_groups(64),
        |e| matches!(e, Error::InvalidOption { .. }),
    );
    let stranger = |b: StateBackendBuilder| b.operator("other");
    assert_refused(&world, "another operator", stranger, |e| {
        matches!(e, Error::RangeNotCovered { .. })
    });
    drop(world);

    // A snapshot of the lower half has neither all nor the upper one.
    let world = World::new();
    let backend = world
        .builder()
        .key_group_range(range(0, 63))
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    let written = (0..600)
        .filter(|key| table.put(key, &vec![1]).is_ok())
        .count();
    assert!((200..400).contains(&written));
    snapshot(&backend);
    drop((table, backend));
    let not_covered = |e: &Error| matches!(e, Error::RangeNotCovered { .. });
    assert_refused(&world, "all", |b| b, not_covered);
    assert_refused(
        &world,
        "upper",
        |b| b.key_group_range(range(64, 127)),
        not_covered,
    );
    let backend = world
        .builder()
        .key_group_range(range(0, 63))
        .open()
        .unwrap();
    assert_eq!(
        backend
            .value_state(&COUNTS)
            .unwrap()
            .iter()
            .unwrap()
            .count(),
        written
    );
}

#[test]
fn options_that_cannot_be_right() {
    type Change = fn(StateBackendBuilder) -> StateBackendBuilder;
    let wrong: Vec<(&str, Change)> = vec![
        ("empty job", |b| b.job("")),
        ("job with a slash", |b| b.job("a/b")),
        ("job above", |b| b.job("..")),
        ("long job", |b| b.job("x".repeat(129))),
        ("no key groups", |b| b.key_groups(0)),
        ("too many key groups", |b| b.key_groups(32769)),
        ("range outside", |b| {
            b.key_groups(16)
                .key_group_range(KeyGroupRange::new(0, 16).unwrap())
        }),
        ("retained", |b| b.retained_snapshots(0)),
        ("threads", |b| b.transfer_threads(0)),
        ("many threads", |b| b.transfer_threads(65)),
        ("timeout", |b| b.snapshot_timeout(Duration::ZERO)),
        ("long timeout", |b| b.snapshot_timeout(Duration::MAX)),
        ("cache", |b| b.cache_bytes((1 << 20) - 1)),
        ("free space", |b| b.min_free_disk_bytes((1 << 40) + 1)),
        ("table name", |b| {
            b.table(&ValueStateDescriptor::<u64, u64>::new("a/b"))
        }),
        ("default table", |b| {
            b.table(&ValueStateDescriptor::<u64, u64>::new("default"))
        }),
        ("block", |b| {
            b.rocksdb(RocksDbOptions {
                block_bytes: 1,
                ..Default::default()
            })
        }),
        ("buffers", |b| {
            b.rocksdb(RocksDbOptions {
                write_buffers: 0,
                ..Default::default()
            })
        }),
        ("jobs", |b| {
            b.rocksdb(RocksDbOptions {
                background_jobs: 0,
                ..Default::default()
            })
        }),
        ("bloom", |b| {
            b.rocksdb(RocksDbOptions {
                bloom_bits_per_key: 99,
                ..Default::default()
            })
        }),
    ];
    let world = World::new();
    for (what, change) in wrong {
        let error = open_error(change(world.builder()));
        assert!(
            matches!(error, Error::InvalidOption { .. }),
            "{what}: {error:?}"
        );
        assert!(!world.dir().exists(), "{what}: something was touched");
        assert_eq!(world.store.snapshot().total(), 0, "{what}");
    }
    let error = open_error(StateBackend::builder(world.dir()));
    assert!(
        matches!(
            error,
            Error::InvalidOption {
                option: "remote",
                ..
            }
        ),
        "{error:?}"
    );
    for uri in ["", "nonsense", "ftp://x/y", "file://relative"] {
        let error = open_error(StateBackend::builder(world.dir()).remote(uri));
        assert!(!error.is_temporary(), "{uri}: {error:?}");
    }
    // Of one snapshot alone it is the longest that there is.
    let backend = world.builder().open().unwrap();
    let options = SnapshotOptions::new().timeout(Duration::MAX);
    backend.snapshot(options).unwrap().wait().unwrap();
}
