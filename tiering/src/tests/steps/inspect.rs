//! What a machine must come back with that died at some step.

use std::collections::{BTreeMap, BTreeSet};

use lazurite_env::{Activity, EnvExt};

use super::{
    super::*,
    machine::{IN_FLIGHT, OBJECTS, OWN, PAGES_OF_15, Progress, Run, bytes_of, open},
    script::Case,
};
use crate::{
    cache::Object,
    tests::cache::{CHUNK, Kept, PAGE, hint, kept},
};

pub type Asked = Vec<(Key, Range<u64>)>;

/// What a machine left that died while a case was at work.
pub struct Wreck {
    pub what: String,
    pub disk: Arc<dyn Env>,
    /// Everything that was handed to the operating system is there.
    pub was_killed: bool,
    /// Everything is read before it is downloaded. Reads heal too.
    pub is_read_first: bool,
    /// Changes of the catalog that had begun, and that were durable.
    pub begun: usize,
    pub durable: usize,
    /// All files were local, durably.
    pub is_local: bool,
    /// Local tables whose names were durable.
    pub synced: BTreeSet<String>,
    /// What the case had asked the store for.
    pub asked: Asked,
}

/// What of an object is on a disk, before anybody opened it.
struct Found {
    kept: Kept,
    /// Tables that have all of its bytes; one of them is not catalogued.
    whole: BTreeSet<String>,
    is_stray: bool,
}

impl Found {
    fn all(disk: &dyn Env) -> BTreeMap<Key, Found> {
        let read = |name: String| (disk.read_to_vec(&db(&name), 1 << 20).unwrap(), name);
        let tables: Vec<(Vec<u8>, String)> = tables(disk).into_iter().map(read).collect();
        let found = |seed| {
            let bytes = bytes_of(seed);
            let kept = kept(disk, &remote_file(seed, &bytes));
            let whole = tables.iter().filter(|(found, _)| *found == bytes);
            let found = Found {
                kept,
                whole: whole.map(|(_, name)| name.clone()).collect(),
                is_stray: false,
            };
            (key(seed), found)
        };
        OBJECTS.iter().map(|&(seed, _)| found(seed)).collect()
    }

    /// True where a page is in the cache. A chunk of which a power cut spoilt a page goes as a whole.
    fn has(&self, page: u64, was_killed: bool) -> bool {
        let chunk = |page: u64| page * PAGE / CHUNK;
        let mut bad = self.kept.bad.iter();
        let spoilt = !was_killed && bad.any(|bad| chunk(*bad) == chunk(page));
        self.kept.good.contains(&page) && !spoilt
    }
}

/// Reopens what is left and looks at all of it.
pub fn inspect(case: &Case, world: &World, wreck: &Wreck) {
    let (disk, what) = (&wreck.disk, &wreck.what[..]);
    let mut on_disk = Found::all(&**disk);
    world.store.take_requests();
    let union = open(world, disk.clone());
    assert_eq!(
        world.store.take_requests(),
        [],
        "{what}: an open asks for nothing"
    );
    if wreck.is_read_first {
        check(&union, &**disk, wreck);
    }
    let state = names_of(&union);
    let allowed = &case.states[wreck.durable..=wreck.begun];
    assert!(
        allowed.contains(&&state[..]),
        "{what}: {state:?} is none of {allowed:?}"
    );
    is_accounted(&union, &**disk, case, what);
    if disk.exists(&db("CURRENT")).unwrap() {
        // A database opens here: it finds all of its tables.
        for (number, _) in OWN {
            assert!(disk.exists(&db(&name(number))).unwrap(), "{what}: {number}");
        }
    }

    for found in on_disk.values_mut() {
        found.is_stray = found.whole.iter().any(|name| !union.is_local(name));
    }
    let mut remote = BTreeMap::<Key, u64>::new();
    for entry in union.entries() {
        if !union.is_local(&entry.name) {
            *remote.entry(entry.file.key).or_default() += 1;
        }
    }
    world.store.take_requests();
    union.download().wait_until_local().unwrap();
    union.download().stop();
    let asked = world.store.take_requests();
    nothing_comes_twice(case, wreck, &on_disk, &asked, &remote);
    let names = check(&union, &**disk, wreck);
    let left: Vec<_> = ["cache", "download"]
        .into_iter()
        .flat_map(|dir| disk.list(&Path::new(ROOT).join(dir)).unwrap())
        .collect();
    assert!(left.is_empty(), "{what}: {left:?}");
    drop(union);

    // All is here now, and stays.
    let union = open(world, disk.clone());
    assert_eq!(union.remote_files(), 0, "{what}");
    assert_eq!(check(&union, &**disk, wreck), names, "{what}");
    is_accounted(&union, &**disk, case, what);
    done_again(case, world, disk, union, what);
}

/// The catalog as numbers of files and objects.
fn names_of(union: &UnionEnv) -> Vec<(u64, u64)> {
    let number = |name: &str| name[..6].parse().unwrap();
    let seed = |found: &Key| OBJECTS.iter().find(|(seed, _)| key(*seed) == *found);
    let entries = union.entries().into_iter();
    entries
        .map(|entry| (number(&entry.name), seed(&entry.file.key).unwrap().0))
        .collect()
}

/// The names of table files on a disk.
pub fn tables(disk: &dyn Env) -> BTreeSet<String> {
    let found = disk.list(&db("")).unwrap_or_default().into_iter();
    found
        .map(|entry| entry.name)
        .filter(|name| name.ends_with(".sst"))
        .collect()
}

/// Every name reads as its object, wherever that is; is local where the disk has it; and is where it was promised to be.
fn check(union: &UnionEnv, disk: &dyn Env, wreck: &Wreck) -> BTreeSet<String> {
    let what = &wreck.what;
    let mut names = BTreeSet::new();
    for entry in union.entries() {
        let (name, len) = (&entry.name, entry.file.len as usize);
        // Leaves no trace in the cache.
        let file = union.open_random(&db(name)).unwrap();
        let mut bytes = vec![0; len + 10];
        let n = file.read_at(0, &mut bytes, hint(Activity::Verify)).unwrap();
        let right = n == len && Checksum::of(&bytes[..n]) == entry.file.checksum;
        assert!(right, "{what}: {name} has other bytes");
        assert_eq!(union.stat(&db(name)).unwrap().len, len as u64, "{what}");
        let is_local = disk.exists(&db(name)).unwrap();
        assert_eq!(union.is_local(name), is_local, "{what}: {name}");
        assert!(
            is_local || !(wreck.is_local || wreck.synced.contains(name)),
            "{what}: {name} is lost"
        );
        assert!(
            union.referenced_keys().contains(&entry.file.key),
            "{what}: {name}"
        );
        names.insert(entry.name);
    }
    let remote = names.iter().filter(|name| !union.is_local(name)).count();
    assert_eq!(union.remote_files(), remote, "{what}");
    names
}

/// Whatever lies below the root belongs to what the catalog names, or RocksDB knows what it is.
fn is_accounted(union: &UnionEnv, disk: &dyn Env, case: &Case, what: &str) {
    let list = |dir: &str| {
        let entries = disk.list(&Path::new(ROOT).join(dir)).unwrap().into_iter();
        entries.map(|entry| entry.name).collect::<BTreeSet<_>>()
    };
    let (mut cache, mut tails) = (BTreeSet::new(), BTreeSet::from(["bundle-1".to_owned()]));
    for entry in union.entries() {
        if !union.is_local(&entry.name) {
            let id = Object::new(&entry.file).id;
            cache.extend([format!("{id}.data"), format!("{id}.map")]);
            tails.insert(format!("{}.tail", entry.name));
        }
    }
    let dirs = ["CATALOG", "cache", "db", "download", "tails"].map(str::to_owned);
    for (dir, known) in [
        ("", BTreeSet::from(dirs)),
        ("cache", cache),
        ("tails", tails),
        ("download", BTreeSet::new()),
    ] {
        let found = list(dir);
        assert!(found.is_subset(&known), "{what}: {dir}/ holds {found:?}");
    }
    let own = OWN.iter().map(|(number, _)| number);
    let left_over: BTreeSet<_> = case.left_over.iter().chain(own).map(|n| name(*n)).collect();
    for found in tables(disk) {
        let known = union.is_local(&found) || left_over.contains(&found);
        assert!(known, "{what}: db/ holds {found}");
    }
}

fn pages(range: &Range<u64>) -> Range<u64> {
    range.start / PAGE..range.end.div_ceil(PAGE)
}

/// The download that goes on asks for nothing that is on the disk, and for nothing twice. After a kill no more came in vain
/// than was on its way.
fn nothing_comes_twice(
    case: &Case,
    wreck: &Wreck,
    on_disk: &BTreeMap<Key, Found>,
    asked: &Asked,
    remote: &BTreeMap<Key, u64>,
) {
    let what = &wreck.what;
    let mut times = BTreeMap::<(&Key, u64), u64>::new();
    for (key, range) in asked {
        for page in pages(range) {
            *times.entry((key, page)).or_default() += 1;
        }
    }
    for ((key, page), times) in times {
        // An object with two names comes once for each.
        let found = &on_disk[key];
        let most = remote[key] - u64::from(found.is_stray || found.has(page, wreck.was_killed));
        assert!(
            times <= most,
            "{what}: page {page} of {key} came {times} times, should {most}"
        );
    }
    if case.keeps_pages && wreck.was_killed {
        let found = &on_disk[&key(4)];
        let all = PAGES_OF_15.iter().all(|page| found.has(*page, true));
        assert!(
            all,
            "{what}: {:?} are left of {PAGES_OF_15:?}",
            found.kept.good
        );
    }
    let Some(most) = case.lost.filter(|_| wreck.was_killed) else {
        return;
    };
    let lost = wreck.asked.iter().flat_map(|(key, range)| {
        let found = &on_disk[key];
        let is_lost = |page: &u64| found.whole.is_empty() && !found.has(*page, true);
        let pages = pages(range).filter(is_lost);
        pages.map(move |page| (key, page))
    });
    let lost = lost.collect::<BTreeSet<_>>().len() as u64 * PAGE;
    assert!(
        lost <= most.next_multiple_of(PAGE),
        "{what}: {lost} bytes came in vain"
    );
    let sum =
        |asked: &Asked| -> u64 { asked.iter().map(|(_, range)| range.end - range.start).sum() };
    let objects: u64 = case.states[0]
        .iter()
        .map(|(_, seed)| bytes_of(*seed).len() as u64)
        .sum();
    let all = sum(&wreck.asked) + sum(asked);
    assert!(
        all <= objects + most.max(IN_FLIGHT),
        "{what}: {all} of {objects}"
    );
}

/// Done again, as by whoever was killed and does not know how far it came, it ends where it should have, and nothing is
/// left of it.
fn done_again(case: &Case, world: &World, disk: &Arc<dyn Env>, union: Arc<UnionEnv>, what: &str) {
    // RocksDB deletes the tables that it does not know.
    for number in case.left_over {
        if union.get(&name(*number)).is_none() && disk.exists(&db(&name(*number))).unwrap() {
            union.delete(&db(&name(*number))).unwrap();
        }
    }
    let run = Run {
        world,
        env: disk.clone(),
        union: case.is_open.then_some(union),
        progress: Arc::<Progress>::default(),
        again: true,
    };
    (case.run)(&run);
    drop(run);
    let union = open(world, disk.clone());
    let state = names_of(&union);
    assert_eq!(
        state,
        case.states[case.states.len() - 1],
        "{what}, done again"
    );
    for entry in union.entries() {
        union.delete(&db(&entry.name)).unwrap();
    }
    for name in tables(&**disk) {
        union.delete(&db(&name)).unwrap();
    }
    union.sync_dir(union.db_dir()).unwrap();
    drop(union);
    let union = open(world, disk.clone());
    assert!(union.entries().is_empty(), "{what}, deleted");
    drop(union);
    UnionEnv::discard_local(&**disk, Path::new(ROOT)).unwrap();
    let left = disk.list(Path::new(ROOT)).unwrap();
    assert!(left.is_empty(), "{what}, discarded: {left:?}");
}
