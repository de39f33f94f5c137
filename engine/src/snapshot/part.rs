//! [`SubtaskHandle`]: what a subtask gives to a snapshot of its job, which a coordinator completes.

use std::collections::HashSet;

use lazurite_env::remote::Key;
use serde::{Deserialize, Serialize};

use super::{layout::JobLayout, metadata::SubtaskState, pending::SnapshotReport};
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
    /// Refuses what cannot be a part of a snapshot of this job: it comes from another process.
    pub(crate) fn check(&self, layout: &JobLayout) -> Result<()> {
        self.state
            .check(layout)
            .map_err(|reason| Error::InvalidOption {
                option: "subtask handle",
                reason,
            })?;
        self.needed(layout)?;
        let (shared, dropped) = (layout.shared(), self.dropped(layout)?);
        let own = dropped
            .iter()
            .find(|key| !key.as_str().starts_with(&format!("{shared}/")));
        match own {
            None => Ok(()),
            Some(key) => Err(Error::InvalidOption {
                option: "subtask handle",
                reason: format!("{key} is nothing that subtasks share"),
            }),
        }
    }

    /// The keys that must stay for as long as this is the subtask's last part.
    pub(crate) fn needed(&self, layout: &JobLayout) -> Result<HashSet<Key>> {
        let mut keys: HashSet<Key> = self.state.keys(layout)?.into_iter().collect();
        for key in &self.in_use {
            keys.insert(layout.own(key)?);
        }
        Ok(keys)
    }

    /// The keys that the subtask is done with.
    pub(crate) fn dropped(&self, layout: &JobLayout) -> Result<Vec<Key>> {
        self.dropped.iter().map(|key| layout.own(key)).collect()
    }
}
