//! [`Directory`]: where a run keeps its local files, one directory below it for each subtask.
//!
//! ```text
//! <dir>/LOCK         held while a run goes on, so that a second one is refused before it takes over the job
//! <dir>/subtask-<i>  of the subtask numbered i, from 0: a directory of the engine
//! ```
//!
//! All of it can be had again from the store. So a directory that the run has no subtask for is removed: one that bears a
//! subtask's number and the engine's mark, and no link to one. The mark tells the job: where one is another job's, nothing is moved or
//! removed, and the run is refused before it takes over anything. Crash story: the mark goes when all else but a lock is gone, so the next
//! run goes on with a removal that was interrupted.

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

use lazurite::job_of_directory;
use lazurite_env::{Env, ErrorKind, FileLock, PosixEnv};

use crate::error::{Error, Result};

const LOCK: &str = "LOCK";
/// By this file the engine knows its directories.
const MARK: &str = "LAZURITE";
const SUBTASK: &str = "subtask-";
/// What becomes the first subtask's directory.
const ADOPTED: &str = "subtask-0.part";

/// The local directory of a run, locked.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    job: String,
    _lock: Box<dyn FileLock>,
}

impl Directory {
    /// Makes `path` where it is missing, and locks it for `job`. Refuses one that holds anything else, another job's state too.
    pub fn open(path: &Path, job: &str) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::file("create", path))?;
        refuse_foreign(path, job)?;
        let lock = PosixEnv
            .lock(&path.join(LOCK))
            .map_err(|error| match error.kind() {
                ErrorKind::Locked => Error::Wrong(format!(
                    "another run has {} open; let it end first, or give another --dir",
                    path.display()
                )),
                _ => error.into(),
            })?;
        // It may have become somebody else's before it was locked.
        refuse_foreign(path, job)?;
        adopt(path).map_err(Error::file("move the state in", path))?;
        Ok(Directory {
            path: path.to_owned(),
            job: job.to_owned(),
            _lock: lock,
        })
    }

    /// The directory of the subtask numbered `index`.
    pub fn subtask(&self, index: u16) -> PathBuf {
        self.path.join(format!("{SUBTASK}{index}"))
    }

    /// Removes the directories of the subtasks from `parallelism` on, as far as they are this job's. To be called once the others are
    /// open. What cannot be removed is left to the next run, with a warning.
    pub fn remove_unused(&self, parallelism: u16) {
        let names = match names(&self.path) {
            Ok(names) => names,
            Err(error) => return warn(&self.path, &error),
        };
        for index in names.iter().filter_map(|name| subtask_index(name)) {
            let unused = self.subtask(index);
            let lock = unused.join(LOCK).symlink_metadata();
            if index >= parallelism
                && is_marked(&unused)
                && job_of_directory(&unused).is_ok_and(|of| of.as_ref() == Some(&self.job))
                && lock.is_ok_and(|lock| lock.is_file())
                && let Err(error) = remove(&unused)
            {
                warn(&unused, &error);
            }
        }
    }
}

/// Refuses, untouched, a directory that is somebody else's.
fn refuse_foreign(path: &Path, job: &str) -> Result<()> {
    let names = names(path).map_err(Error::file("list", path))?;
    let is_name = |name: &OsStr| name == ADOPTED || subtask_index(name).is_some();
    let below = names.iter().filter(|name| is_name(name));
    let marked: Vec<PathBuf> = below
        .map(|name| path.join(name))
        .chain([path.to_owned()])
        .filter(|dir| is_marked(dir))
        .collect();
    for dir in &marked {
        let of = job_of_directory(dir)?;
        if let Some(of) = of.filter(|of| of != job) {
            return Err(Error::Wrong(format!(
                "{} holds state of job {of:?}, not of {job:?}; give --dir a directory of its own to each job",
                dir.display()
            )));
        }
    }
    if !marked.is_empty() || names.iter().all(|name| name == LOCK || is_name(name)) {
        return Ok(());
    }
    Err(Error::Wrong(format!(
        "{} holds files but is not the directory of a run; give --dir an empty or a new directory",
        path.display()
    )))
}

/// Makes what one backend had as a directory of its own that of the first subtask. Its mark moves last, and the directory has its
/// name when all is there: where this is interrupted, the next run goes on with it.
fn adopt(path: &Path) -> io::Result<()> {
    let adopted = path.join(ADOPTED);
    if is_marked(path) {
        fs::create_dir_all(&adopted)?;
        for name in names(path)? {
            if name != LOCK && name != MARK && name != ADOPTED {
                fs::rename(path.join(&name), adopted.join(&name))?;
            }
        }
        fs::rename(path.join(MARK), adopted.join(MARK))?;
    }
    if is_marked(&adopted) {
        fs::rename(&adopted, path.join(format!("{SUBTASK}0")))?;
    }
    Ok(())
}

/// The subtask whose directory has this name.
fn subtask_index(name: &OsStr) -> Option<u16> {
    let digits = name.to_str()?.strip_prefix(SUBTASK)?;
    let index: u16 = digits.parse().ok()?;
    // There is one name for each: not +7, nor 07.
    (index.to_string() == digits).then_some(index)
}

/// True of a directory of the engine; false of a link to one.
fn is_marked(dir: &Path) -> bool {
    let mark = dir.join(MARK).symlink_metadata();
    dir.symlink_metadata().is_ok_and(|dir| dir.is_dir()) && mark.is_ok_and(|mark| mark.is_file())
}

/// Removes a directory that bears the mark, unless somebody has it open.
fn remove(dir: &Path) -> io::Result<()> {
    let _lock = PosixEnv
        .lock(&dir.join(LOCK))
        .map_err(|error| io::Error::other(error.to_string()))?;
    for name in names(dir)? {
        if name == MARK || name == LOCK {
            continue;
        }
        let path = dir.join(name);
        match path.symlink_metadata()?.is_dir() {
            true => fs::remove_dir_all(&path)?,
            false => fs::remove_file(&path)?,
        }
    }
    fs::remove_file(dir.join(MARK))?;
    fs::remove_dir_all(dir)
}

fn names(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    dir.read_dir()?
        .map(|entry| Ok(entry?.file_name()))
        .collect()
}

fn warn(path: &Path, error: &io::Error) {
    let path = path.display();
    tracing::warn!(%path, %error, "a directory that no subtask uses was not removed; the next run tries again");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(path: impl AsRef<Path>) {
        let path = path.as_ref();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    const JOB: &str = "words";

    /// A directory of the engine.
    fn marked(dir: &Path) {
        marked_of(dir, JOB);
    }

    fn marked_of(dir: &Path, job: &str) {
        for file in [LOCK, "db/000007.sst"] {
            write(dir.join(file));
        }
        let identity = json!({"job": job, "token": "t", "newest_seen": 0, "key_groups": null});
        let body = identity.to_string().into_bytes();
        let mark = lazurite_tiering::framed::encode("lazurite-directory", 1, &body);
        fs::write(dir.join(MARK), mark).unwrap();
    }

    fn sorted(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = names(dir)
            .unwrap()
            .into_iter()
            .map(|name| name.into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_no_subtask_uses_is_removed_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, elsewhere) = (temp.path().join("dir"), temp.path().join("elsewhere"));
        let kept = [
            "subtask-0",
            "subtask-1",
            "subtask-07",
            "subtask-+9",
            "subtask-65536",
            "subtask-",
            "subtask-3.old",
            "3",
        ];
        for name in kept.iter().chain(&["subtask-2", "subtask-65535"]) {
            marked(&dir.join(name));
        }
        marked(&elsewhere);
        std::os::unix::fs::symlink(&elsewhere, dir.join("subtask-4")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, dir.join("subtask-2/link")).unwrap();
        write(dir.join("subtask-5"));
        write(dir.join("subtask-6/db/000001.sst"));
        Directory::open(&dir, JOB).unwrap().remove_unused(2);
        let mut expected: Vec<&str> = kept.to_vec();
        expected.extend([LOCK, "subtask-4", "subtask-5", "subtask-6"]);
        expected.sort_unstable();
        assert_eq!(sorted(&dir), expected);
        assert_eq!(sorted(&elsewhere), [MARK, LOCK, "db"]);
    }

    #[test]
    fn what_somebody_has_open_stays() {
        let temp = tempfile::tempdir().unwrap();
        let unused = temp.path().join("subtask-1");
        marked(&unused);
        let lock = PosixEnv.lock(&unused.join(LOCK)).unwrap();
        let directory = Directory::open(temp.path(), JOB).unwrap();
        directory.remove_unused(1);
        assert!(unused.join("db/000007.sst").exists());
        drop(lock);
        directory.remove_unused(1);
        assert!(!unused.exists());
    }

    #[test]
    fn a_directory_has_one_run_and_must_not_be_anybody_elses() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("new/dir");
        let first = Directory::open(&dir, JOB).unwrap();
        let error = Directory::open(&dir, JOB).unwrap_err();
        assert!(error.to_string().contains("another run"), "{error}");
        drop(first);
        Directory::open(&dir, JOB).unwrap();
        let home = temp.path().join("home");
        write(home.join("letter.txt"));
        let error = Directory::open(&home, JOB).unwrap_err();
        assert!(error.to_string().contains("--dir"), "{error}");
        assert_eq!(sorted(&home), ["letter.txt"]);
        // What somebody put beside the state does no harm.
        marked(&dir.join("subtask-0"));
        write(dir.join("letter.txt"));
        Directory::open(&dir, JOB).unwrap();
    }

    #[test]
    fn what_is_another_jobs_is_refused_untouched() {
        let places = ["", ADOPTED, "subtask-0", "subtask-7"];
        for place in places {
            let temp = tempfile::tempdir().unwrap();
            let dir = temp.path();
            marked_of(&dir.join(place), "other");
            if !place.is_empty() {
                marked(&dir.join("subtask-1"));
            }
            let before = (sorted(dir), sorted(&dir.join(place)));
            let error = Directory::open(dir, JOB).unwrap_err().to_string();
            assert!(
                error.contains("\"other\"") && error.contains("--dir"),
                "{error}"
            );
            assert_eq!((sorted(dir), sorted(&dir.join(place))), before);
        }
        // One that came since, and one of which nobody knows whose it is.
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path(), JOB).unwrap();
        marked_of(&directory.subtask(3), "other");
        marked(&directory.subtask(4));
        fs::write(directory.subtask(4).join(MARK), "x").unwrap();
        directory.remove_unused(1);
        assert_eq!(sorted(&directory.subtask(3)).len(), 3);
        assert_eq!(sorted(&directory.subtask(4)).len(), 3);
        drop(directory);
        fs::remove_dir_all(temp.path().join("subtask-3")).unwrap();
        let error = Directory::open(temp.path(), JOB).unwrap_err();
        assert!(error.chain().contains("subtask-4"), "{}", error.chain());
    }

    #[test]
    fn a_backends_own_directory_becomes_the_first_subtasks_at_whatever_step_it_was_interrupted() {
        for step in 0..4 {
            let temp = tempfile::tempdir().unwrap();
            let (dir, adopted) = (temp.path(), temp.path().join(ADOPTED));
            marked(dir);
            if step > 0 {
                fs::create_dir(&adopted).unwrap();
            }
            if step > 1 {
                fs::rename(dir.join("db"), adopted.join("db")).unwrap();
            }
            if step > 2 {
                fs::rename(dir.join(MARK), adopted.join(MARK)).unwrap();
            }
            let directory = Directory::open(dir, JOB).unwrap();
            assert_eq!(sorted(dir), [LOCK, "subtask-0"], "step {step}");
            assert_eq!(sorted(&directory.subtask(0)), [MARK, "db"], "step {step}");
        }
    }
}
