//! The contract of every store, and that nobody ever sees half of what is written.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use bytes::Bytes;
use lazurite_env::{
    ErrorKind,
    remote::{Key, RemoteStore, contract::check_store},
};

use crate::world::{KINDS, Kind, World, key};

fn check(kind: Kind) {
    let Some(world) = World::new(kind) else {
        return;
    };
    let store = world.store();
    let checked = async move {
        check_store(store).await;
        Ok(())
    };
    world.runtime.wait(checked).unwrap();
}

#[test]
fn file() {
    check(Kind::File);
}

#[test]
fn memory() {
    check(Kind::Memory);
}

#[test]
fn s3() {
    check(Kind::S3);
}

#[test]
fn hdfs() {
    check(Kind::Hdfs);
}

/// Object number `number`: its length and every byte tell which it is.
fn object(number: u8) -> Bytes {
    Bytes::from(vec![number; 100_000 + usize::from(number)])
}

/// Looks at the object again and again: once it is there it stays there, and it is one of the whole ones.
async fn watch(
    store: Arc<dyn RemoteStore>,
    name: &str,
    stop: Arc<AtomicBool>,
    all_looks: Arc<AtomicU64>,
) {
    let key = key(name);
    let mut looks = 0;
    while !stop.load(SeqCst) {
        // Some stores answer without waiting, and would leave no thread to others.
        tokio::task::yield_now().await;
        match store.get(&key).await {
            Ok(found) => {
                assert!(!found.is_empty(), "an empty object was seen in {store:?}");
                assert!(found == object(found[0]), "a part of an object was seen");
                looks += 1;
                all_looks.fetch_add(1, SeqCst);
            }
            Err(e) => assert!(e.is_not_found() && looks == 0, "look {looks}: {e:?}"),
        }
        match store.len(&key).await {
            Ok(len) => assert!(
                len > 100_000 && len <= 100_255,
                "a length of {len} was seen"
            ),
            Err(e) => assert!(e.is_not_found() && looks == 0, "look {looks}: {e:?}"),
        }
    }
}

/// Waits for a task, and fails where it failed.
fn joined<T: Send + 'static>(world: &World, task: tokio::task::JoinHandle<T>) -> T {
    let done = world.runtime.wait(async { Ok(task.await) });
    done.unwrap().unwrap()
}

#[test]
fn what_is_replaced_is_never_missing_empty_or_partial() {
    for kind in KINDS {
        let Some(world) = World::new(kind) else {
            continue;
        };
        let stop = Arc::new(AtomicBool::new(false));
        let looks = Arc::new(AtomicU64::new(0));
        let watchers = [0, 1].map(|_| {
            let watching = watch(world.store(), "replaced", stop.clone(), looks.clone());
            world.runtime.spawn(watching)
        });
        let (store, seen) = (world.store(), looks.clone());
        let written = async move {
            let mut versions = 0;
            while versions < 200 || seen.load(SeqCst) < 50 {
                versions += 1;
                let number = (versions % 255) as u8 + 1;
                store.put(&key("replaced"), object(number)).await?;
                tokio::task::yield_now().await;
            }
            Ok(versions)
        };
        let versions: u64 = world.runtime.wait(written).unwrap();
        stop.store(true, SeqCst);
        for watcher in watchers {
            joined(&world, watcher);
        }
        println!(
            "{kind:?}: {} looks at {versions} versions",
            looks.load(SeqCst)
        );
    }
}

/// True where this try created the object. One whose outcome is not known is looked up, as its callers do.
async fn create(store: Arc<dyn RemoteStore>, key: Key, number: u8) -> bool {
    match store.put_if_absent(&key, object(number)).await {
        Ok(()) => true,
        Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
        Err(e) => {
            assert!(e.is_temporary(), "{e:?}");
            store.get(&key).await.unwrap() == object(number)
        }
    }
}

#[test]
fn of_two_that_create_one_wins_and_readers_see_it_whole() {
    for kind in KINDS {
        let Some(world) = World::new(kind) else {
            continue;
        };
        for round in 0..10 {
            let name = format!("created/{round}");
            let stop = Arc::new(AtomicBool::new(false));
            let (watched, until) = (name.clone(), stop.clone());
            let store = world.store();
            let watcher = world
                .runtime
                .spawn(async move { watch(store, &watched, until, Arc::default()).await });
            // Two clients, as two processes have.
            let writers = [1, 2].map(|number| {
                let creating = create(world.store(), key(&name), number);
                world.runtime.spawn(creating)
            });
            let created = writers.map(|writer| joined(&world, writer));
            stop.store(true, SeqCst);
            joined(&world, watcher);
            let winner = match created {
                [true, false] => 1,
                [false, true] => 2,
                _ => panic!("{kind:?}, round {round}: {created:?}"),
            };
            let (store, key) = (world.store(), key(&name));
            let found = world.runtime.wait(async move { store.get(&key).await });
            assert!(found.unwrap() == object(winner));
        }
    }
}
