//! `bench scan` on a small state.

use crate::support::lazurite;

#[test]
fn scans_are_measured_in_files_of_each_size() {
    let temp = tempfile::tempdir().unwrap();
    let output = lazurite()
        .args(["--format", "json", "bench", "scan", "--state-mib", "8"])
        .args(["--files", "2", "--files", "16", "--walks", "3"])
        .args(["--latency-ms", "1", "--work-dir"])
        .arg(temp.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let scans = report["scans"].as_array().unwrap();
    let names: Vec<_> = scans
        .iter()
        .map(|scan| scan["scan"].as_str().unwrap())
        .collect();
    let of_values = ["whole table", "one key group", "first 10 entries"];
    assert_eq!(
        names,
        [&of_values[..], &of_values, &["short walks"]].concat()
    );
    for scan in scans {
        let number = |field: &str| scan[field].as_f64().unwrap();
        assert!(number("requests") >= 1.0 && number("ms") > 0.0, "{scan}");
        assert!(
            number("link_share") > 0.0 && number("link_share") <= 1.2,
            "{scan}"
        );
        match scan["scan"].as_str().unwrap() {
            "whole table" => {
                assert_eq!(number("entries"), 8192.0, "{scan}");
                let over = number("fetched_over_range");
                assert!((0.99..1.1).contains(&over), "{scan}");
            }
            "first 10 entries" => assert_eq!(number("entries"), 10.0, "{scan}"),
            "short walks" => assert_eq!(number("entries"), 24.0, "{scan}"),
            _ => assert!(
                number("entries") > 10.0 && number("entries") < 200.0,
                "{scan}"
            ),
        }
    }
    assert!(scans[0]["files"].as_u64().unwrap() < scans[3]["files"].as_u64().unwrap());
    // Local is nothing but what the next run finds again.
    assert!(!temp.path().join("local").exists() && !temp.path().join("build").exists());
}
