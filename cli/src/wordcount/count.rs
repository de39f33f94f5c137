//! The counting loop: read records, add up words, apply them to the state, take snapshots.
//!
//! Words are added up in memory and applied in batches. Invariant: at a snapshot everything counted is applied, and the
//! position stands after the last record counted.

use std::collections::HashMap;

use indicatif::ProgressBar;
use lazurite::{PendingSnapshot, SnapshotOptions, SnapshotReport, StateBackend};

use super::{
    Counts,
    position::{self, Position},
    source::Source,
};
use crate::error::Result;

/// Different words that are added up in memory before they are applied: a few megabytes.
const BATCH_WORDS: usize = 32_768;

/// Counts the records of a source into the state of a backend.
pub struct Counter<'a> {
    backend: &'a StateBackend,
    counts: &'a Counts,
    source: Source,
    position: Position,
    /// Counted, not yet applied.
    batch: HashMap<String, u64>,
    pending: Option<PendingSnapshot>,
    completed: Vec<SnapshotReport>,
}

impl<'a> Counter<'a> {
    /// Goes on with `source`, which stands at `position`, up to where the state of `backend` was counted.
    pub fn new(
        backend: &'a StateBackend,
        counts: &'a Counts,
        source: Source,
        position: Position,
    ) -> Self {
        Counter {
            backend,
            counts,
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
            let idle = self
                .pending
                .as_ref()
                .is_none_or(PendingSnapshot::is_finished);
            if since_snapshot >= snapshot_every && idle {
                self.begin_snapshot()?;
                since_snapshot = 0;
            }
            if self.batch.len() >= BATCH_WORDS {
                self.apply()?;
                bar.set_position(self.source.bytes_done());
            }
        }
        Ok(())
    }

    /// Takes the last snapshot and waits for it. Gives the end position and every snapshot of this run, in order.
    pub fn finish(mut self) -> Result<(Position, Vec<SnapshotReport>)> {
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

    /// Adds the batch to the state.
    fn apply(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (words, added): (Vec<String>, Vec<u64>) = self.batch.drain().unzip();
        let known = self.counts.multi_get(&words)?;
        let mut writes = self.backend.write_batch();
        for ((word, added), known) in words.iter().zip(added).zip(known) {
            self.position.distinct += u64::from(known.is_none());
            self.counts
                .put_to(&mut writes, word, &(known.unwrap_or(0) + added))?;
        }
        self.backend.write(writes)?;
        if self.position.sample.is_none() {
            self.position.sample = words.into_iter().next();
        }
        Ok(())
    }

    /// Waits for the snapshot under way, if any, and begins the next one.
    fn begin_snapshot(&mut self) -> Result<()> {
        self.apply()?;
        self.await_snapshot()?;
        let options = SnapshotOptions::new().metadata(position::NAME, self.position.encode()?);
        self.pending = Some(self.backend.snapshot(options)?);
        Ok(())
    }

    fn await_snapshot(&mut self) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            let report = pending.wait()?;
            tracing::info!(
                id = report.id,
                uploaded_bytes = report.uploaded_bytes,
                "snapshot complete"
            );
            self.completed.push(report);
        }
        Ok(())
    }
}
