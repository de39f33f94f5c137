//! Where files are cut, and what becomes of those that straddle.

use super::*;
use crate::{
    Error,
    key_groups::KeyGroupRange,
    rocks::{ClipProgress, Straddler},
};

/// A database of both columns of `source` with `keep` of its groups, and these as their ranges.
fn part_of(source: &Snapshot, keep: (u16, u16)) -> (Store, Composed) {
    let part = |into: usize, column| Part {
        source: 0,
        column,
        into,
        keep,
    };
    let parts = [part(0, "a"), part(1, "b")];
    let (dir, composed) = build(&[source], &["a", "b"], &parts).unwrap();
    let range = KeyGroupRange::new(keep.0, keep.1).unwrap();
    let db = Db::open(DbConfig {
        columns: ["a", "b"].map(|c| (c.to_string(), Some(range))).to_vec(),
        options: RocksDbOptions {
            auto_compactions: false,
            ..Default::default()
        },
        ..config(dir.path(), false, &[])
    });
    let store = Store {
        dir,
        db: db.unwrap(),
        models: within(&source.models, keep),
        range: keep,
        wal: false,
    };
    (store, composed)
}

/// Rewrites all that is due; gives how many files that were.
fn clip(store: &Store) -> usize {
    let mut rewritten = 0;
    loop {
        let files = store.db.straddlers().unwrap();
        let due = files.iter().filter(|file| file.is_due());
        let Some(file) = due.max_by_key(|file| file.level) else {
            assert_eq!(store.db.clip_progress(), ClipProgress::default());
            return rewritten;
        };
        assert!(store.db.rewrite(file).unwrap());
        store.verify();
        rewritten += 1;
    }
}

/// Entries of both columns outside of the store's range.
fn outside(store: &Store) -> usize {
    let column = |name| {
        let column = store.column(name);
        let before = match store.range.0 {
            0 => 0,
            first => dump(&column, (0, first - 1)).len(),
        };
        before + dump(&column, (store.range.1 + 1, 1_000)).len()
    };
    column("a") + column("b")
}

fn bytes(files: &[Straddler]) -> u64 {
    files.iter().map(|file| file.len).sum()
}

fn table_bytes(store: &Store) -> u64 {
    let files = store.db.live_files().unwrap();
    let tables = files.iter().filter(|f| f.kind == LiveFileKind::Table);
    tables.map(|file| file.len).sum()
}

#[test]
fn compacted_files_are_dropped_or_kept_as_a_whole_at_coarse_borders() {
    let mut source = Store::create(&["a", "b"], (0, 127));
    source.churn(1, 6_000);
    for name in ["a", "b"] {
        source.column(name).compact().unwrap();
    }
    let snapshot = source.snapshot();
    let all = table_bytes(&source);
    for keep in [(0, 63), (64, 127), (32, 63), (8, 15), (120, 127)] {
        let (store, composed) = part_of(&snapshot, keep);
        assert!(!composed.files.is_empty());
        assert!(composed.files.iter().all(|f| f.level > 0 && !f.straddles));
        assert_eq!(store.db.straddlers().unwrap(), []);
        let share = u64::from(keep.1 - keep.0 + 1) * all / 128;
        let kept: u64 = composed.files.iter().map(|f| f.len).sum();
        assert!(kept < share * 5 / 4, "{kept} bytes of {share} for {keep:?}");
        store.verify();
    }
    // At others a file of a level straddles at each end at most.
    let (_, composed) = part_of(&snapshot, (3, 99));
    for column in 0..2 {
        let files = composed.files.iter().filter(|f| f.column == column);
        assert!(files.filter(|f| f.straddles).count() <= 2);
    }
}

#[test]
fn straddling_files_are_rewritten_without_what_lies_outside() {
    for seed in 1..3 {
        let mut source = Store::create(&["a", "b"], (0, 19));
        source.churn(seed, 1_500);
        for name in ["a", "b"] {
            source.column(name).compact().unwrap();
        }
        let snapshot = source.snapshot();
        for keep in [(5, 12), (0, 3), (9, 9)] {
            let (store, _) = part_of(&snapshot, keep);
            let before = store.db.straddlers().unwrap();
            let progress = store.db.clip_progress();
            assert_eq!(progress.files_left, before.len() as u64);
            assert_eq!(progress.bytes_left, bytes(&before));
            let (size, gone) = (table_bytes(&store), outside(&store));
            assert!(!before.is_empty() && gone > 0);
            store.db.clip_columns_of(&before);
            assert_eq!(clip(&store), before.len());
            assert_eq!(store.db.straddlers().unwrap(), []);
            assert_eq!(outside(&store), 0);
            assert!(table_bytes(&store) < size);
            if keep == (5, 12) {
                store.exercise(seed);
            }
        }
    }
}

#[test]
fn files_of_several_levels_are_clipped_and_tombstones_come_to_an_end() {
    for seed in 1..3 {
        let Store { dir, db, .. } = Store::create(&["a", "b"], (0, 19));
        drop(db);
        let db = open_with(dir.path(), false, &[], true);
        let models = ["a", "b"].map(|name| (name.to_string(), Model::new()));
        let mut source = Store {
            dir,
            db,
            models: models.into(),
            range: (0, 19),
            wal: false,
        };
        for round in 0..6 {
            source.change(seed * 10 + round, 1_000, 99);
        }
        let snapshot = source.snapshot();
        for keep in [(5, 12), (0, 3), (17, 19)] {
            let (store, composed) = part_of(&snapshot, keep);
            assert!(composed.files.iter().any(|f| f.level > 0 && f.straddles));
            let before = store.db.straddlers().unwrap();
            store.db.clip_columns_of(&before);
            clip(&store);
            let left = store.db.straddlers().unwrap();
            assert!(left.iter().all(|file| file.level == 0 || file.settled));
            // What is left to ordinary compactions goes with them.
            for name in ["a", "b"] {
                store.column(name).compact().unwrap();
            }
            assert_eq!(store.db.straddlers().unwrap(), []);
            assert_eq!(outside(&store), 0);
            store.verify();
        }
    }
}

#[test]
fn compactions_keep_what_lies_outside_once_the_clip_is_off() {
    let mut source = Store::create(&["a", "b"], (0, 19));
    source.churn(1, 1_500);
    let snapshot = source.snapshot();
    let (store, _) = part_of(&snapshot, (5, 12));
    store.db.clip_columns_of(&[]);
    for name in ["a", "b"] {
        store.column(name).compact().unwrap();
    }
    assert!(outside(&store) > 0);
    store.verify();
}

#[test]
fn what_is_gone_or_closed_is_not_rewritten() {
    let mut source = Store::create(&["a", "b"], (0, 19));
    source.churn(1, 1_500);
    for name in ["a", "b"] {
        source.column(name).compact().unwrap();
    }
    let snapshot = source.snapshot();
    let (store, _) = part_of(&snapshot, (5, 12));
    let file = store.db.straddlers().unwrap().remove(0);
    assert!(store.db.rewrite(&file).unwrap());
    assert!(!store.db.rewrite(&file).unwrap());
    let nowhere = Straddler {
        column: "none".into(),
        ..file.clone()
    };
    assert!(!store.db.rewrite(&nowhere).unwrap());
    store.db.close();
    assert!(matches!(store.db.rewrite(&file), Err(Error::Closed)));
    assert_eq!(store.db.clip_progress(), ClipProgress::default());
}
