//! Whose a snapshot is: [`ClaimMode`], and the object by which a job says so.
//!
//! A job that begins with the snapshot of another either leaves it alone (`NO_CLAIM`), and copies what it needs of it into its own
//! directory with its first snapshot; or takes it over (`CLAIM`), names its objects where they lie, and deletes them when no snapshot
//! needs them.
//!
//! A claim is an object, `_claimed`, in the directory of the job (or of the savepoint), created if absent: of two jobs one gets it. It stays. A job whose
//! directory holds one completes no snapshot any more and deletes nothing, so nobody but the claimer does.
//!
//! Crash story: it is created when all that the restore needs was read and checked, and before anything local changes. A job that
//! dies after it finds its own claim when it starts again.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use lazurite_env::{
    ErrorKind, IoRuntime,
    remote::{Key, RemoteStore},
};
use lazurite_tiering::framed;
use serde::{Deserialize, Serialize};

use super::{
    place::Place,
    run::unix_ms,
    store::{Found, as_damage},
};
use crate::{Error, Result};

const FORMAT: &str = "lazurite-claim";
const VERSION: u32 = 1;

/// No claim is longer.
const MAX_BYTES: u64 = 4096;

/// What becomes of the snapshot that a job begins with: Flink's `execution.state-recovery.claim-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClaimMode {
    /// It is left alone: nothing of it is ever deleted, and from the job's first complete snapshot on nothing depends on it. Until then it must
    /// stay. What the first snapshot needs of it is copied inside the store, which costs hardly a byte over the link where the store can do that.
    /// Flink's default, and ours.
    #[default]
    NoClaim,
    /// The job takes it over. It counts as the oldest of the job's own, and goes, with what nothing else needs, when newer ones
    /// subsume it. The first snapshot uploads what has changed and copies nothing. The job that wrote it can go on no more; its other snapshots
    /// are whole and stay.
    Claim,
}

/// What a job has claimed, by the snapshot that it goes on from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    /// The directories that are its own.
    pub(crate) dirs: Vec<Key>,
    /// The snapshot that it began with, for as long as that counts among the retained.
    pub(crate) origin: Option<Place>,
}

impl Claims {
    /// Of a job that goes on from `found`; `begins` where that is not its own, and says how.
    pub(crate) fn of(found: Option<&Found>, begins: Option<ClaimMode>) -> Result<Self> {
        let Some(Found {
            metadata, place, ..
        }) = found
        else {
            return Ok(Claims::default());
        };
        if begins == Some(ClaimMode::NoClaim) {
            return Ok(Claims::default());
        }
        // What the claimed job had claimed comes with it.
        let dirs = metadata
            .claimed
            .iter()
            .map(|dir| Ok(Key::new(dir.as_str())?));
        let mut dirs = dirs.collect::<Result<Vec<_>>>()?;
        let origin = match begins {
            Some(_) => {
                dirs.push(place.root());
                Some(place.clone())
            }
            None => metadata.origin.as_deref().map(Place::parse).transpose()?,
        };
        Ok(Claims { dirs, origin })
    }
}

impl Claims {
    /// Leaves out what is not the job's by the claims that lie there: one that was taken back, or that another has now. It is left alone then, and copied. A job
    /// may have claimed one that had claimed others. Blocks for two requests a directory.
    pub(crate) fn keep_own(
        &mut self,
        store: &Arc<dyn RemoteStore>,
        runtime: &IoRuntime,
        job: &str,
    ) -> Result<()> {
        let mut claimers = Vec::with_capacity(self.dirs.len());
        for dir in &self.dirs {
            let place = Place::Savepoint(dir.clone()); // a claim of a job lies in the same place
            claimers.push(claimer(store, runtime, &place)?);
        }
        let of: Vec<(Key, Option<String>)> = self.dirs.drain(..).zip(claimers).collect();
        let mut owners = HashSet::from([job.to_owned()]);
        loop {
            let is_own = |by: &Option<String>| by.as_ref().is_some_and(|by| owners.contains(by));
            let own: Vec<Key> = of
                .iter()
                .filter(|(_, by)| is_own(by))
                .map(|(dir, _)| dir.clone())
                .collect();
            if own.len() == self.dirs.len() {
                break;
            }
            owners.extend(own.iter().map(Key::to_string));
            self.dirs = own;
        }
        let is_own = |place: &Place| self.dirs.contains(&place.root());
        self.origin = self.origin.take().filter(is_own);
        Ok(())
    }
}

/// The content of a claim.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    /// Who has it.
    job: String,
    /// What it began with.
    snapshot: String,
    created_unix_ms: u64,
}

/// Claims what lies at `place` for `job`, which may have it already: `false` then. Blocks for a request, or two.
///
/// # Errors
/// [`Error::Claimed`] where another job has it.
pub(crate) fn claim(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    place: &Place,
    job: &str,
) -> Result<bool> {
    let claim = Claim {
        job: job.to_owned(),
        snapshot: place.to_string(),
        created_unix_ms: unix_ms(),
    };
    let key = place.claimed();
    let body = serde_json::to_vec(&claim).map_err(|e| Error::InvalidOption {
        option: "initial_state",
        reason: e.to_string(),
    })?;
    let bytes = Bytes::from(framed::encode(FORMAT, VERSION, &body));
    let put = {
        let store = store.clone();
        runtime.wait(async move { store.put_if_absent(&key, bytes).await })
    };
    match put {
        Ok(()) => Ok(true),
        // It may be this job's own, from before a crash, or from a request whose answer was lost.
        Err(error) if error.is_temporary() || error.kind() == ErrorKind::AlreadyExists => {
            match claimer(store, runtime, place)? {
                Some(by) if by == job => Ok(false),
                Some(by) => Err(Error::Claimed {
                    path: place.root().to_string(),
                    by,
                }),
                None => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// The job that has claimed what lies at `place`; `None`: nobody has.
pub(crate) fn claimer(
    store: &Arc<dyn RemoteStore>,
    runtime: &IoRuntime,
    place: &Place,
) -> Result<Option<String>> {
    let key = place.claimed();
    let read = {
        let (store, key) = (store.clone(), key.clone());
        async move {
            match store.len(&key).await {
                Ok(len) => Ok(Some(store.get_range(&key, 0..len.min(MAX_BYTES)).await?)),
                Err(e) if e.is_not_found() => Ok(None),
                Err(e) => Err(e),
            }
        }
    };
    let Some(bytes) = runtime.wait(read)? else {
        return Ok(None);
    };
    let (_, body) = framed::decode(FORMAT, VERSION, key.as_str(), &bytes).map_err(as_damage)?;
    let claim: Claim = serde_json::from_slice(body).map_err(|e| Error::SnapshotCorrupt {
        path: key.to_string(),
        reason: format!("the checksum is right but the content is not: {e}"),
    })?;
    Ok(Some(claim.job))
}

/// The error of whoever finds that the job at `place` is another's now.
pub(crate) fn refusal(store: &Arc<dyn RemoteStore>, runtime: &IoRuntime, place: &Place) -> Error {
    match claimer(store, runtime, place) {
        Ok(by) => Error::Claimed {
            path: place.root().to_string(),
            by: by.unwrap_or_else(|| "another job".into()),
        },
        Err(error) => error,
    }
}
