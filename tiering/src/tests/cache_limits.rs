//! Downloads that share too little room, rereads and handles at the edges of what may be changed.

use std::{thread, time::Instant};

use lazurite_env::{Activity, Effect, ErrorKind, FaultEnv, FaultPlan, Op};

use super::{cache::*, *};

fn wait_for(condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "it does not happen");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Four files of which the budget holds one at a time.
#[test]
fn downloads_wait_for_each_others_room() {
    let (world, base) = (World::new(), MemEnv::new());
    let mut options = cached_options(&world, Arc::new(base.clone()), 1_000_000);
    options.download.parallel_files = 4;
    options.download.chunk_bytes = 100_000;
    // Nobody may sleep long for this.
    options.download.first_backoff = Duration::from_secs(60);
    let union = UnionEnv::open(options).unwrap();
    let files: Vec<_> = (0..4).map(|i| (12 + i, 1 + i, 640_000)).collect();
    let snapshot = world.snapshot(&files);
    snapshot.restore(&union).unwrap();
    world.store.close_gate();
    union.download().start().unwrap();
    wait_for(|| !world.store.take_requests().is_empty());
    thread::sleep(Duration::from_millis(50));
    world.store.open_gate();
    union.download().wait_until_local().unwrap();
    for (name, bytes) in &snapshot.contents {
        assert!(read_file(&base, &db(name)).unwrap() == *bytes);
    }
}

#[test]
fn a_file_that_is_deleted_while_it_waits_for_space_is_let_go() {
    let (_world, base, union, _) = one_file(1 << 20, 64 << 10);
    let download = union.download();
    let error = download.wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    union.delete(&db(&name(12))).unwrap();
    download.start().unwrap();
    wait_for(|| download.progress().files_total == 0);
    assert!(download.progress().no_space.is_none());
    assert!(cache_names(&base).is_empty());
    assert_eq!(union.stats().cache_bytes, 0);
}

/// A file that is being synced cannot be changed; a reader that found it wrong is not answered from it.
#[test]
fn a_reread_is_never_answered_from_the_cache() {
    let (world, base) = (World::new(), MemEnv::new());
    let plan = FaultPlan::new();
    let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
    let union = UnionEnv::open(cached_options(&world, Arc::new(env), u64::MAX)).unwrap();
    let bytes = restore_one(&world, &union, 100_000);
    let file = open_12(&union);
    plan.set_filter(|op| op == Op::Sync, "cache");
    plan.fail_nth(0, Effect::Delay(Duration::from_secs(2)));
    union.download().start().unwrap();
    wait_for(|| plan.injected() > 0);
    requests(&world);
    let mut buf = [0; 1000];
    file.read_at(2048, &mut buf, hint(Activity::Reread))
        .unwrap();
    assert!(buf[..] == bytes[2048..3048]);
    assert_eq!(requests(&world), [(2048, 3072)]);
    union.download().wait_until_local().unwrap();
}

#[test]
fn handles_that_outlive_the_union_change_nothing_below_its_root() {
    let (_world, base, union, bytes) = one_file(4 * CHUNK as usize, u64::MAX);
    let file = open_12(&union);
    check(&union, &*file, &bytes, 0..4 * CHUNK);
    let names = cache_names(&base);
    let data = names.iter().find(|name| name.ends_with(".data")).unwrap();
    drop(union);
    // What another union may do there.
    let sparse = base.open_sparse(&cache_dir().join(data)).unwrap();
    sparse.write_at(100, b"of somebody else").unwrap();
    let before = allocated(&base);
    let mut buf = vec![0; 5000];
    for activity in [Activity::Get, Activity::Reread] {
        file.read_at(0, &mut buf, hint(activity)).unwrap();
        assert!(buf == bytes[..5000]);
    }
    assert_eq!(allocated(&base), before);
    let mut there = [0; 16];
    sparse.read_at(100, &mut there).unwrap();
    assert_eq!(&there, b"of somebody else");
}

#[test]
fn a_panic_of_the_disk_takes_back_what_was_counted() {
    let (world, base) = (World::new(), MemEnv::new());
    let plan = FaultPlan::new();
    let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
    let union = UnionEnv::open(cached_options(&world, Arc::new(env), u64::MAX)).unwrap();
    restore_one(&world, &union, 100_000);
    plan.set_filter(|op| op == Op::Sync && panic!("a disk"), "cache");
    let error = union.download().wait_until_local().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert_eq!(union.download().progress().bytes_done, 0);
    plan.set_filter(|_| true, "");
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    assert_eq!(union.download().progress().bytes_done, 100_000);
}
