//! A walk over the entries of a key range.

use std::{ptr, sync::Arc};

use lazurite_env_rocksdb::{Entries, Span};
use rocksdb::{AsColumnFamilyRef, AsRawPtr};

use super::{ahead::Walk, column::Column, db::Db, error::from_message};
use crate::error::{Error, Result};

/// A part of a walk: the keys of a column from `lower` up to but not `upper`.
pub(super) struct Part {
    pub(super) column: Column,
    pub(super) lower: Vec<u8>,
    pub(super) upper: Vec<u8>,
}

/// Walks a range in ascending order of the key bytes, seeing it as it was when the cursor was made. Locks nobody out; the
/// files and memtables of that moment stay until it is dropped.
pub(crate) struct Cursor {
    /// Only where files are remote. Declared first: its end may wait for a thread that uses a column.
    ahead: Option<Box<Ahead>>,
    // Declared, and so dropped, before the columns.
    entries: Entries,
    db: Arc<Db>,
    parts: Arc<[Part]>,
}

/// Which part of the walk is read ahead.
struct Ahead {
    parts: Arc<[Part]>,
    at: usize,
    walk: Walk,
}

/// A key and its value.
type Entry<'a> = (&'a [u8], &'a [u8]);

impl Cursor {
    /// A walk over `parts`, which follow one another.
    pub(super) fn new(db: &Arc<Db>, parts: Vec<Part>) -> Result<Cursor> {
        let remote = db.has_remote_files();
        let spans: Vec<Span> = parts
            .iter()
            .map(|part| Span {
                column: part.column.handle().inner(),
                lower: &part.lower,
                upper: &part.upper,
            })
            .collect();
        // Reads ahead while the caller works, where the Env can; pointless for local files.
        // SAFETY: the cursor keeps the columns, which keep that `DB` and the column families open, and `entries` is declared
        // before them: dropped first.
        let entries = unsafe { Entries::open(db.db.as_raw_ptr(), &spans, remote) }
            .map_err(|message| from_message("iterate over", db.name(), message))?;
        let parts: Arc<[Part]> = parts.into();
        let ahead = remote.then(|| Ahead::new(&parts)).flatten();
        Ok(Cursor {
            ahead: ahead.map(Box::new),
            entries,
            db: db.clone(),
            parts,
        })
    }

    /// Goes to the next entry whose key is accepted, and gives its key and value; `None` after the last one. May block on the
    /// disk or the network. After an error every further call gives it again. Boxed, it does not weigh on every entry.
    #[inline(always)]
    pub(crate) fn next_where(
        &mut self,
        accept: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Entry<'_>>, Box<Error>> {
        while self.db.is_open() {
            let Some((key, value)) = self.entries.next() else {
                break;
            };
            if let Some(ahead) = &mut self.ahead {
                ahead.at(key, value);
            }
            if accept(key) {
                // SAFETY: only the lifetimes change, to that of the borrow of `self`, which the compiler does not see through
                // the loop. Until it ends nothing moves or drops the iterator, which owns these bytes.
                let entry = unsafe { (&*ptr::from_ref(key), &*ptr::from_ref(value)) };
                return Ok(Some(entry));
            }
        }
        self.end()
    }

    #[cold]
    fn end(&self) -> Result<Option<Entry<'_>>, Box<Error>> {
        self.db.check_open()?;
        match self.entries.error() {
            None => Ok(None),
            Some(message) => Err(Box::new(from_message(
                "iterate over",
                self.parts.first().map_or("", |part| part.column.name()),
                message,
            ))),
        }
    }
}

impl Ahead {
    fn new(parts: &Arc<[Part]>) -> Option<Ahead> {
        Some(Ahead {
            at: 0,
            walk: Walk::new(parts.first()?.upper.clone()),
            parts: parts.clone(),
        })
    }

    /// The walk is at the entry of `key`.
    #[inline]
    fn at(&mut self, key: &[u8], value: &[u8]) {
        while *key >= *self.parts[self.at].upper && self.at + 1 < self.parts.len() {
            self.at += 1;
            self.walk = Walk::new(self.parts[self.at].upper.clone());
        }
        self.walk.at(&self.parts[self.at].column, key, value);
    }
}
