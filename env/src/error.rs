//! The one error type of every Env and every remote store.
//!
//! An error names the operation and the path, says in one sentence what went wrong, keeps its source, and tells a
//! *temporary* cause (try again) from a *permanent* one. It is cheap to clone, so that it can be kept on one side of
//! the C ABI while a token for it travels through RocksDB's string errors.
//!
//! Invariant: no message, path or source holds a credential. Remote stores build their paths from the redacted URI.

use std::{fmt, io, path::Path, sync::Arc};

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file, directory, object or bucket is not there.
    NotFound,
    /// It is there already, and the operation had to create it.
    AlreadyExists,
    /// The credentials or the permissions do not allow it.
    PermissionDenied,
    /// Somebody else holds the lock.
    Locked,
    /// The disk or the quota is full.
    NoSpace,
    /// The bytes are not those that were written: wrong length, checksum or format.
    Corruption,
    /// The argument cannot be right: a bad path, URI or option.
    InvalidInput,
    /// This Env or store cannot do it.
    Unsupported,
    /// It took longer than its deadline.
    TimedOut,
    /// The store cannot be reached or says that it is overloaded.
    Unavailable,
    /// A callback panicked; the panic was caught before it reached C.
    Panicked,
    /// Any other I/O failure.
    Io,
}

impl ErrorKind {
    /// True where the same operation may succeed later without anyone changing anything.
    pub fn is_temporary(self) -> bool {
        matches!(self, ErrorKind::TimedOut | ErrorKind::Unavailable)
    }

    fn phrase(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "not found",
            ErrorKind::AlreadyExists => "already exists",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::Locked => "locked by another process or handle",
            ErrorKind::NoSpace => "no space left",
            ErrorKind::Corruption => "corrupt",
            ErrorKind::InvalidInput => "invalid input",
            ErrorKind::Unsupported => "not supported",
            ErrorKind::TimedOut => "timed out",
            ErrorKind::Unavailable => "temporarily unavailable",
            ErrorKind::Panicked => "panicked",
            ErrorKind::Io => "I/O error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.phrase())
    }
}

/// An operation on a path failed. See the [module](self) for what it promises.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    path: String,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` in `operation` (a verb: `read`, `rename`) on `path`; `message` may be empty.
    pub fn new(
        kind: ErrorKind,
        operation: &'static str,
        path: impl AsRef<Path>,
        message: impl Into<String>,
    ) -> Self {
        Error(Arc::new(Inner {
            kind,
            operation,
            path: path.as_ref().display().to_string(),
            message: message.into(),
            source: None,
        }))
    }

    /// An error of `kind` that keeps `source`.
    pub fn with_source(
        kind: ErrorKind,
        operation: &'static str,
        path: impl AsRef<Path>,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Error(Arc::new(Inner {
            kind,
            operation,
            path: path.as_ref().display().to_string(),
            message: message.into(),
            source: Some(source.into()),
        }))
    }

    /// A standard I/O error, its kind taken over.
    pub fn from_io(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            io::ErrorKind::WouldBlock => ErrorKind::Locked,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::Corruption,
            io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            _ => ErrorKind::Io,
        };
        Self::with_source(kind, operation, path, "", source)
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The verb that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The path or object key that it failed on.
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The sentence beside the kind; may be empty.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// True where the same operation may succeed later: [`ErrorKind::is_temporary`].
    pub fn is_temporary(&self) -> bool {
        self.0.kind.is_temporary()
    }

    /// True where the thing is not there.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        write!(f, "{} {}: {}", e.operation, e.path, e.kind)?;
        if !e.message.is_empty() {
            write!(f, ": {}", e.message)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if let Some(source) = &self.0.source {
            write!(f, " (caused by: {source})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}
