//! `run wordcount --parallelism`: a job goes on with any other number of subtasks.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lazurite::{LoadPolicy, SnapshotOptions, StateBackend};

use crate::support::{Job, expected, json, lazurite, write_text};

fn command(job: &Job, parallelism: u16, snapshot_every: u64) -> Command {
    let mut command = job.command(snapshot_every, "lazy");
    command.args(["--parallelism", &parallelism.to_string()]);
    command
}

/// The newest complete snapshot: its number, its subtasks, and the records that it holds; zeros where there is none.
fn newest(job: &Job) -> (u64, usize, u64) {
    let mut show = lazurite();
    show.args(["--format", "json", "snapshots", "show", "--remote"]);
    show.args([&job.remote(), "--job", "wordcount"]);
    let shown = json(&mut show);
    let snapshot = &shown["snapshots"][0];
    if snapshot.is_null() {
        return (0, 0, 0);
    }
    let position = snapshot["user_metadata"]["wordcount"].as_object().unwrap();
    let position = position.values().next().unwrap().as_str().unwrap();
    let position: serde_json::Value = serde_json::from_str(position).unwrap();
    (
        snapshot["id"].as_u64().unwrap(),
        snapshot["subtasks"].as_array().unwrap().len(),
        position["records"].as_u64().unwrap(),
    )
}

/// The highest number of which the store has the `_metadata` of a state.
fn highest(job: &Job) -> u64 {
    let numbers = std::fs::read_dir(job.store.join("wordcount"));
    let complete = numbers.into_iter().flatten().flatten().filter(|number| {
        let files = number.path().read_dir().map_or(0, Iterator::count);
        files > 1 && number.path().join("_metadata").exists()
    });
    let id = |name: &str| name.strip_prefix("chk-")?.parse().ok();
    complete
        .filter_map(|number| id(number.file_name().to_str()?))
        .max()
        .unwrap_or(0)
}

/// Lets the job run until it has completed a snapshot or two, and kills it.
fn kill_in_the_middle(job: &Job, parallelism: u16) {
    let before = highest(job);
    let mut child = command(job, parallelism, 5_000)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    while highest(job) == before {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        assert!(Instant::now() < until, "no snapshot");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.code().is_none(), "it ended by itself: {status:?}");
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_job_is_killed_and_goes_on_with_another_parallelism() {
    const LINES: u64 = 300_000;
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, LINES);
    let job = Job::new(temp.path(), &text);
    let mut counted = 0;
    for (parallelism, lose_the_disk) in [(1, false), (3, true), (2, false)] {
        if lose_the_disk {
            std::fs::remove_dir_all(&job.dir).unwrap();
        }
        kill_in_the_middle(&job, parallelism);
        let (_, subtasks, records) = newest(&job);
        assert_eq!(subtasks, usize::from(parallelism));
        assert!(counted < records && records < LINES, "{records}");
        counted = records;
    }
    assert_eq!(
        names(&job.dir),
        ["LOCK", "subtask-0", "subtask-1"].map(str::to_owned).into()
    );
    let (id, ..) = newest(&job);
    let report = json(&mut command(&job, 1, 50_000));
    assert_eq!(report["restored_from"], id);
    assert_eq!(report["parallelism"], 1);
    assert_eq!(report["records"], LINES);
    let counts = std::fs::read_to_string(&job.output).unwrap();
    assert!(counts == expected(&text), "the counts differ");
    assert_eq!(
        names(&job.dir),
        ["LOCK", "subtask-0"].map(str::to_owned).into()
    );
    let mut verify = lazurite();
    verify.args(["snapshots", "verify", "--remote", &job.remote()]);
    assert!(verify.output().unwrap().status.success());
}

#[test]
fn kept_directories_are_used_again() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 12_000);
    for load in ["lazy", "eager", "on-demand"] {
        let root = temp.path().join(load);
        std::fs::create_dir(&root).unwrap();
        let job = Job::new(&root, &text);
        let mut distinct = 0;
        // Each run ends in its only snapshot, so that no compaction is due that would put new files in the place of its own.
        for (parallelism, records) in [(1, 4_000), (4, 8_000), (2, 12_000)] {
            let mut command = job.command(1_000_000, load);
            command.args(["--parallelism", &parallelism.to_string()]);
            command.args(["--max-records", &records.to_string()]);
            command.args(["--cache-mib", "8", "--disk-budget-mib", "32"]);
            let report = json(&mut command);
            assert_eq!(report["records"], records, "{report}");
            assert_eq!(report["parallelism"], parallelism);
            assert!(report["distinct"].as_u64().unwrap() > distinct, "{report}");
            distinct = report["distinct"].as_u64().unwrap();
            let reused = report["reused_files"].as_u64().unwrap();
            assert_eq!(reused > 0, parallelism > 1, "{report}");
            assert_eq!(
                names(&job.dir).len(),
                1 + parallelism,
                "what is not used goes"
            );
        }
        let counts = std::fs::read_to_string(&job.output).unwrap();
        assert!(counts == expected(&text), "{load}: the counts differ");
    }
}

#[test]
fn what_one_backend_wrote_is_taken_up_with_its_directory() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 12_000);
    let job = Job::new(temp.path(), &text);
    json(command(&job, 3, 4_000).args(["--max-records", "6000"]));
    std::fs::remove_dir_all(&job.dir).unwrap();
    let backend = StateBackend::builder(&job.dir)
        .remote(job.remote())
        .job("wordcount")
        .load_policy(LoadPolicy::Eager)
        .open()
        .unwrap();
    let position = backend.restored().unwrap().user_metadata["wordcount"].clone();
    let options = SnapshotOptions::new().metadata("wordcount", position);
    let id = backend.snapshot(options).unwrap().wait().unwrap().id;
    drop(backend);
    assert_eq!(newest(&job), (id, 1, 6_000));
    let report = json(&mut command(&job, 2, 4_000));
    assert_eq!(report["restored_from"], id);
    assert!(report["reused_files"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(
        std::fs::read_to_string(&job.output).unwrap(),
        expected(&text)
    );
    assert_eq!(
        names(&job.dir),
        ["LOCK", "subtask-0", "subtask-1"].map(str::to_owned).into()
    );
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 600);
    let job = Job::new(temp.path(), &text);
    let refused = |more: &[&str], code: i32, says: &str| {
        let output = job.command(300, "lazy").args(more).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{more:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(says), "{said}");
    };
    let too_many = ["--parallelism", "5", "--key-groups", "4"];
    refused(&too_many, 2, "more than the 4 --key-groups");
    let little = ["--parallelism", "2", "--disk-budget-mib", "7"];
    refused(&little, 2, "--disk-budget-mib 7 is too little for 2");
    let little = ["--parallelism", "3", "--cache-mib", "2"];
    refused(&little, 2, "--cache-mib 2 is too little for 3");
    assert!(!job.dir.exists() && !job.store.exists());

    // Who cannot go on from a job's snapshot does not take it over: a run that it has goes on.
    json(command(&job, 2, 300).args(["--max-records", "300"]));
    let before = names(&job.store.join("wordcount"));
    refused(&["--key-groups", "64"], 2, "written with --key-groups 128");
    refused(&[text.to_str().unwrap()], 1, "the inputs are not those");
    assert_eq!(names(&job.store.join("wordcount")), before);
    json(&mut command(&job, 1, 300));
    assert_eq!(
        std::fs::read_to_string(&job.output).unwrap(),
        expected(&text)
    );
}

#[test]
fn a_snapshot_that_fails_ends_the_run_with_the_reason() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 6_000);
    let job = Job::new(temp.path(), &text);
    // In the place of the directory for table files.
    let shared = job.store.join("wordcount/shared");
    std::fs::create_dir_all(shared.parent().unwrap()).unwrap();
    std::fs::write(&shared, "").unwrap();
    let output = command(&job, 2, 1_000).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let reason = said.lines().last().unwrap_or_default();
    assert!(reason.starts_with("lazurite: "), "{said}");
    assert!(reason.contains("wordcount/shared/"), "{said}");
    assert_eq!(newest(&job), (0, 0, 0));
    std::fs::remove_file(&shared).unwrap();
    json(&mut command(&job, 3, 1_000));
    assert_eq!(
        std::fs::read_to_string(&job.output).unwrap(),
        expected(&text)
    );
}
