//! Compactions leave out what is outside a range of key groups, while that is switched on.

use lazurite_env_rocksdb::Clip;
use rocksdb::{Cache, DB, Env, IteratorMode, Options};
use tempfile::TempDir;

fn options(groups: std::ops::RangeInclusive<u16>) -> (Options, Clip) {
    let mut o = Options::default();
    o.create_if_missing(true);
    let clip = Clip::install(&mut o, groups).unwrap();
    (o, clip)
}

fn key(group: u16, n: u8) -> Vec<u8> {
    [&group.to_be_bytes()[..], &[n]].concat()
}

/// Ten entries of each group, written twice, and some of them deleted; compacted. The groups that are left.
fn compacted(db: &DB, groups: &[u16]) -> Vec<u16> {
    for round in 0..2 {
        for group in groups {
            for n in 0..10 {
                db.put(key(*group, n), [round]).unwrap();
            }
            db.delete(key(*group, 3)).unwrap();
        }
        db.flush().unwrap();
    }
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    let mut left = Vec::new();
    for entry in db.iterator(IteratorMode::Start) {
        let (key, value) = entry.unwrap();
        assert_eq!(*value, [1]);
        left.push(u16::from_be_bytes(*key.first_chunk().unwrap()));
    }
    assert_eq!(left.len() % 9, 0);
    left.dedup();
    left
}

#[test]
fn what_is_outside_goes_while_it_is_on() {
    let all = [0, 4, 5, 7, 255, 256, 300, 301, 32767];
    for (groups, expected) in [
        (5..=300, &all[2..7]),
        (0..=0, &all[..1]),
        (256..=32767, &all[5..]),
        (0..=32767, &all[..]),
        (8..=9, &[]),
    ] {
        let dir = TempDir::new().unwrap();
        let (options, clip) = options(groups);
        let db = DB::open(&options, dir.path()).unwrap();
        clip.set(false);
        assert_eq!(compacted(&db, &all), all);
        clip.set(true);
        assert_eq!(compacted(&db, &all), expected);
        drop(clip); // stays on
        assert_eq!(compacted(&db, &all), expected);
    }
}

#[test]
fn recorded_options_load() {
    let dir = TempDir::new().unwrap();
    let (options, _clip) = options(1..=2);
    drop(DB::open(&options, dir.path()).unwrap());
    let (cache, env) = (Cache::new_lru_cache(1 << 20), Env::new().unwrap());
    let (loaded, columns): (Options, _) =
        Options::load_latest(dir.path(), env, false, cache).unwrap();
    let db = DB::open_cf_descriptors(&loaded, dir.path(), columns).unwrap();
    assert_eq!(compacted(&db, &[0, 1, 2, 3]), [0, 1, 2, 3]);
}
