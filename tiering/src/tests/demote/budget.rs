//! What goes where table files and cache are too much, and what does not.

use std::time::Instant;

use lazurite_env::ErrorKind;

use super::*;

#[test]
fn the_coldest_files_go_first_and_no_more_than_necessary() {
    let world = World::new();
    let base = MemEnv::new();
    let union = limited(&world, Arc::new(base.clone()), 1024 * KIB);
    let watched = Arc::new(Watched::default());
    union.watch_open_files(watched.clone());
    let mut files: Vec<_> = (10..20)
        .map(|number| write_stored(&world, &union, number, 64 * KIB))
        .collect();
    for (facts, idle) in files.iter().zip([9, 900, 0, 3, 600, 2, 1000, 1, 5, 0]) {
        let idle = (db(&facts.name), idle);
        watched.idle.lock().unwrap().extend([idle]);
    }
    files[4].level = 6;
    union.record_uploaded(&files).unwrap();
    assert_eq!(union.stats().demotions, 0, "640 KiB fit");
    // 500 KiB of which a sixteenth stays free; the cache has a share of what is remote, 125 KiB at most.
    union.set_disk_budget(500 * KIB as u64);
    let gone = watched.released.lock().unwrap().clone();
    let gone: Vec<_> = gone
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    assert_eq!(
        gone,
        [14, 11, 16, 10, 18].map(name),
        "by doublings of age, and the deepest first in one"
    );
    let stats = union.stats();
    assert_eq!(stats.demotions, gone.len() as u64);
    assert!(
        stats.table_bytes <= (469 - 125) * 1024 && stats.table_bytes > (469 - 125 - 64) * 1024,
        "{stats:?}"
    );
    assert_eq!(stats.table_bytes, taken(&base));
    assert_eq!(
        stats.cache_budget_bytes,
        500 * 1024 - 500 * 64 - stats.table_bytes
    );
    for facts in &files {
        assert_eq!(
            Checksum::of(&read_file(&*union, &db(&facts.name)).unwrap()),
            facts.file.checksum
        );
    }
    // Nothing comes that would go at once: this ends, and says why.
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert_eq!(union.stats().demotions, gone.len() as u64, "no thrash");
    assert!(taken(&base) <= stats.table_bytes);
    // With room they come.
    union.set_disk_budget(2048 * KIB as u64);
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    assert_eq!(union.stats().remote_files, 0);
}

#[test]
fn files_that_the_store_lacks_exceed_the_budget_and_are_told() {
    let world = World::new();
    let base = MemEnv::new();
    let union = limited(&world, Arc::new(base.clone()), 256 * KIB);
    let files: Vec<_> = (10..16)
        .map(|number| write_stored(&world, &union, number, 64 * KIB))
        .collect();
    let until = Instant::now() + Duration::from_secs(20);
    while union.stats().disk_over_bytes != 128 * 1024 {
        assert!(Instant::now() < until, "{:?}", union.stats());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        (union.stats().demotions, union.stats().cache_budget_bytes),
        (0, 0)
    );
    assert_eq!(taken(&base), 384 * 1024);
    union.record_uploaded(&files).unwrap();
    let stats = union.stats();
    assert_eq!(stats.disk_over_bytes, 0, "{stats:?}");
    assert!(
        stats.table_bytes + stats.cache_budget_bytes <= 240 * 1024,
        "{stats:?}"
    );
    assert!(
        stats.cache_budget_bytes >= 64 * 1024,
        "the cache has its share: {stats:?}"
    );
}

#[test]
fn a_full_disk_demotes_too() {
    let world = World::new();
    let base = MemEnv::with_capacity(1000 * KIB as u64);
    let mut options = world.options(Arc::new(base.clone()));
    options.cache.disk_budget_bytes = 1 << 40;
    options.cache.min_free_bytes = 700 * KIB as u64;
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (10..16)
        .map(|number| write_stored(&world, &union, number, 64 * KIB))
        .collect();
    union.record_uploaded(&files).unwrap();
    // 384 KiB are there, 84 too many.
    assert_eq!(union.stats().demotions, 2, "{:?}", union.stats());
}
