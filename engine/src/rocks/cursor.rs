//! A walk over the entries of a key range.

use std::ptr;

use lazurite_env_rocksdb::{Entries, Span};
use rocksdb::{AsColumnFamilyRef, AsRawPtr};

use super::{ahead::Walk, column::Column, error::from_message};
use crate::error::{Error, Result};

/// Walks a range in ascending order of the key bytes, seeing it as it was when the cursor was made. Locks nobody out; the
/// files and memtables of that moment stay until it is dropped.
pub(crate) struct Cursor {
    /// Only where files are remote. Declared first: its end may wait for a thread that uses the column.
    walk: Option<Box<Walk>>,
    // Declared, and so dropped, before `column`.
    entries: Entries,
    column: Column,
}

/// A key and its value.
type Entry<'a> = (&'a [u8], &'a [u8]);

impl Cursor {
    pub(super) fn new(column: &Column, lower: Vec<u8>, upper: Vec<u8>) -> Result<Cursor> {
        let db = column.db();
        let remote = db.has_remote_files();
        let span = Span {
            column: column.handle().inner(),
            lower: &lower,
            upper: &upper,
        };
        // Reads ahead while the caller works, where the Env can; pointless for local files.
        // SAFETY: the cursor keeps a `Column`, which keeps that `DB` and the column family open, and `entries` is declared
        // before it: dropped first.
        let entries = unsafe { Entries::open(db.db.as_raw_ptr(), &[span], remote) }
            .map_err(|message| from_message("iterate over", column.name(), message))?;
        let walk = remote.then(|| Box::new(Walk::new(upper)));
        Ok(Cursor {
            walk,
            entries,
            column: column.clone(),
        })
    }

    /// Goes to the next entry whose key is accepted, and gives its key and value; `None` after the last one. May block on the
    /// disk or the network. After an error every further call gives it again. Boxed, it does not weigh on every entry.
    #[inline(always)]
    pub(crate) fn next_where(
        &mut self,
        accept: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Entry<'_>>, Box<Error>> {
        while self.column.db().is_open() {
            let Some((key, value)) = self.entries.next() else {
                break;
            };
            if let Some(walk) = &mut self.walk {
                walk.at(&self.column, key, value);
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
        self.column.db().check_open()?;
        match self.entries.error() {
            None => Ok(None),
            Some(message) => Err(Box::new(from_message(
                "iterate over",
                self.column.name(),
                message,
            ))),
        }
    }
}
