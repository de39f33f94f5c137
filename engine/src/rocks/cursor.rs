//! A walk over the entries of a key range.

use std::{mem, ptr};

use rocksdb::{DB, DBRawIteratorWithThreadMode, ReadOptions};

use super::{ahead::Walk, column::Column};
use crate::error::{Error, Result};

/// Walks a range in ascending order of the key bytes, seeing it as it was when the cursor was made. Locks nobody out; the
/// files and memtables of that moment stay until it is dropped.
pub(crate) struct Cursor {
    /// Only where files are remote. Declared first: its end may wait for a thread that uses the column.
    walk: Option<Box<Walk>>,
    // Declared, and so dropped, before `column`.
    iter: DBRawIteratorWithThreadMode<'static, DB>,
    column: Column,
    place: Place,
}

/// A key and its value.
type Entry<'a> = (&'a [u8], &'a [u8]);

/// Kept beside RocksDB's own, which takes a call to ask.
enum Place {
    BeforeFirst,
    AtEntry,
    /// After the last entry, or at an error.
    Ended,
}

impl Cursor {
    pub(super) fn new(column: &Column, lower: Vec<u8>, upper: Vec<u8>) -> Cursor {
        let db = column.db();
        let mut options = ReadOptions::default();
        let remote = db.has_remote_files();
        let walk = remote.then(|| Box::new(Walk::new(upper.clone())));
        options.set_iterate_lower_bound(lower);
        options.set_iterate_upper_bound(upper);
        // Reads ahead while the caller works, where the Env can; pointless for local files.
        options.set_async_io(remote);
        let iter = db.db.raw_iterator_cf_opt(column.handle(), options);
        // SAFETY: only the lifetime changes, which says that the iterator must not outlive the `DB`. The cursor keeps a
        // `Column`, which keeps that `DB` and the column family alive, and `iter` is declared before it: dropped first.
        let iter = unsafe {
            mem::transmute::<
                DBRawIteratorWithThreadMode<'_, DB>,
                DBRawIteratorWithThreadMode<'static, DB>,
            >(iter)
        };
        Cursor {
            walk,
            iter,
            column: column.clone(),
            place: Place::BeforeFirst,
        }
    }

    /// Goes to the next entry whose key is accepted, and gives its key and value; `None` after the last one. May block on the
    /// disk or the network. After an error every further call gives it again. Boxed, it does not weigh on every entry.
    #[inline]
    pub(crate) fn next_where(
        &mut self,
        accept: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Entry<'_>>, Box<Error>> {
        while self.advance() {
            let Some((key, value)) = self.iter.item() else {
                self.place = Place::Ended;
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

    /// Moves; false where there is nowhere to move to.
    #[inline]
    fn advance(&mut self) -> bool {
        if !self.column.db().is_open() {
            return false;
        }
        match self.place {
            Place::AtEntry => self.iter.next(),
            Place::BeforeFirst => {
                self.place = Place::AtEntry;
                self.iter.seek_to_first(); // of the bounds
            }
            Place::Ended => return false,
        }
        true
    }

    #[cold]
    fn end(&self) -> Result<Option<Entry<'_>>, Box<Error>> {
        self.column.db().check_open()?;
        match self.iter.status() {
            Ok(()) => Ok(None),
            Err(error) => Err(Box::new(self.column.error("iterate over", error))),
        }
    }
}
