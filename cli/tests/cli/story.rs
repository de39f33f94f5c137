//! The commands one after another, as a user runs them.

use crate::support::{Job, expected, json, lazurite, write_text};

#[test]
fn count_lose_the_disk_and_come_back() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 12_000);
    let job = Job::new(temp.path(), &text);
    let first = json(job.command(4_000, "lazy").args(["--max-records", "6000"]));
    assert!(first["restored_from"].is_null());
    assert_eq!(first["records"], 6000);
    std::fs::remove_dir_all(&job.dir).unwrap();
    let second = json(&mut job.command(4_000, "lazy"));
    assert!(second["restored_from"].is_u64(), "{second}");
    assert_eq!(second["records"], 12_000);
    for field in [
        "restore_ms",
        "first_read_ms",
        "distinct",
        "snapshots",
        "tier",
    ] {
        assert!(!second[field].is_null(), "{field}");
    }
    for field in [
        "id",
        "sync_ms",
        "async_ms",
        "uploaded_bytes",
        "reused_bytes",
        "uploaded_files",
        "reused_files",
    ] {
        assert!(
            !second["snapshots"][0][field].is_null(),
            "snapshots[].{field}"
        );
    }
    for field in [
        "local_reads",
        "remote_reads",
        "remote_requests",
        "remote_bytes",
        "cache_hits",
        "cache_misses",
        "cache_hit_bytes",
        "cache_evictions",
        "cache_dropped",
        "cache_disk_failures",
        "cache_mismatches",
        "cache_bytes",
        "demotions",
        "demoted_bytes",
    ] {
        assert!(second["tier"][field].is_u64(), "tier.{field}");
    }
    assert_eq!(
        std::fs::read_to_string(&job.output).unwrap(),
        expected(&text)
    );

    let remote = job.remote();
    let verify = || {
        lazurite()
            .args(["snapshots", "verify", "--remote", &remote])
            .output()
            .unwrap()
    };
    assert_eq!(verify().status.code(), Some(0));
    let shared = job.store.join("wordcount/shared");
    let file = std::fs::read_dir(&shared)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|e| e == "sst"))
        .unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = verify();
    assert_eq!(damaged.status.code(), Some(1));
    let said = String::from_utf8(damaged.stdout).unwrap();
    assert!(
        said.contains(file.file_name().unwrap().to_str().unwrap()),
        "{said}"
    );
}

#[test]
fn little_disk_counts_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 12_000);
    for load in ["lazy", "eager", "on-demand"] {
        let root = temp.path().join(load);
        std::fs::create_dir(&root).unwrap();
        let job = Job::new(&root, &text);
        let run = |more: &[&str]| {
            let mut command = job.command(4_000, load);
            command.args(["--cache-mib", "1", "--disk-budget-mib", "4"]);
            json(command.args(more))
        };
        run(&["--max-records", "6000"]);
        std::fs::remove_dir_all(&job.dir).unwrap();
        let second = run(&[]);
        assert!(second["restored_from"].is_u64(), "{second}");
        assert!(second["tier"]["cache_bytes"].as_u64().unwrap() <= 1 << 20);
        assert_eq!(
            std::fs::read_to_string(&job.output).unwrap(),
            expected(&text)
        );
    }
}
