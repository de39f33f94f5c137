//! A disk that fails, a process that dies, a power cut: at every step of a demotion.

use lazurite_env::{Effect, ErrorKind, FaultEnv, FaultPlan};

use super::*;

/// Whatever of the disk fails while room is made: reads go on, and the next look makes up for it.
#[test]
fn a_disk_that_fails_while_room_is_made_fails_no_read() {
    for i in 0.. {
        let world = World::new();
        let (base, plan) = (MemEnv::new(), FaultPlan::new());
        let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
        let union = limited(&world, Arc::new(env), 1024 * KIB);
        let files: Vec<_> = (10..16)
            .map(|number| write_stored(&world, &union, number, 64 * KIB))
            .collect();
        union.record_uploaded(&files).unwrap();
        plan.fail_nth(i, Effect::Fail(ErrorKind::Io));
        union.set_disk_budget(256 * KIB as u64);
        let injected = plan.injected() > 0;
        plan.disable();
        for (number, facts) in (10..).zip(&files) {
            assert_eq!(
                read_file(&*union, &db(&facts.name)).unwrap(),
                content(number, 64 * KIB),
                "{i}"
            );
        }
        union.set_disk_budget(256 * KIB as u64);
        assert!(taken(&base) <= 240 * 1024, "{i}: {:?}", union.stats());
        if !injected {
            assert!(i > 10);
            break;
        }
    }
}

/// A machine with 12 promoted from a bundle, 13 uploaded by a snapshot, both local.
fn machine(plan: &Arc<FaultPlan>) -> (World, MemEnv, Arc<UnionEnv>) {
    let world = World::new();
    let base = MemEnv::new();
    let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
    let union = world.try_open(Arc::new(env)).unwrap();
    world.snapshot(&[(12, 12, 1000)]).restore(&union).unwrap();
    union.download().wait_until_local().unwrap();
    let facts = write_stored(&world, &union, 13, 1100);
    union.record_uploaded(&[facts]).unwrap();
    (world, base, union)
}

/// Both tables read as they should, wherever they are, and where they are is what the disk says.
fn check(world: &World, union: &UnionEnv, base: &MemEnv, fresh: bool, what: &str) {
    assert_eq!(listed(union), [name(12), name(13)], "{what}");
    for (number, len) in [(12, 1000), (13, 1100)] {
        let path = db(&name(number));
        assert_eq!(
            read_file(union, &path).unwrap(),
            content(number, len),
            "{what}: {number}"
        );
        let there = base.stat(&path).is_ok();
        assert!(union.is_local(&name(number)) <= there, "{what}: {number}");
        assert!(
            !fresh || union.is_local(&name(number)) == there,
            "{what}: {number}"
        );
        let referenced = union.referenced_keys();
        assert!(referenced.contains(&key(number)), "{what}: {number}");
    }
    let _ = world;
}

#[test]
fn every_step_of_a_demotion_may_fail_or_be_the_last() {
    for effect in [
        Effect::Fail(ErrorKind::Io),
        Effect::FailAfter(ErrorKind::Io),
    ] {
        for dead in [false, true] {
            for i in 0.. {
                let plan = FaultPlan::new();
                let (world, base, union) = machine(&plan);
                let handles = [12, 13].map(|number| union.open_random(&db(&name(number))).unwrap());
                match dead {
                    true => plan.fail_from(i, effect),
                    false => plan.fail_nth(i, effect),
                }
                let results = [12, 13].map(|number| union.demote(&name(number)));
                let injected = plan.injected() > 0;
                let what = format!("{effect:?} at {i}, dead: {dead}: {results:?}");
                plan.disable();
                check(&world, &union, &base, false, &what);
                for (handle, (number, len)) in handles.iter().zip([(12, 1000), (13, 1100)]) {
                    assert_eq!(
                        read_at(&**handle, 0, len).unwrap(),
                        content(number, len),
                        "{what}"
                    );
                }
                // Killed here, or cut off from power: what was there before, or what should be there after.
                drop(union);
                for seed in (1..8).chain([0]) {
                    let disk = if seed == 0 {
                        base.clone()
                    } else {
                        base.crash_clone(seed)
                    };
                    let reopened = world.open(&disk);
                    check(
                        &world,
                        &reopened,
                        &disk,
                        true,
                        &format!("{what}, seed {seed}"),
                    );
                    // Nothing that is whole here comes again, and nothing is left over.
                    let bytes = reopened.stats().download_bytes;
                    let remote: u64 = [(12, 1000), (13, 1100)]
                        .iter()
                        .filter(|(number, _)| !reopened.is_local(&name(*number)))
                        .map(|(_, len)| *len)
                        .sum();
                    reopened.download().wait_until_local().unwrap();
                    assert!(reopened.stats().download_bytes - bytes <= remote, "{what}");
                    for number in [12, 13] {
                        reopened.delete(&db(&name(number))).unwrap();
                    }
                    reopened.sync_dir(reopened.db_dir()).unwrap();
                    drop(reopened);
                    let empty = world.open(&disk);
                    let left = |dir: &str| disk.list(&Path::new(ROOT).join(dir)).unwrap();
                    assert!(left("cache").is_empty() && left("db").is_empty(), "{what}");
                    assert!(
                        left("tails").iter().all(|found| found.name == "bundle-1"),
                        "{what}"
                    );
                    drop(empty);
                }
                if !injected {
                    assert!(results.iter().all(|result| matches!(result, Ok(true))) && i > 0);
                    break;
                }
            }
        }
    }
}
