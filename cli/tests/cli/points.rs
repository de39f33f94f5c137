//! `bench points` on a small state.

use crate::support::lazurite;

#[test]
fn cold_reads_are_measured_in_every_way() {
    let temp = tempfile::tempdir().unwrap();
    let output = lazurite()
        .args(["--format", "json", "bench", "points", "--state-mib", "8"])
        .args(["--files", "8", "--reads", "300", "--threads", "8"])
        .args(["--latency-ms", "1", "--work-dir"])
        .arg(temp.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["round_trip_limit_per_second"], 8000.0);
    let runs = report["runs"].as_array().unwrap();
    let ways: Vec<_> = runs
        .iter()
        .map(|run| run["way"].as_str().unwrap())
        .collect();
    assert_eq!(ways, ["get", "get_async", "multi_get_async"]);
    for run in runs {
        let requests = run["requests_per_read"].as_f64().unwrap();
        assert!(requests > 0.0 && requests <= 1.0, "{run}");
        let share = run["share_of_limit"].as_f64().unwrap();
        assert!(share > 0.0 && share <= 1.2, "{run}");
    }
}
