//! `get`, `scan` and `export` of a word count.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::Duration,
};

use tempfile::TempDir;

use crate::support::{Chance, Job, expected, lazurite, write_text};

/// A word count that has ended, its local directory lost, and what it counted.
fn counted(lines: u64) -> (TempDir, Job, BTreeMap<String, u64>) {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, lines);
    let job = Job::new(temp.path(), &text);
    let run = job.command(lines / 3, "lazy").output().unwrap();
    assert!(run.status.success(), "{run:?}");
    std::fs::remove_dir_all(&job.dir).unwrap();
    let counts = expected(&text);
    let counts = counts.lines().map(|line| {
        let (word, count) = line.split_once('\t').unwrap();
        (word.to_string(), count.parse().unwrap())
    });
    let counts = counts.collect();
    (temp, job, counts)
}

/// One of the commands over the store of `job`; what it keeps locally meanwhile is in `temp`.
fn command(name: &str, job: &Job, temp: &Path) -> Command {
    let mut command = lazurite();
    command.env("TMPDIR", temp);
    command.args([name, "--remote", &job.remote()]);
    command
}

fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn store_files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false => {
                    files.insert(entry.path(), entry.metadata().unwrap().len());
                }
            }
        }
    }
    files
}

#[test]
fn words_are_read_where_they_lie() {
    let (_root, job, counts) = counted(6_000);
    let before = store_files(&job.store);
    let temp = tempfile::tempdir().unwrap();
    let get = |key: &str, more: &[&str]| {
        let mut command = command("get", &job, temp.path());
        let command = command.args(["--table", "counts", "--key", key]);
        command.args(more).output().unwrap()
    };
    for word in ["the", "größe", "w77"] {
        let count = counts[word];
        assert_eq!(said(&get(word, &[])), format!("{word}\t{count}\n"));
        let json: serde_json::Value =
            serde_json::from_str(&said(&get(word, &["--format", "json"]))).unwrap();
        assert_eq!(
            (&json["key"], &json["value"]),
            (&word.into(), &count.into())
        );
    }
    // The same, by its encoded bytes: a length and the text.
    let encoded = get(
        "hex:03746865",
        &["--job", "wordcount", "--operator", "state"],
    );
    assert_eq!(said(&encoded), format!("the\t{}\n", counts["the"]));
    let absent = get("absent", &[]);
    assert_eq!((absent.status.code(), absent.stdout.len()), (Some(1), 0));
    let why = String::from_utf8(absent.stderr).unwrap();
    assert!(why.contains("no entry of that key"), "{why}");
    for (wrong, code) in [
        (["--job", "other"], 2),
        (["--snapshot", "999"], 1),
        (["--operator", "other"], 2),
        (["--user-key", "x"], 2),
    ] {
        assert_eq!(get("the", &wrong).status.code(), Some(code), "{wrong:?}");
    }
    assert_eq!(get("hex:zz", &[]).status.code(), Some(2));
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    assert_eq!(store_files(&job.store), before);
}

#[test]
fn a_scan_prints_what_was_counted() {
    let (_root, job, counts) = counted(6_000);
    let temp = tempfile::tempdir().unwrap();
    let scan = |more: &[&str]| {
        let mut command = command("scan", &job, temp.path());
        command.args(["--table", "counts"]).args(more);
        said(&command.output().unwrap())
    };
    let of = |text: &str| {
        let entries = text.lines().map(|line| {
            let (word, count) = line.split_once('\t').unwrap();
            (word.to_string(), count.parse().unwrap())
        });
        entries.collect::<BTreeMap<String, u64>>()
    };
    assert_eq!(of(&scan(&[])), counts);
    let mut parts = of(&scan(&["--range", "0-99"]));
    assert!(parts.len() < counts.len());
    parts.extend(of(&scan(&["--range", "100-127"])));
    assert_eq!(parts, counts);
    let begin = |word: &&String| word.starts_with("w4");
    assert_eq!(
        of(&scan(&["--prefix", "w4"])).keys().collect::<Vec<_>>(),
        counts.keys().filter(begin).collect::<Vec<_>>()
    );
    assert_eq!(scan(&["--limit", "7"]).lines().count(), 7);
    assert_eq!(scan(&["--limit", "0"]), "");
    assert_eq!(
        of(&scan(&["--key", "the"])),
        BTreeMap::from([("the".into(), counts["the"])])
    );
    assert_eq!(scan(&["--key", "absent"]), "");
    for line in scan(&["--format", "json", "--limit", "20"]).lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            counts[entry["key"].as_str().unwrap()],
            entry["value"].as_u64().unwrap()
        );
        assert!(entry["key_group"].as_u64().unwrap() < 128);
    }
    // Whoever reads it goes away.
    let mut child = command("scan", &job, temp.path())
        .args(["--table", "counts"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}

#[test]
fn an_export_is_whole_or_not_there() {
    let (_root, job, counts) = counted(12_000);
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let partial = temp.path().join("out.partial");
    let slow = format!("{}?latency_ms=5&bandwidth_mbps=20", job.remote());
    let mut chance = Chance(3);
    let (mut kills, mut left) = (0, 0);
    for round in 0..40 {
        let mut child = lazurite()
            .args(["export", "--remote", &slow, "--out"])
            .arg(&out)
            .args(["--rewrite"].iter().filter(|_| round % 2 == 0))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        sleep(Duration::from_micros(chance.below(350_000)));
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
        }
        if child.wait().unwrap().success() {
            std::fs::remove_dir_all(&out).unwrap();
            continue;
        }
        kills += 1;
        left += u32::from(partial.exists());
        if out.exists() {
            // Killed after the rename.
            assert!(out.join("CURRENT").exists());
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
    println!("{kills} exports were killed, {left} of them had begun");
    assert!(left > 5);
    let exported = command("export", &job, temp.path())
        .args(["--format", "json", "--rewrite", "--out"])
        .arg(&out)
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_str(&said(&exported)).unwrap();
    let table = &report["tables"][0];
    assert_eq!(
        (&table["name"], &table["way"]),
        (&"counts".into(), &"rewritten".into())
    );
    assert_eq!(table["entries"].as_u64(), Some(counts.len() as u64));
    assert!(out.join("CURRENT").exists() && !partial.exists());
    let again = command("export", &job, temp.path())
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(1));
    let why = String::from_utf8(again.stderr).unwrap();
    assert!(why.contains("not empty"), "{why}");
}
