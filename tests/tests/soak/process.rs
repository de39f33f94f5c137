//! What this process has of the system.

use std::fs;

/// Taken while no backend is open.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    descriptors: usize,
    threads: usize,
    resident_bytes: u64,
}

/// A heap that has grown stays in pieces, so the memory of a process that leaks nothing goes up and down too.
const RESIDENT_SLACK_BYTES: u64 = 96 << 20;

impl Usage {
    pub fn now() -> Self {
        let count = |dir: &str| fs::read_dir(dir).expect(dir).count();
        let status = fs::read_to_string("/proc/self/status").expect("the status of this process");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.parse::<u64>().ok())
            .expect("the resident memory");
        Usage {
            descriptors: count("/proc/self/fd"),
            threads: count("/proc/self/task"),
            resident_bytes: resident << 10,
        }
    }
}

/// Compares the lives of the first half of a soak with those of the last.
pub fn assert_no_growth(first: &[Usage], last: &[Usage]) {
    let most = |usage: &[Usage], of: fn(&Usage) -> u64| usage.iter().map(of).max().unwrap_or(0);
    let least = |usage: &[Usage], of: fn(&Usage) -> u64| usage.iter().map(of).min().unwrap_or(0);
    // What ends late in one life has ended in another, so the least of many is what stays.
    for (what, of) in [
        (
            "descriptors",
            (|u| u.descriptors as u64) as fn(&Usage) -> u64,
        ),
        ("threads", |u| u.threads as u64),
    ] {
        let (before, after) = (most(first, of), least(last, of));
        assert!(after <= before, "{what} grew from {before} to {after}");
    }
    let before = most(first, |u| u.resident_bytes);
    let after = least(last, |u| u.resident_bytes);
    assert!(
        after <= before + RESIDENT_SLACK_BYTES,
        "the process grew from {} to {} MiB",
        before >> 20,
        after >> 20
    );
}
