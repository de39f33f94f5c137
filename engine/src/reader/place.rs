//! The target of an export, and the directory beside it in which the work is done.
//!
//! ```text
//! <out>.partial/LAZURITE-EXPORT   says whose directory this is; locked while the export runs
//! <out>.partial/state/            a restore of the snapshot; its db/ becomes <out>
//! <out>.partial/rewritten/        table files of tables that are rewritten, until they move to db/
//! ```
//!
//! Crash story: `<out>` comes into being with one rename, of a database that is complete and durable. What is found in `<out>.partial`
//! after a crash is deleted by the next export to `<out>`; after an error, at once. The marker goes last, so what a crash left of that is
//! known too.
//!
//! Nothing is followed that is a link, at any of these names: what lies behind it is somebody else's.

use std::path::{Path, PathBuf};

use lazurite_env::{Env, EnvExt, Error as EnvError, ErrorKind, FileKind, FileLock, PosixEnv};

use crate::{Error, Result};

const MARKER: &str = "LAZURITE-EXPORT";
const STATE: &str = "state";
const REWRITTEN: &str = "rewritten";

/// See the head of this module. What is not finished goes when this is dropped.
pub(super) struct Place {
    env: PosixEnv,
    out: PathBuf,
    partial: PathBuf,
    _lock: Box<dyn FileLock>,
}

impl Place {
    /// Refuses a target that is not empty, and takes `<out>.partial`, where what a crash left is deleted.
    pub(super) fn claim(out: &Path) -> Result<Place> {
        let env = PosixEnv;
        let refuse = |path: &Path, reason: &str| Error::LocalDirectory {
            path: path.to_owned(),
            reason: reason.into(),
        };
        let absolute = std::path::absolute(out);
        let out = absolute.map_err(|e| EnvError::from_io("find", out, e))?;
        let Some(name) = out.file_name().map(ToOwned::to_owned) else {
            return Err(refuse(&out, "it has no name; give a new directory"));
        };
        let out = out.with_file_name(&name); // without a slash at its end, which would follow a link
        refuse_link(&out)?;
        check_empty(&env, &out)?;
        let mut partial = name;
        partial.push(".partial");
        let partial = out.with_file_name(partial);
        refuse_link(&partial)?;
        env.create_dir_all(&partial)?;
        let left = env.list(&partial)?;
        if !left.is_empty() && !left.iter().any(|entry| entry.name == MARKER) {
            return Err(refuse(
                &partial,
                "the export needs this name, and it is not what an export has left; move it away, or export to another name",
            ));
        }
        for name in [MARKER, STATE, REWRITTEN] {
            refuse_link(&partial.join(name))?;
        }
        let lock = env.lock(&partial.join(MARKER));
        let lock = lock.map_err(|error| match error.kind() {
            ErrorKind::Locked => refuse(
                &partial,
                "another export to the same directory runs; wait for it",
            ),
            _ => error.into(),
        })?;
        let place = Place {
            env,
            out,
            partial,
            _lock: lock,
        };
        for dir in [place.state(), place.rewritten()] {
            place.env.remove_dir_all(&dir)?;
            place.env.create_dir_all(&dir)?;
        }
        Ok(place)
    }

    pub(super) fn state(&self) -> PathBuf {
        self.partial.join(STATE)
    }

    pub(super) fn rewritten(&self) -> PathBuf {
        self.partial.join(REWRITTEN)
    }

    /// Makes the names in [`rewritten`](Self::rewritten) durable.
    pub(super) fn sync_rewritten(&self) -> Result<()> {
        Ok(self.env.sync_dir(&self.rewritten())?)
    }

    /// Gives the database in `db`, which nobody has open, its name.
    pub(super) fn finish(self, db: &Path) -> Result<()> {
        // Options are whose opens it, and a log of this says nothing to him.
        for entry in self.env.list(db)? {
            let name = &entry.name;
            if name.starts_with("OPTIONS-") || name.starts_with("LOG") || name == "LOCK" {
                self.env.delete(&db.join(name))?;
            }
        }
        self.env.sync_dir(db)?;
        self.env.rename(db, &self.out)?;
        if let Some(parent) = self.out.parent() {
            self.env.sync_dir(parent)?;
        }
        Ok(())
    }

    /// Removes the directory. What is not an export's stays, and the marker with it.
    fn clear(&self) -> Result<()> {
        for dir in [self.state(), self.rewritten()] {
            refuse_link(&dir)?;
            self.env.remove_dir_all(&dir)?;
        }
        if self
            .env
            .list(&self.partial)?
            .iter()
            .any(|of| of.name != MARKER)
        {
            return Err(Error::LocalDirectory {
                path: self.partial.clone(),
                reason: "it holds what no export has put there; move that away".into(),
            });
        }
        self.env.delete(&self.partial.join(MARKER))?;
        Ok(self.env.delete_dir(&self.partial)?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "what an export left beside its target could not be removed");
        }
    }
}

/// Refuses a symbolic link, also one to nothing.
fn refuse_link(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(Error::LocalDirectory {
            path: path.to_owned(),
            reason: "it is a symbolic link, and what it leads to is left alone; give the directory itself".into(),
        }),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EnvError::from_io("look at", path, error).into())
        }
        _ => Ok(()),
    }
}

/// Refuses what is there, but for an empty directory that can be replaced.
fn check_empty(env: &PosixEnv, out: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;

    let refuse = |reason: &str| {
        Err(Error::LocalDirectory {
            path: out.to_owned(),
            reason: reason.into(),
        })
    };
    if !env.exists(out)? {
        return Ok(());
    }
    if env.stat(out)?.kind == FileKind::File {
        return refuse("it is a file; give a new or an empty directory");
    }
    if !env.list(out)?.is_empty() {
        return refuse("it is not empty; give a new or an empty directory");
    }
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev());
    let parent = out.parent().unwrap_or(out);
    let same = device(out).and_then(|own| Ok(own == device(parent)?));
    match same {
        Ok(true) => Ok(()),
        Ok(false) => refuse("it is a file system of its own; give a directory below it"),
        Err(error) => Err(EnvError::from_io("look at", out, error).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn refused(out: &Path, at: &Path) {
        match Place::claim(out).map(|_| ()) {
            Err(Error::LocalDirectory { path, reason }) => {
                assert_eq!(path, at);
                assert!(reason.contains("link"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_link_leads_to_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let (out, home) = (temp.path().join("out"), temp.path().join("home"));
        let partial = temp.path().join("out.partial");
        fs::create_dir(&home).unwrap();
        fs::write(home.join("letter"), "mine").unwrap();
        fs::write(home.join(MARKER), "").unwrap();
        symlink(&home, &partial).unwrap();
        refused(&out, &partial);
        fs::remove_file(&partial).unwrap();
        fs::create_dir(&partial).unwrap();
        fs::write(partial.join(MARKER), "").unwrap();
        for name in [STATE, REWRITTEN] {
            symlink(&home, partial.join(name)).unwrap();
            refused(&out, &partial.join(name));
            fs::remove_file(partial.join(name)).unwrap();
        }
        for target in [&home, &temp.path().join("nowhere")] {
            symlink(target, &out).unwrap();
            refused(&out, &out);
            refused(&temp.path().join("out/"), &out);
            fs::remove_file(&out).unwrap();
        }
        assert!(home.join("letter").exists());
        drop(Place::claim(&out).unwrap());
        assert!(!partial.exists());
    }

    #[test]
    fn the_marker_goes_last() {
        let temp = tempfile::tempdir().unwrap();
        let (out, partial) = (temp.path().join("out"), temp.path().join("out.partial"));
        let place = Place::claim(&out).unwrap();
        fs::remove_dir(place.rewritten()).unwrap();
        symlink(temp.path(), place.rewritten()).unwrap();
        drop(place);
        assert!(!partial.join(STATE).exists() && partial.join(MARKER).exists());
        fs::remove_file(partial.join(REWRITTEN)).unwrap();
        // What somebody else put there stays, and does not block the next one.
        let place = Place::claim(&out).unwrap();
        fs::write(partial.join("letter"), "mine").unwrap();
        drop(place);
        assert!(partial.join("letter").exists() && partial.join(MARKER).exists());
        let place = Place::claim(&out).unwrap();
        fs::remove_file(partial.join("letter")).unwrap();
        drop(place);
        assert!(!partial.exists());
    }
}
