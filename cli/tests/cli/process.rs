//! `bench process` on a small state.

use crate::support::lazurite;

#[test]
fn records_are_processed_after_each_kind_of_restore() {
    let temp = tempfile::tempdir().unwrap();
    let output = lazurite()
        .args(["--format", "json", "bench", "process"])
        .args(["--state-mib", "8", "--records", "5000", "--batch", "64"])
        .args(["--latency-ms", "1", "--work-dir"])
        .arg(temp.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    let loads: Vec<_> = runs
        .iter()
        .map(|run| run["load"].as_str().unwrap())
        .collect();
    assert_eq!(loads, ["lazy", "eager", "local"]);
    for run in runs {
        assert_eq!(run["tenths_seconds"].as_array().unwrap().len(), 10, "{run}");
        assert!(run["total_seconds"].as_f64().unwrap() > 0.0, "{run}");
    }
    // All of it was fetched before it was opened.
    assert!(runs[1]["remote_bytes"].as_u64().unwrap() > 8 << 20);
}
