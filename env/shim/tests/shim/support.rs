//! Test Envs, and small databases on them.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use lazurite_env::{
    DirEntry, Env, Error, ErrorKind, FileKind, FileLock, PendingRead, PosixEnv, RandomFile,
    RangeRead, ReadHint, Result, SequentialFile, Stat, WritableFile,
};
use lazurite_env_rocksdb::{RocksEnv, rocksdb_env};
use rocksdb::{BlockBasedOptions, DB, Options, ReadOptions};

/// Called before each operation, with its name and path; its error or panic is the operation's.
pub type Hook = dyn Fn(&'static str, &Path) -> Result<()> + Send + Sync;

/// An Env with a hook before everything that it and its files do.
#[derive(Clone)]
pub struct HookEnv {
    pub inner: Arc<dyn Env>,
    pub hook: Arc<Hook>,
    /// Answers the inner native path.
    pub native: bool,
}

impl HookEnv {
    pub fn new(
        inner: impl Env,
        hook: impl Fn(&'static str, &Path) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        HookEnv {
            inner: Arc::new(inner),
            hook: Arc::new(hook),
            native: false,
        }
    }

    fn file<F>(&self, path: &Path, inner: F) -> Hooked<F> {
        Hooked {
            inner,
            path: path.to_owned(),
            hook: self.hook.clone(),
        }
    }
}

impl fmt::Debug for HookEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookEnv")
    }
}

struct Hooked<F> {
    inner: F,
    path: PathBuf,
    hook: Arc<Hook>,
}

impl<F> Hooked<F> {
    fn before(&self, operation: &'static str) -> Result<()> {
        (self.hook)(operation, &self.path)
    }
}

impl<F> fmt::Debug for Hooked<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hooked")
    }
}

impl<F> Drop for Hooked<F> {
    fn drop(&mut self) {
        let _ = self.before("drop");
    }
}

impl SequentialFile for Hooked<Box<dyn SequentialFile>> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.before("sequential read")?;
        self.inner.read(buf)
    }
    fn skip(&mut self, n: u64) -> Result<()> {
        self.before("skip")?;
        self.inner.skip(n)
    }
}

impl RandomFile for Hooked<Box<dyn RandomFile>> {
    fn read_at(&self, offset: u64, buf: &mut [u8], hint: ReadHint) -> Result<usize> {
        self.before("read")?;
        self.inner.read_at(offset, buf, hint)
    }
    fn read_many(&self, reads: &mut [RangeRead<'_>], hint: ReadHint) {
        match self.before("read many") {
            Ok(()) => self.inner.read_many(reads, hint),
            Err(e) => reads.iter_mut().for_each(|r| r.result = Err(e.clone())),
        }
    }
    /// Truly asynchronous: another thread gives the bytes, a little later.
    fn start_read(&self, offset: u64, len: usize, hint: ReadHint) -> PendingRead {
        let mut buf = vec![0; len];
        let result = self
            .before("start read")
            .and_then(|()| self.inner.read_at(offset, &mut buf, hint))
            .map(|n| {
                buf.truncate(n);
                Bytes::from(buf)
            });
        let (sender, receiver) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(200));
            let _ = sender.send(result);
        });
        PendingRead::waiting(receiver)
    }
    fn prefetch(&self, offset: u64, len: usize, hint: ReadHint) -> Result<bool> {
        self.before("prefetch")?;
        self.inner.prefetch(offset, len, hint)
    }
    fn len(&self) -> Result<u64> {
        self.before("len")?;
        self.inner.len()
    }
    fn unique_id(&self) -> Option<[u8; 16]> {
        self.inner.unique_id()
    }
}

impl WritableFile for Hooked<Box<dyn WritableFile>> {
    fn append(&mut self, data: &[u8]) -> Result<()> {
        self.before("append")?;
        self.inner.append(data)
    }
    fn flush(&mut self) -> Result<()> {
        self.before("flush")?;
        self.inner.flush()
    }
    fn sync(&mut self) -> Result<()> {
        self.before("sync")?;
        self.inner.sync()
    }
    fn truncate(&mut self, len: u64) -> Result<()> {
        self.before("truncate")?;
        self.inner.truncate(len)
    }
    fn len(&self) -> u64 {
        self.inner.len()
    }
    fn close(&mut self) -> Result<()> {
        self.before("close")?;
        self.inner.close()
    }
}

impl Env for HookEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        (self.hook)("open sequential", path)?;
        Ok(Box::new(self.file(path, self.inner.open_sequential(path)?)))
    }
    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        (self.hook)("open random", path)?;
        Ok(Box::new(self.file(path, self.inner.open_random(path)?)))
    }
    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        (self.hook)("create", path)?;
        Ok(Box::new(self.file(path, self.inner.create(path)?)))
    }
    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        (self.hook)("open append", path)?;
        Ok(Box::new(self.file(path, self.inner.open_append(path)?)))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        (self.hook)("rename", from)?;
        self.inner.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        (self.hook)("link", from)?;
        self.inner.link(from, to)
    }
    fn delete(&self, path: &Path) -> Result<()> {
        (self.hook)("delete", path)?;
        self.inner.delete(path)
    }
    fn create_dir(&self, path: &Path) -> Result<()> {
        (self.hook)("create dir", path)?;
        self.inner.create_dir(path)
    }
    fn delete_dir(&self, path: &Path) -> Result<()> {
        (self.hook)("delete dir", path)?;
        self.inner.delete_dir(path)
    }
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        (self.hook)("list", path)?;
        self.inner.list(path)
    }
    fn stat(&self, path: &Path) -> Result<Stat> {
        (self.hook)("stat", path)?;
        self.inner.stat(path)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        (self.hook)("lock", path)?;
        self.inner.lock(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        (self.hook)("sync dir", path)?;
        self.inner.sync_dir(path)
    }
    fn free_space(&self, path: &Path) -> Result<u64> {
        (self.hook)("free space", path)?;
        self.inner.free_space(path)
    }
    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        self.native.then(|| self.inner.native_path(path)).flatten()
    }
}

/// A file that is not on the disk, until it is.
#[derive(Debug, Default)]
pub struct Remote {
    pub bytes: Vec<u8>,
    pub is_local: AtomicBool,
    pub reads: AtomicU64,
    pub path: PathBuf,
}

#[derive(Debug)]
struct RemoteFile(Arc<Remote>);

impl RandomFile for RemoteFile {
    fn read_at(&self, offset: u64, buf: &mut [u8], _: ReadHint) -> Result<usize> {
        self.0.reads.fetch_add(1, SeqCst);
        std::thread::sleep(Duration::from_micros(50));
        let rest = self.0.bytes.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn len(&self) -> Result<u64> {
        Ok(self.0.bytes.len() as u64)
    }
    fn native_path(&self) -> Option<PathBuf> {
        self.0.is_local.load(SeqCst).then(|| self.0.path.clone())
    }
}

/// The disk, plus files that are listed but somewhere else.
#[derive(Debug, Default)]
pub struct TieredEnv {
    remote: Mutex<HashMap<PathBuf, Arc<Remote>>>,
    /// Files that leave and come back, and whether they are away.
    restless: Mutex<HashMap<PathBuf, bool>>,
}

impl TieredEnv {
    fn remote(&self, path: &Path) -> Option<Arc<Remote>> {
        self.remote.lock().unwrap().get(path).cloned()
    }

    /// Takes every SST in `dir` off the disk.
    pub fn demote_all(&self, dir: &Path) -> Vec<Arc<Remote>> {
        let mut remote = self.remote.lock().unwrap();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "sst") {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::remove_file(&path).unwrap();
                let file = Remote {
                    bytes,
                    path: path.clone(),
                    ..Remote::default()
                };
                remote.insert(path, Arc::new(file));
            }
        }
        remote.values().cloned().collect()
    }
}

impl TieredEnv {
    /// The SSTs in `dir` that are on the disk.
    pub fn local_files(dir: &Path) -> Vec<PathBuf> {
        let paths = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        paths.filter(|path| is_sst(path)).collect()
    }

    /// Takes one file off the disk, from under whoever has it open there.
    pub fn demote(&self, path: &Path) {
        let mut remote = self.remote.lock().unwrap();
        let file = remote.entry(path.to_owned()).or_insert_with(|| {
            Arc::new(Remote {
                bytes: std::fs::read(path).unwrap(),
                path: path.to_owned(),
                ..Remote::default()
            })
        });
        file.is_local.store(false, SeqCst);
        std::fs::remove_file(path).unwrap();
    }

    /// Takes a file off the disk when its native path is told, and puts it back when that is asked for again.
    pub fn unsettle(&self, path: &Path) {
        let mut restless = self.restless.lock().unwrap();
        restless.insert(path.to_owned(), false);
    }

    /// Puts everything back.
    pub fn promote_all(&self) {
        for file in self.remote.lock().unwrap().values() {
            file.promote(&file.bytes);
        }
    }
}

impl Remote {
    /// Puts the file on the disk, with `bytes`, and says so.
    pub fn promote(&self, bytes: &[u8]) {
        // Whole at once, and another file than the one that was there before.
        let part = self.path.with_extension("part");
        std::fs::write(&part, bytes).unwrap();
        std::fs::rename(&part, &self.path).unwrap();
        self.is_local.store(true, SeqCst);
    }
}

impl Env for TieredEnv {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>> {
        PosixEnv.open_sequential(path)
    }
    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        match self.remote(path) {
            Some(file) => Ok(Box::new(RemoteFile(file))),
            None => PosixEnv.open_random(path),
        }
    }
    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        PosixEnv.create(path)
    }
    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>> {
        PosixEnv.open_append(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        PosixEnv.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        PosixEnv.link(from, to)
    }
    fn delete(&self, path: &Path) -> Result<()> {
        match self.remote.lock().unwrap().remove(path) {
            Some(file) if !file.is_local.load(SeqCst) => Ok(()),
            _ => PosixEnv.delete(path),
        }
    }
    fn create_dir(&self, path: &Path) -> Result<()> {
        PosixEnv.create_dir(path)
    }
    fn delete_dir(&self, path: &Path) -> Result<()> {
        PosixEnv.delete_dir(path)
    }
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let mut entries = PosixEnv.list(path)?;
        for file in self.remote.lock().unwrap().values() {
            if file.path.parent() == Some(path) && !file.is_local.load(SeqCst) {
                let name = file.path.file_name().unwrap().to_str().unwrap().to_owned();
                entries.push(DirEntry {
                    name,
                    kind: FileKind::File,
                });
            }
        }
        Ok(entries)
    }
    fn stat(&self, path: &Path) -> Result<Stat> {
        match self.remote(path) {
            Some(file) => Ok(Stat {
                kind: FileKind::File,
                len: file.bytes.len() as u64,
                links: 1,
                modified: SystemTime::UNIX_EPOCH,
                changed: SystemTime::UNIX_EPOCH,
            }),
            None => PosixEnv.stat(path),
        }
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>> {
        PosixEnv.lock(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        PosixEnv.sync_dir(path)
    }
    fn free_space(&self, path: &Path) -> Result<u64> {
        PosixEnv.free_space(path)
    }
    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        match self.remote(path) {
            Some(file) if !file.is_local.load(SeqCst) => None,
            _ => {
                let mut restless = self.restless.lock().unwrap();
                if let Some(away) = restless.get_mut(path) {
                    let hidden = path.with_extension("hidden");
                    if std::mem::replace(away, true) {
                        std::fs::rename(&hidden, path).unwrap();
                        restless.remove(path);
                    } else {
                        std::fs::rename(path, &hidden).unwrap();
                    }
                }
                PosixEnv.native_path(path)
            }
        }
    }
}

/// Where databases in memory live. The rocksdb crate creates this directory on the real disk before RocksDB is asked, so
/// it is one that is there already.
pub const PLACE: &str = "/usr";

pub fn wrap(env: impl Env) -> RocksEnv {
    rocksdb_env(Arc::new(env)).unwrap()
}

/// Small files and blocks, and no cache, so that every get reads a file.
pub fn options(env: &RocksEnv) -> Options {
    let mut table = BlockBasedOptions::default();
    table.disable_cache();
    table.set_block_size(1024);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_env(env.env());
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(256 << 10);
    options.set_target_file_size_base(128 << 10);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options
}

/// Opens the database with a handle of its one column family.
pub fn open(options: &Options, path: impl AsRef<Path>) -> Result<DB, rocksdb::Error> {
    DB::open_cf_with_opts(options, path, [("default", options.clone())])
}

pub fn key(i: u32) -> Vec<u8> {
    format!("key{i:08}").into_bytes()
}

pub fn value(i: u32) -> Vec<u8> {
    format!("value{i}-").repeat(8).into_bytes()
}

pub fn fill(db: &DB, keys: std::ops::Range<u32>) {
    for i in keys {
        db.put(key(i), value(i)).unwrap();
    }
}

/// Checks that exactly these keys are there, by iterator, by get and by multi get.
pub fn check(db: &DB, keys: std::ops::Range<u32>) {
    for async_io in [false, true] {
        let mut read = ReadOptions::default();
        read.set_async_io(async_io);
        read.set_readahead_size(32 << 10);
        let mut expected = keys.clone();
        for item in db.iterator_opt(rocksdb::IteratorMode::Start, read) {
            let (k, v) = item.unwrap();
            let i = expected.next().expect("more keys than expected");
            assert_eq!((&*k, &*v), (&*key(i), &*value(i)), "async_io: {async_io}");
        }
        assert_eq!(expected.next(), None);
    }
    let sample: Vec<u32> = keys.step_by(7).collect();
    for &i in &sample {
        assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i));
    }
    for batch in sample.chunks(64) {
        let got = db.batched_multi_get_cf(
            &db.cf_handle("default").unwrap(),
            batch.iter().map(|&i| key(i)).collect::<Vec<_>>().iter(),
            true,
        );
        for (value_got, &i) in got.into_iter().zip(batch) {
            assert_eq!(&*value_got.unwrap().unwrap(), &*value(i));
        }
    }
}

pub fn error(kind: ErrorKind, operation: &'static str, path: &Path) -> Error {
    Error::new(kind, operation, path, "made by a test")
}

pub fn is_sst(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "sst")
}
