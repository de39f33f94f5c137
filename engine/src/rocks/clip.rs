//! Files that reach beyond their column's key groups, and getting rid of what lies there.
//!
//! A column that was composed of others' files ([`manifest`](super::manifest)) may have such files. What they hold outside is never read,
//! but it takes space. While a column has any, its compactions leave it out; [`Db::rewrite`] has one file compacted in its place.
//!
//! Only values are left out. A tombstone outside goes where nothing below it can be hidden by it, as any does: so files are rewritten
//! from the last level up. A range tombstone stays until its file is compacted into the last level. A file that was rewritten and still
//! reaches beyond is *settled*: it has no values there, and is not rewritten again.
//!
//! Crash story: a rewrite is a compaction. What was settled is forgotten at the next open, and rewritten once more.

use std::{
    collections::HashSet,
    ffi::{CStr, CString, c_char},
    ptr, slice,
    sync::{Mutex, PoisonError},
};

use lazurite_env_rocksdb::Clip;
use librocksdb_sys as ffi;
use rocksdb::{AsColumnFamilyRef, AsRawPtr, LiveFile, Options};

use super::{db::Db, error, live_files::checked};
use crate::{error::Result, key_groups::KeyGroupRange};

/// How much is left to clip.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClipProgress {
    /// Table files that reach beyond their key groups and are yet to be rewritten. Those of level 0 are not counted: the next ordinary
    /// compaction clips them.
    pub files_left: u64,
    /// Bytes of these files, of which some part is to stay.
    pub bytes_left: u64,
}

/// The columns that may have such files.
#[derive(Debug, Default)]
pub(super) struct Clips {
    columns: Vec<ClippedColumn>,
    /// Names of files.
    settled: Mutex<HashSet<String>>,
}

#[derive(Debug)]
struct ClippedColumn {
    name: String,
    range: KeyGroupRange,
    clip: Clip,
}

/// A file that reaches beyond the key groups of its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Straddler {
    /// As `000012.sst`.
    pub name: String,
    pub column: String,
    pub level: u8,
    pub len: u64,
    pub settled: bool,
}

impl Straddler {
    /// It can be rewritten in its place, and should.
    pub(crate) fn is_due(&self) -> bool {
        self.level > 0 && !self.settled
    }
}

impl Clips {
    /// Has compactions of the column `name`, which is to be opened with `options`, keep to `range`.
    pub(super) fn add(
        &mut self,
        name: &str,
        range: KeyGroupRange,
        options: &mut Options,
    ) -> Result<(), String> {
        let clip = Clip::install(options, range.start()..=range.end())?;
        self.columns.push(ClippedColumn {
            name: name.to_string(),
            range,
            clip,
        });
        Ok(())
    }
}

impl Db {
    /// The files that reach beyond the key groups of their columns, as the MANIFEST has it: no I/O.
    pub(crate) fn straddlers(&self) -> Result<Vec<Straddler>> {
        self.check_open()?;
        let clips = &self.clips;
        if clips.columns.is_empty() {
            return Ok(Vec::new());
        }
        let files = self
            .db
            .live_files()
            .map_err(|e| error::map("list the files of", self.name(), e))?;
        let mut settled = clips.lock();
        let mut found = Vec::new();
        for file in files {
            let column = clips
                .columns
                .iter()
                .find(|column| column.name == file.column_family_name);
            if column.is_some_and(|column| reaches_beyond(&file, column.range)) {
                let name = file.name.trim_start_matches('/').to_string();
                found.push(Straddler {
                    settled: settled.contains(&name),
                    name,
                    column: file.column_family_name,
                    level: u8::try_from(file.level).unwrap_or(u8::MAX),
                    len: file.size as u64,
                });
            }
        }
        settled.retain(|name| found.iter().any(|file| file.name == *name));
        Ok(found)
    }

    /// What of them is due. No I/O.
    pub(crate) fn clip_progress(&self) -> ClipProgress {
        let mut progress = ClipProgress::default();
        for file in self.straddlers().unwrap_or_default() {
            if file.is_due() {
                progress.files_left += 1;
                progress.bytes_left += file.len;
            }
        }
        progress
    }

    /// Has compactions of the columns of `straddlers` leave out what lies outside, and those of no other column: once no file of one
    /// reaches beyond, none ever will.
    pub(crate) fn clip_columns_of(&self, straddlers: &[Straddler]) {
        for column in &self.clips.columns {
            let on = straddlers.iter().any(|file| file.column == column.name);
            column.clip.set(on);
        }
    }

    /// Rewrites `file` in its level without what lies outside, on this thread. `false`: it could not be now, for another compaction has
    /// it or one beside it; or it is gone.
    pub(crate) fn rewrite(&self, file: &Straddler) -> Result<bool> {
        self.check_open()?;
        let (Some(column), Ok(name)) = (
            self.db.cf_handle(&file.column),
            CString::new(file.name.as_str()),
        ) else {
            return Ok(false);
        };
        let (mut names, mut count) = (ptr::null_mut::<*mut c_char>(), 0);
        // SAFETY: `self` keeps the database open and `column` its handle alive. Names are C strings, of which there is one. The options
        // are RocksDB's own where there are none, and the job's information is not asked for.
        let result = checked(|error| unsafe {
            ffi::rocksdb_compact_files_cf(
                self.db.as_raw_ptr(),
                column.inner(),
                ptr::null(),
                [name.as_ptr()].as_ptr(),
                1,
                file.level.into(),
                -1,
                &mut names,
                &mut count,
                ptr::null_mut(),
                error,
            );
        });
        match result {
            Ok(()) => {
                // SAFETY: without an error, these are `count` C strings, ours to destroy.
                let outputs = unsafe { take_names(names, count) };
                self.clips.lock().extend(outputs);
                Ok(true)
            }
            Err(message) if is_conflict(&message) => Ok(false),
            Err(_) if !self.is_open() => Err(crate::Error::Closed),
            Err(message) => Err(error::from_message("clip", &file.name, message)),
        }
    }
}

impl Clips {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        // Each change of it is one call.
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `CompactFiles` answers where another compaction is in the way or was faster.
fn is_conflict(message: &str) -> bool {
    message.starts_with("Operation aborted") || message.contains("does not exist in column family")
}

/// True where a file may hold keys of other groups than those of `range`.
fn reaches_beyond(file: &LiveFile, range: KeyGroupRange) -> bool {
    let begin = range.start().to_be_bytes();
    let end = (range.end() + 1).to_be_bytes(); // groups are below 32768
    let begins_before = file
        .start_key
        .as_deref()
        .is_some_and(|key| key < &begin[..]);
    // No key is as short as two bytes: where the largest is, it is the end of a range tombstone, which is not in it.
    let ends_after = file.end_key.as_deref().is_some_and(|key| key > &end[..]);
    begins_before || ends_after
}

/// Copies and destroys a list of paths; gives the names of the files.
///
/// # Safety
/// `names` are `count` C strings of RocksDB's, nobody else's.
unsafe fn take_names(names: *mut *mut c_char, count: usize) -> Vec<String> {
    if names.is_null() {
        return Vec::new();
    }
    // SAFETY: the caller's promise; what is destroyed was copied before.
    unsafe {
        let copied = slice::from_raw_parts(names, count)
            .iter()
            .map(|name| {
                let path = CStr::from_ptr(*name).to_string_lossy();
                path.rsplit('/').next().unwrap_or_default().to_string()
            })
            .collect();
        ffi::rocksdb_compact_files_output_file_names_destroy(names, count);
        copied
    }
}
