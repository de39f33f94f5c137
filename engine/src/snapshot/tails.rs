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
//!
//! The bytes are not kept in memory: they are read again, from the files, when they are to be written.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use lazurite_env::remote::Key;
use lazurite_tiering::Checksum;

use super::registry::{Registry, Uploaded};
use crate::{Error, Result};

/// The most tails objects that a snapshot refers to: each is one request of a restore, all of them at once.
const MAX_OBJECTS: usize = 8;

/// Which tails go into a new object.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// The files whose tails no object holds yet.
    new: Vec<String>,
    /// For each object that is to be taken in, the files whose tails it holds.
    merged: Vec<Vec<String>>,
}

/// A tails object to be written.
#[derive(Debug)]
pub(crate) struct NewTails {
    pub(crate) bytes: Bytes,
    pub(crate) checksum: Checksum,
    /// The files whose tails it holds, with their offsets in it.
    pub(crate) files: Vec<(String, u64)>,
}

/// A tails object that the snapshot refers to: bytes that it needs, bytes that it does not, and whose they are.
struct Stored {
    live: u64,
    dead: u64,
    files: Vec<String>,
}

/// Which tails the snapshot of `files` must write: `None` where every one is stored and well packed already.
pub(crate) fn plan(registry: &Registry, files: &[String]) -> Option<Packing> {
    let mut packing = Packing::default();
    let mut size = 0;
    let mut stored: HashMap<&Key, Vec<(&String, &Uploaded)>> = HashMap::new();
    for name in files {
        match registry.get(name) {
            Some(file) => match &file.stored_tail {
                Some((key, _)) => stored.entry(key).or_default().push((name, file)),
                None if file.tail_len() > 0 => {
                    size += file.tail_len();
                    packing.new.push(name.clone());
                }
                // Nobody knows where its tail begins: a restore reads it from the file itself.
                None => {}
            },
            None => continue,
        }
    }
    let mut objects: Vec<Stored> = stored
        .into_iter()
        .map(|(key, files)| {
            let live = files.iter().map(|(_, file)| file.tail_len()).sum();
            let len = registry.tails_object(key).map_or(live, |t| t.len);
            Stored {
                live,
                dead: len.saturating_sub(live),
                files: files.into_iter().map(|(name, _)| name.clone()).collect(),
            }
        })
        .collect();
    objects.sort_by(|a, b| (a.live, &a.files).cmp(&(b.live, &b.files)));
    let mut writes = !packing.new.is_empty();
    let mut count = objects.len() + usize::from(writes);
    for Stored { live, dead, files } in objects {
        if live <= size || dead > live || count > MAX_OBJECTS {
            if writes {
                count -= 1;
            }
            writes = true;
            size += live;
            packing.merged.push(files);
        }
    }
    writes.then_some(packing)
}

/// Reads the tails of `packing` by `read` and puts them one after another; `None` where that leaves none.
///
/// An object whose tails cannot be read stays as it is, since a snapshot can do without taking it in. The tail of a new file
/// must be readable, and a snapshot that is given up stops.
pub(crate) fn pack(
    packing: Packing,
    mut read: impl FnMut(&str) -> Result<Bytes>,
) -> Result<Option<NewTails>> {
    let mut bytes = BytesMut::new();
    let mut files = Vec::new();
    let mut add = |names: Vec<String>, bytes: &mut BytesMut, files: &mut Vec<(String, u64)>| {
        for name in names {
            let tail = read(&name)?;
            files.push((name, bytes.len() as u64));
            bytes.extend_from_slice(&tail);
        }
        Ok(())
    };
    add(packing.new, &mut bytes, &mut files)?;
    for names in packing.merged {
        let (len, count) = (bytes.len(), files.len());
        match add(names, &mut bytes, &mut files) {
            Ok(()) => {}
            Err(error @ (Error::SnapshotAborted | Error::SnapshotTimedOut { .. })) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(%error, "tails that cannot be read are left in the object that holds them");
                bytes.truncate(len);
                files.truncate(count);
            }
        }
    }
    let bytes = bytes.freeze();
    Ok((!files.is_empty()).then(|| NewTails {
        checksum: Checksum::of(&bytes),
        bytes,
        files,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{metadata::TailsRef, moment::Moment};

    /// The tail of every file in these tests is its length in bytes 7.
    fn read(registry: &Registry, name: &str) -> Result<Bytes> {
        let len = registry.get(name).unwrap().tail_len() as usize;
        Ok(Bytes::from(vec![7; len]))
    }

    fn upload(registry: &mut Registry, name: &str, tail: &[u8]) {
        registry.insert(
            name.into(),
            Uploaded {
                key: Key::new(format!("job/shared/{name}")).unwrap(),
                len: 1000 + tail.len() as u64,
                checksum: Checksum::of(b""),
                tail_offset: 1000,
                tail_checksum: Checksum::of(tail),
                stored_tail: None,
                fresh: None,
            },
        );
    }

    /// Plans and stores, as a snapshot does; gives the number of tails in the new object.
    fn snapshot(registry: &mut Registry, files: &[String], token: &str) -> usize {
        let Some(packing) = plan(registry, files) else {
            return 0;
        };
        let new = pack(packing, |name| read(registry, name)).unwrap().unwrap();
        for (name, offset) in &new.files {
            let tail = read(registry, name).unwrap();
            assert_eq!(new.bytes[*offset as usize..][..tail.len()], tail[..]);
        }
        let key = Key::new(format!("job/shared/{token}.tails")).unwrap();
        let tails = TailsRef {
            key: key.to_string(),
            len: new.bytes.len() as u64,
            checksum: new.checksum,
        };
        registry.store_tails(key, tails, &new.files, Moment::now());
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

    #[test]
    fn an_object_that_cannot_be_read_is_left_alone() {
        let mut registry = Registry::default();
        let mut files = vec!["000000.sst".to_owned()];
        upload(&mut registry, &files[0], &[7; 50]);
        snapshot(&mut registry, &files, "a");
        for i in 1..=2 {
            files.push(format!("{i:06}.sst"));
            upload(&mut registry, &files[i], &[7; 50]);
        }
        let fails = |bad: &str, error: Error| {
            let packing = plan(&registry, &files).unwrap();
            assert_eq!(packing.merged, [["000000.sst"]]);
            pack(packing, |name| match name == bad {
                true => Err(error.clone()),
                false => read(&registry, name),
            })
        };
        let packed = fails("000000.sst", Error::Closed).unwrap().unwrap();
        assert_eq!((packed.files.len(), packed.bytes.len()), (2, 100));
        assert!(fails("000000.sst", Error::SnapshotAborted).is_err());
        assert!(fails("000001.sst", Error::Closed).is_err());
    }
}
