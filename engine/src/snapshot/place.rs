//! [`Place`]: where one snapshot lies; [`Bounds`]: where what it names may lie; [`SnapshotPath`]: how users name it.
//!
//! A job's snapshots share objects, which lie beside them. A savepoint lies in a directory of its own with all that it needs, and its
//! `_metadata` names its objects by their names in that directory alone: so it can be copied or moved to any other place as it is.

use std::{fmt, str::FromStr};

use lazurite_env::{Error as EnvError, ErrorKind, remote::Key};

use super::layout::{JobLayout, METADATA, snapshot_id};
use crate::{Error, Result};

/// The object by which a job says that a snapshot, and all that lies beside it, is its own from now on.
pub(crate) const CLAIMED: &str = "_claimed";

/// Where one snapshot lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// `<job>/chk-<n>`.
    Snapshot(JobLayout, u64),
    /// A directory of the user's.
    Savepoint(Key),
}

impl Place {
    /// The place whose [`dir`](Self::dir) is `path`.
    pub(crate) fn parse(path: &str) -> Result<Self> {
        if let Some((job, last)) = path.rsplit_once('/')
            && let (Some(id), Ok(layout)) = (snapshot_id(last), JobLayout::new(job))
        {
            return Ok(Place::Snapshot(layout, id));
        }
        Ok(Place::Savepoint(savepoint_dir(path)?))
    }

    /// The directory that `_metadata` lies in.
    pub(crate) fn dir(&self) -> Key {
        match self {
            Place::Snapshot(layout, id) => layout.snapshot(*id),
            Place::Savepoint(dir) => dir.clone(),
        }
    }

    pub(crate) fn metadata(&self) -> Key {
        match self {
            Place::Snapshot(layout, id) => layout.metadata(*id),
            Place::Savepoint(dir) => below(dir, METADATA),
        }
    }

    /// What a claim of it makes the claimer's own: the directory of the whole job, or the savepoint's.
    pub(crate) fn root(&self) -> Key {
        match self {
            Place::Snapshot(layout, _) => layout.job().clone(),
            Place::Savepoint(dir) => dir.clone(),
        }
    }

    /// The object that tells whose it is.
    pub(crate) fn claimed(&self) -> Key {
        below(&self.root(), CLAIMED)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.dir(), f)
    }
}

fn below(dir: &Key, name: &str) -> Key {
    dir.join(name).expect(
        "a key stays one with a fixed name after it: they are far shorter than a key may be",
    )
}

/// A directory for a savepoint.
///
/// # Errors
/// Where it is no sound key, or stands where a job keeps its own: its retention and `gc` would take it for theirs.
pub(crate) fn savepoint_dir(dir: &str) -> Result<Key> {
    let key = Key::new(dir.trim_end_matches('/'))?;
    let reserved = |part: &str| part == "shared" || part.starts_with("chk-");
    if key.as_str().len() > 768 || key.as_str().split('/').any(reserved) {
        return Err(Error::InvalidOption {
            option: "savepoint",
            reason: format!(
                "{key} is no directory for a savepoint: use at most 768 bytes, and none of its parts may be `shared` or begin \
                 with `chk-`, where jobs keep their own objects"
            ),
        });
    }
    Ok(key)
}

/// Where what somebody names must lie: in the places that a job keeps objects in, its own and those that it has claimed.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    job: Option<Key>,
    /// Of other jobs, and of savepoints, which have their objects in the directory itself.
    dirs: Vec<Key>,
}

impl Bounds {
    /// Those of a job, and what it has claimed. A savepoint that somebody keeps in the job's directory is none of it.
    pub(crate) fn new(job: &Key, claimed: &[Key]) -> Self {
        Bounds {
            job: Some(job.clone()),
            dirs: claimed.to_vec(),
        }
    }

    /// A directory that was claimed, or is a savepoint's.
    pub(crate) fn of(dir: &Key) -> Self {
        Bounds {
            job: None,
            dirs: vec![dir.clone()],
        }
    }

    pub(crate) fn hold(&self, key: &Key) -> bool {
        let below = |root: &Key| {
            let rest = key.as_str().strip_prefix(root.as_str());
            rest.and_then(|rest| rest.strip_prefix('/'))
        };
        let is_jobs = |rest: &str| rest.starts_with("shared/") || rest.starts_with("chk-");
        let own = self.job.iter().filter_map(below).any(is_jobs);
        let mut others = self.dirs.iter().filter_map(below);
        own || others.any(|rest| is_jobs(rest) || !rest.contains('/'))
    }

    /// A key from metadata, refused where it is outside.
    pub(crate) fn check(&self, key: &str) -> Result<Key> {
        let key = Key::new(key)?;
        if self.hold(&key) {
            return Ok(key);
        }
        let roots = self.job.iter().chain(&self.dirs);
        let roots: Vec<&str> = roots.map(Key::as_str).collect();
        Err(EnvError::new(
            ErrorKind::InvalidInput,
            "check key",
            key.as_str(),
            format!(
                "it is named by what may name objects below {} alone",
                roots.join(", ")
            ),
        )
        .into())
    }
}

/// A snapshot of a job, or a savepoint, in the job's own store: what a job may [begin with](crate::StateBackendBuilder::initial_state).
///
/// As text: `words/chk-7` is snapshot 7 of the job `words`, `words` its newest complete one, and `savepoints/monday` or `monday/` a savepoint,
/// by its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPath(pub(crate) Path);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Path {
    Latest(JobLayout),
    Exactly(Place),
}

impl SnapshotPath {
    /// The newest complete snapshot of `job`, by the time at which it is looked for.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where it is not the name of a job.
    pub fn latest(job: &str) -> Result<Self> {
        Ok(SnapshotPath(Path::Latest(JobLayout::new(job)?)))
    }

    /// Snapshot `id` of `job`.
    ///
    /// # Errors
    /// As [`latest`](Self::latest).
    pub fn snapshot(job: &str, id: u64) -> Result<Self> {
        let place = Place::Snapshot(JobLayout::new(job)?, id);
        Ok(SnapshotPath(Path::Exactly(place)))
    }

    pub(crate) fn at(place: Place) -> Self {
        SnapshotPath(Path::Exactly(place))
    }

    /// True where what lies at `place` is or was what this names.
    pub(crate) fn may_be(&self, place: &Place) -> bool {
        match (&self.0, place) {
            (Path::Exactly(own), place) => own == place,
            (Path::Latest(own), Place::Snapshot(layout, _)) => own == layout,
            (Path::Latest(_), Place::Savepoint(_)) => false,
        }
    }

    /// True where it depends on the moment which one it is.
    pub(crate) fn is_latest(&self) -> bool {
        matches!(self.0, Path::Latest(_))
    }

    /// The savepoint in the directory `dir`, from the root of the store.
    ///
    /// # Errors
    /// Where it cannot be one's.
    pub fn savepoint(dir: &str) -> Result<Self> {
        let place = Place::Savepoint(savepoint_dir(dir)?);
        Ok(SnapshotPath(Path::Exactly(place)))
    }
}

impl FromStr for SnapshotPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.contains('/') {
            return Ok(SnapshotPath(Path::Exactly(Place::parse(text)?)));
        }
        SnapshotPath::latest(text)
    }
}

impl fmt::Display for SnapshotPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Path::Latest(layout) => fmt::Display::fmt(layout.job(), f),
            Path::Exactly(Place::Savepoint(dir)) if !dir.as_str().contains('/') => {
                write!(f, "{dir}/")
            }
            Path::Exactly(place) => fmt::Display::fmt(place, f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for text in ["words", "words/chk-7", "savepoints/monday", "monday/"] {
            let path: SnapshotPath = text.parse().unwrap();
            assert_eq!(path.to_string(), text);
        }
        let path = SnapshotPath::snapshot("words", 7).unwrap();
        assert_eq!("words/chk-7".parse::<SnapshotPath>().unwrap(), path);
        let path = SnapshotPath::savepoint("monday").unwrap();
        assert_eq!("monday/".parse::<SnapshotPath>().unwrap(), path);
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for text in [
            "",
            "..",
            "../words",
            "/words",
            "a//b",
            "words/chk-0",
            "words/chk-7/x",
            "words/shared",
            "words/shared/x",
            "a\\b/c",
            "a/./b",
        ] {
            assert!(text.parse::<SnapshotPath>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_what_is_inside_is_named() {
        let key = |text: &str| Key::new(text).unwrap();
        let bounds = Bounds::new(&key("words"), &[key("old"), key("sp/monday")]);
        for inside in ["words/shared/a.sst", "old/chk-1/m", "sp/monday/a.sst"] {
            assert!(bounds.check(inside).is_ok(), "{inside}");
        }
        for outside in [
            "words2/shared/a.sst",
            "words/../other/a.sst",
            "/words/a",
            "words",
            "sp/a.sst",
            "words/a.sst",
            "words/savepoints/monday/a.sst",
            "sp/monday/x/a.sst",
            "older/a",
        ] {
            assert!(bounds.check(outside).is_err(), "{outside}");
        }
    }
}
