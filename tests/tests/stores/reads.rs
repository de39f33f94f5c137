//! What a small read costs on a network: one round trip, and no new connection.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use lazurite_env::{
    Result,
    remote::{self, RemoteOptions},
};

use crate::{
    proxy::Proxy,
    servers::{Servers, http_get, variable},
    world::{Kind, World, key},
};

const READS: u64 = 50;
const OBJECT_BYTES: u64 = 8 << 20;

/// Writes the object, and reads 4 KiB of it at [`READS`] places through the store at `uri`. Gives the times, sorted.
fn read_around(world: &World, uri: &str, before: impl FnOnce() + Send + 'static) -> Vec<Duration> {
    let store = remote::open(uri, &RemoteOptions::default(), &world.runtime).unwrap();
    let (first, then) = std::sync::mpsc::sync_channel(1);
    let work = async move {
        let bytes: Vec<u8> = (0..OBJECT_BYTES).map(|at| (at / 4096) as u8).collect();
        store.put(&key("object"), Bytes::from(bytes)).await?;
        // The first read opens the file, on HDFS, and finds a DataNode.
        store.get_range(&key("object"), 0..4096).await?;
        let _ = first.send(());
        tokio::task::spawn_blocking(before).await.unwrap();
        let mut times = Vec::new();
        for read in 0..READS {
            let page = read * 37 % (OBJECT_BYTES / 4096);
            let begun = Instant::now();
            let range = page * 4096..(page + 1) * 4096;
            let found = store.get_range(&key("object"), range).await?;
            times.push(begun.elapsed());
            assert!(found.iter().all(|byte| *byte == page as u8) && found.len() == 4096);
        }
        times.sort();
        Result::Ok(times)
    };
    let times = world.runtime.wait(work).unwrap();
    then.recv().unwrap();
    times
}

#[test]
fn s3_reads_take_one_request_each_on_one_connection() {
    let Some(world) = World::new(Kind::S3) else {
        return;
    };
    let Some(endpoint) = world.endpoint() else {
        return;
    };
    let proxy = std::sync::Arc::new(Proxy::start(&endpoint, Duration::ZERO, &world.runtime));
    let uri = world.uri_at(&proxy.endpoint());
    let before = proxy.clone();
    read_around(&world, &uri, move || drop(before.take()));
    let seen = proxy.take();
    assert_eq!(seen.requests.len() as u64, READS, "{:#?}", seen.requests);
    assert_eq!(seen.count("GET"), seen.requests.len());
    // One more where a read begins before the connection of the last one is back with the others.
    assert!(
        seen.connections <= 2,
        "{} connections made after the first read",
        seen.connections
    );
}

#[test]
fn s3_reads_take_one_round_trip() {
    let Some(world) = World::new(Kind::S3) else {
        return;
    };
    let Some(endpoint) = world.endpoint() else {
        return;
    };
    let one_way = Duration::from_millis(20);
    let proxy = Proxy::start(&endpoint, one_way, &world.runtime);
    let times = read_around(&world, &world.uri_at(&proxy.endpoint()), || ());
    let median = times[times.len() / 2];
    println!(
        "a 4 KiB read at a round trip of {:?}: {median:?}",
        2 * one_way
    );
    assert!(median >= 2 * one_way && median < 3 * one_way, "{times:?}");
}

#[test]
fn s3_lists_many_table_files_in_one_round_trip() {
    let Some(world) = World::new(Kind::S3) else {
        return;
    };
    let Some(endpoint) = world.endpoint() else {
        return;
    };
    let one_way = Duration::from_millis(50);
    let proxy = Proxy::start(&endpoint, one_way, &world.runtime);
    let (uri, options) = (world.uri_at(&proxy.endpoint()), RemoteOptions::default());
    let far = remote::open(&uri, &options, &world.runtime).unwrap();
    let near = world.store();
    let names: Vec<String> = (0..1_700).map(|i| format!("{i:05}.sst")).collect();
    let likely = names.clone();
    let listings = world.runtime.wait(async move {
        let count = names.len();
        let puts = futures::stream::iter(names).map(|name| {
            let key = key("shared").join(&name).unwrap();
            let near = near.clone();
            async move { near.put(&key, Bytes::from_static(b"table")).await }
        });
        puts.buffer_unordered(16).try_collect::<()>().await?;
        let likely: Vec<&str> = likely.iter().map(String::as_str).collect();
        // Connections are made by the first.
        let first = far.list_likely(&key("shared"), &likely).await?;
        proxy.take();
        let begun = Instant::now();
        let by_pages = far.list(Some(&key("shared"))).await?;
        let (by_pages_took, begun) = (begun.elapsed(), Instant::now());
        let pages = proxy.take().requests.len();
        let at_once = far.list_likely(&key("shared"), &likely).await?;
        let at_once_took = begun.elapsed();
        let parts = proxy.take().requests.len();
        assert!(by_pages.len() == count && by_pages == at_once && first == at_once);
        Result::Ok(((pages, by_pages_took), (parts, at_once_took)))
    });
    let (by_pages, at_once) = listings.unwrap();
    println!(
        "1,700 names at a round trip of {:?}: page by page {by_pages:?}, at once {at_once:?}",
        2 * one_way
    );
    assert_eq!((by_pages.0, at_once.0), (2, 3));
    assert!(at_once.1 < 4 * one_way, "not one round trip but two");
}

/// The sum of a counter over the beans that `url` answers with.
fn counter(url: &str, name: &str) -> u64 {
    let answer = http_get(url);
    let name = format!("\"{name}\" :");
    answer
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&name))
        .map(|value| value.trim().trim_end_matches(',').parse::<u64>().unwrap())
        .sum()
}

/// Requests for block locations, and reads of blocks, that the servers have answered.
fn hdfs_counters(web: &str, datanodes: &[String]) -> (u64, u64) {
    // Servers that tests/servers/hdfs.sh started show counters that are up to a second old, and keep what they showed.
    std::thread::sleep(Duration::from_secs(3));
    let namenode = format!("{web}/jmx?qry=Hadoop:service=NameNode,name=NameNodeActivity");
    let blocks = datanodes.iter().map(|web| {
        let url = format!("{web}/jmx?qry=Hadoop:service=DataNode,name=DataNodeActivity-*");
        counter(&url, "BlocksRead")
    });
    (counter(&namenode, "GetBlockLocations"), blocks.sum())
}

#[test]
fn hdfs_reads_ask_a_datanode_and_not_the_namenode() {
    // Alone, for the counters are everybody's.
    let Some(_servers) = Servers::alone() else {
        return;
    };
    let work = variable("LAZURITE_TEST_SERVERS").unwrap();
    let Some(world) = World::alone(Kind::Hdfs) else {
        return;
    };
    let web = std::env::var("LAZURITE_TEST_HDFS_WEB").unwrap();
    let datanodes = [0, 1].map(|i| {
        let file = format!("{work}/hdfs/web-datanode{i}");
        std::fs::read_to_string(file).unwrap().trim().to_owned()
    });
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let (first_web, first_nodes) = (web.clone(), datanodes.clone());
    read_around(&world, &world.uri, move || {
        sender
            .send(hdfs_counters(&first_web, &first_nodes))
            .unwrap();
    });
    let before = receiver.recv().unwrap();
    let after = hdfs_counters(&web, &datanodes);
    assert_eq!(after.0 - before.0, 0, "block locations asked for");
    assert_eq!(after.1 - before.1, READS, "blocks read");
}
