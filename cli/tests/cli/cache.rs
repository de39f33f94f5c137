//! `bench cache` on a small state.

use crate::support::lazurite;

#[test]
fn every_cache_reads_the_same_and_is_measured() {
    let temp = tempfile::tempdir().unwrap();
    let output = lazurite()
        .args(["--format", "json", "bench", "cache", "--state-mib", "64"])
        .args(["--budget-mib", "8", "--reads", "600", "--threads", "4"])
        .args(["--latency-ms", "0", "--work-dir"])
        .arg(temp.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 12);
    for run in runs {
        let (cache, hits) = (run["cache"].as_str().unwrap(), &run["hit_ratio"]);
        assert_eq!(run["reads"], 600, "{run}");
        assert_eq!(run["windows"].as_array().unwrap().len(), 10, "{run}");
        assert!(run["remote_bytes"].as_u64().unwrap() > 0, "{run}");
        let cached = run["cache_bytes"].as_u64().unwrap();
        match cache {
            "chunks" => assert!(cached > 0 && cached <= 8 << 20, "{run}"),
            "no cache" => assert_eq!((hits.as_f64(), cached), (Some(0.0), 0), "{run}"),
            // A file may come in time, if it is short enough.
            _ => assert_eq!(cached, 0, "{run}"),
        }
    }
    let restart = &report["restart"];
    assert_eq!(restart["before"][0]["reads"], 600, "{restart}");
    assert_eq!(restart["after"][0]["reads"], 1000, "{restart}");
    assert_eq!(restart["after"][1]["reads"], 10_000, "{restart}");
    assert!(restart["kept_bytes"].as_u64().unwrap() > 0, "{restart}");
    assert_eq!(restart["after"][0]["fetched_again_bytes"], 0, "{restart}");
    for field in [
        "zipf_bytes_whole_files_over_chunks",
        "zipf_bytes_guarded_whole_files_over_chunks",
        "clustered_bytes_whole_files_over_chunks",
        "clustered_bytes_guarded_whole_files_over_chunks",
        "clustered_time_whole_files_over_chunks",
        "uniform_time_no_cache_over_chunks",
    ] {
        assert!(report[field].as_f64().unwrap() > 0.0, "{field}");
    }
}
