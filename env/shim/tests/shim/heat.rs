//! Which chunks users look into is noted: of gets only, at the reads that are timed, and nowhere else.

use std::path::{Path, PathBuf};

use lazurite_env::{Activity, PosixEnv};
use lazurite_env_rocksdb::{CachedBlock, RocksEnv};
use rocksdb::DB;

use crate::support::{fill, key, open, options, value, wrap};

const KEYS: u32 = 5_000;

fn tables(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut tables: Vec<_> = paths.filter(|path| crate::support::is_sst(path)).collect();
    tables.sort();
    tables
}

fn noted(env: &RocksEnv, dir: &Path) -> u64 {
    let files = env.local_files();
    let counts = tables(dir)
        .into_iter()
        .flat_map(|path| files.take_chunk_heat(&path, 0));
    counts.map(u64::from).sum()
}

fn sampled(env: &RocksEnv, of: Activity) -> u64 {
    let all = env.local_reads_by_activity();
    all.into_iter()
        .find(|(activity, _)| *activity == of)
        .unwrap()
        .1
        .sampled
}

fn multi_get(db: &DB, keys: impl Iterator<Item = u32>) {
    let keys: Vec<_> = keys.map(key).collect();
    let got = db.batched_multi_get_cf(&db.cf_handle("default").unwrap(), keys.iter(), true);
    assert!(got.into_iter().all(|value| value.unwrap().is_some()));
}

#[test]
fn gets_are_noted_where_they_are_timed_and_nothing_else_is() {
    for releasable in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let env = wrap(PosixEnv);
        if releasable {
            env.local_files().keep_releasable();
        }
        let db = open(&options(&env), dir.path()).unwrap();
        fill(&db, 0..KEYS);
        db.flush().unwrap();
        assert_eq!(noted(&env, dir.path()), 0);
        for i in 0..KEYS {
            assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i));
        }
        // As many as were timed: what is not timed is not touched. Some lie in two chunks.
        let gets = sampled(&env, Activity::Get);
        assert!(gets >= u64::from(KEYS) / 64, "{gets}");
        let all = noted(&env, dir.path());
        assert!((gets..=gets + gets / 10).contains(&all), "{all} of {gets}");
        for from in (0..KEYS).step_by(100) {
            multi_get(&db, (from..from + 100).step_by(10));
        }
        let batches = sampled(&env, Activity::MultiGet);
        let all = noted(&env, dir.path());
        assert!(batches > 0 && all >= gets + batches, "{all}");
        // Scans, opening, verification and compactions.
        for _ in 0..20 {
            assert_eq!(
                db.iterator(rocksdb::IteratorMode::Start).count(),
                KEYS as usize
            );
        }
        assert!(sampled(&env, Activity::Iterate) > 10);
        assert_eq!(noted(&env, dir.path()), all);
        let before = tables(dir.path());
        fill(&db, 0..KEYS);
        db.flush().unwrap();
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        assert!(sampled(&env, Activity::Compaction) > 0);
        assert!(tables(dir.path()).iter().all(|path| !before.contains(path)));
        assert_eq!(noted(&env, dir.path()), 0);
    }
}

#[test]
fn the_chunk_is_the_one_that_was_read_and_its_count_is_halved() {
    let dir = tempfile::tempdir().unwrap();
    let env = wrap(PosixEnv);
    let mut options = options(&env);
    options.set_write_buffer_size(16 << 20);
    options.set_target_file_size_base(16 << 20);
    let db = open(&options, dir.path()).unwrap();
    fill(&db, 0..KEYS);
    db.flush().unwrap();
    let table = tables(dir.path()).pop().unwrap();
    let len = std::fs::metadata(&table).unwrap().len();
    let chunks = len.div_ceil(64 << 10) as usize;
    assert!(chunks > 5, "{len}");
    for _ in 0..64 * 10 {
        db.get(key(0)).unwrap().unwrap();
    }
    for _ in 0..64 * 250 {
        db.get(key(KEYS / 2)).unwrap().unwrap();
    }
    let take = |halvings| env.local_files().take_chunk_heat(&table, halvings);
    let counts = take(1);
    assert_eq!(counts.len(), chunks);
    assert!((9..=11).contains(&counts[0]), "{counts:?}");
    assert!(counts.iter().any(|count| (245..=251).contains(count)));
    assert_eq!(counts.iter().filter(|count| **count > 0).count(), 2);
    let halved: Vec<u8> = counts.iter().map(|count| count / 2).collect();
    assert_eq!(take(100), halved);
    assert!(take(0).iter().all(|count| *count == 0));
    assert!(env.local_files().take_chunk_heat(dir.path(), 0).is_empty());
    drop(db);
    assert!(take(0).is_empty(), "a file that is closed is forgotten");
}

#[test]
fn what_is_read_most_stays_apart_however_long_nobody_looks() {
    let dir = tempfile::tempdir().unwrap();
    let env = wrap(PosixEnv);
    let mut options = options(&env);
    options.set_write_buffer_size(16 << 20);
    options.set_target_file_size_base(16 << 20);
    let db = open(&options, dir.path()).unwrap();
    fill(&db, 0..KEYS);
    db.flush().unwrap();
    let table = tables(dir.path()).pop().unwrap();
    let chunks = std::fs::metadata(&table).unwrap().len().div_ceil(64 << 10) as u32;
    // About each chunk once, and one of them twenty times; an odd round, so that each read is sampled as often.
    let middle = |chunk: u32| (2 * chunk + 1) * KEYS / (2 * chunks);
    let hot = chunks / 2;
    let more = 19 + chunks % 2;
    let round: Vec<_> = (0..chunks)
        .chain((0..more).map(|_| hot))
        .map(|chunk| key(middle(chunk)))
        .collect();
    for _ in 0..64 * 160 {
        for key in &round {
            db.get(key).unwrap().unwrap();
        }
    }
    let mut counts = env.local_files().take_chunk_heat(&table, 0);
    counts.sort_unstable();
    let [.., other, hottest] = counts[..] else {
        panic!("{counts:?}");
    };
    assert!(other > 0 && hottest / other >= 8, "{counts:?}");
}

#[test]
fn the_blocks_in_the_block_cache_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let env = wrap(PosixEnv);
    let mut options = options(&env);
    let mut table = rocksdb::BlockBasedOptions::default();
    table.set_block_cache(&rocksdb::Cache::new_hyper_clock_cache(8 << 20, 0));
    table.set_block_size(1024);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(16 << 20);
    let db = open(&options, dir.path()).unwrap();
    fill(&db, 0..KEYS);
    db.flush().unwrap();
    fill(&db, KEYS..KEYS + 10);
    db.flush().unwrap();
    let tables = tables(dir.path());
    let info = |path: &PathBuf| lazurite_env_rocksdb::sst_info(env.env(), path).unwrap();
    let infos: Vec<_> = tables.iter().map(info).collect();
    let foreign = "0".repeat(48);
    let mut ids = vec!["no id", foreign.as_str()];
    ids.extend(infos.iter().map(|info| info.unique_id.as_str()));
    let blocks = || {
        let mut blocks: Vec<CachedBlock> = Vec::new();
        // SAFETY: the database is open.
        unsafe {
            let db = rocksdb::AsRawPtr::as_raw_ptr(&db);
            lazurite_env_rocksdb::cached_blocks(db, &ids, |block| blocks.push(block));
        }
        blocks
    };
    assert_eq!(blocks(), []);
    for _ in 0..3 {
        db.get(key(0)).unwrap().unwrap();
        db.get(key(KEYS / 2)).unwrap().unwrap();
        db.get(key(KEYS - 1)).unwrap().unwrap();
    }
    let mut found = blocks();
    found.sort_unstable();
    assert!(
        found
            .iter()
            .all(|block| (100..3000).contains(&block.memory)),
        "{found:?}"
    );
    let of_first = found.iter().filter(|block| block.file == 2);
    let places: Vec<_> = of_first.map(|block| block.offset).collect();
    let [0, middle, end] = places[..] else {
        panic!("{found:?}");
    };
    let tail = infos[0].tail_offset;
    assert!(middle.abs_diff(tail / 2) < tail / 10, "{found:?} of {tail}");
    assert!(tail - 2048 < end && end < tail, "{found:?} of {tail}");
    db.get(key(KEYS)).unwrap().unwrap();
    assert!(
        blocks()
            .iter()
            .any(|block| (block.file, block.offset) == (3, 0))
    );
}
