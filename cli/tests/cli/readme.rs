//! What README.md shows is true: its commands exist and do what it says.

use std::{path::Path, process::Command};

use crate::support::lazurite;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The lines of README.md that begin with `$ `.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    readme
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_make_target_exists() {
    let targets: Vec<String> = commands()
        .iter()
        .filter_map(|c| {
            c.strip_prefix("make ")
                .map(|t| t.split(' ').next().unwrap_or(t).to_owned())
        })
        .collect();
    assert!(
        targets.iter().any(|t| t == "demo") && targets.iter().any(|t| t == "test"),
        "{targets:?}"
    );
    for target in targets {
        let dry = Command::new("make")
            .arg("-n")
            .arg(&target)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(dry.status.success(), "make {target}");
    }
}

#[test]
fn every_lazurite_command_is_accepted() {
    let shown: Vec<Vec<String>> = commands()
        .iter()
        .filter_map(|c| {
            c.strip_prefix("lazurite ")
                .map(|args| args.split(' ').map(str::to_owned).collect())
        })
        .collect();
    assert!(shown.len() >= 3, "{shown:?}");
    for args in shown {
        // With --help the arguments before it are parsed, and an unknown one is refused.
        let output = lazurite().args(&args).arg("--help").output().unwrap();
        assert!(
            output.status.success(),
            "lazurite {}: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn the_bench_command_of_the_readme_runs_small() {
    let temp = tempfile::tempdir().unwrap();
    let output = lazurite()
        .args([
            "--format",
            "json",
            "bench",
            "cold-start",
            "--files",
            "8",
            "--state-mib",
            "4",
        ])
        .args(["--latency-ms", "2", "--bandwidth-mbps", "1000"])
        .arg("--work-dir")
        .arg(temp.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lazy = &report["runs"][0];
    assert_eq!(lazy["policy"], "lazy");
    assert!(
        lazy["sequential_round_trips_before_first_read"]
            .as_u64()
            .unwrap()
            <= 5,
        "{lazy}"
    );
    assert!(
        lazy["requests_before_first_read"].as_u64().unwrap() <= 20,
        "{lazy}"
    );
    assert_eq!(lazy["sst_requests_before_open"], 0, "{lazy}");
}
