//! The [`RemoteStore`] trait: objects under one prefix of one store.
//!
//! # Contract
//! * A key is relative to the store's prefix: non-empty parts joined by `/`, none of them `.` or `..` ([`Key`]).
//! * An object appears whole or not at all: a reader never sees a part of a `put` or of an unfinished writer.
//! * An object that was reported written is durable in the store's own sense, and at once visible to `get` and `list`.
//! * `get_range` gives exactly the bytes asked for, or an error: `Corruption` where the object is shorter. For a while after
//!   another process replaced or deleted the object it may still give the old bytes, so it is for objects that are
//!   written once.
//! * Every method may be called from any task at once. None is called from a RocksDB thread directly: those go through
//!   [`IoRuntime`](crate::IoRuntime).

use std::{fmt, ops::Range, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, ErrorKind, Result};

use super::{Copied, CopyKind, copy::streamed};

/// An object's place below the store's prefix. Validated, so that no metadata can point outside the prefix.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

impl Key {
    /// Takes `key` if it is relative, has no empty, `.` or `..` part and no control character or backslash.
    pub fn new(key: impl Into<String>) -> Result<Self> {
        let key = key.into();
        let sound = !key.is_empty()
            && key.len() <= 1024
            && !key.chars().any(|c| c.is_control() || c == '\\')
            && key
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..");
        if sound {
            Ok(Key(key))
        } else {
            Err(Error::new(
                ErrorKind::InvalidInput,
                "check key",
                key.escape_debug().to_string(),
                "an object key must be relative and have no empty, `.` or `..` part",
            ))
        }
    }

    /// This key with `part` (which may hold slashes) after it.
    pub fn join(&self, part: &str) -> Result<Self> {
        Key::new(format!("{}/{part}", self.0))
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its last part: the name of the object in its directory.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// What stands before its last part; `None` where it has one part only.
    pub fn parent(&self) -> Option<Key> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Key(parent.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One entry of a [`RemoteStore::list`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// An object directly under the listed prefix.
    Object {
        /// Its name, without the prefix and without a slash.
        name: String,
        /// Its length in bytes.
        len: u64,
        /// When it was put or copied here, by the store's clock, which need not be this machine's; some tell whole seconds. Of
        /// an object that went in parts, some stores (S3) tell when its upload began. `None`: the store tells no time.
        modified: Option<SystemTime>,
    },
    /// A prefix that holds further objects.
    Prefix {
        /// Its name, without a slash.
        name: String,
    },
}

/// What a store was found to do, at [`open`](crate::remote::open).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// How [`copy`](RemoteStore::copy) is carried out, where nothing is in its way.
    pub copy: CopyKind,
    /// How `put_if_absent` is carried out.
    pub commit: CommitPrimitive,
}

/// The operation by which a store lets exactly one of two writers create an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitPrimitive {
    /// One conditional request: `If-None-Match: *` on S3, GCS and Azure; an in-memory map's entry.
    ConditionalPut,
    /// A file written aside, then given its name by a link or rename that refuses to replace.
    ExclusiveRename,
    /// None: the store can only be read, and every write is `Unsupported`.
    None,
}

/// Writes one object piece by piece. Nothing is visible before [`finish`](Self::finish) returned.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Adds bytes at the end. May send them at once or keep them.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Makes the object visible and durable, replacing one of that key.
    async fn finish(self: Box<Self>) -> Result<()>;

    /// Gives up and removes what was sent. A dropped writer leaves at most what the store's own clean-up removes.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// Objects under one prefix of one store. See the [module](self) for the contract.
#[async_trait]
pub trait RemoteStore: fmt::Debug + Send + Sync + 'static {
    /// The store and prefix as a URI without any secret, for people.
    fn uri(&self) -> &str;

    /// What this store can do.
    fn capabilities(&self) -> Capabilities;

    /// The whole object. One request.
    async fn get(&self, key: &Key) -> Result<Bytes>;

    /// Exactly the bytes of `range`. One request; none for an empty range.
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// Writes an object at once, replacing one of that key.
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()>;

    /// Creates an object: of all callers in all processes exactly one succeeds, the others get `AlreadyExists`.
    ///
    /// After a temporary error the outcome is not known: the object may be there, and may be this caller's own. That
    /// includes an `AlreadyExists` that a store met only when it sent the request again: it is reported as `Unavailable`.
    /// The caller reads the object back to find out.
    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()>;

    /// Begins an object that is too large to hold in memory.
    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>>;

    /// The length of an object in bytes.
    async fn len(&self, key: &Key) -> Result<u64>;

    /// What lies directly under `prefix` (`None`: the store's own prefix), sorted by name. Empty where nothing does.
    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>>;

    /// As [`list`](Self::list) of `prefix`, by a caller who knows about which names there are, in any order. Where the store
    /// gives out a long listing page by page, as S3 does, the pages are asked for at once: about one for 800 names.
    async fn list_likely(&self, prefix: &Key, likely: &[&str]) -> Result<Vec<Listed>> {
        let _ = likely;
        self.list(Some(prefix)).await
    }

    /// Makes `to` an object with the bytes of `from`, which is `len` bytes long: whole or not at all, and durable when this
    /// returns, as [`put`](Self::put) does. It is an object of its own from then on: what is deleted or put under one of the
    /// two names leaves the other as it is. An object that was under `to` is replaced in one step; callers use fresh keys.
    ///
    /// What it costs is told beforehand by [`Capabilities::copy`] and afterwards by [`Copied`]. `file://` links, and streams
    /// where the file system refuses the link. S3 and GCS copy by themselves with three requests (the length of `from`, the
    /// copy, the length of `to`, for S3 may report a copy done that failed); an object of more than 5 GiB on S3 is streamed.
    /// HDFS and Azure stream: the length, one ranged read for each 4 MiB, and an upload.
    ///
    /// After an error `to` is as it was or the whole copy, never a part; after one that is temporary, or where the future is
    /// dropped, it may still become the copy. To do it again is well.
    ///
    /// # Errors
    /// `NotFound`: `from` is not there. `Corruption` that names `from`: its length is not `len`; nothing was written.
    /// `Corruption` that names `to`: the store reported it copied, but what is there has another length, or was replaced by
    /// another caller at that moment. `InvalidInput`: `from` is `to`. A streamed copy may fail as `get_range` and `writer` do, and its errors name these.
    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        streamed(self, from, to, len).await
    }

    /// Removes an object. Not an error where it is not there.
    async fn delete(&self, key: &Key) -> Result<()>;
}
