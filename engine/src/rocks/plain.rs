//! Databases that have nothing of this engine: opened with RocksDB's own defaults, on RocksDB's own file system.
//!
//! Entries that are to be in one are written to table files of their own, in the order of their keys, and handed over: nothing goes through
//! a memtable, and nothing is compacted.
//!
//! Crash story: both functions write below directories that nobody takes for a database that is whole; the caller renames.

use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, ColumnFamilyDescriptor, DB, DBCompressionType, IngestExternalFileOptions,
    Options, SstFileWriter,
};

use super::{cursor::Cursor, db::DEFAULT_COLUMN, error};
use crate::error::{Error, Result};

/// What RocksDB reads since 6.6, while the engine's own files take RocksDB 10.4.
const TABLE_FORMAT_VERSION: i32 = 5;
/// RocksDB's own default for the size of a table file.
const FILE_BYTES: u64 = 64 << 20;
/// The length of a file is asked for once in so many entries.
const LOOK_EVERY: u64 = 64;

/// Table files that hold what a cursor came by.
#[derive(Debug, Default)]
pub(crate) struct PlainFiles {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) entries: u64,
    /// The files' own.
    pub(crate) bytes: u64,
}

/// Writes the entries that are left of `cursor` to new files `<dir>/<stem>-<n>.sst`, and tells `at` each key. Durable on return, but for
/// the names.
pub(crate) fn write(
    cursor: &mut Cursor,
    dir: &Path,
    stem: &str,
    mut at: impl FnMut(&[u8]),
) -> Result<PlainFiles> {
    let options = file_options();
    let mut files = PlainFiles::default();
    let mut open: Option<SstFileWriter> = None;
    while let Some((key, value)) = cursor.next_where(|_| true).map_err(|error| *error)? {
        let writer = match &mut open {
            Some(writer) => writer,
            None => {
                let path = dir.join(format!("{stem}-{}.sst", files.paths.len()));
                let writer = SstFileWriter::create(&options);
                writer.open(&path).map_err(|e| failed(stem, e))?;
                files.paths.push(path);
                open.insert(writer)
            }
        };
        writer.put(key, value).map_err(|e| failed(stem, e))?;
        files.entries += 1;
        at(key);
        if files.entries % LOOK_EVERY == 0 && writer.file_size() >= FILE_BYTES {
            files.bytes += finish(writer, stem)?;
            open = None;
        }
    }
    if let Some(mut writer) = open {
        files.bytes += finish(&mut writer, stem)?;
    }
    Ok(files)
}

/// Makes the database in `dir` one of the column families `kept` and of `added`, each with its files, which move there. Whatever else it
/// had must have been dropped before. Durable on return.
///
/// Opening it looks at every table file, so what is missing or has another length is an error here.
pub(crate) fn finish_database(
    dir: &Path,
    kept: &[String],
    added: &[(String, Vec<PathBuf>)],
) -> Result<()> {
    let name = dir.display().to_string();
    let mut options = Options::default();
    options.set_disable_auto_compactions(true); // it is closed at once
    options.set_skip_stats_update_on_db_open(true);
    let columns = [DEFAULT_COLUMN]
        .into_iter()
        .chain(kept.iter().map(String::as_str))
        .map(|column| ColumnFamilyDescriptor::new(column, options.clone()));
    let db = DB::open_cf_descriptors(&options, dir, columns)
        .map_err(|e| error::map("open", &name, e))?;
    let mut moved = IngestExternalFileOptions::default();
    moved.set_move_files(true);
    for (column, files) in added {
        db.create_cf(column, &options)
            .map_err(|e| error::map("create", column, e))?;
        if files.is_empty() {
            continue;
        }
        let handle = db.cf_handle(column).ok_or(Error::Closed)?; // it was created just now
        db.ingest_external_file_cf_opts(&handle, &moved, files.iter().collect())
            .map_err(|e| error::map("add files to", column, e))?;
    }
    Ok(())
}

fn file_options() -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_format_version(TABLE_FORMAT_VERSION);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    options
}

/// Gives the length of the file.
fn finish(writer: &mut SstFileWriter<'_>, stem: &str) -> Result<u64> {
    writer.finish().map_err(|e| failed(stem, e))?;
    Ok(writer.file_size())
}

fn failed(stem: &str, source: rocksdb::Error) -> Error {
    error::map("write a table file of", stem, source)
}
