//! The local directory of a backend: whose it is, who has it open, and which tables it holds.
//!
//! ```text
//! <dir>/LAZURITE   identity: the job, a random token, the snapshot that the state goes back to, the key
//!                  groups
//! <dir>/LOCK       held while a backend is open
//! <dir>/TABLES     the tables' schemas and column families, written before these are created
//! <dir>/CATALOG, db/, download/, tails/   see lazurite-tiering
//! <dir>/staging/   links that wait to be uploaded; emptied at open
//! ```
//!
//! Each file is replaced atomically and is durable when its writer returns. A directory that holds anything but has no
//! `LAZURITE` file is somebody else's and is refused untouched.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use lazurite_env::{Env, EnvExt, FileLock, PosixEnv};
use lazurite_tiering::framed;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Error, Result,
    key_groups::KeyGroupRange,
    snapshot::layout::token,
    snapshot::{SnapshotPath, place::Place},
    table::Tables,
};

const IDENTITY: &str = "LAZURITE";
const LOCK: &str = "LOCK";
const TABLES: &str = "TABLES";
const VERSION: u32 = 1;
/// Far above what either file can grow to.
const MAX_BYTES: u64 = 64 << 20;

/// A locked local directory.
#[derive(Debug)]
pub(crate) struct Directory {
    env: Arc<dyn Env>,
    path: PathBuf,
    identity: Identity,
    lock: Arc<dyn FileLock>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    job: String,
    /// Random; names this directory as the writer of snapshots.
    token: String,
    /// The job's newest complete snapshot when this directory was last restored or began empty; 0 for none.
    newest_seen: u64,
    /// The snapshot of another job, or the savepoint, that the state in it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    began_with: Option<String>,
    /// What the state in it was written with; `None` before there is any.
    key_groups: Option<(u16, KeyGroupRange)>,
}

/// The job that the local directory `path` is of; `None` where it is not a directory of this engine. Reads one small file and takes no
/// lock; blocks on the disk.
///
/// # Errors
/// [`Error::Env`] where the file that tells it cannot be read, or is damaged.
pub fn job_of_directory(path: &Path) -> Result<Option<String>> {
    let identity = path.join(IDENTITY);
    if !PosixEnv.exists(&identity)? {
        return Ok(None);
    }
    let identity: Identity = read(&PosixEnv, &identity, "lazurite-directory")?;
    Ok(Some(identity.job))
}

impl Directory {
    /// Locks `path` for `job`, creating it where it is missing.
    pub(crate) fn open(env: Arc<dyn Env>, path: &Path, job: &str) -> Result<Self> {
        let refuse = |reason: String| Error::LocalDirectory {
            path: path.to_owned(),
            reason,
        };
        env.create_dir_all(path)?;
        let identity_path = path.join(IDENTITY);
        if !env.exists(&identity_path)?
            && env
                .list(path)?
                .iter()
                .any(|entry| entry.name != LOCK && entry.name != "LAZURITE.tmp")
        {
            return Err(refuse(
                "it holds files but is not a directory of this engine; give an empty or a new directory".into(),
            ));
        }
        let lock = env
            .lock(&path.join(LOCK))
            .map_err(|error| match error.kind() {
                lazurite_env::ErrorKind::Locked => {
                    refuse("another backend has it open; close that one first".into())
                }
                _ => error.into(),
            })?;
        // Asked again under the lock: another process may have made the directory its own meanwhile.
        let identity = if env.exists(&identity_path)? {
            let identity: Identity = read(&*env, &identity_path, "lazurite-directory")?;
            if identity.job != job {
                return Err(refuse(format!(
                    "it belongs to job {:?}, not to {job:?}; give each job its own directory",
                    identity.job
                )));
            }
            identity
        } else {
            let identity = Identity {
                job: job.to_owned(),
                token: token(),
                newest_seen: 0,
                began_with: None,
                key_groups: None,
            };
            write(&*env, &identity_path, "lazurite-directory", &identity)?;
            identity
        };
        let directory = Directory {
            env,
            path: path.to_owned(),
            identity,
            lock: Arc::from(lock),
        };
        directory.clear_staging()?;
        Ok(directory)
    }

    /// The lock on the directory, to be held by everything that keeps files in it open.
    pub(crate) fn lock(&self) -> Arc<dyn FileLock> {
        self.lock.clone()
    }

    /// The random token by which this directory signs its snapshots.
    pub(crate) fn token(&self) -> &str {
        &self.identity.token
    }

    /// The job's newest complete snapshot when this directory was last restored or began empty; 0 for none.
    pub(crate) fn newest_seen(&self) -> u64 {
        self.identity.newest_seen
    }

    /// Where links wait to be uploaded.
    pub(crate) fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    /// Refuses to go on with state that was written with other key groups: each key would be looked for elsewhere.
    pub(crate) fn check_key_groups(&self, number: u16, range: KeyGroupRange) -> Result<()> {
        match self.identity.key_groups {
            Some((stored, stored_range)) if (stored, stored_range) != (number, range) => {
                Err(Error::LocalDirectory {
                    path: self.path.clone(),
                    reason: format!(
                        "it was written with key groups {stored_range} of {stored}, not with {range} of {number}; ask for \
                         those, or give another directory"
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// The snapshot that the state in it began with, if that is one of `path`.
    ///
    /// # Errors
    /// Where it did not: what it holds would be taken for what was asked for.
    pub(crate) fn began_with(&self, path: &SnapshotPath) -> Result<SnapshotPath> {
        let began = self.identity.began_with.as_deref();
        let began = began.map(Place::parse).transpose()?;
        match began {
            Some(place) if path.may_be(&place) => Ok(SnapshotPath::at(place)),
            _ => Err(Error::LocalDirectory {
                path: self.path.clone(),
                reason: format!(
                    "it holds a state that did not begin with {path}; delete it to begin with that, or ask for no initial state"
                ),
            }),
        }
    }

    /// Notes the newest complete snapshot that the job has, the one of another that it begins with, and with which key groups (their number, and which of them) and
    /// which tables the directory is about to be restored.
    pub(crate) fn set_restored(
        &mut self,
        newest_seen: u64,
        began_with: Option<String>,
        key_groups: (u16, KeyGroupRange),
        tables: &Tables,
    ) -> Result<()> {
        self.identity.newest_seen = newest_seen;
        self.identity.began_with = began_with;
        self.identity.key_groups = Some(key_groups);
        write(
            &*self.env,
            &self.path.join(IDENTITY),
            "lazurite-directory",
            &self.identity,
        )?;
        self.write_tables(tables)
    }

    /// The tables that the directory holds, or may hold after a crash while one was created.
    pub(crate) fn tables(&self) -> Result<Tables> {
        let path = self.path.join(TABLES);
        if !self.env.exists(&path)? {
            return Ok(Tables::default());
        }
        read(&*self.env, &path, "lazurite-tables")
    }

    /// Replaces the list of tables.
    pub(crate) fn write_tables(&self, tables: &Tables) -> Result<()> {
        write(
            &*self.env,
            &self.path.join(TABLES),
            "lazurite-tables",
            tables,
        )
    }

    fn clear_staging(&self) -> Result<()> {
        let staging = self.staging();
        if self.env.exists(&staging)? {
            self.env.remove_dir_all(&staging)?;
        }
        Ok(())
    }
}

fn write<T: Serialize + ?Sized>(env: &dyn Env, path: &Path, format: &str, value: &T) -> Result<()> {
    let mut body = serde_json::to_vec_pretty(value).map_err(|e| damaged(path, e))?;
    body.push(b'\n');
    Ok(env.write_atomic(path, &framed::encode(format, VERSION, &body))?)
}

fn read<T: DeserializeOwned>(env: &dyn Env, path: &Path, format: &str) -> Result<T> {
    let bytes = env.read_to_vec(path, MAX_BYTES)?;
    let (_, body) = framed::decode(format, VERSION, &path.display().to_string(), &bytes)?;
    serde_json::from_slice(body).map_err(|e| damaged(path, e))
}

fn damaged(path: &Path, error: serde_json::Error) -> Error {
    Error::LocalDirectory {
        path: path.to_owned(),
        reason: format!(
            "the file is damaged ({error}); delete the directory and restore from the store"
        ),
    }
}
