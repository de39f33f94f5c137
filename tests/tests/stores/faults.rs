//! Real servers die, hang and come back: what the engine does meanwhile and after.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lazurite::{LoadPolicy, SnapshotOptions, StateBackend, ValueState};
use lazurite_env::remote::{RemoteOptions, RemoteStore};
use lazurite_tests::{COUNTS, fill, value};

use crate::{
    servers::{Servers, http_get, uploads_under_way},
    world::{Kind, World, counted, key},
};

const FILES: u64 = 8;
const KEYS_A_FILE: u64 = 250;

/// How long the store's requests are tried again in the tests that see them fail.
const BRIEF: Duration = Duration::from_secs(3);

/// Longest that a request may take to fail then: the deadline, the last try, and a busy machine.
const BRIEF_MAX: Duration = Duration::from_secs(15);

fn trying_for(deadline: Duration) -> RemoteOptions {
    RemoteOptions {
        request_timeout: Duration::from_secs(2),
        retry_deadline: deadline,
        ..RemoteOptions::default()
    }
}

struct Fault {
    kind: Kind,
    service: &'static str,
    parts: &'static [&'static str],
    /// KILL or STOP.
    signal: &'static str,
    /// Writes go on without these parts.
    dispensable: bool,
}

impl Fault {
    fn strike(&self, servers: &mut Servers) {
        for part in self.parts {
            servers.kill(self.service, part, self.signal);
        }
    }

    fn heal(&self, servers: &mut Servers) {
        for part in self.parts {
            match self.signal {
                "STOP" => servers.kill(self.service, part, "CONT"),
                _ => servers.restart(self.service, part),
            }
        }
    }
}

fn open(world: &World, dir: &str, store: Arc<dyn RemoteStore>) -> StateBackend {
    let builder = world.builder(dir, store).load_policy(LoadPolicy::OnDemand);
    builder.open().unwrap()
}

fn check(table: &ValueState<u64, Vec<u8>>, keys: std::ops::Range<u64>, version: u64, len: usize) {
    for key in keys {
        let found = table.get(&key).unwrap();
        assert!(found == Some(value(key, version, len)), "key {key}");
    }
}

/// Remote reads wait for the server until their deadline and then fail as temporary; local ones go on; all is well again
/// when it is back.
fn reads_survive(fault: &Fault) {
    let Some(mut servers) = Servers::alone() else {
        return;
    };
    let Some(world) = World::alone(fault.kind) else {
        return;
    };
    let backend = open(&world, "local", world.store());
    let table = backend.value_state(&COUNTS).unwrap();
    for file in 0..FILES {
        fill(
            &table,
            file * KEYS_A_FILE..(file + 1) * KEYS_A_FILE,
            0,
            1000,
        );
        backend.flush().unwrap();
    }
    backend
        .snapshot(SnapshotOptions::new())
        .unwrap()
        .wait()
        .unwrap();
    drop((table, backend));

    let brief = open(&world, "brief", world.store_with(&trying_for(BRIEF)));
    let long = trying_for(Duration::from_secs(90));
    let patient = open(&world, "patient", world.store_with(&long));
    let table = brief.value_state(&COUNTS).unwrap();
    let waiting = patient.value_state(&COUNTS).unwrap();
    let local = 100_000..100_500;
    fill(&table, local.clone(), 1, 1000);
    brief.flush().unwrap();

    fault.strike(&mut servers);
    let begun = Instant::now();
    let read = std::thread::spawn(move || {
        let found = waiting.get(&(3 * KEYS_A_FILE + 7)).unwrap();
        (waiting, found, Instant::now())
    });
    let error = table.get(&7).unwrap_err();
    let took = begun.elapsed();
    println!(
        "{} {:?} {}: {took:?}: {error}",
        fault.service, fault.parts, fault.signal
    );
    assert!(error.is_temporary(), "{error:?}");
    assert!(took >= BRIEF && took < BRIEF_MAX, "{took:?}: {error}");
    let begun = Instant::now();
    check(&table, local.clone(), 1, 1000);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "local reads waited"
    );
    assert!(!read.is_finished(), "the patient read must still wait");

    fault.heal(&mut servers);
    let (waiting, found, _) = read.join().unwrap();
    assert_eq!(found, Some(value(3 * KEYS_A_FILE + 7, 0, 1000)));
    for table in [&table, &waiting] {
        check(table, 0..FILES * KEYS_A_FILE, 0, 1000);
    }
    check(&table, local, 1, 1000);
}

/// A snapshot that the fault befalls fails as temporary or is complete; the one before stays whole; the next one is taken by the
/// same backend.
fn snapshots_survive(fault: &Fault) {
    const KEYS: u64 = 16_000;
    const LEN: usize = 4000;
    let Some(mut servers) = Servers::alone() else {
        return;
    };
    let Some(world) = World::alone(fault.kind) else {
        return;
    };
    let (deadline, rounds) = match fault.dispensable {
        true => (RemoteOptions::default().retry_deadline, 2),
        false => (Duration::from_secs(1), 5),
    };
    let (store, requests) = counted(world.store_with(&trying_for(deadline)));
    let backend = open(&world, "local", store);
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..KEYS, 0, LEN);
    let mut whole = backend
        .snapshot(SnapshotOptions::new())
        .unwrap()
        .wait()
        .unwrap()
        .id;
    let mut version = 0;
    // Until one is hit: a snapshot may be complete before the part has died.
    let failed = (1..=rounds).find_map(|next| {
        fill(&table, 0..KEYS, next, LEN);
        let before = requests.snapshot().total();
        let pending = backend.snapshot(SnapshotOptions::new()).unwrap();
        while requests.snapshot().total() < before + 2 && !pending.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        fault.strike(&mut servers);
        let begun = Instant::now();
        let result = pending.wait();
        let took = begun.elapsed();
        check(&table, 0..100, next, LEN);
        fault.heal(&mut servers);
        match result {
            Ok(report) => {
                (whole, version) = (report.id, next);
                None
            }
            Err(error) => Some((error, took)),
        }
    });
    match &failed {
        Some((error, took)) => {
            println!("{} {:?}: {took:?}: {error}", fault.service, fault.parts);
            assert!(error.is_temporary(), "{error:?}");
            assert!(*took < Duration::from_secs(40), "{took:?}");
        }
        None => println!("{} {:?}: no snapshot failed", fault.service, fault.parts),
    }
    assert_eq!(world.verified("job"), [whole]);
    let restored = open(&world, "restored", world.store());
    assert_eq!(restored.restored().unwrap().snapshot_id, whole);
    check(
        &restored.value_state(&COUNTS).unwrap(),
        0..200,
        version,
        LEN,
    );
    drop(restored);

    fill(&table, 0..KEYS, 7, LEN);
    let report = backend
        .snapshot(SnapshotOptions::new())
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(world.verified("job"), [report.id]);
    assert_eq!(failed.is_none(), fault.dispensable);
    assert_nothing_left(&world);
}

/// Parts and unfinished files that a failed snapshot left are removed once the server is back.
fn assert_nothing_left(world: &World) {
    let place = world
        .uri
        .split_once('?')
        .map_or(&*world.uri, |(place, _)| place);
    let unique = place.rsplit('/').next().unwrap();
    let begun = Instant::now();
    loop {
        let left: Vec<String> = match world.kind {
            Kind::S3 => {
                let uploads = uploads_under_way(&world.uri);
                uploads
                    .into_iter()
                    .filter(|key| key.contains(unique))
                    .collect()
            }
            _ => {
                let web = std::env::var("LAZURITE_TEST_HDFS_WEB").unwrap();
                let path = place.splitn(4, '/').nth(3).unwrap();
                let url = format!("{web}/webhdfs/v1/{path}/.lazurite-tmp?op=LISTSTATUS");
                let names = http_get(&url);
                let names = names.split("\"pathSuffix\":\"").skip(1);
                names
                    .map(|name| name.split('"').next().unwrap().to_owned())
                    .collect()
            }
        };
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(40), "{left:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

const GATEWAY: Fault = Fault {
    kind: Kind::S3,
    service: "s3",
    parts: &["rgw"],
    signal: "KILL",
    dispensable: false,
};

const NAMENODE: Fault = Fault {
    kind: Kind::Hdfs,
    service: "hdfs",
    parts: &["namenode"],
    signal: "KILL",
    dispensable: false,
};

const DATANODES: Fault = Fault {
    kind: Kind::Hdfs,
    service: "hdfs",
    parts: &["datanode0", "datanode1"],
    signal: "KILL",
    dispensable: false,
};

const ONE_DATANODE: Fault = Fault {
    kind: Kind::Hdfs,
    service: "hdfs",
    parts: &["datanode0"],
    signal: "KILL",
    dispensable: true,
};

#[test]
fn reads_survive_a_killed_gateway() {
    reads_survive(&GATEWAY);
}

#[test]
fn reads_survive_a_hanging_gateway() {
    reads_survive(&Fault {
        signal: "STOP",
        ..GATEWAY
    });
}

#[test]
fn reads_survive_a_killed_namenode() {
    reads_survive(&NAMENODE);
}

#[test]
fn reads_survive_a_hanging_namenode() {
    reads_survive(&Fault {
        signal: "STOP",
        ..NAMENODE
    });
}

#[test]
fn reads_survive_all_datanodes_killed() {
    reads_survive(&DATANODES);
}

#[test]
fn snapshots_survive_a_killed_gateway() {
    snapshots_survive(&GATEWAY);
}

#[test]
fn snapshots_survive_a_killed_namenode() {
    snapshots_survive(&NAMENODE);
}

#[test]
fn snapshots_survive_all_datanodes_killed() {
    snapshots_survive(&DATANODES);
}

#[test]
fn snapshots_survive_one_datanode_killed() {
    snapshots_survive(&ONE_DATANODE);
}

/// One DataNode of two is not missed.
#[test]
fn reads_go_on_without_one_datanode() {
    let Some(mut servers) = Servers::alone() else {
        return;
    };
    let Some(world) = World::alone(Kind::Hdfs) else {
        return;
    };
    let backend = open(&world, "local", world.store());
    let table = backend.value_state(&COUNTS).unwrap();
    for file in 0..FILES {
        fill(
            &table,
            file * KEYS_A_FILE..(file + 1) * KEYS_A_FILE,
            0,
            1000,
        );
        backend.flush().unwrap();
    }
    backend
        .snapshot(SnapshotOptions::new())
        .unwrap()
        .wait()
        .unwrap();
    drop((table, backend));
    let again = open(&world, "again", world.store_with(&trying_for(BRIEF)));
    let table = again.value_state(&COUNTS).unwrap();
    check(&table, 0..KEYS_A_FILE, 0, 1000);
    for part in ["datanode0", "datanode1"] {
        servers.kill("hdfs", part, "KILL");
        let begun = Instant::now();
        let first = if part == "datanode0" { 0 } else { FILES / 2 };
        check(
            &table,
            first * KEYS_A_FILE..(first + FILES / 2) * KEYS_A_FILE,
            0,
            1000,
        );
        println!("without {part}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10));
        servers.restart("hdfs", part);
    }
}

/// A new object goes to the DataNode that is left, even where the NameNode names the dead one first.
#[test]
fn writes_go_on_without_one_datanode() {
    let Some(mut servers) = Servers::alone() else {
        return;
    };
    let Some(world) = World::alone(Kind::Hdfs) else {
        return;
    };
    let store = world.store();
    servers.kill("hdfs", "datanode1", "KILL");
    for number in 0..6 {
        let (store, name) = (store.clone(), key(&format!("object-{number}")));
        let begun = Instant::now();
        let written = async move {
            let mut writer = store.writer(&name).await?;
            for _ in 0..4 {
                writer.write(vec![number; 1 << 20].into()).await?;
            }
            writer.finish().await?;
            let put = vec![number + 100; 1 << 20];
            store
                .put(&key(&format!("put-{number}")), put.clone().into())
                .await?;
            assert!(store.get(&key(&format!("put-{number}"))).await? == put);
            store.get(&name).await
        };
        let found = world.runtime.wait(written).unwrap();
        assert!(found == vec![number; 4 << 20]);
        println!("without datanode1, object {number}: {:?}", begun.elapsed());
    }
}
