//! What this backend knows to lie in the store already, so that no file is uploaded twice.
//!
//! Keyed by RocksDB's file name. RocksDB never gives a number out twice while it lives in one directory, and a restore
//! builds the registry anew, so a name means one content for the life of a registry.
//!
//! A file is entered as soon as its upload ended, whatever became of the snapshot that it was for: the next one reuses
//! it. But only for [`REUSE_TIME`]: what no complete snapshot names is an orphan in the eyes of `gc`, which leaves alone what is young.
//! Nothing here is durable; after a crash the newest snapshot's metadata and the
//! catalog fill it again, and what was uploaded for a
//! snapshot that never completed is an orphan.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use lazurite_env::remote::{Copied, Key};
use lazurite_tiering::Checksum;

use super::{
    metadata::{SnapshotFile, SubtaskState, TailsRef},
    moment::Moment,
    place::Bounds,
};

/// How long an object that no complete snapshot names may be reused. With the longest time that a snapshot may take
/// ([`MAX_TIMEOUT`](super::pending::MAX_TIMEOUT)) it is far less than the age below which `gc` deletes nothing by default.
pub(crate) const REUSE_TIME: Duration = Duration::from_secs(3600);

/// A table file that is in the store.
#[derive(Debug, Clone)]
pub(crate) struct Uploaded {
    pub(crate) key: Key,
    pub(crate) len: u64,
    pub(crate) checksum: Checksum,
    pub(crate) tail_offset: u64,
    pub(crate) tail_checksum: Checksum,
    /// The tails object that holds them, and where in it; `None` until one does.
    pub(crate) stored_tail: Option<(Key, u64)>,
    /// It was put by this process, and no snapshot that is known to be complete names it.
    pub(crate) fresh: Option<Fresh>,
}

/// Of an object that may yet come to nothing.
#[derive(Debug, Clone)]
pub(crate) struct Fresh {
    /// From before its first byte was sent: stores may tell an object's time as that of its begin.
    pub(crate) since: Moment,
    /// The object elsewhere that has the same bytes, where there is one: what is named again where this one comes to nothing.
    pub(crate) original: Option<Key>,
    /// How it was copied from there, where it was.
    pub(crate) copied: Option<Copied>,
}

impl Fresh {
    /// An upload that began then. `original`: the object that it takes the place of.
    pub(crate) fn upload(since: Moment, original: Option<Key>) -> Self {
        Fresh {
            since,
            original,
            copied: None,
        }
    }

    fn is_old(&self, age: Duration) -> bool {
        self.since.age() >= age
    }
}

/// A tails object.
#[derive(Debug, Clone)]
struct Tails {
    object: TailsRef,
    fresh: Option<Fresh>,
}

impl Uploaded {
    /// The tail's length in bytes.
    pub(crate) fn tail_len(&self) -> u64 {
        self.len.saturating_sub(self.tail_offset)
    }
}

/// The table files and tails objects that are in the store.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    files: HashMap<String, Uploaded>,
    tails: HashMap<Key, Tails>,
    /// Objects of files that RocksDB has dropped since: to be deleted once no snapshot needs them.
    dropped: HashSet<Key>,
}

impl Registry {
    /// What a snapshot says is in the store.
    pub(crate) fn of(files: &[SnapshotFile], tails: &[TailsRef]) -> crate::Result<Self> {
        let mut registry = Registry::default();
        for object in tails {
            let known = Tails {
                object: object.clone(),
                fresh: None,
            };
            registry.tails.insert(Key::new(&*object.key)?, known);
        }
        for file in files {
            let stored_tail = match file.tail {
                Some((object, offset)) => Some((Key::new(&*tails[object as usize].key)?, offset)),
                None => None,
            };
            registry.files.insert(
                file.name.clone(),
                Uploaded {
                    key: Key::new(&*file.key)?,
                    len: file.len,
                    checksum: file.checksum,
                    tail_offset: file.tail_offset,
                    tail_checksum: file.tail_checksum,
                    stored_tail,
                    fresh: None,
                },
            );
        }
        Ok(registry)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Uploaded> {
        self.files.get(name)
    }

    pub(crate) fn insert(&mut self, name: String, file: Uploaded) {
        self.files.insert(name, file);
    }

    pub(crate) fn tails_object(&self, key: &Key) -> Option<&TailsRef> {
        self.tails.get(key).map(|tails| &tails.object)
    }

    /// Notes that the tails of `files` (name, offset) now lie in the object `tails`.
    pub(crate) fn store_tails(
        &mut self,
        key: Key,
        tails: TailsRef,
        files: &[(String, u64)],
        since: Moment,
    ) {
        for (name, offset) in files {
            if let Some(file) = self.files.get_mut(name) {
                file.stored_tail = Some((key.clone(), *offset));
            }
        }
        let tails = Tails {
            object: tails,
            fresh: Some(Fresh::upload(since, None)),
        };
        self.tails.insert(key, tails);
        self.drop_unused_tails();
    }

    /// Notes that objects, table files or tails, were copied: by the key of the original that of the copy, which is named from now on. A copy that nobody needs any
    /// more goes as soon as may be.
    pub(crate) fn adopt(&mut self, mut copies: HashMap<Key, (Key, Fresh)>) {
        let mut needed = HashSet::new();
        for file in self.files.values_mut() {
            if let Some((to, fresh)) = copies.get(&file.key) {
                needed.insert(file.key.clone());
                file.key = to.clone();
                file.fresh = Some(fresh.clone());
            }
            if let Some((key, _)) = &mut file.stored_tail
                && let Some((to, _)) = copies.get(key)
            {
                *key = to.clone();
            }
        }
        for from in self.tails.keys().cloned().collect::<Vec<_>>() {
            if let Some((to, fresh)) = copies.get(&from)
                && let Some(mut tails) = self.tails.remove(&from)
            {
                tails.object.key = to.to_string();
                tails.fresh = Some(fresh.clone());
                self.tails.insert(to.clone(), tails);
                needed.insert(from);
            }
        }
        copies.retain(|from, _| !needed.contains(from));
        self.dropped.extend(copies.into_values().map(|(to, _)| to));
    }

    /// The names of the files.
    pub(crate) fn names(&self) -> Vec<String> {
        self.files.keys().cloned().collect()
    }

    /// How a tails object was copied, where it was since the last complete snapshot.
    pub(crate) fn tails_copied(&self, key: &Key) -> Option<Copied> {
        let fresh = self.tails.get(key)?.fresh.as_ref()?;
        fresh.copied
    }

    /// Notes that a complete snapshot has this state: what it names stays for as long as the snapshot does.
    pub(crate) fn completed(&mut self, state: &SubtaskState) {
        let named: HashSet<&str> = state.objects().map(|(key, ..)| key).collect();
        for file in self.files.values_mut() {
            if named.contains(file.key.as_str()) {
                file.fresh = None;
            }
        }
        for (key, tails) in &mut self.tails {
            if named.contains(key.as_str()) {
                tails.fresh = None;
            }
        }
    }

    /// Forgets what was put so long ago and is in no complete snapshot: it is uploaded, or copied, once more.
    pub(crate) fn expire(&mut self, age: Duration) {
        let dropped = &mut self.dropped;
        let is_old = |fresh: &Option<Fresh>| fresh.as_ref().is_some_and(|fresh| fresh.is_old(age));
        self.tails.retain(|key, tails| {
            let keep = !is_old(&tails.fresh);
            if !keep {
                dropped.insert(key.clone());
            }
            keep
        });
        let tails = &self.tails;
        self.files.retain(|_, file| {
            if file
                .stored_tail
                .as_ref()
                .is_some_and(|(key, _)| !tails.contains_key(key))
            {
                file.stored_tail = None;
            }
            if !is_old(&file.fresh) {
                return true;
            }
            dropped.insert(file.key.clone());
            match file.fresh.take().and_then(|fresh| fresh.original) {
                Some(original) => {
                    file.key = original;
                    true
                }
                None => false,
            }
        });
    }

    /// Forgets every file that is not in `live`; RocksDB will never use those names again.
    pub(crate) fn keep_only(&mut self, live: &HashSet<&str>) {
        let dropped = &mut self.dropped;
        self.files.retain(|name, file| {
            let keep = live.contains(name.as_str());
            if !keep {
                dropped.insert(file.key.clone());
            }
            keep
        });
        self.drop_unused_tails();
    }

    fn drop_unused_tails(&mut self) {
        let dropped = &mut self.dropped;
        let used: HashSet<&Key> = self
            .files
            .values()
            .filter_map(|f| f.stored_tail.as_ref())
            .map(|(key, _)| key)
            .collect();
        self.tails.retain(|key, _| {
            let keep = used.contains(key);
            if !keep {
                dropped.insert(key.clone());
            }
            keep
        });
    }

    /// Objects that a later snapshot may refer to: never to be deleted.
    pub(crate) fn needed(&self) -> HashSet<Key> {
        self.files
            .values()
            .map(|f| f.key.clone())
            .chain(self.tails.keys().cloned())
            .collect()
    }

    /// Takes the objects of forgotten files that are the job's own; the caller deletes those that no snapshot needs.
    pub(crate) fn take_dropped(&mut self, bounds: &Bounds) -> HashSet<Key> {
        let mut dropped = std::mem::take(&mut self.dropped);
        dropped.retain(|key| bounds.hold(key));
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn uploaded(at: &str, fresh: Option<Fresh>) -> Uploaded {
        Uploaded {
            key: key(at),
            len: 10,
            checksum: Checksum::of(b""),
            tail_offset: 5,
            tail_checksum: Checksum::of(b""),
            stored_tail: None,
            fresh,
        }
    }

    #[test]
    fn what_no_snapshot_came_to_name_is_not_reused_for_ever() {
        let mut registry = Registry::default();
        registry.insert("old".into(), uploaded("a/shared/old.sst", None));
        registry.insert(
            "new".into(),
            uploaded("b/shared/new.sst", Some(Fresh::upload(Moment::now(), None))),
        );
        let fresh = Fresh {
            since: Moment::now(),
            original: Some(key("a/shared/old.sst")),
            copied: None,
        };
        let copies = [
            (
                key("a/shared/old.sst"),
                (key("b/shared/old.sst"), fresh.clone()),
            ),
            (key("a/shared/gone.sst"), (key("b/shared/gone.sst"), fresh)),
        ];
        registry.adopt(HashMap::from(copies));
        registry.expire(REUSE_TIME);
        assert_eq!(registry.get("old").unwrap().key, key("b/shared/old.sst"));
        assert!(registry.get("new").is_some());

        registry.expire(Duration::ZERO);
        assert_eq!(registry.get("old").unwrap().key, key("a/shared/old.sst"));
        assert!(registry.get("new").is_none());
        let own = Bounds::new(&key("b"), &[]);
        let all = ["b/shared/gone.sst", "b/shared/new.sst", "b/shared/old.sst"];
        assert_eq!(registry.take_dropped(&own), HashSet::from(all.map(key)));
    }

    #[test]
    fn what_is_anothers_is_never_to_be_deleted() {
        let mut registry = Registry::default();
        registry.insert("old".into(), uploaded("a/shared/old.sst", None));
        registry.keep_only(&HashSet::new());
        assert!(
            registry
                .take_dropped(&Bounds::new(&key("b"), &[]))
                .is_empty()
        );
    }
}
