//! kill -9 at random moments, the local directory kept or deleted at random, the parallelism changed at random: the counts are
//! exact each time.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use crate::support::{Chance, Job, expected, write_text};

/// Processes killed in one run of the test.
const KILLS: u32 = 200;

#[test]
fn two_hundred_kills_lose_no_word() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 30_000);
    let expected = expected(&text);
    // Fixed, so that a failure can be run again; the moments still differ with the machine's own timing.
    let mut chance = Chance(7);
    let (mut kills, mut kept, mut completed, mut resumed, mut round) = (0, 0, 0, 0, 0);
    while kills < KILLS {
        round += 1;
        let root = temp.path().join(format!("round-{round}"));
        let job = Job::new(&root, &text);
        loop {
            let load = ["lazy", "eager", "on-demand"][chance.below(3) as usize];
            let parallelism = 1 + chance.below(3);
            let mut child = job
                .command(1_500, load)
                .args(["--parallelism", &parallelism.to_string()])
                .stdout(Stdio::piped())
                .stderr(Stdio::inherit())
                .spawn()
                .unwrap();
            // From the first instructions to the end, and now and then not at all.
            let until = Instant::now() + Duration::from_micros(chance.below(400_000));
            let mut status = child.try_wait().unwrap();
            while status.is_none() && Instant::now() < until {
                std::thread::sleep(Duration::from_micros(200));
                status = child.try_wait().unwrap();
            }
            if status.is_none() {
                child.kill().unwrap();
            }
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                resumed += u32::from(!report["restored_from"].is_null());
                break;
            }
            assert!(
                output.status.code().is_none(),
                "it ended by itself: {:?}",
                output.status
            );
            kills += 1;
            if chance.below(2) == 0 {
                let _ = std::fs::remove_dir_all(&job.dir);
            } else {
                kept += 1;
            }
        }
        completed += 1;
        let counted = std::fs::read_to_string(&job.output).unwrap();
        assert!(
            counted == expected,
            "round {round}: the counts differ after {kills} kills"
        );
        std::fs::remove_dir_all(&root).unwrap();
    }
    println!(
        "{kills} kills ({kept} with the directory kept), {completed} runs completed, {resumed} of them resumed"
    );
    assert!(kept > 0 && resumed > 0, "the test must have met both cases");
}
