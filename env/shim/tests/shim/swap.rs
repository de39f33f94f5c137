//! A file that is open remotely becomes local underneath its readers, and the other way round.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use lazurite_env::PosixEnv;
use lazurite_env_rocksdb::{RocksEnv, rocksdb_env};
use rocksdb::DB;

use crate::support::{Remote, TieredEnv, check, fill, key, open, options, value, wrap};

const KEYS: u32 = 5_000;

/// A database whose SSTs are all remote, and whether they can be let go once they are here.
fn remote_database(dir: &Path, direct: bool, releasable: bool) -> (RocksEnv, DB, Vec<Arc<Remote>>) {
    {
        let env = wrap(PosixEnv);
        let db = open(&options(&env), dir).unwrap();
        fill(&db, 0..KEYS);
        db.flush().unwrap();
    }
    let tiered = TieredEnv::default();
    let files = tiered.demote_all(dir);
    let env = rocksdb_env(Arc::new(tiered)).unwrap();
    if releasable {
        env.local_files().keep_releasable();
    }
    let mut options = options(&env);
    options.set_use_direct_reads(direct);
    let db = open(&options, dir).unwrap();
    (env, db, files)
}

fn rust_reads(files: &[Arc<Remote>]) -> u64 {
    files.iter().map(|file| file.reads.load(SeqCst)).sum()
}

/// Reads with four threads until `done`, and gives the number of reads.
fn read_until(db: &DB, done: &AtomicBool, swap: impl FnOnce(&AtomicU64)) -> u64 {
    let count = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let count = &count;
            scope.spawn(move || {
                let mut i = thread * 977;
                while !done.load(SeqCst) {
                    i = (i + 613) % KEYS;
                    assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i));
                    count.fetch_add(1, SeqCst);
                }
            });
        }
        swap(&count);
    });
    count.into_inner()
}

fn wait_for(count: &AtomicU64, more: u64) {
    let goal = count.load(SeqCst) + more;
    let until = Instant::now() + Duration::from_secs(30);
    while count.load(SeqCst) < goal && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn readers_move_to_the_local_file() {
    for (direct, releasable) in [(false, false), (true, false), (false, true), (true, true)] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (env, db, files) = remote_database(dir.path(), direct, releasable);
        let done = AtomicBool::new(false);
        assert_eq!(env.local_reads(), 0);
        read_until(&db, &done, |count| {
            wait_for(count, 1_000);
            assert!(rust_reads(&files) > 0);
            for file in &files {
                file.promote(&file.bytes);
            }
            wait_for(count, 2_000);
            done.store(true, SeqCst);
        });
        let (rust, local) = (rust_reads(&files), env.local_reads());
        assert!(local > 0);
        check(&db, 0..KEYS);
        assert_eq!(
            rust_reads(&files),
            rust,
            "a read after the swap reached Rust"
        );
        assert!(env.local_reads() > local);
        // Without being asked nobody keeps a list of what is open.
        let path = &files[0].path;
        assert_eq!(env.local_files().idle(path).is_some(), releasable);
    }
}

#[test]
fn a_local_file_that_cannot_be_it_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let (env, db, files) = remote_database(dir.path(), false, false);
    for file in &files {
        // Shorter than it should be.
        file.promote(&file.bytes[1..]);
    }
    check(&db, 0..KEYS);
    let rust = rust_reads(&files);
    for file in &files {
        // Too late: this handle has seen enough.
        file.promote(&file.bytes);
    }
    check(&db, 0..KEYS);
    assert!(rust_reads(&files) > rust);
    assert_eq!(env.local_reads(), 0);
}

/// Descriptors of this process of files in `dir` that have no name any more.
fn unlinked(dir: &Path) -> usize {
    let dir = dir.canonicalize().unwrap();
    let fds = std::fs::read_dir("/proc/self/fd").unwrap();
    let paths = fds.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    let gone = |path: &std::path::PathBuf| {
        path.starts_with(&dir)
            && path
                .to_str()
                .is_some_and(|path| path.ends_with("(deleted)"))
    };
    paths.filter(gone).count()
}

#[test]
fn readers_go_on_while_files_leave_and_come_back() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tiered = Arc::new(TieredEnv::default());
    let env = rocksdb_env(tiered.clone()).unwrap();
    env.local_files().keep_releasable();
    let db = open(&options(&env), dir.path()).unwrap();
    // Files of their own, however late a flush comes.
    for keys in [0..KEYS / 3, KEYS / 3..KEYS / 2, KEYS / 2..KEYS] {
        fill(&db, keys);
        db.flush().unwrap();
    }
    check(&db, 0..KEYS);
    let files = TieredEnv::local_files(dir.path());
    assert!(
        files.len() > 2
            && files
                .iter()
                .any(|path| env.local_files().idle(path).is_some())
    );
    let done = AtomicBool::new(false);
    read_until(&db, &done, |count| {
        for _ in 0..30 {
            wait_for(count, 200);
            for path in TieredEnv::local_files(dir.path()) {
                tiered.demote(&path);
                assert!(env.local_files().release(&path));
            }
            assert_eq!(
                unlinked(dir.path()),
                0,
                "the space of a demoted file is free"
            );
            let local = env.local_reads();
            wait_for(count, 200);
            assert!(
                env.local_reads() <= local + 4,
                "a read that entered too late is none"
            );
            tiered.promote_all();
            wait_for(count, 200);
            assert!(env.local_reads() > local);
        }
        done.store(true, SeqCst);
    });
    check(&db, 0..KEYS);
}

#[test]
fn a_file_that_nothing_else_has_is_not_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let env = rocksdb_env(Arc::new(TieredEnv::default())).unwrap();
    env.local_files().keep_releasable();
    let db = open(&options(&env), dir.path()).unwrap();
    fill(&db, 0..KEYS);
    db.flush().unwrap();
    check(&db, 0..KEYS);
    for path in TieredEnv::local_files(dir.path()) {
        std::fs::rename(&path, path.with_extension("hidden")).unwrap();
        let open = env.local_files().idle(&path).is_some();
        assert_eq!(env.local_files().release(&path), !open, "{path:?}");
        std::fs::rename(path.with_extension("hidden"), &path).unwrap();
    }
    check(&db, 0..KEYS);
}

#[test]
fn users_keep_a_file_warm_and_compactions_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let env = wrap(PosixEnv);
    let files = env.local_files();
    files.keep_releasable();
    let db = open(&options(&env), dir.path()).unwrap();
    fill(&db, 0..100);
    db.flush().unwrap();
    db.get(key(1)).unwrap();
    let path = TieredEnv::local_files(dir.path()).pop().unwrap();
    assert_eq!(files.idle(&path), Some(0));
    files.tick();
    files.tick();
    assert_eq!(files.idle(&path), Some(2));
    db.get(key(1)).unwrap();
    assert_eq!(files.idle(&path), Some(0));
    assert_eq!(files.idle(&dir.path().join("000001.sst")), None);
}

#[test]
fn a_file_that_leaves_and_comes_back_while_it_is_opened_is_found() {
    for releasable in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        {
            let env = wrap(PosixEnv);
            let db = open(&options(&env), dir.path()).unwrap();
            fill(&db, 0..KEYS);
            db.flush().unwrap();
        }
        let tiered = TieredEnv::default();
        for path in TieredEnv::local_files(dir.path()) {
            tiered.unsettle(&path);
        }
        let env = wrap(tiered);
        if releasable {
            env.local_files().keep_releasable();
        }
        let db = open(&options(&env), dir.path()).unwrap();
        check(&db, 0..KEYS);
    }
}

/// Holds a thread wherever it is, by a signal: not for ever, as it may have a lock that others need.
struct Held;

static HOLD: AtomicBool = AtomicBool::new(false);
static IS_HELD: AtomicBool = AtomicBool::new(false);
static TIMES: AtomicU64 = AtomicU64::new(0);

extern "C" fn hold(_: libc::c_int) {
    // SAFETY: it is the thread's own; the thread must find it as it was.
    let errno = unsafe { *libc::__errno_location() };
    IS_HELD.store(true, SeqCst);
    TIMES.fetch_add(1, SeqCst);
    for _ in 0..12_000 {
        if !HOLD.load(SeqCst) {
            break;
        }
        // SAFETY: it only sleeps.
        unsafe { libc::usleep(100) };
    }
    IS_HELD.store(false, SeqCst);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

impl Held {
    fn new(thread: libc::pthread_t) -> Self {
        HOLD.store(true, SeqCst);
        let before = TIMES.load(SeqCst);
        let handler = hold as extern "C" fn(libc::c_int);
        // SAFETY: the handler touches atomics and errno only, and the caller's thread runs.
        unsafe {
            libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
            assert_eq!(libc::pthread_kill(thread, libc::SIGUSR1), 0);
        }
        while TIMES.load(SeqCst) == before {
            std::thread::yield_now();
        }
        Held
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HOLD.store(false, SeqCst);
        while IS_HELD.load(SeqCst) {
            std::thread::yield_now();
        }
    }
}

#[test]
fn what_a_reader_kept_open_is_closed_soon_after_it_has_left() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let tiered = Arc::new(TieredEnv::default());
    let env = rocksdb_env(tiered.clone()).unwrap();
    let local = env.local_files();
    local.keep_releasable();
    let db = open(&options(&env), dir.path()).unwrap();
    fill(&db, 0..KEYS);
    db.flush().unwrap();
    check(&db, 0..KEYS);
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let (sender, thread) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: it always succeeds.
            sender.send(unsafe { libc::pthread_self() }).unwrap();
            let mut i = 0;
            while !done.load(SeqCst) {
                i = (i + 613) % KEYS;
                assert_eq!(db.get(key(i)).unwrap().unwrap(), value(i));
                reads.fetch_add(1, SeqCst);
            }
        });
        let _end = End(&done);
        let thread = thread.recv().unwrap();
        let mut paths = TieredEnv::local_files(dir.path()).into_iter();
        let path = paths.find(|path| local.idle(path).is_some()).unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            assert!(Instant::now() < until, "it is never inside");
            wait_for(&reads, 10);
            let held = Held::new(thread);
            tiered.demote(&path);
            // Now and then the reader is inside a file, this one or another.
            let released = local.release(&path);
            drop(held);
            if !released {
                break;
            }
            tiered.promote_all();
        }
        let until = Instant::now() + Duration::from_secs(10);
        while unlinked(dir.path()) > 0 {
            assert!(Instant::now() < until, "its space is not free");
            local.tick();
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    check(&db, 0..KEYS);
}

/// Ends a reader, also where the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}
