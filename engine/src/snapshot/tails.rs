//! Tails: why an open or an import of a restored database reads no table file.
//!
//! The tail of a table file is what RocksDB reads to open it and to find a block in it: filters, index, properties,
//! footer. A snapshot keeps the tails of all its files in a few objects beside them, fetched at once at restore.
//!
//! A new snapshot writes only the tails of its new files, so that an incremental snapshot stays incremental. So that
//! the objects stay few, it also rewrites small or half-dead ones into its own, in the way of a binary counter: an
//! object is taken in when its live bytes are no more than what is already being written, or fewer than its dead ones.
//! A tail is then rewritten a number of times that grows with the logarithm of the state, and so does the number of
//! objects, which [`MAX_OBJECTS`] bounds for good.

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use lazurite_env::remote::Key;
use lazurite_tiering::Checksum;

use super::registry::{Registry, Uploaded};

/// The most tails objects that a snapshot refers to: each is one request of a restore, all of them at once.
const MAX_OBJECTS: usize = 8;

/// A tails object to be written.
#[derive(Debug)]
pub(crate) struct NewTails {
    pub(crate) bytes: Bytes,
    pub(crate) checksum: Checksum,
    /// The files whose tails it holds, with their offsets in it.
    pub(crate) files: Vec<(String, u64)>,
}

/// A tails object that the snapshot refers to: bytes that it needs, bytes that it does not, and whose they are.
struct Stored<'a> {
    live: u64,
    dead: u64,
    files: Vec<(&'a str, &'a Uploaded)>,
}

/// Which tails the snapshot of `files` must write: `None` where every one is stored and well packed already.
pub(crate) fn plan(registry: &Registry, files: &[String]) -> Option<NewTails> {
    let mut new: BTreeMap<&str, &Bytes> = BTreeMap::new();
    let mut stored: HashMap<&Key, Vec<(&str, &Uploaded)>> = HashMap::new();
    for name in files {
        let Some(file) = registry.get(name) else {
            continue;
        };
        match (&file.stored_tail, &file.tail) {
            (Some((key, _)), _) => stored.entry(key).or_default().push((name, file)),
            (None, Some(tail)) => {
                new.insert(name, tail);
            }
            // Neither stored nor at hand: a restore reads this tail from the file itself.
            (None, None) => {}
        }
    }
    let mut size: u64 = new.values().map(|tail| tail.len() as u64).sum();
    let mut objects: Vec<Stored> = stored
        .into_iter()
        .filter(|(_, files)| files.iter().all(|(_, f)| f.tail.is_some()))
        .map(|(key, files)| {
            let live = files.iter().map(|(_, f)| f.len - f.tail_offset).sum();
            let len = registry.tails_object(key).map_or(live, |t| t.len);
            Stored {
                live,
                dead: len.saturating_sub(live),
                files,
            }
        })
        .collect();
    objects.sort_by_key(|object| object.live);
    let mut count = objects.len() + usize::from(!new.is_empty());
    for Stored { live, dead, files } in objects {
        if live <= size || dead > live || count > MAX_OBJECTS {
            if !new.is_empty() {
                count -= 1;
            }
            size += live;
            new.extend(
                files
                    .into_iter()
                    .filter_map(|(name, f)| f.tail.as_ref().map(|t| (name, t))),
            );
        }
    }
    (!new.is_empty()).then(|| write(&new))
}

fn write(tails: &BTreeMap<&str, &Bytes>) -> NewTails {
    let mut bytes = BytesMut::new();
    let mut files = Vec::with_capacity(tails.len());
    for (name, tail) in tails {
        files.push(((*name).to_owned(), bytes.len() as u64));
        bytes.extend_from_slice(tail);
    }
    let bytes = bytes.freeze();
    NewTails {
        checksum: Checksum::of(&bytes),
        bytes,
        files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::metadata::TailsRef;

    fn upload(registry: &mut Registry, name: &str, tail: &'static [u8]) {
        registry.insert(
            name.into(),
            Uploaded {
                key: Key::new(format!("job/shared/{name}")).unwrap(),
                len: 1000 + tail.len() as u64,
                checksum: Checksum::of(b""),
                tail_offset: 1000,
                tail_checksum: Checksum::of(tail),
                tail: Some(Bytes::from_static(tail)),
                stored_tail: None,
            },
        );
    }

    /// Plans and stores, as a snapshot does; gives the number of tails in the new object.
    fn snapshot(registry: &mut Registry, files: &[String], token: &str) -> usize {
        let Some(new) = plan(registry, files) else {
            return 0;
        };
        for (name, offset) in &new.files {
            let tail = registry.get(name).unwrap().tail.clone().unwrap();
            assert_eq!(new.bytes[*offset as usize..][..tail.len()], tail[..]);
        }
        let key = Key::new(format!("job/shared/{token}.tails")).unwrap();
        let tails = TailsRef {
            key: key.to_string(),
            len: new.bytes.len() as u64,
            checksum: new.checksum,
        };
        registry.store_tails(key, tails, &new.files);
        new.files.len()
    }

    fn objects(registry: &Registry, files: &[String]) -> usize {
        let keys = files
            .iter()
            .map(|f| &registry.get(f).unwrap().stored_tail.as_ref().unwrap().0);
        keys.collect::<std::collections::HashSet<_>>().len()
    }

    #[test]
    fn a_small_addition_to_a_large_state_writes_only_itself() {
        let mut registry = Registry::default();
        let mut files: Vec<String> = (0..100).map(|i| format!("{i:06}.sst")).collect();
        for name in &files {
            upload(&mut registry, name, &[7; 50]);
        }
        assert_eq!(snapshot(&mut registry, &files, "a"), 100);
        assert_eq!(snapshot(&mut registry, &files, "b"), 0, "nothing changed");
        files.push("000100.sst".into());
        upload(&mut registry, "000100.sst", &[8; 50]);
        assert_eq!(snapshot(&mut registry, &files, "c"), 1);
    }

    #[test]
    fn objects_stay_few_however_many_snapshots() {
        let mut registry = Registry::default();
        let mut files = Vec::new();
        let mut written = 0;
        for i in 0..500 {
            let name = format!("{i:06}.sst");
            upload(&mut registry, &name, &[1; 40]);
            files.push(name);
            written += snapshot(&mut registry, &files, &format!("t{i}"));
            assert!(objects(&registry, &files) <= MAX_OBJECTS + 1);
        }
        assert!(written < 500 * 12, "{written} tails written for 500 files");
    }

    #[test]
    fn a_half_dead_object_is_rewritten() {
        let mut registry = Registry::default();
        let files: Vec<String> = (0..10).map(|i| format!("{i:06}.sst")).collect();
        for name in &files {
            upload(&mut registry, name, &[3; 50]);
        }
        snapshot(&mut registry, &files, "a");
        let left = &files[7..];
        registry.keep_only(&left.iter().map(String::as_str).collect());
        assert_eq!(snapshot(&mut registry, left, "b"), 3);
    }
}
