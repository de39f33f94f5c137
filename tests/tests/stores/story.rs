//! The whole story on every store: count words, take snapshots, be killed, lose the disk, come back lazily, count on; the
//! counts are exact.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lazurite::{LoadPolicy, SnapshotOptions};
use lazurite_tests::{COUNTS, fill, value};

use crate::world::{KINDS, Kind, World};

const LINES: u64 = 60_000;
const WORDS_A_LINE: u64 = 8;

/// The `lazurite` command of this build, its log silent.
pub fn lazurite() -> Command {
    let tests = std::env::current_exe().unwrap();
    let program: PathBuf = tests.ancestors().nth(2).unwrap().join("lazurite");
    assert!(
        program.exists(),
        "{} is missing: build all tests (make test), or the command (cargo build --release --package lazurite-cli)",
        program.display()
    );
    let mut command = Command::new(program);
    command.env("LAZURITE_LOG", "error");
    command
}

/// Writes a text of few common and many rare words, and gives what is to be counted in it.
fn write_text(path: &Path) -> String {
    let (mut text, mut counts) = (String::new(), BTreeMap::<String, u64>::new());
    for line in 0..LINES {
        let bytes = value(line, 0, WORDS_A_LINE as usize * 2);
        for pair in bytes.chunks_exact(2) {
            let number = u64::from(pair[0]) * 256 + u64::from(pair[1]);
            let word = format!("w{}", number % (1 + number % 7000));
            text.push_str(&word);
            text.push(' ');
            *counts.entry(word).or_default() += 1;
        }
        text.push('\n');
    }
    std::fs::write(path, text).unwrap();
    let lines = counts
        .iter()
        .map(|(word, count)| format!("{word}\t{count}\n"));
    lines.collect()
}

fn count_words(world: &World, text: &Path, output: &Path) -> Command {
    let mut command = lazurite();
    command.args(["--format", "json", "run", "wordcount", "--load", "lazy"]);
    command.args(["--snapshot-every", "3000", "--remote", &world.uri]);
    command.arg("--dir").arg(world.path("local"));
    command.arg("--output").arg(output).arg(text);
    command.stderr(Stdio::inherit());
    command
}

#[test]
fn words_are_counted_exactly_through_a_kill_and_a_lost_disk() {
    // Memory ends with its process: the next test has it.
    for kind in [Kind::File, Kind::S3, Kind::Hdfs] {
        let Some(world) = World::new(kind) else {
            continue;
        };
        let (text, output) = (world.path("text"), world.path("counts"));
        let expected = write_text(&text);
        let mut child = count_words(&world, &text, &output)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let snapshots = world.snapshots();
        let begun = Instant::now();
        while snapshots.list("wordcount").unwrap().is_empty() {
            let status = child.try_wait().unwrap();
            assert!(status.is_none(), "{kind:?}: it ended by itself: {status:?}");
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{kind:?}: no snapshot"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(
            status.code().is_none(),
            "{kind:?}: it ended by itself: {status:?}"
        );
        world.lose("local");
        world.verified("wordcount");

        let again = count_words(&world, &text, &output).output().unwrap();
        assert!(again.status.success(), "{kind:?}");
        let report: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
        assert!(report["restored_from"].is_u64(), "{kind:?}: {report}");
        println!(
            "{kind:?}: killed after {:?}, restored from {} in {} ms",
            begun.elapsed(),
            report["restored_from"],
            report["restore_ms"]
        );
        assert_eq!(report["records"], LINES);
        let counted = std::fs::read_to_string(&output).unwrap();
        assert!(counted == expected, "{kind:?}: the counts differ");
        world.verified("wordcount");
    }
}

#[test]
fn state_comes_back_lazily_and_is_local_in_the_end() {
    const KEYS: u64 = 4000;
    for kind in KINDS {
        let Some(world) = World::new(kind) else {
            continue;
        };
        let store = world.store();
        let backend = world.builder("local", store.clone()).open().unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        for round in 0..4 {
            fill(&table, (0..KEYS).filter(|key| key % 4 >= round), round, 500);
            backend
                .snapshot(SnapshotOptions::new())
                .unwrap()
                .wait()
                .unwrap();
        }
        // Never part of a snapshot.
        fill(&table, 0..KEYS, 9, 500);
        drop((table, backend));
        world.lose("local");
        let backend = world
            .builder("local", store)
            .load_policy(LoadPolicy::Lazy)
            .open()
            .unwrap();
        let table = backend.value_state(&COUNTS).unwrap();
        let check = || {
            for key in 0..KEYS {
                let found = table.get(&key).unwrap();
                assert!(found == Some(value(key, key % 4, 500)), "{kind:?}: {key}");
            }
        };
        check();
        backend.wait_until_local().unwrap();
        assert_eq!(backend.tier().remote_files, 0);
        check();
    }
}
