//! The [`Env`]: everything that a storage engine asks of an operating system's files, and nothing else.
//!
//! The trait is small and synchronous (RocksDB is synchronous), and open to users. Sugar lives in
//! [`EnvExt`](crate::EnvExt).
//!
//! # Contract
//! * Paths are absolute or relative to the process, as in the standard library. An Env never interprets a file's bytes.
//! * **Durable when.** Bytes: once [`WritableFile::sync`] returned. A name (create, rename, link, delete): once
//!   [`Env::sync_dir`] on its directory returned. Before that a power cut may lose it; a crash of the process does not.
//! * **Atomic.** `rename` replaces its target atomically: a reader sees the old file or the new one.
//! * **Parallel.** Every method may be called from any thread at once.
//! * A missing file is [`ErrorKind::NotFound`], also where its directory is missing.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::{Error, ErrorKind, PendingRead, Result};

/// What a directory entry or a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// One name in a directory, as [`Env::list`] gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name inside its directory, without a slash.
    pub name: String,
    /// File or directory.
    pub kind: FileKind,
}

/// What [`Env::stat`] knows of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// File or directory.
    pub kind: FileKind,
    /// Length in bytes; 0 for a directory.
    pub len: u64,
    /// Number of names that the file has (hard links); 1 for a directory.
    pub links: u64,
    /// When the bytes last changed.
    pub modified: SystemTime,
    /// When the bytes, the number of names or the permissions last changed: a file that was linked just now is told as changed
    /// now, however old its bytes are. Some file systems note a rename too. `modified` where the system does not tell.
    pub changed: SystemTime,
}

/// Why a read is made, where the reader knows: what user reads heat, a compaction must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Activity {
    /// Not told.
    #[default]
    Unknown = 0,
    /// A point read.
    Get = 1,
    /// A batch of point reads.
    MultiGet = 2,
    /// An iterator.
    Iterate = 3,
    /// A compaction.
    Compaction = 4,
    /// A memtable flush.
    Flush = 5,
    /// Opening the database or a table file.
    Open = 6,
    /// Verifying checksums.
    Verify = 7,
    /// Reading again what did not match its checksum the first time: no copy that a cache keeps of these bytes is good
    /// enough, and what it has there is dropped.
    Reread = 8,
}

impl Activity {
    /// Every activity, at the place of its number.
    pub const ALL: [Activity; 9] = [
        Activity::Unknown,
        Activity::Get,
        Activity::MultiGet,
        Activity::Iterate,
        Activity::Compaction,
        Activity::Flush,
        Activity::Open,
        Activity::Verify,
        Activity::Reread,
    ];

    /// A word for it, as figures and their labels use.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Unknown => "unknown",
            Activity::Get => "get",
            Activity::MultiGet => "multi_get",
            Activity::Iterate => "iterate",
            Activity::Compaction => "compaction",
            Activity::Flush => "flush",
            Activity::Open => "open",
            Activity::Verify => "verify",
            Activity::Reread => "reread",
        }
    }
}

/// What kind of block a read is for, where the reader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum BlockKind {
    /// Not told.
    #[default]
    Unknown = 0,
    /// Data.
    Data = 1,
    /// A filter.
    Filter = 2,
    /// An index.
    Index = 3,
    /// Footer, properties and the like.
    Metadata = 4,
}

/// What travels with each read: a hint, never needed for correctness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReadHint {
    /// Why the read is made.
    pub activity: Activity,
    /// What it reads.
    pub block: BlockKind,
}

/// One range of a [`RandomFile::read_many`].
#[derive(Debug)]
pub struct RangeRead<'a> {
    /// Where in the file the range begins.
    pub offset: u64,
    /// Where the bytes go; its length is the length of the range.
    pub buf: &'a mut [u8],
    /// Bytes read, fewer than `buf.len()` only at the end of the file. Starts as `Ok(0)`.
    pub result: Result<usize>,
}

/// A file read from front to back by one thread.
pub trait SequentialFile: fmt::Debug + Send {
    /// Reads up to `buf.len()` bytes; fewer only at the end of the file, where it is 0.
    fn read(&mut self, buf: &mut [u8]) -> Result<usize>;

    /// Skips `n` bytes, or to the end of the file.
    fn skip(&mut self, n: u64) -> Result<()>;
}

/// A file read at any offset by any number of threads. May block on the disk or the network.
pub trait RandomFile: fmt::Debug + Send + Sync {
    /// Fills `buf` from `offset`; fewer bytes only at the end of the file, 0 past it.
    fn read_at(&self, offset: u64, buf: &mut [u8], hint: ReadHint) -> Result<usize>;

    /// Reads several ranges; each carries its own result. By default one after another; a remote file overrides it.
    fn read_many(&self, reads: &mut [RangeRead<'_>], hint: ReadHint) {
        for read in reads {
            read.result = self.read_at(read.offset, read.buf, hint);
        }
    }

    /// Begins a read of at most `len` bytes and returns at once where the file can; the default reads right here.
    fn start_read(&self, offset: u64, len: usize, hint: ReadHint) -> PendingRead {
        let mut buf = vec![0; len];
        PendingRead::ready(self.read_at(offset, &mut buf, hint).map(|n| {
            buf.truncate(n);
            buf.into()
        }))
    }

    /// Asks for `len` bytes from `offset` to be at hand soon. `false`: this file does not prefetch.
    fn prefetch(&self, _offset: u64, _len: usize, _hint: ReadHint) -> Result<bool> {
        Ok(false)
    }

    /// The length in bytes. No I/O for a remote file.
    fn len(&self) -> Result<u64>;

    /// True where the file holds no byte.
    fn is_empty(&self) -> Result<bool> {
        self.len().map(|n| n == 0)
    }

    /// Bytes that are the same for each handle of this content and differ for any other, in this process.
    fn unique_id(&self) -> Option<[u8; 16]> {
        None
    }

    /// Where the complete file now is on the local disk, once it is: a file that was opened remotely may answer `Some`
    /// later, and its caller may then open that path itself and read there. Costs neither I/O nor a lock.
    fn native_path(&self) -> Option<PathBuf> {
        None
    }
}

/// A file written at its end by one thread. Dropping it closes it; [`close`](Self::close) also reports errors.
pub trait WritableFile: fmt::Debug + Send {
    /// Appends all of `data`. After an error the file's end is not known: sync or discard it.
    fn append(&mut self, data: &[u8]) -> Result<()>;

    /// Hands buffered bytes to the operating system: they survive a crash of the process, not a power cut.
    fn flush(&mut self) -> Result<()>;

    /// Makes every appended byte durable.
    fn sync(&mut self) -> Result<()>;

    /// Cuts or extends the file to `len` bytes; what is appended next goes there.
    fn truncate(&mut self, len: u64) -> Result<()>;

    /// Bytes in the file, buffered ones included.
    fn len(&self) -> u64;

    /// True where the file holds no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flushes and closes. Not a sync. Every later call but `len` and a drop is `InvalidInput`.
    fn close(&mut self) -> Result<()>;
}

/// A file read and written at any offset by any number of threads, whose unwritten ranges take no space on the disk.
///
/// Reads of an overlapping write that is under way give old or new bytes, in any mixture. What was written and not synced
/// survives a crash of the process; a power cut loses or keeps any part of it.
pub trait SparseFile: fmt::Debug + Send + Sync {
    /// Fills `buf` from `offset`; fewer bytes only at the end of the file, 0 past it. What was never written is zero.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Writes all of `data` at `offset`; the file grows where that ends past its end. After an error any part of it is
    /// written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Makes `range` read as zero and gives the disk blocks that lie wholly in it back. The length stays, also where the
    /// range ends past it.
    ///
    /// # Errors
    /// `Unsupported` where the file system cannot; nothing has changed then.
    fn punch_hole(&self, range: Range<u64>) -> Result<()>;

    /// Cuts the file to `len` bytes or extends it by a hole.
    fn truncate(&self, len: u64) -> Result<()>;

    /// Makes the bytes, the holes and the length durable.
    fn sync(&self) -> Result<()>;

    /// The length in bytes, holes included.
    fn len(&self) -> Result<u64>;

    /// True where the file holds no byte.
    fn is_empty(&self) -> Result<bool> {
        self.len().map(|n| n == 0)
    }

    /// Bytes that the file takes on the disk. A file system may count some for itself, and may count late what was
    /// written just now.
    fn allocated(&self) -> Result<u64>;
}

/// Held while the lock is; dropping it releases the lock. The operating system releases it if the process dies.
pub trait FileLock: fmt::Debug + Send + Sync {}

/// The files of an operating system, or of something that behaves like one. See the [module](self) for the contract.
pub trait Env: fmt::Debug + Send + Sync + 'static {
    /// Opens a file to be read from front to back.
    fn open_sequential(&self, path: &Path) -> Result<Box<dyn SequentialFile>>;

    /// Opens a file to be read at any offset.
    fn open_random(&self, path: &Path) -> Result<Box<dyn RandomFile>>;

    /// Creates an empty file, or empties the one that is there.
    fn create(&self, path: &Path) -> Result<Box<dyn WritableFile>>;

    /// Opens a file to append to; creates it where it is missing.
    fn open_append(&self, path: &Path) -> Result<Box<dyn WritableFile>>;

    /// Opens a file for positioned reads and writes; creates it, empty, where it is missing.
    ///
    /// # Errors
    /// `Unsupported`, the default, where this Env has no such files. Whoever asks must be able to do without.
    fn open_sparse(&self, path: &Path) -> Result<Box<dyn SparseFile>> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "open sparse",
            path,
            "this Env has no sparse files",
        ))
    }

    /// Renames a file or directory, replacing a file at `to` atomically.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Gives the file a second name; `AlreadyExists` where `to` is there.
    fn link(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes one name of a file. Open handles go on reading.
    fn delete(&self, path: &Path) -> Result<()>;

    /// Creates one directory; its parent must exist; `AlreadyExists` where it is there.
    fn create_dir(&self, path: &Path) -> Result<()>;

    /// Removes an empty directory.
    fn delete_dir(&self, path: &Path) -> Result<()>;

    /// The names in a directory, in no order.
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>>;

    /// Kind, length, links and time of a path.
    fn stat(&self, path: &Path) -> Result<Stat>;

    /// Takes an exclusive lock on a file, creating it; [`ErrorKind::Locked`] at once where
    /// anyone, this process included, holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn FileLock>>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;

    /// Bytes that an ordinary user may still write to the disk that holds `path`.
    fn free_space(&self, path: &Path) -> Result<u64>;

    /// Where the caller may open `path` by itself, without this Env, and find the same bytes: how local files stay free
    /// of Rust below RocksDB. Wrappers that must see every byte answer `None`. Costs no I/O.
    fn native_path(&self, path: &Path) -> Option<PathBuf>;
}
