//! What a power cut leaves, checked against a model that is kept apart from the code: what must survive, and what may.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use proptest::prelude::*;

use crate::{Effect, Env, EnvExt, ErrorKind, FaultEnv, FaultPlan, MemEnv, WritableFile};

fn root() -> &'static Path {
    Path::new("/")
}

fn write(env: &dyn Env, path: &str, bytes: &[u8]) -> Box<dyn WritableFile> {
    let mut file = env.create(Path::new(path)).unwrap();
    file.append(bytes).unwrap();
    file
}

fn read(env: &dyn Env, path: &str) -> Option<Vec<u8>> {
    match env.read_to_vec(Path::new(path), 1 << 20) {
        Err(e) if e.is_not_found() => None,
        read => Some(read.unwrap()),
    }
}

#[test]
fn what_was_not_synced_is_lost_by_seed_0_and_kept_by_seed_1() {
    let env = MemEnv::new();
    let mut file = write(&env, "/a", b"synced");
    file.sync().unwrap();
    env.sync_dir(root()).unwrap();
    file.append(b" and not").unwrap();
    write(&env, "/b", b"").sync().unwrap();
    env.rename(Path::new("/a"), Path::new("/c")).unwrap();

    let lost = env.crash_clone(0);
    assert_eq!(read(&lost, "/a").unwrap(), b"synced");
    assert_eq!((read(&lost, "/b"), read(&lost, "/c")), (None, None));
    let kept = env.crash_clone(1);
    assert_eq!(read(&kept, "/c").unwrap(), b"synced and not");
    assert_eq!((read(&kept, "/a"), read(&kept, "/b")), (None, Some(vec![])));
    // The Env itself goes on, and the clones are apart from it.
    file.append(b"!").unwrap();
    assert_eq!(read(&env, "/c").unwrap(), b"synced and not!");
    assert_eq!(read(&kept, "/c").unwrap(), b"synced and not");
}

#[test]
fn all_outcomes_of_an_unsynced_append_are_seen() {
    let env = MemEnv::new();
    let mut file = write(&env, "/a", &[1; 700]);
    file.sync().unwrap();
    env.sync_dir(root()).unwrap();
    file.append(&[2; 2000]).unwrap();
    let (mut lost, mut kept, mut cut, mut zeroed, mut garbage) = (0, 0, 0, 0, 0);
    for seed in 2..300 {
        let bytes = read(&env.crash_clone(seed), "/a").unwrap();
        assert!(bytes[..700] == [1; 700] && bytes.len() <= 2700);
        assert!(bytes == read(&env.crash_clone(seed), "/a").unwrap());
        let tail = &bytes[700..];
        match tail {
            [] => lost += 1,
            _ if tail.len() == 2000 && tail.iter().all(|b| *b == 2) => kept += 1,
            _ if tail.iter().all(|b| *b == 2) => cut += 1,
            _ if tail.iter().all(|b| *b == 2 || *b == 0) => zeroed += 1,
            _ => garbage += 1,
        }
        // The first sector boundary after the synced bytes is at 1,024: a sector is whole, zero or garbage as one.
        let sector = &bytes[700.min(bytes.len())..1024.min(bytes.len())];
        let uniform = sector.iter().all(|b| *b == 2) || sector.iter().all(|b| *b == 0);
        assert!(uniform || sector.iter().any(|b| *b > 2));
    }
    let seen = [lost, kept, cut, zeroed, garbage];
    assert!(seen.iter().all(|n| *n > 0), "{seen:?}");
}

#[test]
fn a_truncation_may_come_undone() {
    let env = MemEnv::new();
    let mut file = write(&env, "/a", b"0123456789");
    file.sync().unwrap();
    env.sync_dir(root()).unwrap();
    file.truncate(7).unwrap();
    file.truncate(4).unwrap();
    file.append(b"xy").unwrap();
    assert_eq!(read(&env.crash_clone(0), "/a").unwrap(), b"0123456789");
    assert_eq!(read(&env.crash_clone(1), "/a").unwrap(), b"0123xy");
    let seen: BTreeSet<Vec<u8>> = (2..100)
        .map(|seed| read(&env.crash_clone(seed), "/a").unwrap())
        .collect();
    assert!(seen.contains(&b"0123456789"[..]) && seen.contains(&b"0123"[..]));
    assert!(seen.iter().all(|bytes| bytes.starts_with(b"0123")));
    file.sync().unwrap();
    assert_eq!(read(&env.crash_clone(0), "/a").unwrap(), b"0123xy");
}

#[test]
fn an_unsynced_rename_may_leave_either_name_both_or_none() {
    let env = MemEnv::new();
    write(&env, "/a", b"new").sync().unwrap();
    write(&env, "/b", b"old").sync().unwrap();
    env.sync_dir(root()).unwrap();
    env.rename(Path::new("/a"), Path::new("/b")).unwrap();
    let seen: BTreeSet<(bool, Vec<u8>)> = (0..64)
        .map(|seed| {
            let after = env.crash_clone(seed);
            (read(&after, "/a").is_some(), read(&after, "/b").unwrap())
        })
        .collect();
    let (old, new) = (b"old".to_vec(), b"new".to_vec());
    let all = [
        (false, old.clone()),
        (false, new.clone()),
        (true, old),
        (true, new),
    ];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn links_stay_links_and_a_lost_directory_takes_what_lies_in_it() {
    let env = MemEnv::new();
    write(&env, "/a", b"1").sync().unwrap();
    env.link(Path::new("/a"), Path::new("/b")).unwrap();
    env.sync_dir(root()).unwrap();
    env.create_dir(Path::new("/d")).unwrap();
    write(&env, "/d/f", b"x").sync().unwrap();
    env.sync_dir(Path::new("/d")).unwrap();
    let after = env.crash_clone(0);
    assert!(!after.exists(Path::new("/d/f")).unwrap());
    assert_eq!(after.stat(Path::new("/a")).unwrap().links, 2);
    drop(write(&after, "/a", b"2"));
    assert_eq!(read(&after, "/b").unwrap(), b"2");
    env.sync_dir(root()).unwrap();
    assert_eq!(read(&env.crash_clone(0), "/d/f").unwrap(), b"x");
}

#[test]
fn a_clone_holds_no_lock() {
    let env = MemEnv::new();
    let lock = env.lock(Path::new("/LOCK")).unwrap();
    env.sync_dir(root()).unwrap();
    let after = env.crash_clone(0);
    let again = after.lock(Path::new("/LOCK")).unwrap();
    assert!(env.lock(Path::new("/LOCK")).is_err());
    drop((lock, again));
}

#[test]
fn a_full_disk_takes_what_fits() {
    let env = MemEnv::with_capacity(10);
    let mut file = write(&env, "/a", b"0123456");
    let e = file.append(b"789ab").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    assert_eq!((file.len(), env.free_space(root()).unwrap()), (10, 0));
    assert_eq!(read(&env, "/a").unwrap(), b"0123456789");
    assert_eq!(file.truncate(11).unwrap_err().kind(), ErrorKind::NoSpace);
    // The temporary file is removed, and the old bytes stay.
    let e = env.write_atomic(Path::new("/a"), b"new").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    assert_eq!(env.list(root()).unwrap().len(), 1);
    file.truncate(4).unwrap();
    assert_eq!(env.free_space(root()).unwrap(), 6);
    // Space comes back with the last handle.
    env.delete(Path::new("/a")).unwrap();
    assert_eq!(env.free_space(root()).unwrap(), 6);
    drop(file);
    assert_eq!(env.free_space(root()).unwrap(), 10);
    drop(write(&env, "/b", b"1234"));
    drop(write(&env, "/c", b"12"));
    env.rename(Path::new("/b"), Path::new("/c")).unwrap();
    assert_eq!(env.free_space(root()).unwrap(), 6);
    assert_eq!(env.crash_clone(1).free_space(root()).unwrap(), 6);
}

#[test]
fn overwritten_pages_are_lost_or_kept_each_on_its_own() {
    let env = MemEnv::new();
    let file = env.open_sparse(Path::new("/a")).unwrap();
    file.write_at(0, &[1; 4 * 4096]).unwrap();
    file.sync().unwrap();
    env.sync_dir(root()).unwrap();
    file.write_at(100, &[2; 3 * 4096]).unwrap();
    file.punch_hole(3 * 4096..4 * 4096).unwrap();
    let page = |bytes: &[u8], page: usize| bytes[page * 4096 + 2048];
    let lost = read(&env.crash_clone(0), "/a").unwrap();
    assert!(lost == [1; 4 * 4096]);
    let kept = read(&env.crash_clone(1), "/a").unwrap();
    assert_eq!([0, 1, 2, 3].map(|p| page(&kept, p)), [2, 2, 2, 0]);
    assert_eq!((kept[99], kept[100]), (1, 2));
    let (mut seen, mut torn) = (BTreeSet::new(), 0);
    for seed in 2..400 {
        let bytes = read(&env.crash_clone(seed), "/a").unwrap();
        assert!(bytes[..100] == [1; 100]);
        seen.insert([0, 1, 2, 3].map(|p| page(&bytes, p)));
        let second = &bytes[4096..2 * 4096];
        torn += usize::from(second.iter().any(|b| *b != second[0]));
    }
    assert_eq!(seen.len(), 16);
    assert!(torn > 0);
    file.sync().unwrap();
    assert!(read(&env.crash_clone(0), "/a").unwrap() == kept);
    // Cut while pages are not durable: what comes back is what was synced.
    file.write_at(0, &[3; 4 * 4096]).unwrap();
    file.truncate(5000).unwrap();
    assert!(read(&env.crash_clone(0), "/a").unwrap() == kept);
    for seed in 2..50 {
        let bytes = read(&env.crash_clone(seed), "/a").unwrap();
        assert!(bytes.len() == 5000 || bytes == kept);
    }
}

#[test]
fn holes_take_no_space_and_may_come_back_as_blocks() {
    let env = MemEnv::with_capacity(3 * 4096);
    let free = |env: &MemEnv| env.free_space(root()).unwrap();
    let file = env.open_sparse(Path::new("/a")).unwrap();
    file.truncate(100 * 4096 + 10).unwrap();
    assert_eq!((free(&env), file.allocated().unwrap()), (3 * 4096, 0));
    file.write_at(4096 - 1, b"ab").unwrap();
    file.write_at(100 * 4096, b"end").unwrap();
    assert_eq!(file.allocated().unwrap(), 2 * 4096 + 10);
    let e = file.write_at(50 * 4096 - 5, &[9; 10]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    assert_eq!(free(&env), 4096 - 10);
    file.punch_hole(0..2 * 4096).unwrap();
    assert_eq!(free(&env), 3 * 4096 - 10);
    let mut allocated = BTreeSet::new();
    for seed in 0..40 {
        let after = env.crash_clone(seed);
        if read(&after, "/a").is_some() {
            let file = after.open_sparse(Path::new("/a")).unwrap();
            allocated.insert(file.allocated().unwrap());
        }
    }
    assert!(
        allocated.contains(&10) && allocated.len() > 1,
        "{allocated:?}"
    );
    drop(file);
    env.delete(Path::new("/a")).unwrap();
    assert_eq!(free(&env), 3 * 4096);
}

/// One step on the names `a` to `d` of two directories.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Append(u8, u16),
    Truncate(u8, u16),
    Sync(u8),
    Rename(u8, u8),
    Link(u8, u8),
    Delete(u8),
    SyncDir(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..8u8;
    prop_oneof![
        name.clone().prop_map(Step::Create),
        (name.clone(), 0..1500u16).prop_map(|(n, len)| Step::Append(n, len)),
        (name.clone(), 0..1500u16).prop_map(|(n, len)| Step::Truncate(n, len)),
        name.clone().prop_map(Step::Sync),
        (name.clone(), name.clone()).prop_map(|(a, b)| Step::Rename(a, b)),
        (name.clone(), name.clone()).prop_map(|(a, b)| Step::Link(a, b)),
        name.prop_map(Step::Delete),
        any::<bool>().prop_map(Step::SyncDir),
    ]
}

fn path_of(name: u8) -> PathBuf {
    let dir = if name < 4 { "/x" } else { "/y" };
    Path::new(dir).join(char::from(b'a' + name % 4).to_string())
}

/// What is known of one file: its bytes, those of its last sync, and how long their common prefix stayed uncut.
#[derive(Debug, Clone, Default)]
struct ModelFile {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    uncut: usize,
}

/// The states of each name since the last sync of its directory, as the numbers of files.
#[derive(Default)]
struct Model {
    files: Vec<ModelFile>,
    names: BTreeMap<u8, Vec<Option<usize>>>,
}

impl Model {
    fn now(&self, name: u8) -> Option<usize> {
        *self.names.get(&name)?.last()?
    }

    fn set(&mut self, name: u8, file: Option<usize>) {
        let states = self.names.entry(name).or_insert_with(|| vec![None]);
        states.push(file);
    }

    fn cut(&mut self, file: usize, len: usize) {
        let file = &mut self.files[file];
        file.bytes.resize(len, 0);
        file.uncut = file.uncut.min(len);
    }

    /// Takes the step in the Env and here.
    fn take(&mut self, env: &MemEnv, step: &Step, fill: u8) {
        match *step {
            Step::Create(name) => {
                env.create(&path_of(name)).unwrap();
                match self.now(name) {
                    Some(file) => self.cut(file, 0),
                    None => {
                        self.files.push(ModelFile::default());
                        self.set(name, Some(self.files.len() - 1));
                    }
                }
            }
            Step::Append(name, _) | Step::Truncate(name, _) | Step::Sync(name) => {
                let Some(file) = self.now(name) else { return };
                let mut writer = env.open_append(&path_of(name)).unwrap();
                match *step {
                    Step::Append(_, len) => {
                        let bytes = vec![fill; len.into()];
                        writer.append(&bytes).unwrap();
                        self.files[file].bytes.extend(bytes);
                    }
                    Step::Truncate(_, len) => {
                        writer.truncate(len.into()).unwrap();
                        self.cut(file, len.into());
                    }
                    _ => {
                        writer.sync().unwrap();
                        let file = &mut self.files[file];
                        file.synced = file.bytes.clone();
                        file.uncut = file.bytes.len();
                    }
                }
            }
            Step::Rename(from, to) => {
                let renamed = env.rename(&path_of(from), &path_of(to));
                let file = self.now(from);
                assert_eq!(renamed.is_ok(), file.is_some());
                if file.is_some() && file != self.now(to) {
                    self.set(to, file);
                    self.set(from, None);
                }
            }
            Step::Link(from, to) => {
                let linked = env.link(&path_of(from), &path_of(to));
                let possible = self.now(from).is_some() && self.now(to).is_none();
                assert_eq!(linked.is_ok(), possible);
                if possible {
                    self.set(to, self.now(from));
                }
            }
            Step::Delete(name) => {
                let there = self.now(name).is_some();
                assert_eq!(env.delete(&path_of(name)).is_ok(), there);
                if there {
                    self.set(name, None);
                }
            }
            Step::SyncDir(y) => {
                let dir = if y { "/y" } else { "/x" };
                env.sync_dir(Path::new(dir)).unwrap();
                for (name, states) in &mut self.names {
                    if (*name >= 4) == y {
                        states.drain(..states.len() - 1);
                    }
                }
            }
        }
    }

    /// True where `bytes` may be what a power cut leaves of the file.
    fn may_leave(&self, file: usize, bytes: &[u8]) -> bool {
        let ModelFile {
            bytes: now,
            synced,
            uncut,
        } = &self.files[file];
        let kept = bytes.starts_with(&synced[..*uncut]) && bytes.len() <= now.len();
        bytes == &synced[..] || kept
    }

    fn check(&self, after: &MemEnv, seed: u64) {
        for (name, states) in &self.names {
            let left = read(after, path_of(*name).to_str().unwrap());
            let allowed = states.iter().any(|state| match (state, &left) {
                (None, None) => true,
                (Some(file), Some(bytes)) => self.may_leave(*file, bytes),
                _ => false,
            });
            assert!(
                allowed,
                "{name} after seed {seed}: {:?}",
                left.map(|b| b.len())
            );
            let exact = match seed {
                0 => states[0].map(|file| self.files[file].synced.clone()),
                1 => self.now(*name).map(|file| self.files[file].bytes.clone()),
                _ => continue,
            };
            assert!(read(after, path_of(*name).to_str().unwrap()) == exact);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Synced bytes under synced names always survive; everything else is one of the states that it had.
    #[test]
    fn what_was_synced_survives(steps in prop::collection::vec(step(), 0..40), seed in 2..u64::MAX) {
        let env = MemEnv::new();
        env.create_dir_all(Path::new("/x")).unwrap();
        env.create_dir_all(Path::new("/y")).unwrap();
        let mut model = Model::default();
        for (i, step) in steps.iter().enumerate() {
            model.take(&env, step, i as u8 + 1);
        }
        // The Env forgets the oldest of very many states; the model would allow them, which is no harm.
        for seed in [0, 1, seed, seed ^ 2] {
            let after = env.crash_clone(seed);
            model.check(&after, seed);
            // All of it is durable now: no second power cut changes anything.
            let again = after.crash_clone(seed.wrapping_add(7));
            for name in 0..8 {
                let path = path_of(name);
                let path = path.to_str().unwrap();
                prop_assert!(read(&after, path) == read(&again, path));
            }
        }
    }

    /// Power cuts in the middle of atomic writes, one after another: always the last bytes that were reported written,
    /// or those whose write was cut off. Never a mixture, never nothing.
    #[test]
    fn write_atomic_is_atomic_over_power_cuts(
        rounds in prop::collection::vec((0..10u64, any::<bool>(), 0..3000usize, any::<u64>()), 1..8),
    ) {
        let path = Path::new("/d/CURRENT");
        let mut env = MemEnv::new();
        env.create_dir_all(Path::new("/d")).unwrap();
        env.write_atomic(path, b"first").unwrap();
        let mut durable = b"first".to_vec();
        for (round, (step, after, len, seed)) in rounds.into_iter().enumerate() {
            let plan = FaultPlan::new();
            let broken = FaultEnv::new(Arc::new(env.clone()), plan.clone());
            let kind = ErrorKind::Io;
            plan.fail_from(step, if after { Effect::FailAfter(kind) } else { Effect::Fail(kind) });
            let new = vec![round as u8; len];
            let written = broken.write_atomic(path, &new);
            env = env.crash_clone(seed);
            let left = env.read_to_vec(path, 1 << 20).unwrap();
            if written.is_ok() {
                prop_assert!(left == new);
            } else {
                prop_assert!(left == durable || left == new, "{} bytes", left.len());
            }
            durable = left;
        }
    }
}
