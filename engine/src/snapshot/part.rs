//! [`SubtaskHandle`]: what a subtask gives to a snapshot of its job, which a coordinator completes.

use std::collections::HashSet;

use lazurite_env::remote::Key;
use serde::{Deserialize, Serialize};

use super::{metadata::SubtaskState, pending::SnapshotReport, place::Bounds};
use crate::{Error, Result};

/// A subtask's part of a snapshot: all that it names is durable in the store. Serializable: send it to the
/// [`Coordinator`](crate::Coordinator), which completes the snapshot when it has one of every subtask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubtaskHandle {
    /// The snapshot that it is a part of.
    pub snapshot_id: u64,
    /// The state.
    pub state: SubtaskState,
    /// What it cost.
    pub report: SnapshotReport,
    /// Objects that are not of the state, and that the subtask may read or refer to yet: they must stay until its next part.
    pub in_use: Vec<String>,
    /// Objects that the subtask brought into earlier parts and will not refer to again: to be deleted once no snapshot needs them.
    pub dropped: Vec<String>,
}

impl SubtaskHandle {
    /// Refuses what cannot be a part of a snapshot of this job, whose keys are within `bounds`: it comes from another process.
    /// A savepoint's lie in its directory.
    pub(crate) fn check(&self, bounds: &Bounds, savepoint: Option<&Key>) -> Result<()> {
        let refuse = |reason: String| Error::InvalidOption {
            option: "subtask handle",
            reason,
        };
        let own = match savepoint {
            Some(dir) => &Bounds::of(dir),
            None => bounds,
        };
        self.state.check(own).map_err(refuse)?;
        for key in self.in_use.iter().chain(&self.dropped) {
            bounds.check(key)?;
        }
        match self
            .in_use
            .iter()
            .chain(&self.dropped)
            .find(|key| !is_shared(key))
        {
            None => Ok(()),
            Some(key) => Err(refuse(format!("{key} is nothing that subtasks share"))),
        }
    }

    /// The keys that must stay for as long as this is the subtask's last part.
    pub(crate) fn needed(&self) -> Result<HashSet<Key>> {
        let mut keys: HashSet<Key> = self.state.keys()?.into_iter().collect();
        for key in &self.in_use {
            keys.insert(Key::new(key.as_str())?);
        }
        Ok(keys)
    }

    /// The keys that the subtask is done with.
    pub(crate) fn dropped(&self) -> Result<Vec<Key>> {
        let dropped = self.dropped.iter();
        dropped.map(|key| Ok(Key::new(key.as_str())?)).collect()
    }
}

/// True of a table file's key, or that of tails.
fn is_shared(key: &str) -> bool {
    key.ends_with(".sst") || key.ends_with(".tails")
}
