//! `bench rescale` on a small state.

use crate::support::lazurite;

#[test]
fn a_chain_of_parallelisms_reads_and_sends_no_table_file() {
    let temp = tempfile::tempdir().unwrap();
    // The second run finds the state of the first, which ended with three subtasks and was brought back to one.
    for chain in ["2,3", "1,4,2"] {
        let output = lazurite()
            .args(["--format", "json", "bench", "rescale", "--state-mib", "8"])
            .args(["--files", "16", "--latency-ms", "1", "--chain", chain])
            .args(["--no-baseline", "--work-dir"])
            .arg(temp.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = report["steps"].as_array().unwrap();
        assert_eq!(steps.len(), chain.split(',').count());
        for (step, to) in steps.iter().zip(chain.split(',')) {
            let subtasks = step["subtasks"].as_array().unwrap();
            assert_eq!(subtasks.len().to_string(), to);
            for subtask in subtasks {
                assert_eq!(subtask["sst_requests_before_open"], 0, "{subtask}");
                assert!(subtask["files"].as_u64().unwrap() > 0, "{subtask}");
            }
            assert_eq!(step["snapshot"]["uploaded_files"], 0, "{step}");
        }
        let shares = |step: &serde_json::Value| -> f64 {
            let subtasks = step["subtasks"].as_array().unwrap();
            subtasks.iter().map(|s| s["share"].as_f64().unwrap()).sum()
        };
        assert!((1.0..2.0).contains(&shares(&steps[0])), "{steps:?}");
    }
    let left = std::fs::read_dir(temp.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["remote"], "local is nothing that stays");
}
