//! `lazurite bench stores`, small.

use crate::support::lazurite;

#[test]
fn two_stores_are_measured_in_one_run_and_left_empty() {
    let temp = tempfile::tempdir().unwrap();
    let uri = |name: &str| {
        let dir = temp.path().join(name);
        format!("file://{}?latency_ms=2", dir.display())
    };
    std::fs::create_dir(temp.path().join("work")).unwrap();
    std::fs::write(temp.path().join("work/mine"), "").unwrap();
    let output = lazurite()
        .args(["--format", "json", "bench", "stores"])
        .args(["--remote", &uri("a"), "--remote", &uri("b")])
        .args(["--files", "8", "--state-mib", "4", "--reads", "50"])
        .args(["--link-mbps", "1000", "--work-dir"])
        .arg(temp.path().join("work"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let stores = report["stores"].as_array().unwrap();
    assert_eq!(stores.len(), 2);
    for store in stores {
        assert!(
            store["lazy"]["requests_before_first_read"]
                .as_u64()
                .unwrap()
                <= 20,
            "{store}"
        );
        let reads = &store["cold_reads"];
        // A block that was read before is in the cache.
        assert!(reads["requests"].as_u64().unwrap() <= 50, "{store}");
        assert!(reads["p99_ms"].as_f64().unwrap() >= 2.0, "{store}");
        for transfer in ["snapshot", "download"] {
            assert!(
                store[transfer]["bytes"].as_u64().unwrap() > 4 << 20,
                "{store}"
            );
            assert!(
                store[transfer]["link_share"].as_f64().unwrap() > 0.0,
                "{store}"
            );
        }
    }
    for name in ["a", "b"] {
        let job = temp.path().join(name).join("bench-stores");
        let mut dirs = vec![job];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten() {
                let path = entry.unwrap().path();
                assert!(path.is_dir(), "{} was left", path.display());
                dirs.push(path);
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(temp.path().join("work"))
        .unwrap()
        .collect();
    assert_eq!(left.len(), 1, "what was in its directory before: {left:?}");
}
