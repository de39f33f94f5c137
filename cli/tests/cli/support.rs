//! Text to count, an independent count of it, and the command.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// A small deterministic source of chance (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    /// The next number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// Files of text in `dir`: `lines` lines in three files, one of them in a subdirectory. Common and rare words, accents,
/// digits, punctuation, empty lines.
pub fn write_text(dir: &Path, lines: u64) {
    let common = [
        "the", "State", "is", "BACK", "in", "seconds", "Größe", "naïve", "42", "x",
    ];
    let mut chance = Chance(lines);
    for (file, share) in [("a.txt", 2), ("b/deep.txt", 1), ("c.txt", 3)] {
        let mut text = String::new();
        for _ in 0..lines * share / 6 {
            for _ in 0..chance.below(12) {
                if chance.below(3) == 0 {
                    text.push_str(&format!("w{} ", chance.below(5_000)));
                } else {
                    text.push_str(common[chance.below(common.len() as u64) as usize]);
                    text.push_str([" ", ", ", "-", "; ", "\t"][chance.below(5) as usize]);
                }
            }
            text.push('\n');
        }
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// What the command must print for the files under `dir`: counted here in the plainest way.
pub fn expected(dir: &Path) -> String {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for file in ["a.txt", "b/deep.txt", "c.txt"] {
        let text = std::fs::read_to_string(dir.join(file)).unwrap();
        for word in text
            .split(|c: char| !c.is_alphanumeric())
            .filter(|w| !w.is_empty())
        {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    counts
        .iter()
        .map(|(word, count)| format!("{word}\t{count}\n"))
        .collect()
}

/// The command, its log silent.
pub fn lazurite() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lazurite"));
    command.env("LAZURITE_LOG", "error");
    command
}

/// The JSON document of a command that must succeed.
pub fn json(command: &mut Command) -> serde_json::Value {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The places of one word count.
pub struct Job {
    pub dir: PathBuf,
    pub store: PathBuf,
    pub text: PathBuf,
    pub output: PathBuf,
}

impl Job {
    pub fn new(root: &Path, text: &Path) -> Self {
        Job {
            dir: root.join("local"),
            store: root.join("store"),
            text: text.to_owned(),
            output: root.join("counts.tsv"),
        }
    }

    pub fn remote(&self) -> String {
        format!("file://{}", self.store.display())
    }

    /// `lazurite run wordcount` over these places.
    pub fn command(&self, snapshot_every: u64, load: &str) -> Command {
        self.command_over(&self.remote(), snapshot_every, load)
    }

    /// The same over another store.
    pub fn command_over(&self, remote: &str, snapshot_every: u64, load: &str) -> Command {
        let mut command = lazurite();
        command.args(["--format", "json", "run", "wordcount", "--load", load]);
        command.args(["--snapshot-every", &snapshot_every.to_string()]);
        command.args(["--remote", remote]);
        command.arg("--dir").arg(&self.dir);
        command.arg("--output").arg(&self.output);
        command.arg(&self.text);
        command
    }
}
