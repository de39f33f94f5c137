//! `lazurite restore --plan`.

use crate::support::lazurite;

fn plan(temp: &std::path::Path, args: &[&str]) -> std::process::Output {
    let remote = format!("file://{}", temp.join("remote").display());
    lazurite()
        .args(["--format", "json", "restore", "--plan", "--remote", &remote])
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn a_plan_says_what_comes_and_what_does_not() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    let words: String = (0..5_000).map(|i| format!("word{i} ")).collect();
    std::fs::write(&text, words).unwrap();
    let ran = lazurite()
        .args(["run", "wordcount", "--dir"])
        .arg(temp.path().join("dir"))
        .arg("--remote")
        .arg(format!("file://{}", temp.path().join("remote").display()))
        .arg(&text)
        .output()
        .unwrap();
    assert!(ran.status.success());
    let of = |args: &[&str]| -> serde_json::Value {
        let output = plan(temp.path(), args);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let all = of(&[]);
    // The first number is the fence of who began.
    assert_eq!(all["snapshot"], "wordcount/chk-2");
    assert!(all["files"].as_u64().unwrap() > 0);
    assert_eq!(all["left_out_files"], 0);
    assert_eq!(all["beyond_files"], 0);
    let half = of(&["--range", "0-63", "--latency-ms", "10"]);
    assert_eq!(
        half["key_group_range"],
        serde_json::json!({"start": 0, "end": 63})
    );
    assert!(half["beyond_files"].as_u64().unwrap() + half["left_out_files"].as_u64().unwrap() > 0);
    assert!(half["estimated_first_read_ms"].as_f64().unwrap() > 40.0);

    let missing = plan(temp.path(), &["--job", "none"]);
    assert_eq!(missing.status.code(), Some(2), "there is no such job");
    let usage = plan(temp.path(), &["--range", "9-3"]);
    assert_eq!(usage.status.code(), Some(2));
}
