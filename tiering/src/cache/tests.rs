//! The chunk cache by itself: lives, room and marks, step by step.

use std::{path::Path, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use lazurite_env::{
    Effect, Env, EnvExt, ErrorKind, FaultEnv, FaultPlan, IoRuntime, MemEnv, Op,
    remote::{Key, RemoteStore},
};

use super::{
    geometry::CHUNK_BYTES,
    state::{Source, State},
    *,
};
use crate::test_store::TestStore;

const DIR: &str = "/cache";

struct Lab {
    store: Arc<TestStore>,
    base: MemEnv,
    plan: Arc<FaultPlan>,
    cache: Cache,
}

fn lab(base: MemEnv, budget: u64, min_free: u64) -> Lab {
    let options = CacheOptions {
        budget_bytes: budget,
        min_free_bytes: min_free,
        ..CacheOptions::default()
    };
    lab_with(base, options)
}

fn lab_with(base: MemEnv, options: CacheOptions) -> Lab {
    let (store, plan) = (Arc::new(TestStore::new()), FaultPlan::new());
    base.create_dir_all(Path::new(DIR)).unwrap();
    let parts = Parts {
        base: Arc::new(FaultEnv::new(Arc::new(base.clone()), plan.clone())),
        dir: DIR.into(),
        store: store.clone() as Arc<dyn RemoteStore>,
        moves: Arc::default(),
        runtime: IoRuntime::new(2).unwrap(),
        counters: Arc::default(),
        budget: Arc::default(),
        options,
    };
    Lab {
        cache: Cache::open(parts, &[]).unwrap(),
        store,
        base,
        plan,
    }
}

fn plain() -> Lab {
    lab(MemEnv::new(), u64::MAX, 0)
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.plan.disable();
        self.cache.close();
    }
}

impl Lab {
    /// An object in the store, and its bytes.
    fn object(&self, seed: u64, len: usize) -> (Arc<Object>, Bytes) {
        let bytes: Vec<u8> = (0..len as u64)
            .map(|at| xxhash_rust::xxh3::xxh3_64_with_seed(&at.to_le_bytes(), seed) as u8)
            .collect();
        let key = Key::new(format!("{seed}.sst")).unwrap();
        self.store.insert(&key, bytes.clone().into());
        let file = RemoteFile {
            key,
            len: len as u64,
            checksum: Checksum::of(&bytes),
        };
        (Object::new(&file), bytes.into())
    }

    /// Reads, and waits until it is stored. True where no request was needed.
    fn read(&self, object: &Arc<Object>, range: std::ops::Range<u64>) -> bool {
        let request = Request {
            object,
            tail: None,
            mode: Mode::Use,
        };
        let begun = self.cache.begin(&request, std::slice::from_ref(&range));
        let begun = begun.into_iter().next().unwrap();
        let local = begun.is_local();
        begun.into_bytes().unwrap();
        self.cache.flush();
        local
    }

    /// Warms a range as hot as can be, within all of the budget. `false` where it is refused.
    fn warm(&self, object: &Arc<Object>, bytes: &Bytes, range: std::ops::Range<u64>) -> bool {
        match self.cache.warm(object, &range, u64::MAX).unwrap() {
            Begin::Warm(mut warm) => {
                let slice = bytes.slice(range.start as usize..range.end as usize);
                warm.store(range.start, &slice, 3).unwrap();
                true
            }
            Begin::Refused => false,
            Begin::Here | Begin::Full => panic!("there is something, and room for it"),
        }
    }

    fn hold(&self, object: &Arc<Object>) -> Option<Hold> {
        self.cache.hold(object).unwrap()
    }

    fn used(&self) -> u64 {
        self.cache.usage().bytes
    }
}

#[test]
fn only_the_life_that_was_sealed_is_promoted() {
    let lab = plain();
    let (object, bytes) = lab.object(1, 300_000);
    let to = Path::new("/db.sst");
    let mut hold = lab.hold(&object).unwrap();
    hold.store(0, &bytes).unwrap();
    assert!(hold.seal().unwrap());
    // Somebody gives the object up, and a reader begins another life of it, with holes.
    lab.cache.retire(object.id);
    assert!(!lab.read(&object, 0..1000));
    assert_eq!(hold.promote(to).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(!lab.base.exists(to).unwrap());
    let stored = hold.store(0, &bytes).unwrap_err();
    assert!(stored.is_temporary(), "{stored}");
    // What ends with the first life does nothing to the second.
    hold.discard();
    drop(hold);
    assert!(lab.read(&object, 0..1000));

    let mut hold = lab.hold(&object).unwrap();
    hold.store(0, &bytes).unwrap();
    assert!(hold.seal().unwrap());
    hold.promote(to).unwrap();
    drop(hold);
    assert_eq!(lab.base.read_to_vec(to, 1 << 20).unwrap(), bytes);
    assert_eq!(lab.used(), 0);
    assert!(lab.base.list(Path::new(DIR)).unwrap().is_empty());
}

#[test]
fn an_empty_file_that_somebody_came_to_stays() {
    let lab = plain();
    let (object, bytes) = lab.object(1, 100_000);
    lab.read(&object, 0..1000);
    lab.cache.set_budget(4096);
    assert_eq!(lab.used(), 4096);
    let creating = lock(&lab.cache.0.creating);
    let mut hold = thread::scope(|scope| {
        // It finds the file empty, and waits to delete it.
        let reserving = scope.spawn(|| lab.cache.reserve(4096, 0).is_ok());
        thread::sleep(Duration::from_millis(100));
        lab.cache.set_budget(u64::MAX);
        let hold = lab.hold(&object).unwrap();
        drop(creating);
        assert!(reserving.join().unwrap());
        hold
    });
    hold.store(0, &bytes).unwrap();
    assert!(hold.is_whole() && hold.seal().unwrap());
}

#[test]
fn reservations_count_against_the_free_space() {
    let base = MemEnv::with_capacity(1 << 20);
    let lab = lab(base, u64::MAX, 100 << 10);
    let (first, bytes) = lab.object(1, 600 << 10);
    let (second, _) = lab.object(2, 500 << 10);
    let hold = lab.hold(&first).unwrap();
    // Nothing of it is written; the room is not another's all the same. When the first ends, it may be.
    assert!(lab.hold(&second).is_none());
    drop(hold);
    let mut hold = lab.hold(&second).unwrap();
    drop(lab.cache.hold(&first));
    hold.store(0, &bytes.slice(..64 << 10)).unwrap();
    drop(hold);
    assert!(lab.hold(&first).is_some());
}

#[test]
fn where_others_take_the_disk_what_is_cold_goes_for_what_is_promised() {
    let base = MemEnv::with_capacity(1 << 20);
    let lab = lab(base, u64::MAX, 0);
    let (cold, _) = lab.object(1, 400 << 10);
    let (held, _) = lab.object(2, 400 << 10);
    lab.read(&cold, 0..400 << 10);
    let hold = lab.hold(&held).unwrap();
    let mut other = lab.base.create(Path::new("/other")).unwrap();
    other.append(&vec![1; 300 << 10]).unwrap();
    other.sync().unwrap();
    assert!(lab.cache.keep_promises());
    assert!(lab.base.free_space(Path::new("/")).unwrap() >= 400 << 10);
    assert!(lab.used() > 500 << 10, "only what is needed goes");
    drop(hold);
}

#[test]
fn what_cannot_be_had_costs_the_cache_nothing() {
    let lab = lab(MemEnv::with_capacity(1 << 20), u64::MAX, 0);
    let (cached, _) = lab.object(1, 400 << 10);
    lab.read(&cached, 0..400 << 10);
    let before = lab.used();
    let (large, _) = lab.object(2, 2 << 20);
    let error = lab.cache.hold(&large).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    // But for the header of the file.
    assert!(lab.used() >= before, "{} of {before}", lab.used());
    // Nor where a download has most of the budget.
    let (held, _) = lab.object(3, 300 << 10);
    let hold = lab.hold(&held).unwrap();
    lab.cache.set_budget(lab.used());
    let before = lab.used();
    assert!(lab.cache.reserve(before * 2 / 3, 0).is_err());
    assert_eq!(lab.used(), before);
    drop(hold);
}

#[test]
fn one_shortage_is_made_good_once() {
    let lab = plain();
    let (object, _) = lab.object(1, 40 * CHUNK_BYTES as usize);
    lab.read(&object, 0..40 * CHUNK_BYTES);
    lab.cache.set_budget(lab.used());
    lab.plan.set_filter(|op| op == Op::PunchHole, "");
    lab.plan
        .fail_from(0, Effect::Delay(Duration::from_millis(100)));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(lab.cache.reserve(4096, 0).is_ok()));
        }
    });
    assert_eq!(lab.cache.0.counters.read().cache_evictions, 1);
}

/// Whatever the Env does, nobody waits for a thread that is gone.
#[test]
fn a_disk_that_panics_leaves_no_marks() {
    for broken in [
        Op::PunchHole,
        Op::WriteAt,
        Op::Truncate,
        Op::Delete,
        Op::FreeSpace,
    ] {
        let lab = lab(MemEnv::new(), 10 * CHUNK_BYTES, 1);
        let (object, bytes) = lab.object(1, 20 * CHUNK_BYTES as usize);
        lab.read(&object, 0..4 * CHUNK_BYTES);
        lab.plan
            .set_filter(move |op| op == broken && panic!("{op}"), "");
        for at in 0..20 {
            lab.read(&object, at * CHUNK_BYTES..(at + 1) * CHUNK_BYTES);
        }
        lab.cache.set_budget(0);
        lab.plan.set_filter(|_| true, "");
        lab.cache.set_budget(30 * CHUNK_BYTES);
        lab.cache.set_budget(0);
        lab.cache.set_budget(30 * CHUNK_BYTES);
        let state = lab.cache.state();
        let marks = (state.evicting, state.freeing, state.reserved, state.used());
        assert_eq!(marks, (0, 0, 0, 0), "{broken}");
        drop(state);
        let mut hold = lab.hold(&object).unwrap();
        hold.store(0, &bytes).unwrap();
        assert!(hold.seal().unwrap(), "{broken}");
    }
}

#[test]
fn beside_a_write_that_failed_nothing_becomes_resident() {
    let lab = plain();
    let (object, _) = lab.object(1, 300_000);
    let mut state = State::default();
    let number = state.file(&object).number;
    let failed = state.claim(object.id, number, 0..4).unwrap();
    let beside = state.claim(object.id, number, 4..8).unwrap();
    assert_eq!(
        state.settle(&failed, false, Source::Download),
        (0, Vec::new())
    );
    assert!(
        state.claim(object.id, number, 8..12).is_none(),
        "it is spoilt"
    );
    // The last one punches what both left.
    assert_eq!(state.settle(&beside, true, Source::Download), (0, vec![0]));
    assert_eq!(state.resident(object.id, 0).1, 0);
}

#[test]
fn few_objects_are_open_and_those_that_are_read_stay() {
    let options = CacheOptions {
        min_free_bytes: 0,
        open_objects: 2,
        ..CacheOptions::default()
    };
    let lab = lab_with(MemEnv::new(), options);
    let objects: Vec<_> = (1..4).map(|seed| lab.object(seed, 5000).0).collect();
    for _ in 0..50 {
        for object in &objects {
            lab.read(object, 0..1000);
        }
    }
    assert!(lab.read(&objects[0], 0..1000) && lab.read(&objects[1], 0..1000));
    assert!(!lab.read(&objects[2], 0..1000));
    // The first is read no more: another may have its place.
    for _ in 0..20 {
        lab.read(&objects[1], 0..1000);
        lab.read(&objects[2], 0..1000);
    }
    assert!(lab.read(&objects[1], 0..1000) && lab.read(&objects[2], 0..1000));
    assert!(!lab.read(&objects[0], 0..1000));
    assert_eq!(lab.base.list(Path::new(DIR)).unwrap().len(), 4);
    // Downloads are not held up.
    assert!(lab.hold(&objects[0]).is_some());
}

#[test]
fn what_is_too_long_is_left_to_others() {
    let lab = plain();
    let (object, _) = lab.object(1, 10);
    let mut file = object.file.clone();
    file.len = MAX_FILE_BYTES;
    let error = lab.cache.hold(&Object::new(&file)).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

/// What a file of `len` bytes takes as a whole: a block of map for eight chunks, and one for its header.
fn whole(len: u64) -> u64 {
    len.next_multiple_of(4096) + 4096 * len.div_ceil(8 * CHUNK_BYTES) + 4096
}

#[test]
fn a_run_of_chunks_is_warmed_where_there_is_just_room_and_nothing_goes() {
    // What a read leaves, and a run of two map blocks; one block is asked for twice, and not taken.
    let len = 16 * CHUNK_BYTES;
    let lab = lab(MemEnv::new(), 3 * 4096 + whole(len) + 4096, 0);
    let (read, _) = lab.object(1, 300_000);
    lab.read(&read, 0..1000);
    let (object, bytes) = lab.object(2, len as usize);
    assert!(lab.warm(&object, &bytes, 0..len));
    assert_eq!(lab.used(), 3 * 4096 + whole(len));
    assert!(lab.read(&read, 0..1000), "nothing goes for it");
}

#[test]
fn a_file_comes_in_requests_of_many_chunks_where_there_is_just_room() {
    let len = 40 * CHUNK_BYTES + 1;
    let lab = lab(MemEnv::new(), whole(len), 0);
    let (object, bytes) = lab.object(1, len as usize);
    let mut hold = lab.hold(&object).unwrap();
    for begin in (0..bytes.len()).step_by(1 << 20) {
        let end = bytes.len().min(begin + (1 << 20));
        hold.store(begin as u64, &bytes.slice(begin..end)).unwrap();
    }
    assert_eq!(lab.used(), whole(len));
    assert!(hold.seal().unwrap());
}

#[test]
fn warming_leaves_half_of_the_descriptors_to_reads_and_is_as_good_as_a_read() {
    let options = CacheOptions {
        open_objects: 4,
        min_free_bytes: 0,
        ..CacheOptions::default()
    };
    let lab = lab_with(MemEnv::new(), options);
    let objects: Vec<_> = (0..6).map(|seed| lab.object(seed, 10_000)).collect();
    let object = |i: usize| &objects[i].0;
    let warm = |i: usize| lab.warm(object(i), &objects[i].1, 0..1024);
    for _ in 0..100 {
        lab.read(object(0), 0..1000);
    }
    assert!(warm(1));
    assert!(!warm(2));
    for i in [2, 3] {
        lab.read(object(i), 0..1000);
        assert!(lab.read(object(i), 0..1000), "object {i} has a place");
    }
    // One that was warmed just now was not idle for long.
    lab.read(object(4), 0..1000);
    assert!(lab.cache.has_bytes(object(1).id) && !lab.cache.has_bytes(object(4).id));
}
