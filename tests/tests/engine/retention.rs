//! What is deleted after a snapshot, and what a store that does not answer may cost meanwhile.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use lazurite::{SnapshotOptions, StateBackend};
use lazurite_env::{
    Result,
    remote::{Capabilities, Copied, Key, Listed, ObjectWriter, RemoteStore},
};
use lazurite_tests::{COUNTS, GateStore, World, fill, snapshot, value};
use tokio::sync::watch;

/// A store whose deletions wait for as long as it is told to.
#[derive(Debug, Clone)]
struct StuckDeletes {
    inner: Arc<dyn RemoteStore>,
    stuck: Arc<watch::Sender<bool>>,
    waiting: Arc<watch::Sender<bool>>,
}

impl StuckDeletes {
    fn new(inner: Arc<dyn RemoteStore>) -> Self {
        StuckDeletes {
            inner,
            stuck: Arc::new(watch::Sender::new(true)),
            waiting: Arc::new(watch::Sender::new(false)),
        }
    }

    fn wait_until_stuck(&self) {
        while !*self.waiting.borrow() {
            std::thread::yield_now();
        }
    }
}

#[async_trait::async_trait]
impl RemoteStore for StuckDeletes {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.inner.get_range(key, range).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.inner.put(key, bytes).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.inner.put_if_absent(key, bytes).await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        self.inner.writer(key).await
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.inner.len(key).await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        self.inner.list(prefix).await
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        self.inner.copy(from, to, len).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.waiting.send_replace(true);
        let _ = self.stuck.subscribe().wait_for(|stuck| !stuck).await;
        self.inner.delete(key).await
    }
}

/// A job with one snapshot over a store whose deletions are stuck, and changes for the next.
fn stuck() -> (World, StuckDeletes, StateBackend) {
    let world = World::new();
    let store = StuckDeletes::new(Arc::new(world.store.clone()));
    let backend = world.builder_over(Arc::new(store.clone())).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..300, 1, 100);
    snapshot(&backend);
    fill(&table, 0..300, 2, 100);
    backend.compact().unwrap();
    (world, store, backend)
}

#[test]
fn deletions_that_hang_end_with_the_snapshots_time_and_the_next_one_makes_them_good() {
    let (world, store, backend) = stuck();
    let begun = Instant::now();
    let options = SnapshotOptions::new().timeout(Duration::from_millis(500));
    let report = backend.snapshot(options).unwrap().wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!((report.id, world.ids()), (2, vec![1, 2]));
    store.stuck.send_replace(false);
    snapshot(&backend);
    assert_eq!(world.ids(), [3]);
    assert_eq!(world.objects(), world.needed_objects());
}

#[test]
fn a_backend_does_not_wait_for_deletions_when_it_is_dropped() {
    let (world, store, backend) = stuck();
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    store.wait_until_stuck();
    let begun = Instant::now();
    drop(backend);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(pending.wait().unwrap().id, 2, "it was complete before");
    assert_eq!(world.ids(), [1, 2]);
    assert!(world.verify(2).is_empty());
}

/// Opens the directory and leaves a manifest without its metadata under the next number, as a process does that is killed
/// before its commit.
fn leave_an_orphan(world: &World, dir: &str) {
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let backend = world
        .builder_at(dir, Arc::new(gate.clone()))
        .open()
        .unwrap();
    fill(&backend.value_state(&COUNTS).unwrap(), 0..10, 9, 100);
    gate.hold_writes("_metadata");
    let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
    gate.wait_until_held();
    // The commit itself is not stopped by an abort: the end of its request is.
    gate.shut();
    pending.wait().unwrap_err();
}

fn manifests(world: &World) -> Vec<String> {
    let mut keys: Vec<String> = world.objects().into_iter().collect();
    keys.retain(|key| key.contains("/manifest-"));
    keys
}

#[test]
fn what_a_killed_process_left_goes_with_the_next_snapshot_of_its_directory() {
    let world = World::new();
    snapshot(&world.builder().open().unwrap());
    for _ in 0..3 {
        leave_an_orphan(&world, "local");
    }
    leave_an_orphan(&world, "other");
    assert_eq!((world.ids(), manifests(&world).len()), (vec![1], 5));
    let backend = world.builder().open().unwrap();
    assert_eq!(manifests(&world).len(), 5, "an open deletes nothing");
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..10, 1, 100);
    assert_eq!(snapshot(&backend).id, 6);
    let left = manifests(&world);
    assert!(left[0].starts_with("job/chk-5/manifest-"), "{left:?}");
    assert!(left[1].starts_with("job/chk-6/manifest-"), "{left:?}");
    assert_eq!((left.len(), world.ids()), (2, vec![6]));
    assert!(world.verify(6).is_empty());

    // Nothing is asked about the numbers before any more.
    fill(&table, 0..10, 2, 100);
    world.store.start_recording();
    snapshot(&backend);
    let records = world.store.take_recording();
    let asked = |record: &str| (2..6).any(|id| record.contains(&format!("chk-{id}")));
    assert!(!records.iter().any(|r| asked(&r.key)), "{records:#?}");
}

#[test]
fn a_number_that_this_process_could_not_complete_stays_while_it_lives() {
    let world = World::new();
    let gate = GateStore::new(Arc::new(world.store.clone()));
    let backend = world.builder_over(Arc::new(gate.clone())).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..10, 1, 100);
    gate.hold_writes("_metadata");
    let options = SnapshotOptions::new().timeout(Duration::from_millis(200));
    backend.snapshot(options).unwrap().wait().unwrap_err();
    gate.open();
    // The request that was given up may still arrive.
    snapshot(&backend);
    assert_eq!((world.ids(), manifests(&world).len()), (vec![2], 2));
    drop((table, backend));
    let backend = world.builder().open().unwrap();
    snapshot(&backend);
    assert_eq!((world.ids(), manifests(&world).len()), (vec![3], 1));
    let table = backend.value_state(&COUNTS).unwrap();
    assert_eq!(table.get(&3).unwrap(), Some(value(3, 1, 100)));
}
