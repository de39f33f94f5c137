//! What a snapshot learns of an SST file.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use lazurite_env::{
    Activity, DirEntry, Env, ErrorKind, FileLock, MemEnv, RandomFile, ReadHint, Result,
    SequentialFile, Stat, WritableFile,
};
use lazurite_env_rocksdb::{rocksdb_env, sst_info};
use rocksdb::{BlockBasedIndexType, BlockBasedOptions, Options};

use crate::support::{PLACE, fill, is_sst, key, open, value, wrap};

type Ranges = Arc<Mutex<Vec<(PathBuf, u64, usize)>>>;
type Hints = Arc<Mutex<HashSet<Activity>>>;

/// Writes down which bytes of SST files are read, and why. While it is rotten, they are wrong, but for who reads them again.
#[derive(Debug, Default)]
struct RangeEnv {
    inner: MemEnv,
    ranges: Ranges,
    hints: Hints,
    rotten: Arc<AtomicBool>,
}

#[derive(Debug)]
struct RangeFile {
    inner: Box<dyn RandomFile>,
    path: PathBuf,
    ranges: Ranges,
    hints: Hints,
    rotten: Arc<AtomicBool>,
}

impl RandomFile for RangeFile {
    fn read_at(&self, offset: u64, buf: &mut [u8], hint: ReadHint) -> Result<usize> {
        let read = (self.path.clone(), offset, buf.len());
        self.ranges.lock().unwrap().push(read);
        self.hints.lock().unwrap().insert(hint.activity);
        let read = self.inner.read_at(offset, buf, hint)?;
        if self.rotten.load(Ordering::Relaxed) && hint.activity != Activity::Reread {
            buf[read / 2] ^= 4;
        }
        Ok(read)
    }
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
}

impl Env for RangeEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        self.inner.open_sequential(path)
    }
    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        let inner = self.inner.open_random(path)?;
        if !is_sst(path) {
            return Ok(inner);
        }
        Ok(Box::new(RangeFile {
            inner,
            path: path.to_owned(),
            ranges: self.ranges.clone(),
            hints: self.hints.clone(),
            rotten: self.rotten.clone(),
        }))
    }
    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        self.inner.create(path)
    }
    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        self.inner.open_append(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.inner.link(from, to)
    }
    fn delete(&self, path: &Path) -> Result<()> {
        self.inner.delete(path)
    }
    fn create_dir(&self, path: &Path) -> Result<()> {
        self.inner.create_dir(path)
    }
    fn delete_dir(&self, path: &Path) -> Result<()> {
        self.inner.delete_dir(path)
    }
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        self.inner.list(path)
    }
    fn stat(&self, path: &Path) -> Result<Stat> {
        self.inner.stat(path)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        self.inner.lock(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.inner.sync_dir(path)
    }
    fn free_space(&self, path: &Path) -> Result<u64> {
        self.inner.free_space(path)
    }
    fn native_path(&self, _: &Path) -> Option<PathBuf> {
        None
    }
}

/// Table layouts that put different things into the tail.
fn layouts() -> Vec<BlockBasedOptions> {
    let plain = || {
        let mut table = BlockBasedOptions::default();
        table.disable_cache();
        table.set_block_size(4096);
        table
    };
    let mut filtered = plain();
    filtered.set_bloom_filter(10.0, false);
    let mut partitioned = plain();
    partitioned.set_bloom_filter(10.0, false);
    partitioned.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    partitioned.set_partition_filters(true);
    partitioned.set_metadata_block_size(1024);
    vec![plain(), filtered, partitioned]
}

#[test]
fn opening_and_a_get_need_the_tail_and_one_block() {
    for (layout, table) in layouts().into_iter().enumerate() {
        let ranges = Ranges::default();
        let env = rocksdb_env(Arc::new(RangeEnv {
            ranges: ranges.clone(),
            ..RangeEnv::default()
        }))
        .unwrap();
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_env(env.env());
        options.set_block_based_table_factory(&table);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_max_open_files(-1);
        let db = open(&options, PLACE).unwrap();
        fill(&db, 0..20_000);
        db.flush().unwrap();
        drop(db);

        ranges.lock().unwrap().clear();
        let db = open(&options, PLACE).unwrap();
        let files = db.live_files().unwrap();
        assert_eq!(files.len(), 1);
        let path = PathBuf::from(format!("{PLACE}{}", files[0].name));
        let opened = std::mem::take(&mut *ranges.lock().unwrap());
        assert_eq!(db.get(key(12_345)).unwrap().unwrap(), value(12_345));
        let got = std::mem::take(&mut *ranges.lock().unwrap());

        let info = sst_info(env.env(), &path).unwrap();
        let asked = std::mem::take(&mut *ranges.lock().unwrap());
        assert!(info.tail_offset > info.file_len / 2 && info.tail_offset < info.file_len);
        assert_eq!(info.file_len, files[0].size as u64);
        assert_eq!((info.num_entries, info.num_deletions), (20_000, 0));
        let before_tail = |reads: &[(PathBuf, u64, usize)]| {
            let before = reads.iter().filter(|(_, at, _)| *at < info.tail_offset);
            before.map(|(_, _, len)| *len).collect::<Vec<_>>()
        };
        assert!(!opened.is_empty());
        assert_eq!(
            before_tail(&opened),
            [0usize; 0],
            "layout {layout}: {opened:?}"
        );
        let blocks = before_tail(&got);
        assert_eq!(blocks.len(), 1, "layout {layout}: {got:?}");
        assert!(blocks[0] < 2 * 4096);
        // Asking for the facts reads the tail, give or take RocksDB's guess of how long it is.
        assert!(
            asked
                .iter()
                .all(|(_, at, _)| *at + (512 << 10) >= info.tail_offset)
        );
        println!("layout {layout}: open {opened:?}, get {got:?}, info {asked:?}");
    }
}

#[test]
fn reads_say_what_they_are_for() {
    let hints = Hints::default();
    let env = rocksdb_env(Arc::new(RangeEnv {
        hints: hints.clone(),
        ..RangeEnv::default()
    }))
    .unwrap();
    let mut options = crate::support::options(&env);
    options.set_block_based_table_factory(&layouts()[1]);
    let db = open(&options, PLACE).unwrap();
    fill(&db, 0..2_000);
    db.flush().unwrap();
    fill(&db, 1_000..3_000);
    db.flush().unwrap();
    drop(db);
    let seen = || std::mem::take(&mut *hints.lock().unwrap());
    seen();
    let db = open(&options, PLACE).unwrap();
    assert_eq!(seen(), HashSet::from([Activity::Open]));
    db.get(key(7)).unwrap().unwrap();
    assert_eq!(seen(), HashSet::from([Activity::Get]));
    let keys = [key(7), key(2_500)];
    db.batched_multi_get_cf(&db.cf_handle("default").unwrap(), &keys, true);
    assert_eq!(seen(), HashSet::from([Activity::MultiGet]));
    assert_eq!(db.iterator(rocksdb::IteratorMode::Start).count(), 3_000);
    assert_eq!(seen(), HashSet::from([Activity::Iterate]));
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    assert_eq!(seen(), HashSet::from([Activity::Compaction]));
}

/// An Env that keeps copies of what a store has must drop a bad one and ask the store.
#[test]
fn a_block_that_does_not_match_is_read_again_and_says_so() {
    let (hints, rotten) = (Hints::default(), Arc::new(AtomicBool::new(false)));
    let env = rocksdb_env(Arc::new(RangeEnv {
        hints: hints.clone(),
        rotten: rotten.clone(),
        ..RangeEnv::default()
    }))
    .unwrap();
    let mut options = crate::support::options(&env);
    options.set_block_based_table_factory(&layouts()[1]);
    let db = open(&options, PLACE).unwrap();
    fill(&db, 0..2_000);
    db.flush().unwrap();
    fill(&db, 1_000..3_000);
    db.flush().unwrap();
    rotten.store(true, Ordering::Relaxed);
    let reread = || {
        let seen = std::mem::take(&mut *hints.lock().unwrap());
        assert!(seen.contains(&Activity::Reread), "{seen:?}");
    };
    hints.lock().unwrap().clear();
    assert_eq!(db.get(key(7)).unwrap().unwrap(), value(7));
    reread();
    let keys = [key(7), key(900), key(2_500)];
    let got = db.batched_multi_get_cf(&db.cf_handle("default").unwrap(), &keys, true);
    for (got, i) in got.into_iter().zip([7, 900, 2_500]) {
        assert_eq!(&got.unwrap().unwrap()[..], value(i));
    }
    reread();
    let mut read_ahead = rocksdb::ReadOptions::default();
    read_ahead.set_readahead_size(64 << 10);
    for mode in [rocksdb::ReadOptions::default(), read_ahead] {
        let all = db.iterator_opt(rocksdb::IteratorMode::Start, mode);
        let all: Result<Vec<_>, _> = all.collect();
        assert_eq!(all.unwrap().len(), 3_000);
        reread();
    }
    drop(db);
    // The tails too.
    let db = open(&options, PLACE).unwrap();
    reread();
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    reread();
    rotten.store(false, Ordering::Relaxed);
    assert_eq!(db.get(key(7)).unwrap().unwrap(), value(7));
}

#[test]
fn ids_are_of_the_content_and_tombstones_are_counted() {
    let memory = MemEnv::new();
    let env = wrap(memory.clone());
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_env(env.env());
    options.set_disable_auto_compactions(true);
    let db = open(&options, PLACE).unwrap();
    fill(&db, 0..10);
    db.flush().unwrap();
    db.delete(key(1)).unwrap();
    db.delete(key(2)).unwrap();
    db.delete_range_cf(&db.cf_handle("default").unwrap(), key(5), key(9))
        .unwrap();
    db.flush().unwrap();
    db.delete_range_cf(&db.cf_handle("default").unwrap(), key(0), key(3))
        .unwrap();
    db.flush().unwrap();
    let mut names: Vec<_> = db
        .live_files()
        .unwrap()
        .into_iter()
        .map(|f| f.name)
        .collect();
    names.sort();
    let infos: Vec<_> = names
        .iter()
        .map(|name| sst_info(env.env(), Path::new(&format!("{PLACE}{name}"))).unwrap())
        .collect();
    assert_eq!(infos[0].num_entries, 10);
    assert_eq!(
        (infos[1].num_deletions, infos[1].num_range_deletions),
        (3, 1)
    );
    assert_eq!(infos[2].num_range_deletions, 1);
    // No data block: all of the file is tail.
    assert_eq!(infos[2].tail_offset, 0);
    for info in &infos {
        assert_eq!(info.unique_id.len(), 48);
        assert!(
            info.unique_id
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
    }
    assert_ne!(infos[0].unique_id, infos[1].unique_id);

    // The same bytes under another name.
    memory
        .link(
            Path::new(&format!("{PLACE}{}", names[0])),
            Path::new("/same.sst"),
        )
        .unwrap();
    assert_eq!(
        sst_info(env.env(), Path::new("/same.sst")).unwrap(),
        infos[0]
    );

    let error = sst_info(env.env(), Path::new("/none.sst")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = sst_info(env.env(), &Path::new(PLACE).join("CURRENT")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}
