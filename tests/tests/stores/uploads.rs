//! Large objects go to S3 in parts, in parallel, and leave nothing behind where they are given up. Nothing that S3's like
//! ignore or lack is used.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lazurite_env::remote::{self, RemoteOptions};

use crate::{
    proxy::Proxy,
    servers::uploads_under_way,
    world::{Kind, World, key},
};

const PART: usize = 8 << 20;

/// An S3 store and its endpoint.
fn listened_to() -> Option<(World, String)> {
    let world = World::new(Kind::S3)?;
    let endpoint = world.endpoint()?;
    Some((world, endpoint))
}

fn bytes(len: usize) -> Bytes {
    let bytes: Vec<u8> = (0..len).map(|at| (at / 1000) as u8).collect();
    bytes.into()
}

/// Waits until no upload of this world is under way.
fn assert_none_left(world: &World) {
    let prefix = world
        .uri
        .split_once('?')
        .unwrap()
        .0
        .rsplit('/')
        .next()
        .unwrap();
    let begun = Instant::now();
    loop {
        let mut left = uploads_under_way(&world.uri);
        left.retain(|key| key.contains(prefix));
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{left:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn is_under_way(world: &World, name: &str) -> bool {
    let left = uploads_under_way(&world.uri);
    left.iter().any(|key| key.ends_with(name))
}

#[test]
fn large_objects_go_in_parallel_parts() {
    let Some((world, endpoint)) = listened_to() else {
        return;
    };
    let proxy = Proxy::start(&endpoint, Duration::from_millis(5), &world.runtime);
    let uri = world.uri_at(&proxy.endpoint());
    let store = remote::open(&uri, &RemoteOptions::default(), &world.runtime).unwrap();
    let whole = bytes(9 * PART + 5);

    let (writing, object) = (store.clone(), whole.clone());
    let put = async move { writing.put(&key("put"), object).await };
    proxy.take();
    world.runtime.wait(put).unwrap();
    let seen = proxy.take();
    // Begun, ten parts, completed.
    assert_eq!((seen.count("POST"), seen.count("PUT")), (2, 10), "{seen:?}");
    assert!(seen.uploads_at_once >= 2, "{seen:?}");

    let (writing, mut rest) = (store.clone(), whole.clone());
    let written = async move {
        let mut writer = writing.writer(&key("written")).await?;
        while !rest.is_empty() {
            writer
                .write(rest.split_to(rest.len().min(3_333_333)))
                .await?;
        }
        writer.finish().await
    };
    world.runtime.wait(written).unwrap();
    let seen = proxy.take();
    assert_eq!((seen.count("POST"), seen.count("PUT")), (2, 10), "{seen:?}");

    let small = {
        let (store, part) = (store.clone(), bytes(PART));
        async move {
            let mut writer = store.writer(&key("small")).await?;
            writer.write(part).await?;
            writer.finish().await
        }
    };
    world.runtime.wait(small).unwrap();
    let seen = proxy.take();
    assert_eq!((seen.count("POST"), seen.count("PUT")), (0, 1), "{seen:?}");

    for name in ["put", "written"] {
        let store = store.clone();
        let found = world
            .runtime
            .wait(async move { store.get(&key(name)).await });
        assert!(found.unwrap() == whole, "{name}");
    }
    assert_none_left(&world);
}

#[test]
fn what_is_given_up_leaves_no_parts() {
    let Some((world, _)) = listened_to() else {
        return;
    };
    let store = world.store();
    for end in ["aborted", "dropped", "cut off", "whole put cut off"] {
        let (store, name) = (store.clone(), key(end));
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let (go_on, wait) = tokio::sync::oneshot::channel();
        let task = world.runtime.spawn(async move {
            let moment = Duration::from_millis(100);
            if end == "whole put cut off" {
                let put = store.put(&name, bytes(40 * PART));
                let cut = tokio::time::timeout(moment, put).await;
                assert!(cut.is_err(), "it was faster");
                sender.send(()).unwrap();
                return;
            }
            let mut writer = store.writer(&name).await.unwrap();
            writer.write(bytes(5 * PART)).await.unwrap();
            sender.send(()).unwrap();
            wait.await.unwrap();
            match end {
                "aborted" => writer.abort().await.unwrap(),
                "dropped" => drop(writer),
                _ => {
                    let cut = tokio::time::timeout(moment, writer.write(bytes(40 * PART))).await;
                    assert!(cut.is_err(), "it was faster");
                    drop(writer);
                }
            }
        });
        receiver.recv().unwrap();
        if end != "whole put cut off" {
            assert!(
                is_under_way(&world, end),
                "{end}: the test must see the upload"
            );
            go_on.send(()).unwrap();
        }
        let ended = world.runtime.wait(async { Ok(task.await) });
        ended.unwrap().unwrap();
        assert_none_left(&world);
        let (store, name) = (world.store(), key(end));
        let found = world.runtime.wait(async move { store.get(&name).await });
        assert!(found.unwrap_err().is_not_found(), "{end}");
    }
}

#[test]
fn nothing_rests_on_append_rename_or_a_conditional_copy() {
    let Some((world, endpoint)) = listened_to() else {
        return;
    };
    let proxy = Proxy::start(&endpoint, Duration::ZERO, &world.runtime);
    let uri = world.uri_at(&proxy.endpoint());
    let store = remote::open(&uri, &RemoteOptions::default(), &world.runtime).unwrap();
    let checked = async move {
        remote::contract::check_store(store).await;
        Ok(())
    };
    world.runtime.wait(checked).unwrap();
    let seen = proxy.take();
    assert!(seen.requests.len() > 100);
    let mut copies = 0;
    for request in &seen.requests {
        let lower = request.to_ascii_lowercase();
        for header in ["x-amz-write-offset-bytes", "if-match:"] {
            assert!(!lower.contains(header), "{request}");
        }
        // Objects are copied, but nothing is ever committed so.
        if lower.contains("x-amz-copy-source") {
            assert!(!lower.contains("if-none-match"), "{request}");
            copies += 1;
        }
        // Servers ignore the condition on the completion of an upload in parts.
        if lower.contains("if-none-match") {
            assert!(
                lower.starts_with("put ") && !lower.contains("uploadid="),
                "{request}"
            );
        }
    }
    assert!(copies > 0, "the contract copies");
}
