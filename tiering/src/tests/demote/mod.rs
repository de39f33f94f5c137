//! Demotion and the disk budget: every read goes on, nothing is demoted that the store lacks, and nothing is lost or leaked
//! at any failing step or power cut.

mod budget;
mod readers;
mod steps;

use std::{collections::BTreeMap, sync::Mutex};

use super::*;
use crate::OpenFiles;

pub(super) const KIB: usize = 1 << 10;

/// Who has files open: says how long each was idle, and counts what it was asked to let go.
#[derive(Debug, Default)]
struct Watched {
    idle: Mutex<BTreeMap<PathBuf, u32>>,
    released: Mutex<Vec<PathBuf>>,
}

impl OpenFiles for Watched {
    fn release(&self, path: &Path) -> bool {
        self.released.lock().unwrap().push(path.to_owned());
        true
    }
    fn idle(&self, path: &Path) -> Option<u32> {
        self.idle.lock().unwrap().get(path).copied()
    }
    fn tick(&self) {}
    fn take_chunk_reads(&self, _: &Path, _: u32) -> Vec<u8> {
        Vec::new()
    }
}

/// A union with a disk budget.
pub(super) fn limited(world: &World, base: Arc<dyn Env>, budget: usize) -> Arc<UnionEnv> {
    let mut options = world.options(base);
    options.cache.disk_budget_bytes = budget as u64;
    options.cache.block_reads = true;
    UnionEnv::open(options).unwrap()
}

/// Writes the table `number` of `len` bytes, as RocksDB does, and uploads it.
pub(super) fn write_stored(
    world: &World,
    union: &UnionEnv,
    number: u64,
    len: usize,
) -> CatalogEntry {
    let bytes = content(number, len);
    world.store.insert(&key(number), bytes.clone());
    write_file(union, &db(&name(number)), &bytes).unwrap();
    union.sync_dir(union.db_dir()).unwrap();
    uploaded(&name(number), number, &bytes)
}

/// What table files and cache take of the disk.
fn taken(base: &dyn Env) -> u64 {
    let db = Path::new(ROOT).join("db");
    let tables = base.list(&db).unwrap().into_iter();
    let tables = tables.filter(|found| found.name.ends_with(".sst"));
    let len = |name: &str| base.stat(&db.join(name)).unwrap().len;
    tables
        .map(|found| len(&found.name).next_multiple_of(4096))
        .sum()
}

#[test]
fn a_demoted_file_is_read_on_through_old_and_new_handles() {
    let (_world, base, union, snapshot) = four_remote();
    let before = union.open_random(&db(&name(12))).unwrap();
    union.download().wait_until_local().unwrap();
    let bytes = &snapshot.contents[&name(12)][..];
    let while_local = union.open_random(&db(&name(12))).unwrap();
    assert_eq!(read_at(&*before, 0, 2000).unwrap(), bytes);
    let watched = Arc::new(Watched::default());
    union.watch_open_files(watched.clone());

    assert!(union.demote(&name(12)).unwrap());
    assert!(!union.demote(&name(12)).unwrap() && !union.demote("000077.sst").unwrap());
    assert!(!union.is_local(&name(12)) && base.stat(&db(&name(12))).is_err());
    assert_eq!(*watched.released.lock().unwrap(), [db(&name(12))]);
    assert_eq!((union.remote_files(), union.stats().demotions), (1, 1));
    let after = union.open_random(&db(&name(12))).unwrap();
    assert_eq!(
        (union.native_path(&db(&name(12))), before.native_path()),
        (None, None)
    );
    for file in [&before, &while_local, &after] {
        assert_eq!(read_at(&**file, 0, 2000).unwrap(), bytes);
    }
    // Its end is at hand without a request.
    let requests = union.stats().remote_requests;
    assert_eq!(read_at(&*after, 950, 50).unwrap(), bytes[950..]);
    assert_eq!(union.stats().remote_requests, requests);
    // And it comes back.
    union.download().wait_until_local().unwrap();
    assert!(union.is_local(&name(12)));
    for file in [&before, &while_local, &after] {
        assert_eq!(read_at(&**file, 0, 2000).unwrap(), bytes);
    }
}

#[test]
fn what_the_store_is_not_known_to_hold_is_never_demoted() {
    let world = World::new();
    let base = MemEnv::new();
    let union = world.open(&base);
    let facts = write_stored(&world, &union, 50, 600);
    assert!(!union.demote(&name(50)).unwrap(), "not catalogued");
    union.record_uploaded(&[facts]).unwrap();
    drop(union);
    // Another process may have deleted the object meanwhile.
    let union = world.open(&base);
    assert!(union.is_local(&name(50)) && !union.demote(&name(50)).unwrap());
    union.confirm_stored(&name(50));
    assert!(union.demote(&name(50)).unwrap());
    // The tail of a file that no bundle holds is in a file of its own, also after a restart.
    for union in [union, world.open(&base)] {
        let requests = union.stats().remote_requests;
        let file = union.open_random(&db(&name(50))).unwrap();
        assert_eq!(read_at(&*file, 500, 100).unwrap(), content(50, 600)[500..]);
        assert_eq!(union.stats().remote_requests, requests);
        assert_eq!(read_at(&*file, 0, 600).unwrap(), content(50, 600));
        drop(union);
    }
    // Damaged, it costs a request; without its table it goes.
    let own = Path::new(ROOT).join("tails/000050.sst.tail");
    write_file(&base, &own, &[7; 100]).unwrap();
    let union = world.open(&base);
    let file = union.open_random(&db(&name(50))).unwrap();
    assert_eq!(read_at(&*file, 500, 100).unwrap(), content(50, 600)[500..]);
    union.delete(&db(&name(50))).unwrap();
    assert!(base.stat(&own).is_err());
}

#[test]
fn a_demoted_file_can_be_renamed_linked_and_deleted() {
    let world = World::new();
    let base = MemEnv::new();
    let union = world.open(&base);
    let facts = write_stored(&world, &union, 50, 600);
    union.record_uploaded(&[facts]).unwrap();
    assert!(union.demote(&name(50)).unwrap());
    union.link(&db(&name(50)), &db(&name(60))).unwrap();
    union.rename(&db(&name(50)), &db(&name(70))).unwrap();
    union.sync_dir(union.db_dir()).unwrap();
    let tails = Path::new(ROOT).join("tails");
    for union in [union, world.open(&base)] {
        assert_eq!(listed(&union), [name(60), name(70)]);
        for number in [60, 70] {
            let file = union.open_random(&db(&name(number))).unwrap();
            let requests = union.stats().remote_requests;
            assert_eq!(read_at(&*file, 500, 100).unwrap(), content(50, 600)[500..]);
            assert_eq!(union.stats().remote_requests, requests, "{number}");
            assert_eq!(read_at(&*file, 0, 600).unwrap(), content(50, 600));
        }
    }
    let union = world.open(&base);
    assert_eq!(base.list(&tails).unwrap().len(), 2);
    union.delete(&db(&name(60))).unwrap();
    assert_eq!(
        read_file(&*union, &db(&name(70))).unwrap(),
        content(50, 600)
    );
    union.delete(&db(&name(70))).unwrap();
    assert!(base.list(&tails).unwrap().is_empty());
}
