//! What a snapshot and a restore cost on each kind of store, in requests and bytes: the figures of docs/OPERATIONS.md.

use lazurite::{LoadPolicy, RocksDbOptions, SnapshotOptions, StateBackendBuilder};
use lazurite_env::remote::{RequestCounts, RequestKind};
use lazurite_tests::{COUNTS, fill, value};

use crate::world::{KINDS, World, counted};

const KEYS: u64 = 64_000;
const LEN: usize = 1000;

fn quiet(builder: StateBackendBuilder) -> StateBackendBuilder {
    builder
        .load_policy(LoadPolicy::OnDemand)
        .rocksdb(RocksDbOptions {
            auto_compactions: false,
            write_buffer_bytes: 8 << 20,
            target_file_bytes: 4 << 20,
            level_base_bytes: 16 << 20,
            ..RocksDbOptions::default()
        })
}

fn shown(counts: &RequestCounts) -> String {
    use RequestKind::*;
    let kinds = [
        ("list", List),
        ("get", Get),
        ("get range", GetRange),
        ("put", Put),
        ("put if absent", PutIfAbsent),
        ("part", Part),
        ("finish", Finish),
        ("delete", Delete),
    ];
    let kinds = kinds.iter().filter(|(_, kind)| counts.of(*kind) > 0);
    let kinds: Vec<_> = kinds
        .map(|(name, kind)| format!("{} {name}", counts.of(*kind)))
        .collect();
    format!(
        "{} requests ({}), {} bytes out, {} bytes in",
        counts.total(),
        kinds.join(", "),
        counts.bytes_out,
        counts.bytes_in
    )
}

#[test]
fn snapshots_and_restores_cost_the_same_on_every_store() {
    let mut costs = Vec::new();
    for kind in KINDS {
        let Some(world) = World::new(kind) else {
            continue;
        };
        let (store, counter) = counted(world.store());
        let backend = quiet(world.builder("local", store.clone())).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        fill(&table, 0..KEYS, 0, LEN);
        backend.flush().unwrap();
        backend.compact().unwrap();
        let mut last = counter.snapshot();
        let mut cost = |what: &str| {
            let now = counter.snapshot();
            let cost = now.since(&last);
            last = now;
            println!("{kind:?}, {what}: {}", shown(&cost));
            cost
        };
        let snapshot = || {
            backend
                .snapshot(SnapshotOptions::new())
                .unwrap()
                .wait()
                .unwrap()
        };
        let first = snapshot();
        let full = cost("first snapshot");
        fill(&table, (0..KEYS).step_by(100), 1, LEN);
        let second = snapshot();
        let changed = cost("1 % changed");
        println!(
            "{} and {} files",
            first.uploaded_files, second.uploaded_files
        );
        drop((table, backend));
        world.lose("local");
        cost("closing");
        let backend = quiet(world.builder("local", store)).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        let restored = cost("restore");
        assert_eq!(table.get(&7).unwrap(), Some(value(7, 0, LEN)));
        let read = cost("first read");

        assert!(full.total() <= first.uploaded_files + 6, "{full:?}");
        assert!(changed.total() <= second.uploaded_files + 10, "{changed:?}");
        assert!(restored.total() <= 7, "{restored:?}");
        assert_eq!(read.total(), 1);
        costs.push((full.total(), changed.total(), restored.total()));
    }
    assert!(costs.windows(2).all(|pair| pair[0] == pair[1]), "{costs:?}");
}
