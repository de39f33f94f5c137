//! The counting loop: read records, add up words, apply them to the state, take snapshots.
//!
//! Words are added up in memory and applied in batches, each to the subtask that owns it. Invariant: at a snapshot everything counted
//! is applied, by every subtask, and the position stands after the last record counted.

use std::{collections::HashMap, sync::Arc};

use indicatif::ProgressBar;
use lazurite::{Coordinator, SnapshotOptions};

use super::{
    position::{self, Position},
    snapshot::{self, Pending, Snapshot},
    source::Source,
    subtasks::Subtasks,
};
use crate::error::Result;

/// Different words that are added up in memory before they are applied: a few megabytes.
const BATCH_WORDS: usize = 32_768;

/// Counts the records of a source into the state of the subtasks.
pub struct Counter<'a> {
    subtasks: &'a Subtasks,
    coordinator: &'a Arc<Coordinator>,
    source: Source,
    position: Position,
    /// Counted, not yet applied.
    batch: HashMap<String, u64>,
    pending: Option<Pending>,
    completed: Vec<Snapshot>,
}

impl<'a> Counter<'a> {
    /// Goes on with `source`, which stands at `position`, up to where the state of `subtasks` was counted.
    pub fn new(
        subtasks: &'a Subtasks,
        coordinator: &'a Arc<Coordinator>,
        source: Source,
        position: Position,
    ) -> Self {
        Counter {
            subtasks,
            coordinator,
            source,
            position,
            batch: HashMap::with_capacity(BATCH_WORDS),
            pending: None,
            completed: Vec::new(),
        }
    }

    /// Counts until the source ends or `max_records` are counted in all; begins a snapshot every `snapshot_every` records,
    /// or as soon after as the last one has ended.
    pub fn run(&mut self, snapshot_every: u64, max_records: u64, bar: &ProgressBar) -> Result<()> {
        let mut since_snapshot = 0;
        while self.position.records < max_records && self.count_record()? {
            since_snapshot += 1;
            if since_snapshot >= snapshot_every && self.is_idle() {
                self.begin_snapshot()?;
                since_snapshot = 0;
            }
            if self.batch.len() >= BATCH_WORDS {
                self.apply()?;
                if self.is_idle() {
                    self.await_snapshot()?;
                }
                bar.set_position(self.source.bytes_done());
            }
        }
        Ok(())
    }

    /// Takes the last snapshot and waits for it. Gives the end position and every snapshot of this run, in order.
    pub fn finish(mut self) -> Result<(Position, Vec<Snapshot>)> {
        self.begin_snapshot()?;
        self.await_snapshot()?;
        Ok((self.position, self.completed))
    }

    fn count_record(&mut self) -> Result<bool> {
        let (batch, position) = (&mut self.batch, &mut self.position);
        let found = self.source.next_record(|word| {
            position.words += 1;
            match batch.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    batch.insert(word.to_owned(), 1);
                }
            }
        })?;
        (position.file, position.offset) = self.source.position();
        position.records += u64::from(found);
        Ok(found)
    }

    /// True where no snapshot is under way.
    fn is_idle(&self) -> bool {
        self.pending.as_ref().is_none_or(Pending::is_finished)
    }

    /// Adds the batch to the state.
    fn apply(&mut self) -> Result<()> {
        if self.position.sample.is_none() {
            self.position.sample = self.batch.keys().next().cloned();
        }
        self.position.distinct += self.subtasks.add(self.batch.drain())?;
        Ok(())
    }

    /// Waits for the snapshot under way, if any, and begins the next one.
    fn begin_snapshot(&mut self) -> Result<()> {
        self.apply()?;
        self.await_snapshot()?;
        let options = SnapshotOptions::new().metadata(position::NAME, self.position.encode()?);
        self.pending = Some(snapshot::begin(self.coordinator, self.subtasks, options)?);
        Ok(())
    }

    fn await_snapshot(&mut self) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            let snapshot = pending.wait(self.subtasks)?;
            tracing::info!(
                id = snapshot.id,
                uploaded_bytes = snapshot.uploaded_bytes,
                "snapshot complete"
            );
            self.completed.push(snapshot);
        }
        Ok(())
    }
}
