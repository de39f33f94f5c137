//! What a snapshot must know of an SST file, read from the file itself.

use std::{
    ffi::{c_char, c_void},
    fmt::Write,
    path::Path,
};

use lazurite_env::{Error, Result};
use librocksdb_sys::rocksdb_env_t;
use rocksdb::AsRawPtr;

use crate::{
    abi::{Sink, Slice, kind_of},
    cause,
};

/// Facts about one SST file that never change, since the file never does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SstInfo {
    /// RocksDB's own 192-bit id of the content, unique among all databases and hosts: 48 lower-case hex digits.
    pub unique_id: String,
    /// Length of the file in bytes.
    pub file_len: u64,
    /// From here to the end of the file is all that opening the file reads: filter, index, properties and footer. It is
    /// the end of the data blocks; 0 for a file without any. (A file that RocksDB opens natively is read from the page in
    /// which this lies.)
    pub tail_offset: u64,
    /// Keys in the file, deletions included, range deletions not.
    pub num_entries: u64,
    /// Point deletions among them.
    pub num_deletions: u64,
    /// Range deletions.
    pub num_range_deletions: u64,
}

/// `lz_sst_properties`.
#[repr(C)]
#[derive(Default)]
struct Properties {
    unique_id: [u8; 24],
    file_len: u64,
    tail_offset: u64,
    num_entries: u64,
    num_deletions: u64,
    num_range_deletions: u64,
}

unsafe extern "C" {
    fn lz_sst_info(
        env: *mut rocksdb_env_t,
        path: Slice,
        out: *mut Properties,
        context: *mut c_void,
        sink: Sink,
    ) -> i32;
}

unsafe extern "C" fn collect(context: *mut c_void, data: *const c_char, len: usize, _: u8) -> u8 {
    // SAFETY: `context` is the String below, and C++ gives a valid slice.
    unsafe {
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), len);
        (*context.cast::<String>()).push_str(&String::from_utf8_lossy(bytes));
    }
    1
}

/// Reads the facts of the SST file at `path` through `env`. Reads the tail of the file and no data block; blocks.
///
/// The keys must be in byte order (RocksDB's default comparator). Fails with
/// [`Corruption`](lazurite_env::ErrorKind::Corruption) where the file is no SST, with the typed error of the Env where
/// that failed, and with [`Unsupported`](lazurite_env::ErrorKind::Unsupported) for a file so old that it has no id.
pub fn sst_info(env: &rocksdb::Env, path: &Path) -> Result<SstInfo> {
    let mut out = Properties::default();
    let mut text = String::new();
    // SAFETY: the pointers are valid for the call, and `collect` takes a String.
    let code = unsafe {
        lz_sst_info(
            env.as_raw_ptr(),
            Slice::of(path),
            &mut out,
            (&raw mut text).cast(),
            collect,
        )
    };
    if code != 0 {
        let error = || Error::new(kind_of(code), "read SST properties", path, &*text);
        return Err(cause::cause(&text).unwrap_or_else(error));
    }
    let mut unique_id = String::with_capacity(48);
    for byte in out.unique_id {
        // Writing to a String does not fail.
        let _ = write!(unique_id, "{byte:02x}");
    }
    Ok(SstInfo {
        unique_id,
        file_len: out.file_len,
        tail_offset: out.tail_offset,
        num_entries: out.num_entries,
        num_deletions: out.num_deletions,
        num_range_deletions: out.num_range_deletions,
    })
}
