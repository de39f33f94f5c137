//! A snapshot that is under way: of whom a part is expected, and what has come.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use lazurite_env::remote::Key;

use super::Subtask;
use crate::{
    Error, Result,
    snapshot::{Deadline, SubtaskHandle},
};

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) user_metadata: BTreeMap<String, Vec<u8>>,
    /// Where it is to lie, where it is a savepoint.
    pub(super) savepoint: Option<Key>,
    pub(super) begun: Instant,
    pub(super) deadline: Deadline,
    parts: BTreeMap<Subtask, Option<SubtaskHandle>>,
}

impl Pending {
    /// One that waits for a part of each of `subtasks`.
    pub(super) fn new(
        subtasks: &[Subtask],
        user_metadata: BTreeMap<String, Vec<u8>>,
        savepoint: Option<Key>,
        deadline: Deadline,
    ) -> Result<Self> {
        let refuse = |reason: String| Error::InvalidOption {
            option: "subtasks",
            reason,
        };
        if subtasks.is_empty() {
            return Err(refuse("a snapshot of nobody would hold nothing".into()));
        }
        for (i, subtask) in subtasks.iter().enumerate() {
            let shared = |other: &&Subtask| {
                let (a, b) = (subtask.key_group_range, other.key_group_range);
                other.operator == subtask.operator && a.intersection(b).is_some()
            };
            if let Some(other) = subtasks[..i].iter().find(shared) {
                return Err(refuse(format!("{subtask} and {other} share key groups")));
            }
        }
        Ok(Pending {
            user_metadata,
            savepoint,
            begun: Instant::now(),
            deadline,
            parts: subtasks.iter().map(|s| (s.clone(), None)).collect(),
        })
    }

    /// Takes a part. One that is there already is replaced: the same answer may come twice.
    pub(super) fn take(&mut self, handle: SubtaskHandle) -> Result<()> {
        let subtask = Subtask {
            operator: handle.state.operator.clone(),
            key_group_range: handle.state.key_group_range,
        };
        match self.parts.get_mut(&subtask) {
            Some(part) => {
                *part = Some(handle);
                Ok(())
            }
            None => Err(Error::InvalidOption {
                option: "subtask",
                reason: format!(
                    "no part of {subtask} is expected for snapshot {}",
                    handle.snapshot_id
                ),
            }),
        }
    }

    /// The parts that have come.
    pub(super) fn parts(&self) -> impl Iterator<Item = &SubtaskHandle> {
        self.parts.values().flatten()
    }

    /// What the subtasks still use beside their states, sorted. Of a savepoint none: it names nothing that lies elsewhere.
    pub(super) fn in_use(&self) -> Vec<String> {
        if self.savepoint.is_some() {
            return Vec::new();
        }
        let mut in_use: BTreeSet<&str> = BTreeSet::new();
        in_use.extend(
            self.parts()
                .flat_map(|part| &part.in_use)
                .map(String::as_str),
        );
        for (key, ..) in self.parts().flat_map(|part| part.state.objects()) {
            in_use.remove(key);
        }
        in_use.into_iter().map(str::to_owned).collect()
    }

    /// The manifests of the parts that have come: orphans, once it is given up.
    pub(super) fn manifests(&self) -> Vec<Key> {
        let parts = self.parts();
        parts
            .filter_map(|part| Key::new(part.state.manifest.key.as_str()).ok())
            .collect()
    }

    /// True once nobody's part is missing.
    pub(super) fn is_whole(&self) -> bool {
        self.parts.values().all(Option::is_some)
    }

    /// Those whose part is missing.
    pub(super) fn missing(&self) -> impl Iterator<Item = &Subtask> {
        let missing = self.parts.iter().filter(|(_, part)| part.is_none());
        missing.map(|(subtask, _)| subtask)
    }
}
