//! Flushing, and the files that make up the database: what a snapshot is made of.

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_uchar, c_void},
    ptr, slice,
    sync::Arc,
};

use lazurite_env_rocksdb::CachedBlock;
use librocksdb_sys as ffi;
use rocksdb::{AsColumnFamilyRef, AsRawPtr};

use super::{column::Column, db::Db, error};
use crate::error::Result;

/// What a live file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum LiveFileKind {
    /// An SST file: immutable.
    Table,
    /// A blob file: immutable.
    Blob,
    /// The MANIFEST: grows; only its first `len` bytes count.
    Manifest,
    /// CURRENT: names the MANIFEST; see [`LiveFile::contents`].
    Current,
    /// The OPTIONS file.
    Options,
    /// A write-ahead log: grows.
    Wal,
    /// Anything else, by RocksDB's number.
    Other(i32),
}

/// A file that the database needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveFile {
    /// Its name in the database's directory, such as `000012.sst`.
    pub name: String,
    /// What it is.
    pub kind: LiveFileKind,
    /// Bytes that belong to this moment.
    pub len: u64,
    /// `true`: the file may be longer and grow, and only its first `len` bytes count. `false`: its length is `len`.
    pub trim: bool,
    /// Bytes to use instead of the file's, where the file itself may change at any time.
    pub contents: Option<Vec<u8>>,
    /// More about an SST file; absent where a compaction has just made it obsolete.
    pub table: Option<TableFile>,
}

/// What RocksDB knows of an SST file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableFile {
    /// The column family.
    pub column: String,
    /// The level, 0 for the newest.
    pub level: u8,
    /// The smallest key in it.
    pub smallest: Vec<u8>,
    /// The largest key in it.
    pub largest: Vec<u8>,
    /// Entries in it, tombstones included.
    pub entries: u64,
}

impl Db {
    /// Writes every memtable to files, of all columns at the same point in time, and waits for it: what was written before
    /// the call is durable on return. Blocks no writer for longer than it takes to swap the memtables.
    pub(crate) fn flush_all(self: &Arc<Self>) -> Result<()> {
        self.check_open()?;
        let columns: Vec<Column> = self
            .lock_columns()
            .iter()
            .filter_map(|name| self.column(name))
            .collect();
        if columns.is_empty() {
            return Ok(());
        }
        let mut handles: Vec<_> = columns
            .iter()
            .map(|column| column.handle().inner())
            .collect();
        // SAFETY: `self` keeps the database open and `columns` its handles alive until the end of this function. The
        // options are made, used and destroyed here. The call keeps none of its arguments.
        let result = checked(|error| unsafe {
            let options = ffi::rocksdb_flushoptions_create();
            ffi::rocksdb_flushoptions_set_wait(options, c_uchar::from(true));
            // As the database's own flushes are (`atomic_flush`): the tables are one point in time.
            ffi::rocksdb_flushoptions_set_force_atomic_flush(options, c_uchar::from(true));
            let count = handles.len() as c_int; // one per table
            ffi::rocksdb_flush_cfs(
                self.db.as_raw_ptr(),
                options,
                handles.as_mut_ptr(),
                count,
                error,
            );
            ffi::rocksdb_flushoptions_destroy(options);
        });
        result.map_err(|message| error::from_message("flush", self.name(), message))
    }

    /// The files that make up the database now, without flushing anything. Pause file deletions first, or a file may be gone
    /// before it is used.
    pub(crate) fn live_files(&self) -> Result<Vec<LiveFile>> {
        self.check_open()?;
        // Two lists, taken one after the other. A file that a compaction removed in between has no table information.
        let mut files = self.storage_info()?;
        let mut tables = self.tables()?;
        for file in &mut files {
            file.table = tables.remove(&file.name);
        }
        Ok(files)
    }

    /// How often users looked into each live table file since the database was opened, by name. RocksDB's estimate.
    pub(crate) fn file_reads(&self) -> Result<HashMap<String, u64>> {
        self.check_open()?;
        // SAFETY: `self` keeps the database open.
        Ok(unsafe { lazurite_env_rocksdb::file_reads(self.db.as_raw_ptr()) })
    }

    /// Tells of the data blocks that the block cache holds of files with these unique ids. Walks over the block cache; no I/O.
    pub(crate) fn cached_blocks(
        &self,
        unique_ids: &[&str],
        tell: impl FnMut(CachedBlock),
    ) -> Result<()> {
        self.check_open()?;
        // SAFETY: `self` keeps the database open.
        unsafe { lazurite_env_rocksdb::cached_blocks(self.db.as_raw_ptr(), unique_ids, tell) };
        Ok(())
    }

    fn tables(&self) -> Result<HashMap<String, TableFile>> {
        let files = self
            .db
            .live_files()
            .map_err(|e| error::map("list the files of", self.name(), e))?;
        Ok(files
            .into_iter()
            .map(|file| {
                let table = TableFile {
                    column: file.column_family_name,
                    level: u8::try_from(file.level).unwrap_or(u8::MAX),
                    smallest: file.start_key.unwrap_or_default(),
                    largest: file.end_key.unwrap_or_default(),
                    entries: file.num_entries,
                };
                (file.name.trim_start_matches('/').to_string(), table)
            })
            .collect())
    }

    fn storage_info(&self) -> Result<Vec<LiveFile>> {
        let mut info = ptr::null_mut();
        // SAFETY: `self` keeps the database open; the options are made, used and destroyed here.
        let result = checked(|error| unsafe {
            let options = ffi::rocksdb_livefiles_storage_info_options_create();
            ffi::rocksdb_livefiles_storage_info_options_set_wal_size_for_flush(options, u64::MAX); // never flush
            info = ffi::rocksdb_get_livefiles_storage_info(self.db.as_raw_ptr(), options, error);
            ffi::rocksdb_livefiles_storage_info_options_destroy(options);
        });
        result.map_err(|message| error::from_message("list the files of", self.name(), message))?;
        // SAFETY: without an error, the call gave a list that is ours to destroy. Every index is below its count, and what
        // the accessors return lives until then and is copied before.
        unsafe {
            let count = ffi::rocksdb_livefiles_storage_info_count(info);
            let files = (0..count).map(|index| live_file(info, index)).collect();
            ffi::rocksdb_livefiles_storage_info_destroy(info);
            Ok(files)
        }
    }
}

/// Copies one entry.
///
/// # Safety
/// `info` is a live list and `index` is below its count.
unsafe fn live_file(info: *const ffi::rocksdb_livefiles_storage_info_t, index: usize) -> LiveFile {
    // SAFETY: the caller's promise; the name is a C string, and the contents are `size` bytes, both owned by the list.
    unsafe {
        let name = CStr::from_ptr(ffi::rocksdb_livefiles_storage_info_relative_filename(
            info, index,
        ));
        let mut size = 0;
        let contents =
            ffi::rocksdb_livefiles_storage_info_replacement_contents(info, index, &mut size);
        let contents =
            (size > 0).then(|| slice::from_raw_parts(contents.cast::<u8>(), size).to_vec());
        LiveFile {
            name: name.to_string_lossy().trim_start_matches('/').to_string(),
            kind: kind(ffi::rocksdb_livefiles_storage_info_file_type(info, index)),
            len: ffi::rocksdb_livefiles_storage_info_size(info, index),
            trim: ffi::rocksdb_livefiles_storage_info_trim_to_size(info, index) != 0,
            contents,
            table: None,
        }
    }
}

/// `FileType` of RocksDB's `types.h`.
fn kind(number: c_int) -> LiveFileKind {
    match number {
        0 => LiveFileKind::Wal,
        2 => LiveFileKind::Table,
        3 => LiveFileKind::Manifest,
        4 => LiveFileKind::Current,
        9 => LiveFileKind::Options,
        10 => LiveFileKind::Blob,
        other => LiveFileKind::Other(other),
    }
}

/// Runs a call of the C API and takes the message that it may leave.
pub(super) fn checked(call: impl FnOnce(*mut *mut c_char)) -> Result<(), String> {
    let mut error: *mut c_char = ptr::null_mut();
    call(&mut error);
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the C API sets the pointer to a C string that is ours to free with its own function.
    unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        ffi::rocksdb_free(error.cast::<c_void>());
        Err(message)
    }
}
