//! [`Op`]: the names of everything that can be asked of an Env, of its open files and of a remote store.
//!
//! Shared by the wrappers that watch operations ([`TraceEnv`](crate::TraceEnv)) and those that break them
//! ([`FaultPlan`](crate::FaultPlan)), so that a test speaks of both in the same words.

use std::fmt;

/// One kind of operation on an [`Env`](crate::Env), an open file, or a [`RemoteStore`](crate::remote::RemoteStore).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Op {
    /// `Env::open_sequential`.
    OpenSequential,
    /// `Env::open_random`.
    OpenRandom,
    /// `Env::create`.
    Create,
    /// `Env::open_append`.
    OpenAppend,
    /// `Env::open_sparse`.
    OpenSparse,
    /// `Env::rename`; its path is the old name.
    Rename,
    /// `Env::link`; its path is the old name.
    Link,
    /// `Env::delete`.
    Delete,
    /// `Env::create_dir`.
    CreateDir,
    /// `Env::delete_dir`.
    DeleteDir,
    /// `Env::list`.
    List,
    /// `Env::stat`.
    Stat,
    /// `Env::lock`.
    Lock,
    /// `Env::sync_dir`.
    SyncDir,
    /// `Env::free_space`.
    FreeSpace,
    /// A read of an open local file: sequential, at an offset, one range of many, or begun and waited for; of a sparse
    /// file too.
    Read,
    /// `SequentialFile::skip`.
    Skip,
    /// `RandomFile::prefetch`.
    Prefetch,
    /// `RandomFile::len` and `SparseFile::len`.
    FileLen,
    /// `WritableFile::append`.
    Append,
    /// `WritableFile::flush`.
    Flush,
    /// `WritableFile::sync` and `SparseFile::sync`.
    Sync,
    /// `WritableFile::truncate` and `SparseFile::truncate`.
    Truncate,
    /// `WritableFile::close`.
    Close,
    /// `SparseFile::write_at`.
    WriteAt,
    /// `SparseFile::punch_hole`.
    PunchHole,
    /// `SparseFile::allocated`.
    Allocated,
    /// `RemoteStore::get`.
    Get,
    /// `RemoteStore::get_range`.
    GetRange,
    /// `RemoteStore::put`.
    Put,
    /// `RemoteStore::put_if_absent`.
    PutIfAbsent,
    /// `RemoteStore::writer`.
    WriterOpen,
    /// `ObjectWriter::write`.
    WriterWrite,
    /// `ObjectWriter::finish`.
    WriterFinish,
    /// `ObjectWriter::abort`.
    WriterAbort,
    /// `RemoteStore::len`.
    ObjectLen,
    /// `RemoteStore::list`; its path is the prefix, empty for the store's own.
    ObjectList,
    /// `RemoteStore::copy`; its path is the copy's key.
    Copy,
    /// `RemoteStore::delete`.
    ObjectDelete,
}

impl Op {
    /// The verb that errors and traces name.
    pub fn name(self) -> &'static str {
        match self {
            Op::OpenSequential => "open_sequential",
            Op::OpenRandom => "open_random",
            Op::Create => "create",
            Op::OpenAppend => "open_append",
            Op::OpenSparse => "open_sparse",
            Op::Rename => "rename",
            Op::Link => "link",
            Op::Delete => "delete",
            Op::CreateDir => "create_dir",
            Op::DeleteDir => "delete_dir",
            Op::List => "list",
            Op::Stat => "stat",
            Op::Lock => "lock",
            Op::SyncDir => "sync_dir",
            Op::FreeSpace => "free_space",
            Op::Read => "read",
            Op::Skip => "skip",
            Op::Prefetch => "prefetch",
            Op::FileLen => "len",
            Op::Append => "append",
            Op::Flush => "flush",
            Op::Sync => "sync",
            Op::Truncate => "truncate",
            Op::Close => "close",
            Op::WriteAt => "write_at",
            Op::PunchHole => "punch_hole",
            Op::Allocated => "allocated",
            Op::Get => "get",
            Op::GetRange => "get_range",
            Op::Put => "put",
            Op::PutIfAbsent => "put_if_absent",
            Op::WriterOpen => "writer",
            Op::WriterWrite => "write",
            Op::WriterFinish => "finish",
            Op::WriterAbort => "abort",
            Op::ObjectLen => "object_len",
            Op::ObjectList => "object_list",
            Op::Copy => "copy",
            Op::ObjectDelete => "object_delete",
        }
    }

    /// True for an operation on a remote store, false for one on an Env or its files.
    pub fn is_remote(self) -> bool {
        matches!(
            self,
            Op::Get
                | Op::GetRange
                | Op::Put
                | Op::PutIfAbsent
                | Op::WriterOpen
                | Op::WriterWrite
                | Op::WriterFinish
                | Op::WriterAbort
                | Op::ObjectLen
                | Op::ObjectList
                | Op::Copy
                | Op::ObjectDelete
        )
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
