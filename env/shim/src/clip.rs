//! Compactions that leave out keys of other key groups.

use std::{fmt, ops::RangeInclusive, ptr::NonNull};

use librocksdb_sys::rocksdb_options_t;
use rocksdb::{AsRawPtr, Options};

#[repr(C)]
struct RawClip {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    fn lz_clip_install(options: *mut rocksdb_options_t, first: u16, last: u16) -> *mut RawClip;
    fn lz_clip_set(clip: *const RawClip, on: u8);
    fn lz_clip_free(clip: *mut RawClip);
}

/// Whether compactions of a column leave out the keys of other key groups than its own. May be dropped at any time: it stays as it was
/// set last.
pub struct Clip {
    raw: NonNull<RawClip>,
}

// SAFETY: it holds an atomic flag, shared with RocksDB by a counted pointer.
unsafe impl Send for Clip {}
// SAFETY: as above; `set` is one atomic store.
unsafe impl Sync for Clip {}

impl Clip {
    /// Has compactions of the columns that are opened with `options` leave out every value whose key does not begin with one of
    /// `groups`, two bytes in big-endian order. Values are skipped as ranges and leave no tombstones, so nobody may ever read outside of
    /// `groups`. It is switched on; compactions that begin while it is off cost nothing. Takes the place of any other compaction filter
    /// factory, and makes compactions that users ask for rewrite files which would else only be moved.
    ///
    /// # Errors
    /// Where memory has run out.
    pub fn install(options: &mut Options, groups: RangeInclusive<u16>) -> Result<Clip, String> {
        // SAFETY: the pointer is that of `options`, which is alive and not used by anybody else; nothing is kept of it.
        let raw = unsafe { lz_clip_install(options.as_raw_ptr(), *groups.start(), *groups.end()) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Clip { raw }),
            None => Err("no memory for RocksDB's options".to_owned()),
        }
    }

    /// Switches it on or off for compactions that begin from now on. For all columns of the options and of their copies.
    pub fn set(&self, on: bool) {
        // SAFETY: `raw` lives as long as `self`.
        unsafe { lz_clip_set(self.raw.as_ptr(), on.into()) }
    }
}

impl Drop for Clip {
    fn drop(&mut self) {
        // SAFETY: it is this one's own, and not used afterwards.
        unsafe { lz_clip_free(self.raw.as_ptr()) }
    }
}

impl fmt::Debug for Clip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clip")
    }
}
