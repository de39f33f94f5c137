//! Power cuts and failures at every step: the reopened union holds no wrong content and has lost no entry.

use std::collections::BTreeSet;

use lazurite_env::{Effect, ErrorKind, FaultEnv, FaultPlan};

use super::*;

const SEEDS: u64 = 8;

/// One machine that a test breaks.
struct Machine {
    world: World,
    base: MemEnv,
    plan: Arc<FaultPlan>,
    union: Arc<UnionEnv>,
}

impl Machine {
    /// With the files 12 to 14 local and 15 remote (seeds 1 to 4), and 99 local only.
    fn new() -> Self {
        let world = World::new();
        let (base, plan) = (MemEnv::new(), FaultPlan::new());
        let env = FaultEnv::new(Arc::new(base.clone()), plan.clone());
        let union = world.try_open(Arc::new(env)).unwrap();
        world
            .snapshot(&[(12, 1, 1000), (13, 2, 1001), (14, 3, 1002)])
            .restore(&union)
            .unwrap();
        union.download().wait_until_local().unwrap();
        let first = world.snapshot(&[(12, 1, 1000), (13, 2, 1001), (14, 3, 1002), (15, 4, 1003)]);
        first.restore(&union).unwrap();
        write_file(&*union, &db(&name(99)), &content(99, 1000)).unwrap();
        union.sync_dir(union.db_dir()).unwrap();
        Machine {
            world,
            base,
            plan,
            union,
        }
    }

    /// What every union must hold: each catalogued name reads as its object, local or remote. A `fresh` one also knows
    /// every local file as such; one that saw a failure may leave a file unused.
    fn check(&self, union: &UnionEnv, base: &dyn Env, fresh: bool, what: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut remote = 0;
        for name in listed(union) {
            let Some(entry) = union.get(&name) else {
                continue;
            };
            let found = read_file(union, &db(&name)).unwrap();
            assert_eq!(Checksum::of(&found), entry.file.checksum, "{what}: {name}");
            let there = base.stat(&db(&name)).is_ok();
            let is_local = union.is_local(&name);
            assert!(
                is_local <= there && (is_local || !fresh || !there),
                "{what}: {name}"
            );
            remote += usize::from(!union.is_local(&name));
            assert!(
                union.referenced_keys().contains(&entry.file.key),
                "{what}: {name}"
            );
            names.insert(name);
        }
        assert_eq!(union.remote_files(), remote, "{what}");
        names
    }

    /// Reopens after power cuts and gives each union to `then` with its catalogued names.
    fn after_power_cuts(
        &self,
        what: &str,
        then: impl Fn(&UnionEnv, &MemEnv, BTreeSet<String>, &str),
    ) {
        for seed in 0..SEEDS {
            let what = format!("{what}, seed {seed}");
            let disk = self.base.crash_clone(seed);
            let union = self.world.open(&disk);
            let names = self.check(&union, &disk, true, &what);
            then(&union, &disk, names, &what);
        }
    }
}

fn names(numbers: &[u64]) -> BTreeSet<String> {
    numbers.iter().map(|&number| name(number)).collect()
}

/// Runs `operation` with every one of its steps failing, and with everything failing from that step on, as if the
/// process had died there; `then` looks at what is left.
fn at_every_step(operation: impl Fn(&Machine) -> Result<()>, then: impl Fn(&Machine, bool, &str)) {
    for effect in [
        Effect::Fail(ErrorKind::Io),
        Effect::FailAfter(ErrorKind::Io),
    ] {
        for dead in [false, true] {
            for i in 0.. {
                let machine = Machine::new();
                if dead {
                    machine.plan.fail_from(i, effect);
                } else {
                    machine.plan.fail_nth(i, effect);
                }
                let done = operation(&machine).is_ok();
                let injected = machine.plan.injected() > 0;
                let what = format!(
                    "{effect:?} at {i}, dead: {dead}: {:?}",
                    machine.plan.injections().first()
                );
                machine.plan.disable();
                then(&machine, done, &what);
                if !injected {
                    assert!(done && i > 0);
                    break;
                }
            }
        }
    }
}

#[test]
fn restore_leaves_the_old_catalog_or_the_new_one() {
    let old = names(&[12, 13, 14, 15]);
    let new = names(&[12, 13, 99, 100]);
    // 12 is the same object; 13 and 99 are other contents of the lengths that are on the disk.
    let target = |machine: &Machine| {
        machine.world.snapshot(&[
            (12, 1, 1000),
            (13, 20, 1001),
            (99, 21, 1000),
            (100, 22, 500),
        ])
    };
    at_every_step(
        |machine| target(machine).restore(&machine.union).map(drop),
        |machine, done, what| {
            machine.after_power_cuts(what, |union, disk, found, what| {
                assert!(found == new || (found == old && !done), "{what}: {found:?}");
                // Restoring again finishes it.
                let target = target(machine);
                target.restore(union).unwrap();
                assert_eq!(machine.check(union, disk, true, what), new, "{what}");
                assert_eq!(listed(union).len(), 4, "{what}");
                let file = union.open_random(&db(&name(100))).unwrap();
                machine.world.store.take_requests();
                assert_eq!(
                    read_at(&*file, 400, 100).unwrap(),
                    target.contents[&name(100)][400..]
                );
                assert!(machine.world.store.take_requests().is_empty());
            });
            // So does going on with the same union, whatever it is told first.
            let found = machine.check(&machine.union, &machine.base, false, what);
            assert!(found == new || (found == old && !done), "{what}: {found:?}");
            machine.union.download().wait_until_local().unwrap();
            machine.check(&machine.union, &machine.base, false, what);
            machine.after_power_cuts(what, |_, _, _, _| ());
        },
    );
}

#[test]
fn after_a_failed_restore_new_files_are_never_taken_for_objects() {
    at_every_step(
        |machine| {
            let next = machine.world.snapshot(&[(99, 21, 1000), (100, 22, 500)]);
            next.restore(&machine.union).map(drop)
        },
        |machine, done, what| {
            if done {
                return;
            }
            // The catalog on the disk may be the new one, where 100 is an object of 500 bytes.
            let _ = machine.union.delete(&db(&name(100)));
            write_file(&*machine.union, &db(&name(100)), &content(77, 500)).unwrap();
            machine.after_power_cuts(what, |_, _, _, _| ());
        },
    );
}

#[test]
fn delete_loses_only_what_was_deleted() {
    at_every_step(
        |machine| {
            machine.union.delete(&db(&name(12)))?;
            machine.union.delete(&db(&name(15)))?;
            machine.union.sync_dir(machine.union.db_dir())
        },
        |machine, done, what| {
            machine.check(&machine.union, &machine.base, false, what);
            machine.after_power_cuts(what, |_, _, found, what| {
                assert!(found.is_superset(&names(&[13, 14])), "{what}: {found:?}");
                assert!(!done || found == names(&[13, 14]), "{what}: {found:?}");
            });
        },
    );
}

#[test]
fn promotion_loses_nothing_and_makes_nothing_wrong_local() {
    at_every_step(
        |machine| {
            machine.union.download().start()?;
            let result = machine.union.download().wait_until_local();
            machine.union.download().stop();
            result
        },
        |machine, _, what| {
            machine.check_contents(what);
            machine.after_power_cuts(what, |union, _, found, what| {
                assert_eq!(found, names(&[12, 13, 14, 15]), "{what}");
                union.download().wait_until_local().unwrap();
            });
        },
    );
}

#[test]
fn rename_and_link_keep_names_and_contents_together() {
    at_every_step(
        |machine| {
            let union = &machine.union;
            union.link(&db(&name(15)), &db(&name(20)))?;
            union.link(&db(&name(12)), &db(&name(21)))?;
            union.rename(&db(&name(13)), &db(&name(99)))?;
            union.rename(&db(&name(15)), &db(&name(14)))?;
            union.rename(&db(&name(14)), &db(&name(13)))?;
            union.sync_dir(union.db_dir())
        },
        |machine, done, what| {
            machine.check_contents(what);
            machine.after_power_cuts(what, |_, _, found, what| {
                assert!(
                    !done || found == names(&[12, 13, 20, 21, 99]),
                    "{what}: {found:?}"
                );
                assert!(found.contains(&name(12)), "{what}: {found:?}");
            });
        },
    );
}

#[test]
fn a_name_that_was_freed_is_not_found_with_its_old_bytes() {
    let machine = Machine::new();
    let union = &machine.union;
    let old = content(55, 1003);
    for number in [20, 21] {
        write_file(&**union, &db(&name(number)), &old).unwrap();
    }
    union.sync_dir(union.db_dir()).unwrap();
    // Two ways to free a name and to give it to the object of 15, which has that length.
    union.delete(&db(&name(20))).unwrap();
    union.link(&db(&name(15)), &db(&name(20))).unwrap();
    union.rename(&db(&name(15)), &db(&name(21))).unwrap();
    // This saves the catalog without a look at the directory.
    let bytes = content(99, 1000);
    machine.world.store.insert(&key(99), bytes.clone());
    union
        .record_uploaded(&[uploaded(&name(99), 99, &bytes)])
        .unwrap();
    machine.after_power_cuts("", |_, _, found, what| {
        assert!(found.is_superset(&names(&[20, 21])), "{what}: {found:?}");
    });
}

#[test]
fn uploads_are_catalogued_or_not() {
    at_every_step(
        |machine| {
            let bytes = content(99, 1000);
            machine.world.store.insert(&key(99), bytes.clone());
            machine
                .union
                .record_uploaded(&[uploaded(&name(99), 99, &bytes)])
        },
        |machine, done, what| {
            machine.check_contents(what);
            machine.after_power_cuts(what, |_, _, found, what| {
                assert!(found.is_superset(&names(&[12, 13, 14, 15])), "{what}");
                assert!(!done || found.contains(&name(99)), "{what}");
            });
        },
    );
}

#[test]
fn discarding_can_be_cut_short_and_finished() {
    at_every_step(
        |machine| {
            let env = FaultEnv::new(Arc::new(machine.base.clone()), machine.plan.clone());
            UnionEnv::discard_local(&env, Path::new(ROOT))
        },
        |machine, done, what| {
            machine.after_power_cuts(what, |_, disk, found, what| {
                assert!(!done || found.is_empty(), "{what}: {found:?}");
                UnionEnv::discard_local(disk, Path::new(ROOT)).unwrap();
                assert!(disk.list(Path::new(ROOT)).unwrap().is_empty());
            });
        },
    );
}

impl Machine {
    /// Like [`check`](Self::check), for a union whose failed step may have left more or less on the disk than it knows.
    fn check_contents(&self, what: &str) {
        for name in listed(&self.union) {
            let Some(entry) = self.union.get(&name) else {
                continue;
            };
            let found = read_file(&*self.union, &db(&name)).unwrap();
            assert_eq!(Checksum::of(&found), entry.file.checksum, "{what}: {name}");
        }
    }
}
