//! `lazurite gc` and `lazurite fsck`.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{Job, lazurite, write_text};

/// Exit code, JSON and standard error of a command over the job's store.
fn run(job: &Job, args: &[&str]) -> (i32, Value, String) {
    let output = lazurite()
        .args(["--format", "json"])
        .args(args)
        .args(["--remote", &job.remote()])
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (code, json, String::from_utf8(output.stderr).unwrap())
}

fn text(job: &Job, args: &[&str]) -> String {
    let mut command = lazurite();
    let output = command.args(args).args(["--remote", &job.remote()]);
    String::from_utf8(output.output().unwrap().stdout).unwrap()
}

fn counted(root: &Path) -> Job {
    let input = root.join("text");
    write_text(&input, 600);
    let job = Job::new(root, &input);
    assert!(job.command(500, "lazy").output().unwrap().status.success());
    job
}

#[test]
fn orphans_are_listed_then_deleted() {
    let temp = tempfile::tempdir().unwrap();
    let job = counted(temp.path());
    let orphan = job.store.join(format!("wordcount/shared/{:032x}.tails", 7));
    fs::write(&orphan, "left").unwrap();
    fs::write(job.store.join("wordcount/notes"), "mine").unwrap();

    let (code, report, _) = run(&job, &["gc"]);
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)));
    let of = &report["jobs"][0];
    assert_eq!(of["job"], "wordcount");
    assert_eq!(of["young"]["objects"], 1, "{report}");
    assert_eq!(of["orphans"].as_array().unwrap().len(), 0);
    assert_eq!(of["unknown"][0]["key"], "wordcount/notes");

    let (code, report, _) = run(&job, &["gc", "--min-age", "0s"]);
    assert_eq!(code, 0);
    let found = &report["jobs"][0]["orphans"][0];
    assert_eq!(found["kind"], "tails");
    assert_eq!(found["bytes"], 4);
    assert!(found["key"].as_str().unwrap().ends_with("7.tails") && found["age_s"].is_u64());
    assert_eq!(report["jobs"][0]["deleted"]["objects"], 0);
    assert!(orphan.exists());
    let shown = text(&job, &["gc", "--min-age", "0s"]);
    assert!(
        shown.contains("7.tails") && shown.contains("--delete"),
        "{shown}"
    );

    let (code, report, _) = run(
        &job,
        &["gc", "--min-age", "0s", "--delete", "--job", "wordcount"],
    );
    assert_eq!(code, 0);
    assert_eq!(report["jobs"][0]["deleted"]["objects"], 1);
    assert!(!orphan.exists() && job.store.join("wordcount/notes").exists());
    let (code, report, _) = run(&job, &["fsck"]);
    assert_eq!((code, &report["ok"]), (0, &Value::Bool(true)), "{report}");

    for usage in [
        &["gc", "--job", "nobody"][..],
        &["gc", "--min-age", "1"],
        &["fsck", "--job", "nobody"],
        &["fsck", "--delete"],
    ] {
        assert_eq!(run(&job, usage).0, 2, "{usage:?}");
    }
}

#[test]
fn damage_is_found_and_stops_deletions() {
    let temp = tempfile::tempdir().unwrap();
    let job = counted(temp.path());
    let shared = fs::read_dir(job.store.join("wordcount/shared")).unwrap();
    let mut files = shared.map(|entry| entry.unwrap().path());
    let file = files
        .find(|path| path.extension().is_some_and(|e| e == "sst"))
        .unwrap();
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&file, &flipped).unwrap();

    let (code, report, stderr) = run(&job, &["fsck"]);
    assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)));
    assert!(stderr.contains("1 thing is wrong"), "{stderr}");
    let damage = &report["damages"][0];
    assert_eq!(damage["problem"]["kind"], "wrong_checksum");
    let name = file.file_name().unwrap().to_str().unwrap();
    assert_eq!(damage["key"], format!("wordcount/shared/{name}"));
    let broken = &damage["breaks"][0];
    assert_eq!(broken["job"], "wordcount");
    assert!(broken["id"].is_u64());
    assert!(
        broken["states"][0]["tables"][0]["table"].is_string(),
        "{report}"
    );
    let shown = text(&job, &["fsck"]);
    for part in [
        name,
        "wrong checksum",
        "breaks snapshot",
        "operator",
        "table",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(run(&job, &["fsck", "--quick"]).0, 0);
    fs::write(&file, &whole[1..]).unwrap();
    let (code, report, _) = run(&job, &["fsck", "--quick"]);
    assert_eq!(
        (code, &report["damages"][0]["problem"]["kind"]),
        (1, &"wrong_length".into())
    );
    fs::write(&file, &whole).unwrap();

    // What cannot be read keeps everything.
    let orphan = job.store.join(format!("wordcount/shared/{:032x}.tails", 7));
    fs::write(&orphan, "left").unwrap();
    let snapshots = fs::read_dir(job.store.join("wordcount")).unwrap();
    let mut metadata = snapshots.map(|entry| entry.unwrap().path().join("_metadata"));
    let metadata = metadata.find(|path| path.exists()).unwrap();
    let whole = fs::read(&metadata).unwrap();
    fs::write(&metadata, &whole[1..]).unwrap();
    let (code, report, stderr) = run(&job, &["gc", "--delete", "--min-age", "0s"]);
    assert_eq!((code, &report["ok"]), (1, &Value::Bool(false)));
    assert_eq!(report["unreadable"][0]["cause"], "corrupt");
    assert!(stderr.contains("nothing was deleted"), "{stderr}");
    assert!(orphan.exists());
    let (code, report, _) = run(&job, &["fsck"]);
    assert_eq!(
        (code, &report["damages"][0]["problem"]["kind"]),
        (1, &"corrupt_metadata".into())
    );
}
