//! Compactions cut their files between key groups.

use std::collections::BTreeSet;

use lazurite_env_rocksdb::cut_at_key_groups;
use rocksdb::{Cache, DB, Env, LiveFile, Options, WriteBatch};
use tempfile::TempDir;

const TARGET: u64 = 64 << 10;

fn options(key_groups: u16) -> Options {
    let mut o = Options::default();
    o.create_if_missing(true);
    o.set_write_buffer_size(256 << 10);
    o.set_target_file_size_base(TARGET);
    o.set_max_bytes_for_level_base(256 << 10);
    o.set_compression_type(rocksdb::DBCompressionType::None);
    cut_at_key_groups(&mut o, key_groups, TARGET / 2).unwrap();
    o
}

fn key(group: u16, n: u32) -> Vec<u8> {
    [&group.to_be_bytes()[..], &n.to_be_bytes()].concat()
}

fn group(key: &Option<Vec<u8>>) -> u16 {
    u16::from_be_bytes(*key.as_ref().unwrap().first_chunk().unwrap())
}

/// Flink's formula, for 16 operators or as many as there are groups.
fn coarse(group: u16, key_groups: u16) -> u32 {
    u32::from(group) * u32::from(key_groups.min(16)) / u32::from(key_groups)
}

/// Writes `per_group` entries of each group in each of `rounds`, all groups mixed, with half a kilobyte each.
fn write(db: &DB, groups: impl Iterator<Item = u16> + Clone, per_group: u32, rounds: u32) {
    for round in 0..rounds {
        for n in 0..per_group {
            let mut batch = WriteBatch::default();
            for group in groups.clone() {
                batch.put(key(group, n), [round as u8; 500]);
            }
            db.write(batch).unwrap();
        }
        db.flush().unwrap();
    }
}

fn levels(db: &DB) -> Vec<LiveFile> {
    let mut files = db.live_files().unwrap();
    files.retain(|file| file.level > 0);
    assert!(!files.is_empty());
    files
}

fn check(db: &DB, key_groups: u16) -> Vec<LiveFile> {
    let files = levels(db);
    for file in &files {
        let (first, last) = (group(&file.start_key), group(&file.end_key));
        let (a, b) = (coarse(first, key_groups), coarse(last, key_groups));
        assert_eq!(a, b, "{first}..={last} of {key_groups} in one file");
    }
    files
}

#[test]
fn no_file_crosses_a_coarse_border() {
    for key_groups in [1, 2, 3, 16, 17, 100, 128, 32768] {
        let dir = TempDir::new().unwrap();
        let db = DB::open(&options(key_groups), dir.path()).unwrap();
        let step = usize::from(key_groups).div_ceil(300);
        let per_group = if key_groups < 100 { 12 } else { 2 };
        write(&db, (0..key_groups).step_by(step), per_group, 2);
        db.compact_range(None::<&[u8]>, None::<&[u8]>);
        let files = check(&db, key_groups);
        let level = files[0].level;
        assert!(files.iter().all(|file| file.level == level));
        let parts: BTreeSet<u32> = files
            .iter()
            .map(|file| coarse(group(&file.start_key), key_groups))
            .collect();
        assert_eq!(parts.len(), usize::from(key_groups.min(16)));
        assert_eq!(files.len(), parts.len(), "of {key_groups} groups");
    }
}

#[test]
fn a_small_table_is_few_files() {
    let dir = TempDir::new().unwrap();
    let db = DB::open(&options(16), dir.path()).unwrap();
    write(&db, 0..16, 1, 2); // 8 KiB
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    let files = levels(&db).len();
    assert!(files <= 3, "{files}");
}

#[test]
fn large_tables_are_cut_between_groups_at_half_a_file_and_inside_of_none_before() {
    let (key_groups, dir) = (128, TempDir::new().unwrap());
    let db = DB::open(&options(key_groups), dir.path()).unwrap();
    write(&db, 0..key_groups, 40, 6); // 20 KiB a group, 2.5 MiB in all
    db.wait_for_compact(&rocksdb::WaitForCompactOptions::default())
        .unwrap();
    check(&db, key_groups);
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    let mut files = check(&db, key_groups);
    files.sort_by_key(|file| file.start_key.clone());
    for two in files.windows(2) {
        let (last, next) = (group(&two[0].end_key), group(&two[1].start_key));
        assert!(last < next, "group {last} is in two files");
    }
    let bytes: usize = files.iter().map(|file| file.size).sum();
    let bound = bytes / (TARGET as usize / 2) + 16;
    assert!(files.len() <= bound, "{} files, {bytes} bytes", files.len());
    // A group that is larger than a file is cut inside too.
    write(&db, 7..8, 1_000, 1);
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    let files = check(&db, key_groups);
    let of_it = files.iter().filter(|file| group(&file.start_key) == 7);
    assert!(of_it.count() >= 5);
    for n in 0..40 {
        for group in (0..key_groups).filter(|group| *group != 7) {
            assert_eq!(db.get(key(group, n)).unwrap().unwrap(), [5; 500]);
        }
    }
    assert_eq!(
        db.iterator(rocksdb::IteratorMode::Start).count(),
        127 * 40 + 1_000
    );
}

#[test]
fn keys_without_a_group_and_groups_that_are_none_do_no_harm() {
    let dir = TempDir::new().unwrap();
    let db = DB::open_cf(&options(4), dir.path(), ["default"]).unwrap();
    for key in [&b""[..], b"\0", b"\x01", b"zz", b"\xff\xff\xff", b"\xff"] {
        db.put(key, key).unwrap();
    }
    let column = db.cf_handle("default").unwrap();
    db.delete_range_cf(&column, [0, 0], [0, 3]).unwrap();
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    assert_eq!(db.iterator(rocksdb::IteratorMode::Start).count(), 6);
}

#[test]
fn recorded_options_load_and_cut_as_before() {
    let dir = TempDir::new().unwrap();
    let db = DB::open(&options(128), dir.path()).unwrap();
    write(&db, 0..128, 2, 2);
    drop(db);
    let (cache, env) = (Cache::new_lru_cache(1 << 20), Env::new().unwrap());
    let (loaded, columns): (Options, _) =
        Options::load_latest(dir.path(), env, false, cache).unwrap();
    let db = DB::open_cf_descriptors(&loaded, dir.path(), columns).unwrap();
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    assert_eq!(check(&db, 128).len(), 16);
    drop(db);
    let recorded = |wanted: &str| {
        let files = std::fs::read_dir(dir.path()).unwrap();
        let names = files.map(|f| f.unwrap().path());
        let options = names.filter(|p| p.to_string_lossy().contains("OPTIONS-"));
        options
            .map(|p| std::fs::read_to_string(p).unwrap())
            .all(|text| text.contains(wanted))
    };
    let bytes = TARGET / 2;
    assert!(recorded(&format!(
        "sst_partitioner_factory=lazurite.KeyGroupPartitioner:128:{bytes}\n"
    )));
}
