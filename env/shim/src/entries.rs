//! Walking over the entries of a database.

use std::{
    ffi::{c_char, c_void},
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    slice,
};

use librocksdb_sys::{rocksdb_column_family_handle_t, rocksdb_t};

use crate::abi::{Sink, Slice};

#[repr(C)]
struct RawEntries {
    _opaque: [u8; 0],
}

#[repr(C)]
struct RawSpan {
    column: *mut rocksdb_column_family_handle_t,
    lower: Slice,
    upper: Slice,
}

#[repr(C)]
struct RawEntry {
    key: *const u8,
    key_len: usize,
    value: *const u8,
    value_len: usize,
}

unsafe extern "C" {
    fn lz_entries_open(
        db: *mut rocksdb_t,
        spans: *const RawSpan,
        count: usize,
        async_io: u8,
    ) -> *mut RawEntries;
    fn lz_entries_next(entries: *mut RawEntries, entry: *mut RawEntry) -> u8;
    fn lz_entries_error(entries: *const RawEntries, context: *mut c_void, sink: Sink);
    fn lz_entries_free(entries: *mut RawEntries);
}

unsafe extern "C" fn take_text(context: *mut c_void, text: *const c_char, len: usize, _: u8) -> u8 {
    // Unwinding must not reach C++.
    let taken = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `context` is the option below, and C++ gives a valid slice.
        let (error, text) = unsafe {
            let error = &mut *context.cast::<Option<String>>();
            (error, slice::from_raw_parts(text.cast::<u8>(), len))
        };
        *error = Some(String::from_utf8_lossy(text).into_owned());
    }));
    taken.is_ok().into()
}

/// The keys of a column family from `lower` up to but not `upper`.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// The column family.
    pub column: *mut rocksdb_column_family_handle_t,
    /// The first key, or one before it.
    pub lower: &'a [u8],
    /// The first key after the span.
    pub upper: &'a [u8],
}

/// A walk over spans of a database, one after another and each in the order of its keys, all of them as of the moment when it was
/// made. One call into RocksDB for each entry, where an iterator of the `rocksdb` crate takes four. Keeps the files and memtables
/// of that moment; keeps nobody from writing. Belongs to one thread at a time.
pub struct Entries {
    raw: NonNull<RawEntries>,
    _columns: PhantomData<*mut rocksdb_column_family_handle_t>,
}

// SAFETY: RocksDB's iterators may be used from any thread, by one at a time, which `&mut` sees to.
unsafe impl Send for Entries {}

impl Entries {
    /// A walk over `spans`. With `async_io` blocks are read ahead while the caller works, where the Env can. Reads nothing yet.
    ///
    /// # Errors
    /// Where memory has run out.
    ///
    /// # Safety
    /// `db` is an open database of this RocksDB, and the columns are its own; all of them stay open until the walk is dropped.
    pub unsafe fn open(
        db: *mut rocksdb_t,
        spans: &[Span<'_>],
        async_io: bool,
    ) -> Result<Entries, String> {
        let raw: Vec<RawSpan> = spans
            .iter()
            .map(|span| RawSpan {
                column: span.column,
                lower: Slice::of_bytes(span.lower),
                upper: Slice::of_bytes(span.upper),
            })
            .collect();
        // SAFETY: the caller's promise; there are as many spans as the count says, and their bytes are copied.
        let entries = unsafe { lz_entries_open(db, raw.as_ptr(), raw.len(), async_io.into()) };
        match NonNull::new(entries) {
            Some(raw) => Ok(Entries {
                raw,
                _columns: PhantomData,
            }),
            None => Err("IO error: no memory for an iterator".to_owned()),
        }
    }

    /// Goes to the next entry and gives its key and value; `None` after the last one and after an error, which
    /// [`error`](Self::error) tells. May block on the disk or the network.
    #[expect(
        clippy::should_implement_trait,
        reason = "an entry lasts until the next call only"
    )]
    #[inline]
    pub fn next(&mut self) -> Option<(&[u8], &[u8])> {
        let mut entry = RawEntry {
            key: std::ptr::null(),
            key_len: 0,
            value: std::ptr::null(),
            value_len: 0,
        };
        // SAFETY: `raw` lives as long as `self`. Where it answers 1, both slices are RocksDB's and stay until it is called again
        // or freed, so for as long as the borrow of `self` lasts.
        unsafe {
            (lz_entries_next(self.raw.as_ptr(), &mut entry) != 0).then(|| {
                (
                    slice::from_raw_parts(entry.key, entry.key_len),
                    slice::from_raw_parts(entry.value, entry.value_len),
                )
            })
        }
    }

    /// What the walk ended with, in RocksDB's words ([`cause`](crate::cause()) finds the typed error); `None` where it has not
    /// ended, or at the last entry.
    pub fn error(&self) -> Option<String> {
        let mut error: Option<String> = None;
        // SAFETY: `raw` lives as long as `self`, and `take_text` takes what is given with it.
        unsafe {
            lz_entries_error(self.raw.as_ptr(), (&raw mut error).cast(), take_text);
        }
        error
    }
}

impl Drop for Entries {
    fn drop(&mut self) {
        // SAFETY: it is this one's own, and nothing is used afterwards.
        unsafe { lz_entries_free(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entries")
    }
}
