//! The chunk cache on its disk: the room that it takes, disks that are full, fail or forget, Envs that cannot, reopening.

use lazurite_env::{Effect, ErrorKind, FaultEnv, FaultPlan, Op, SparseFile};

use super::{cache::*, *};

#[test]
fn the_budget_holds_and_cold_chunks_go_first() {
    let budget = 20 * CHUNK;
    let (world, base, union, bytes) = one_file(100 * CHUNK as usize, budget);
    let file = open_12(&union);
    let page = |chunk: u64| chunk * CHUNK..chunk * CHUNK + CHUNK;
    for _ in 0..3 {
        for chunk in 0..8 {
            check(&union, &*file, &bytes, page(chunk));
        }
    }
    for chunk in 10..100 {
        check(&union, &*file, &bytes, page(chunk));
        let used = union.stats().cache_bytes;
        assert!(used <= budget && allocated(&base) <= used, "{used}");
    }
    let stats = union.stats();
    assert!(stats.cache_bytes > budget * 8 / 10, "{stats:?}");
    assert_eq!((stats.cache_dropped, stats.cache_mismatches), (0, 0));
    assert!(stats.cache_evictions >= 78, "{stats:?}");
    requests(&world);
    for chunk in 0..8 {
        check(&union, &*file, &bytes, page(chunk));
    }
    assert!(requests(&world).is_empty(), "what was read again is here");

    // Less, nothing, and more again.
    union.set_cache_budget(5 * CHUNK);
    let used = union.stats().cache_bytes;
    assert!(used <= 5 * CHUNK && allocated(&base) <= used);
    union.set_cache_budget(0);
    assert_eq!(union.stats().cache_bytes, 0);
    assert!(cache_names(&base).is_empty());
    check(&union, &*file, &bytes, 0..100);
    assert_eq!(union.stats().cache_bytes, 0);
    union.set_cache_budget(budget);
    check(&union, &*file, &bytes, 0..100);
    requests(&world);
    check(&union, &*file, &bytes, 0..100);
    assert!(requests(&world).is_empty());
}

#[test]
fn what_is_larger_than_the_budget_is_read_through() {
    let (world, base, union, bytes) = one_file(1 << 20, 64 << 10);
    let file = open_12(&union);
    for _ in 0..3 {
        check(&union, &*file, &bytes, 0..1 << 20);
        check(&union, &*file, &bytes, 0..100);
    }
    assert!(union.stats().cache_dropped >= 3);
    assert!(allocated(&base) <= 64 << 10);
    requests(&world);
    check(&union, &*file, &bytes, 0..100);
    assert!(requests(&world).is_empty());
    // Nor is it downloaded, and says why.
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert!(error.message().contains("budget"), "{error}");
    union.set_cache_budget(2 << 20);
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    assert_eq!(union.stats().cache_bytes, 0);
}

#[test]
fn free_space_is_kept_and_given_back() {
    let (world, base) = (World::new(), MemEnv::with_capacity(2 << 20));
    let mut options = cached_options(&world, Arc::new(base.clone()), u64::MAX);
    options.cache.min_free_bytes = 1 << 20;
    let union = UnionEnv::open(options).unwrap();
    let bytes = restore_one(&world, &union, 4 << 20);
    let file = open_12(&union);
    for at in (0..4 << 20).step_by(32 << 10) {
        check(&union, &*file, &bytes, at..at + (32 << 10));
        assert!(base.free_space(Path::new("/")).unwrap() >= 1 << 20);
    }
    let held = union.stats().cache_bytes;
    assert!(held > 900 << 10, "{held}");
    // Somebody else takes half a megabyte: the cache gives way.
    write_file(&base, Path::new("/other"), &vec![1; 512 << 10]).unwrap();
    for at in (0..4 << 20).step_by(64 << 10) {
        check(&union, &*file, &bytes, at..at + 100);
    }
    assert!(base.free_space(Path::new("/")).unwrap() >= 1 << 20);
    write_file(&base, Path::new("/more"), &vec![1; 1000 << 10]).unwrap();
    for at in (0..4 << 20).step_by(64 << 10) {
        check(&union, &*file, &bytes, at + 50_000..at + 60_000);
    }
    let left = union.stats().cache_bytes;
    assert!(left <= 4096 && allocated(&base) <= left);
    assert!(union.stats().cache_dropped > 0);
}

#[test]
fn a_failing_disk_fails_no_read() {
    let kinds = [
        (Op::WriteAt, Effect::Fail(ErrorKind::NoSpace)),
        (Op::WriteAt, Effect::Torn(ErrorKind::NoSpace)),
        (Op::WriteAt, Effect::Fail(ErrorKind::Io)),
        (Op::OpenSparse, Effect::Fail(ErrorKind::PermissionDenied)),
        (Op::Truncate, Effect::Fail(ErrorKind::Io)),
        (Op::Read, Effect::Fail(ErrorKind::Io)),
        (Op::Read, Effect::Short),
        (Op::PunchHole, Effect::Fail(ErrorKind::Io)),
        (Op::Delete, Effect::Fail(ErrorKind::Io)),
        (Op::FreeSpace, Effect::Fail(ErrorKind::Io)),
    ];
    for (broken, effect) in kinds {
        let (world, base) = (World::new(), MemEnv::new());
        let plan = FaultPlan::new();
        let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
        let budget = 6 * CHUNK;
        let union = UnionEnv::open(cached_options(&world, Arc::new(env), budget)).unwrap();
        let bytes = restore_one(&world, &union, 20 * CHUNK as usize);
        let file = open_12(&union);
        check(&union, &*file, &bytes, 0..CHUNK);
        plan.set_filter(move |op| op == broken, "");
        plan.fail_from(0, effect);
        for round in 0..3 {
            for chunk in 0..20 {
                check(
                    &union,
                    &*file,
                    &bytes,
                    chunk * CHUNK + round..chunk * CHUNK + 5000,
                );
                let stats = union.stats();
                assert!(
                    stats.cache_bytes <= budget,
                    "{broken} {effect:?}: {stats:?}"
                );
            }
        }
        let stats = union.stats();
        let harmless = matches!(broken, Op::Delete | Op::FreeSpace);
        let seen = stats.cache_disk_failures + stats.cache_mismatches > 0;
        assert!(
            harmless || seen || plan.injected() == 0,
            "{broken} {effect:?}: {stats:?}"
        );
        // Healed, it caches again.
        plan.disable();
        for _ in 0..2 {
            check(&union, &*file, &bytes, 100..200);
        }
        requests(&world);
        check(&union, &*file, &bytes, 100..200);
        assert!(requests(&world).is_empty(), "{broken} {effect:?}");
        assert!(
            allocated(&base) <= union.stats().cache_bytes + 4096,
            "{broken} {effect:?}"
        );
    }
}

/// An Env of a user's, without the new method.
#[derive(Debug)]
struct NoSparse(MemEnv);

impl Env for NoSparse {
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn lazurite_env::SequentialFile>> {
        self.0.open_sequential(path)
    }
    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>> {
        self.0.open_random(path)
    }
    fn create(&self, path: &Path) -> Result<Box<dyn lazurite_env::WritableFile>> {
        self.0.create(path)
    }
    fn open_append(&self, path: &Path) -> Result<Box<dyn lazurite_env::WritableFile>> {
        self.0.open_append(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.0.link(from, to)
    }
    fn delete(&self, path: &Path) -> Result<()> {
        self.0.delete(path)
    }
    fn create_dir(&self, path: &Path) -> Result<()> {
        self.0.create_dir(path)
    }
    fn delete_dir(&self, path: &Path) -> Result<()> {
        self.0.delete_dir(path)
    }
    fn list(&self, path: &Path) -> Result<Vec<lazurite_env::DirEntry>> {
        self.0.list(path)
    }
    fn stat(&self, path: &Path) -> Result<lazurite_env::Stat> {
        self.0.stat(path)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn lazurite_env::FileLock>> {
        self.0.lock(path)
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.0.sync_dir(path)
    }
    fn free_space(&self, path: &Path) -> Result<u64> {
        self.0.free_space(path)
    }
    fn native_path(&self, path: &Path) -> Option<PathBuf> {
        self.0.native_path(path)
    }
}

#[test]
fn an_env_without_sparse_files_reads_through_and_downloads() {
    let (world, base) = (World::new(), MemEnv::new());
    let env = Arc::new(NoSparse(base.clone()));
    let union = UnionEnv::open(cached_options(&world, env, u64::MAX)).unwrap();
    let snapshot = world.snapshot(&[(12, 1, 5000), (13, 2, 1)]);
    snapshot.restore(&union).unwrap();
    let bytes = &snapshot.contents[&name(12)];
    let file = open_12(&union);
    for _ in 0..3 {
        check(&union, &*file, bytes, 100..3000);
    }
    let stats = union.stats();
    assert_eq!(
        (
            stats.cache_hits,
            stats.cache_disk_failures,
            stats.cache_bytes
        ),
        (0, 0, 0)
    );
    union.download().wait_until_local().unwrap();
    assert_eq!(read_file(&base, &db(&name(12))).unwrap(), *bytes);
}

#[test]
fn a_full_disk_is_read_through_and_heals() {
    let (world, base) = (World::new(), MemEnv::with_capacity(300 << 10));
    let union = open_cached(&world, &base, u64::MAX);
    let bytes = restore_one(&world, &union, 1 << 20);
    let file = open_12(&union);
    for round in 0..2u64 {
        for at in (0..1 << 20).step_by(5000) {
            let end = (at + 5000 + round).min(1 << 20);
            check(&union, &*file, &bytes, at..end);
        }
    }
    assert!(allocated(&base) <= union.stats().cache_bytes);
    union.delete(&db(&name(12))).unwrap();
    assert!(cache_names(&base).is_empty() && union.stats().cache_bytes == 0);
    // The handle reads on, and leaves nothing behind.
    check(&union, &*file, &bytes, 0..100_000);
    assert!(cache_names(&base).is_empty());
}

#[test]
fn reopening_is_warm_and_keeps_to_what_is_catalogued() {
    let (world, base, union, bytes) = one_file(1 << 20, u64::MAX);
    let file = open_12(&union);
    for at in (0..1 << 20).step_by(50_000) {
        check(&union, &*file, &bytes, at..(at + 10_000).min(1 << 20));
    }
    let used = union.stats().cache_bytes;
    drop((file, union));
    for foreign in ["junk", "00112233445566778899aabbccddeeff.data", "x.map"] {
        write_file(&base, &cache_dir().join(foreign), b"junk").unwrap();
    }
    requests(&world);
    let union = open_cached(&world, &base, u64::MAX);
    assert_eq!(
        (cache_names(&base).len(), union.stats().cache_bytes),
        (2, used)
    );
    let file = open_12(&union);
    for at in (0..1 << 20).step_by(50_000) {
        check(&union, &*file, &bytes, at..(at + 10_000).min(1 << 20));
    }
    assert!(requests(&world).is_empty());
    // A restore keeps what the new snapshot has too.
    restore_one(&world, &union, 1 << 20);
    check(&union, &*file, &bytes, 0..10_000);
    assert!(requests(&world).is_empty());
    drop((file, union));
    // A smaller budget holds from the beginning.
    let union = open_cached(&world, &base, 64 << 10);
    let stats = union.stats();
    assert!(stats.cache_bytes <= 64 << 10 && allocated(&base) <= stats.cache_bytes);
    assert!(stats.cache_bytes > 32 << 10);
    union.restore(Vec::new(), Bytes::new(), "").unwrap();
    assert!(cache_names(&base).is_empty());
}

/// Flips every bit of the map, and a bit of every page, one after another; nothing wrong comes out, and it heals.
#[test]
fn flipped_bits_on_the_disk_are_found() {
    let (world, base, union, bytes) = one_file(10_000, u64::MAX);
    let file = open_12(&union);
    check(&union, &*file, &bytes, 0..10_000);
    let names = cache_names(&base);
    let path = |end: &str| cache_dir().join(names.iter().find(|name| name.ends_with(end)).unwrap());
    let (data, map) = (path(".data"), path(".map"));
    let flip = |file: &dyn SparseFile, bit: u64| {
        let mut byte = [0];
        file.read_at(bit / 8, &mut byte).unwrap();
        byte[0] ^= 1 << (bit % 8);
        file.write_at(bit / 8, &byte).unwrap();
    };
    let sparse = |path: &Path| base.open_sparse(path).unwrap();
    let mut found = 0;
    for bit in (0..10_000 * 8).step_by(611) {
        flip(&*sparse(&data), bit);
        check(&union, &*file, &bytes, 0..10_000);
        found += 1;
        assert_eq!(union.stats().cache_mismatches, found, "data bit {bit}");
    }
    for bit in 0..10 * 64 {
        flip(&*sparse(&map), 4096 * 8 + bit);
        check(&union, &*file, &bytes, 0..10_000);
        found += 1;
        assert_eq!(union.stats().cache_mismatches, found, "map bit {bit}");
    }
    requests(&world);
    check(&union, &*file, &bytes, 0..10_000);
    assert!(requests(&world).is_empty());
    drop((file, union));
    // At rest: each bit of the map, its header included, before it is opened again.
    let len = base.stat(&map).unwrap().len;
    for bit in (0..500 * 8).chain(4000 * 8..len * 8) {
        let disk = base.crash_clone(1);
        flip(&*disk.open_sparse(&map).unwrap(), bit);
        let union = open_cached(&world, &disk, u64::MAX);
        check(&union, &*open_12(&union), &bytes, 0..10_000);
        let stats = union.stats();
        assert!(stats.remote_requests <= 1, "bit {bit}");
        assert!(allocated(&disk) <= stats.cache_bytes);
        drop(union);
    }
    // Cut, empty, or gone.
    for len in [0, 100, 4096, 4100] {
        let disk = base.crash_clone(1);
        disk.open_sparse(&map).unwrap().truncate(len).unwrap();
        let union = open_cached(&world, &disk, u64::MAX);
        check(&union, &*open_12(&union), &bytes, 0..10_000);
    }
    for gone in [&map, &data] {
        let disk = base.crash_clone(1);
        disk.delete(gone).unwrap();
        let union = open_cached(&world, &disk, u64::MAX);
        assert!(cache_names(&disk).is_empty());
        check(&union, &*open_12(&union), &bytes, 0..10_000);
    }
}

#[test]
fn an_object_of_another_content_is_another_object() {
    let (world, _, union, bytes) = one_file(50_000, u64::MAX);
    check(&union, &*open_12(&union), &bytes, 0..50_000);
    // The same key and length: as if somebody had replaced the object, and told so.
    let other = content(2, 50_000);
    world.store.insert(&key(1), other.clone());
    let mut snapshot = world.snapshot(&[]);
    snapshot.entries.push(CatalogEntry {
        name: name(12),
        level: 0,
        file: RemoteFile {
            key: key(1),
            len: 50_000,
            checksum: Checksum::of(&other),
        },
        tail: None,
    });
    snapshot.restore(&union).unwrap();
    check(&union, &*open_12(&union), &other, 0..50_000);
}

#[test]
fn on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let mut options = cached_options(&world, Arc::new(lazurite_env::PosixEnv), 20 * CHUNK);
    options.root = dir.path().join("state");
    let union = UnionEnv::open(options.clone()).unwrap();
    let bytes = restore_one(&world, &union, 100 * CHUNK as usize);
    let path = union.db_dir().join(name(12));
    let file = union.open_random(&path).unwrap();
    for round in 0..300u64 {
        let at = round * 7919 * 613 % (100 * CHUNK - 20_000);
        check(&union, &*file, &bytes, at..at + 16_000);
        if round % 10 == 0 {
            check(&union, &*file, &bytes, at..at + 16_000);
        }
    }
    let stats = union.stats();
    let cache = options.root.join("cache");
    let real: u64 = std::fs::read_dir(&cache)
        .unwrap()
        .map(|entry| {
            std::os::unix::fs::MetadataExt::blocks(&entry.unwrap().metadata().unwrap()) * 512
        })
        .sum();
    // A file system may count its own records of the extents.
    assert!(real <= stats.cache_bytes + 16 * 1024, "{real} {stats:?}");
    assert!(stats.cache_bytes <= 20 * CHUNK && stats.cache_evictions > 100);
    assert_eq!((stats.cache_disk_failures, stats.cache_mismatches), (0, 0));
    assert!(stats.cache_hits >= 30, "{stats:?}");
    drop((file, union));
    requests(&world);
    let union = UnionEnv::open(options).unwrap();
    union.set_cache_budget(u64::MAX);
    let warm = union.stats().cache_bytes;
    assert!(warm > 10 * CHUNK);
    union.download().wait_until_local().unwrap();
    let fetched: u64 = requests(&world)
        .iter()
        .map(|(begin, end)| end - begin)
        .sum();
    assert!(fetched < 100 * CHUNK - warm / 2, "{fetched}");
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
    assert_eq!(union.stats().cache_bytes, 0);
}

#[test]
fn what_a_download_has_is_not_evicted() {
    let (world, _, union, bytes) = one_file(10 * CHUNK as usize, u64::MAX);
    let file = open_12(&union);
    check(&union, &*file, &bytes, 0..5 * CHUNK);
    requests(&world);
    world.store.close_gate();
    union.download().start().unwrap();
    while world.store.take_requests().is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    union.set_cache_budget(0);
    // What it has reserved stays its own.
    assert!(union.stats().cache_bytes >= 10 * CHUNK);
    world.store.open_gate();
    union.download().wait_until_local().unwrap();
    assert!(
        requests(&world)
            .iter()
            .all(|(begin, _)| *begin >= 5 * CHUNK)
    );
    assert_eq!(union.stats().cache_bytes, 0);
}

/// A power cut may leave a promoted file under its name in the cache too, beside that in the db directory.
#[test]
fn a_file_that_has_another_name_is_not_touched() {
    let (world, base, union, bytes) = one_file(4 * CHUNK as usize, u64::MAX);
    check(&union, &*open_12(&union), &bytes, 0..4 * CHUNK);
    drop(union);
    let names = cache_names(&base);
    let data = names.iter().find(|name| name.ends_with(".data")).unwrap();
    let other = db(&name(99));
    base.link(&cache_dir().join(data), &other).unwrap();
    let union = open_cached(&world, &base, u64::MAX);
    assert!(cache_names(&base).is_empty());
    check(&union, &*open_12(&union), &bytes, 0..CHUNK);
    union.set_cache_budget(0);
    assert!(read_file(&base, &other).unwrap() == bytes);
}
