//! What lies in a directory or a store, to compare it and to damage it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use lazurite::{
    SnapshotStore,
    snapshot::{Finding, SnapshotMetadata},
};

use crate::World;

/// Every file below `dir`: path relative to it, and content. Empty where there is none.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(root, &path, files);
            } else {
                let name = path.strip_prefix(root).expect("it was found there");
                files.insert(name.display().to_string(), fs::read(&path).expect("a file"));
            }
        }
    }
    let mut files = BTreeMap::new();
    walk(dir, dir, &mut files);
    files
}

/// Says which files differ, and fails where any does.
#[track_caller]
pub fn assert_same(
    before: &BTreeMap<String, Vec<u8>>,
    after: &BTreeMap<String, Vec<u8>>,
    what: &str,
) {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let changed: Vec<_> = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name))
        .collect();
    assert!(changed.is_empty(), "{what}: changed {changed:?}");
}

impl World {
    /// The store as tools see it.
    pub fn snapshots(&self) -> SnapshotStore {
        SnapshotStore::new(Arc::new(self.store.clone()), self.runtime.clone())
    }

    /// The numbers of the job's complete snapshots, each of which must be readable.
    pub fn ids(&self) -> Vec<u64> {
        let listed = self
            .snapshots()
            .list("job")
            .expect("the store can be listed");
        listed
            .into_iter()
            .map(|(id, metadata)| (id, metadata.expect("sound metadata")).0)
            .collect()
    }

    /// The metadata of a snapshot.
    pub fn metadata(&self, id: u64) -> SnapshotMetadata {
        self.snapshots().load("job", id).expect("sound metadata")
    }

    /// What is wrong with a snapshot's objects.
    pub fn verify(&self, id: u64) -> Vec<Finding> {
        self.snapshots()
            .verify(&self.metadata(id), &|_| ())
            .expect("the store can be read")
    }

    /// The keys of all objects in the store.
    pub fn objects(&self) -> BTreeSet<String> {
        tree(&self.store_dir()).into_keys().collect()
    }

    /// The keys that the listed snapshots need, their `_metadata` included.
    pub fn needed_objects(&self) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        for id in self.ids() {
            let metadata = self.metadata(id);
            needed.insert(format!("job/chk-{id}/_metadata"));
            for state in &metadata.subtasks {
                needed.insert(state.manifest.key.clone());
                needed.extend(state.tails.iter().map(|t| t.key.clone()));
                needed.extend(state.files.iter().map(|f| f.key.clone()));
            }
        }
        needed
    }

    /// Changes an object by hand; `None` removes it. Gives what it was.
    pub fn damage(&self, key: &str, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) -> Vec<u8> {
        let path = self.store_dir().join(key);
        let old = fs::read(&path).expect("the object is there");
        match change(old.clone()) {
            Some(bytes) => fs::write(&path, bytes).expect("it can be written"),
            None => fs::remove_file(&path).expect("it can be removed"),
        }
        old
    }

    /// Puts an object's bytes back.
    pub fn heal(&self, key: &str, bytes: &[u8]) {
        fs::write(self.store_dir().join(key), bytes).expect("it can be written");
    }
}

/// What becomes of an object's bytes; `None` removes it.
type Damage = fn(Vec<u8>) -> Option<Vec<u8>>;

/// The damages that an object may suffer, by name.
pub fn damages() -> Vec<(&'static str, Damage)> {
    vec![
        ("missing", |_| None),
        ("cut", |mut b| {
            b.pop();
            Some(b)
        }),
        ("half", |mut b| {
            b.truncate(b.len() / 2);
            Some(b)
        }),
        ("empty", |_| Some(Vec::new())),
        ("longer", |mut b| {
            b.push(0);
            Some(b)
        }),
        ("flipped", |mut b| {
            let middle = b.len() / 2;
            b[middle] ^= 0x10;
            Some(b)
        }),
        ("zeroed", |b| Some(vec![0; b.len()])),
    ]
}
