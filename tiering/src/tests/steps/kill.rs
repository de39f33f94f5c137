//! The same steps on a real disk, where a real process dies by SIGKILL.
//!
//! The process holds still at its moment, with nothing else going on on the disk, and tells what it had done; then it is
//! killed. What is left is judged as that of the power cuts.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, AtomicUsize},
};

use lazurite_env::PosixEnv;
use tempfile::TempDir;

use super::*;

const CHILD: &str = "LAZURITE_STEPS_CHILD";
const SIGKILL: i32 = 9;

/// In memory where the machine has such a directory: a kill loses nothing that was not synced.
fn fast_tempdir() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.unwrap()
}

/// The process that is killed. Does nothing as a test of its own.
#[test]
fn child_that_dies_at_a_step() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let mut words = task.splitn(3, ' ');
    let mut word = || words.next().unwrap();
    let case = &CASES[word().parse::<usize>().unwrap()];
    let last: u64 = word().parse().unwrap();
    let tell = move |recorder: &Recorder, what: String| {
        if recorder.moments == last {
            let Progress {
                begun,
                durable,
                is_local,
            } = &*recorder.progress;
            let asked = recorder.asked.iter();
            let asked = asked.map(|(key, range)| format!("{key}:{}:{}", range.start, range.end));
            println!(
                "dies {} {} {} [{}] [{}] {what}",
                begun.load(SeqCst),
                durable.load(SeqCst),
                is_local.load(SeqCst),
                recorder
                    .synced
                    .iter()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(","),
                asked.collect::<Vec<_>>().join(",")
            );
            loop {
                std::thread::park();
            }
        }
    };
    perform(case, Arc::new(PosixEnv), Path::new(word()), tell);
    println!("ended");
}

/// Has a process die at the moment `last` of a case; what it left below `dir`. `None`: it has no such moment.
fn die(number: usize, last: u64, dir: &Path) -> Option<Wreck> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::steps::kill::child_that_dies_at_a_step"])
        .arg("--nocapture")
        .env(CHILD, format!("{number} {last} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| {
        let line = line.unwrap();
        let told = line
            .split_once("dies ")
            .map(|(_, told)| Some(told.to_owned()));
        told.or(line.ends_with("ended").then_some(None))
    });
    child.kill().unwrap();
    let status = child.wait().unwrap();
    let told = line.expect("it says how it ends")?;
    assert_eq!(status.signal(), Some(SIGKILL), "{told}");
    let mut words = told.splitn(6, ' ');
    let mut word = || words.next().unwrap();
    let (begun, durable) = (word().parse().unwrap(), word().parse().unwrap());
    let is_local = word().parse().unwrap();
    let list = |word: &str| -> Vec<String> {
        let words = word[1..word.len() - 1].split(',');
        let words = words.filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let synced = list(word()).into_iter().collect();
    let asked = list(word()).into_iter().map(|asked| {
        let mut parts = asked.split(':');
        let mut part = || parts.next().unwrap();
        let key = Key::new(part().to_owned()).unwrap();
        (key, part().parse().unwrap()..part().parse().unwrap())
    });
    Some(Wreck {
        asked: asked.collect(),
        what: format!("{}: SIGKILL", word()),
        disk: Arc::new(disk_below(&(Arc::new(PosixEnv) as _), dir, &Arc::default())),
        was_killed: true,
        is_read_first: last.is_multiple_of(2),
        begun,
        durable,
        is_local,
        synced,
    })
}

#[test]
fn kill_9_at_every_step() {
    let (next, killed) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || {
        let world = objects();
        loop {
            let number = next.fetch_add(1, SeqCst);
            let Some(case) = CASES.get(number) else {
                return;
            };
            let mut moments = 0;
            loop {
                let temp = fast_tempdir();
                let Some(wreck) = die(number, moments + 1, temp.path()) else {
                    break;
                };
                inspect(case, &world, &wreck);
                moments += 1;
            }
            // The change itself, and the end.
            assert!(moments > case.at_least, "{}: {moments} moments", case.name);
            killed.fetch_add(moments, SeqCst);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    println!("{} processes killed", killed.into_inner());
}
