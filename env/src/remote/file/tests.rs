//! Power cuts: what was reported written is there afterwards, whole; what was not is there whole or not at all.

use std::{path::PathBuf, sync::Arc};

use xxhash_rust::xxh3::xxh3_128;

use super::*;
use crate::{Effect, FaultEnv, FaultPlan, MemEnv, Op, PosixEnv, remote::contract::check_store};

fn store(env: Arc<dyn Env>, runtime: &IoRuntime) -> FileStore {
    let root = PathBuf::from("/data/store");
    FileStore::open(env, root, "file:///data/store".to_owned(), runtime).unwrap()
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// A copy: first of one object, then of another.
const COPY: &str = "b/c/copy";

/// The text that version `version` of the object `name` holds.
fn text(name: &str, version: usize) -> Bytes {
    let name = match (name, version) {
        (COPY, 0) => "a/b/y",
        (COPY, _) => "a/x",
        _ => name,
    };
    format!("{name} {version} ").repeat(300).into()
}

#[test]
fn contract_in_memory() {
    let runtime = IoRuntime::new(2).unwrap();
    let store = store(Arc::new(MemEnv::new()), &runtime);
    runtime
        .wait(async move {
            check_store(Arc::new(store)).await;
            Ok(())
        })
        .unwrap();
}

/// Cuts the power before each step of a run, by letting that step and all after it fail.
#[test]
fn power_cuts() {
    let runtime = IoRuntime::new(2).unwrap();
    for step in 0.. {
        let mem = MemEnv::new();
        let plan = FaultPlan::new();
        let env = Arc::new(FaultEnv::new(Arc::new(mem.clone()), plan.clone()));
        let store = store(env, &runtime);
        plan.set_filter(|op| !matches!(op, Op::Stat), "");
        plan.fail_from(step, ErrorKind::Io);
        let reported = runtime
            .wait(async move { Ok(write_all(&store).await) })
            .unwrap();
        let finished = plan.injected() == 0;
        for seed in 0..8 {
            let after = self::store(Arc::new(mem.crash_clone(seed)), &runtime);
            let reported = reported.clone();
            runtime
                .wait(async move {
                    check_after(&after, &reported, step, seed).await;
                    Ok(())
                })
                .unwrap();
        }
        if finished {
            assert!(step > 45, "the run has more steps than {step}");
            return;
        }
    }
}

/// Writes some objects in every way there is; gives those that were reported written, with their version.
async fn write_all(store: &FileStore) -> Vec<(&'static str, usize)> {
    let mut reported = Vec::new();
    if store.put(&key("a/x"), text("a/x", 0)).await.is_ok() {
        reported.push(("a/x", 0));
    }
    if store
        .put_if_absent(&key("a/b/y"), text("a/b/y", 0))
        .await
        .is_ok()
    {
        reported.push(("a/b/y", 0));
    }
    if store.put(&key("a/x"), text("a/x", 1)).await.is_ok() {
        reported.push(("a/x", 1));
    }
    for (version, from) in ["a/b/y", "a/x"].into_iter().enumerate() {
        let len = text(COPY, version).len() as u64;
        if store.copy(&key(from), &key(COPY), len).await.is_ok() {
            reported.push((COPY, version));
        }
    }
    if let Ok(mut writer) = store.writer(&key("z")).await
        && writer.write(text("z", 0)).await.is_ok()
        && writer.finish().await.is_ok()
    {
        reported.push(("z", 0));
    }
    reported
}

async fn check_after(store: &FileStore, reported: &[(&str, usize)], step: u64, seed: u64) {
    for name in ["a/x", "a/b/y", COPY, "z"] {
        let least = reported.iter().rev().find(|(n, _)| *n == name);
        match store.get(&key(name)).await {
            Ok(bytes) => {
                let version = (0..2).find(|v| bytes == text(name, *v));
                let version = version.unwrap_or_else(|| panic!("{name} torn, step {step}, {seed}"));
                assert!(least.is_none_or(|(_, v)| version >= *v), "{name} went back");
            }
            Err(e) => {
                assert!(e.is_not_found(), "{e:?}");
                assert!(least.is_none(), "{name} is lost: step {step}, seed {seed}");
            }
        }
    }
    let listed = store.list(None).await.unwrap();
    assert!(
        listed
            .iter()
            .all(|l| !matches!(l, Listed::Prefix { name } if name == TEMP_DIR))
    );
}

/// Deletes that empty a directory race with writes into it.
#[test]
fn directories_come_and_go() {
    let runtime = IoRuntime::new(2).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let env = Arc::new(crate::PosixEnv);
    let store = FileStore::open(env, dir.path().into(), "file:///x".into(), &runtime).unwrap();
    let one = |i: usize| {
        let (store, key) = (store.clone(), key(&format!("d/e/{i}")));
        async move {
            for _ in 0..50 {
                store.put_if_absent(&key, Bytes::from_static(b"x")).await?;
                store.get(&key).await?;
                store.delete(&key).await?;
            }
            Ok(())
        }
    };
    let all = futures::future::try_join_all((0..4).map(one));
    runtime.wait(async move { all.await.map(|_| ()) }).unwrap();
    let after = store.clone();
    let listed = runtime.wait(async move { after.list(None).await }).unwrap();
    assert_eq!(listed, []);
}

/// A file system that refuses the link gets the bytes, and whoever copied is told.
#[test]
fn a_refused_link_is_a_streamed_copy() {
    let runtime = IoRuntime::new(2).unwrap();
    for kind in [ErrorKind::Unsupported, ErrorKind::PermissionDenied] {
        let plan = FaultPlan::new();
        let env = Arc::new(FaultEnv::new(Arc::new(MemEnv::new()), plan.clone()));
        let store = store(env, &runtime);
        plan.set_filter(|op| op == Op::Link, "");
        plan.fail_from(0, kind);
        let work = async move {
            let bytes = text("from", 0);
            store.put(&key("from"), bytes.clone()).await?;
            let len = bytes.len() as u64;
            let copied = store.copy(&key("from"), &key("d/to"), len).await?;
            assert_eq!(copied, streamed_copy(&bytes));
            store.delete(&key("from")).await?;
            assert_eq!(store.get(&key("d/to")).await?, bytes);

            // What is no refusal fails, and leaves nothing.
            plan.fail_from(0, Effect::Fail(ErrorKind::NoSpace));
            let error = store.copy(&key("d/to"), &key("b"), len).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoSpace);
            assert!(store.get(&key("b")).await.unwrap_err().is_not_found());
            Ok(())
        };
        runtime.wait(work).unwrap();
    }
}

fn streamed_copy(bytes: &Bytes) -> Copied {
    Copied {
        kind: CopyKind::Streamed,
        streamed_bytes: bytes.len() as u64,
        xxh3: Some(xxh3_128(bytes)),
    }
}

/// No link reaches over the border of a file system; below it, one does.
#[test]
#[cfg(target_os = "linux")]
fn another_file_system_below_the_root() {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev());
    let dir = tempfile::tempdir().unwrap();
    let shm = tempfile::tempdir_in("/dev/shm");
    let Some(shm) = shm
        .ok()
        .filter(|shm| device(shm.path()).ok() != device(dir.path()).ok())
    else {
        println!("skipped: /dev/shm is no other file system here");
        return;
    };
    std::os::unix::fs::symlink(shm.path(), dir.path().join("shm")).unwrap();
    let runtime = IoRuntime::new(2).unwrap();
    let env = Arc::new(PosixEnv);
    let store = FileStore::open(env, dir.path().into(), "file:///x".into(), &runtime).unwrap();
    let bytes = Bytes::from(vec![7; 9 << 20]);
    std::fs::write(shm.path().join("a"), &bytes).unwrap();
    let expected = bytes.clone();
    let work = async move {
        let len = expected.len() as u64;
        let copied = store.copy(&key("shm/a"), &key("b"), len).await?;
        assert_eq!(copied, streamed_copy(&expected));
        let copied = store.copy(&key("b"), &key("c"), len).await?;
        assert_eq!(copied.kind, CopyKind::Linked);
        assert!(store.get(&key("c")).await? == expected);
        Ok(())
    };
    runtime.wait(work).unwrap();
    let links = std::fs::metadata(dir.path().join("b")).unwrap().nlink();
    assert_eq!(links, 2);
}
