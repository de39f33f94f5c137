//! `lazurite bench ownership`, small.

use crate::support::lazurite;

#[test]
fn a_first_snapshot_sends_names_and_no_files() {
    let temp = tempfile::tempdir().unwrap();
    let store = temp.path().join("store");
    std::fs::create_dir(temp.path().join("work")).unwrap();
    std::fs::write(temp.path().join("work/mine"), "").unwrap();
    let output = lazurite()
        .args(["--format", "json", "bench", "ownership", "--remote"])
        .arg(format!("file://{}", store.display()))
        .args(["--files", "16", "--state-mib", "16", "--work-dir"])
        .arg(temp.path().join("work"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = report["files"].as_u64().unwrap();
    assert!(files >= 8, "{report}");
    let of = |snapshot: &str, what: &str| report[snapshot][what].as_u64().unwrap();
    assert_eq!(of("upload", "uploaded_files"), files);
    for snapshot in ["no_claim_at_once", "no_claim", "savepoint"] {
        assert_eq!(of(snapshot, "copied_files"), files, "{report}");
    }
    assert_eq!(of("claim", "reused_files"), files, "{report}");
    for snapshot in ["no_claim_at_once", "no_claim", "claim", "savepoint"] {
        assert_eq!(of(snapshot, "uploaded_files"), 0, "{report}");
        assert!(
            report[snapshot]["share"].as_f64().unwrap() < 0.01,
            "{report}"
        );
    }
    let requests = |snapshot| of(snapshot, "requests");
    assert!(
        requests("no_claim") + files <= requests("no_claim_at_once"),
        "{report}"
    );
    let mut dirs = vec![store];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            assert!(path.is_dir(), "{} was left", path.display());
            dirs.push(path);
        }
    }
    let left: Vec<_> = std::fs::read_dir(temp.path().join("work"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "what was in its directory before: {left:?}");
}
