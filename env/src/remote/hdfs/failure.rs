//! [`Failure`]: what went wrong in HDFS, before it is known which operation on which object it befell.

use std::{fmt, ops::Range, time::Duration};

use hdfs_native::HdfsError;

use crate::{Error, ErrorKind};

use crate::remote::redact::clean;

#[derive(Debug)]
pub(super) struct Failure {
    kind: ErrorKind,
    message: String,
    source: Option<HdfsError>,
}

impl Failure {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure {
            kind,
            message: message.into(),
            source: None,
        }
    }

    pub(super) fn timed_out(after: Duration) -> Self {
        Failure::new(ErrorKind::TimedOut, format!("no answer within {after:?}"))
    }

    pub(super) fn too_short(range: &Range<u64>, len: u64) -> Self {
        let error = crate::remote::too_short(String::new(), range, len);
        Failure::new(error.kind(), error.message())
    }

    pub(super) fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// A rename failed because its target's directory is not there.
    pub(super) fn is_missing_directory(&self) -> bool {
        self.kind == ErrorKind::NotFound && !self.message.contains("rename source")
    }

    pub(super) fn is_directory_not_empty(&self) -> bool {
        matches!(&self.source, Some(HdfsError::RPCError(class, _)) if class.ends_with("PathIsNotEmptyDirectoryException"))
    }

    /// The error that a caller sees.
    pub(super) fn named(self, operation: &'static str, path: String) -> Error {
        match self.source {
            Some(source) => Error::with_source(
                self.kind,
                operation,
                path,
                self.message,
                first_line(&source),
            ),
            None => Error::new(self.kind, operation, path, self.message),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

impl From<HdfsError> for Failure {
    fn from(error: HdfsError) -> Self {
        let kind = kind(&error);
        let first = first_line(&error);
        let message = match kind {
            ErrorKind::AlreadyExists => String::new(),
            ErrorKind::PermissionDenied => format!(
                "HDFS refused the user; check HADOOP_USER_NAME, the Kerberos ticket and the permissions ({first})"
            ),
            _ => first,
        };
        Failure {
            kind,
            message,
            source: Some(error),
        }
    }
}

/// What it says, without the Java stack trace that follows the first line.
fn first_line(error: &HdfsError) -> String {
    let text = error.to_string();
    clean(text.lines().next().unwrap_or_default())
}

fn kind(error: &HdfsError) -> ErrorKind {
    match error {
        HdfsError::FileNotFound(_) | HdfsError::IsADirectoryError(_) => ErrorKind::NotFound,
        HdfsError::AlreadyExists(_) => ErrorKind::AlreadyExists,
        HdfsError::IOError(e) => match e.kind() {
            std::io::ErrorKind::TimedOut => ErrorKind::TimedOut,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            std::io::ErrorKind::InvalidInput => ErrorKind::InvalidInput,
            // A refused, broken or unroutable connection, a name that does not resolve.
            _ => ErrorKind::Unavailable,
        },
        // Another DataNode, or the same one restarted, may give the block.
        HdfsError::DataTransferError(_) | HdfsError::BlocksNotFound(_) => ErrorKind::Unavailable,
        HdfsError::OperationFailed(_) | HdfsError::InternalError(_) => ErrorKind::Io,
        HdfsError::ChecksumError | HdfsError::InvalidRPCResponse(_) => ErrorKind::Corruption,
        HdfsError::InvalidPath(_)
        | HdfsError::InvalidArgument(_)
        | HdfsError::UrlParseError(_)
        | HdfsError::XmlParseError(_) => ErrorKind::InvalidInput,
        HdfsError::UnsupportedErasureCodingPolicy(_) | HdfsError::UnsupportedFeature(_) => {
            ErrorKind::Unsupported
        }
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => {
            ErrorKind::PermissionDenied
        }
        HdfsError::RPCError(class, message) | HdfsError::FatalRPCError(class, message) => {
            rpc_kind(class, message)
        }
        _ => ErrorKind::Io,
    }
}

fn rpc_kind(class: &str, message: &str) -> ErrorKind {
    let name = class.rsplit(['.', '$']).next().unwrap_or(class);
    match name {
        "FileNotFoundException" => ErrorKind::NotFound,
        "FileAlreadyExistsException" => ErrorKind::AlreadyExists,
        "AccessControlException" | "AuthorizationException" | "InvalidToken" => {
            ErrorKind::PermissionDenied
        }
        "StandbyException"
        | "SafeModeException"
        | "RetriableException"
        | "ObserverRetryOnActiveException"
        | "RpcServerException" => ErrorKind::Unavailable,
        "DSQuotaExceededException" | "NSQuotaExceededException" | "QuotaExceededException" => {
            ErrorKind::NoSpace
        }
        "InvalidPathException" => ErrorKind::InvalidInput,
        // No DataNode took the block: they are starting, busy or full.
        _ if message.contains("could only be written to") => ErrorKind::Unavailable,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_tell_what_to_do() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let rpc = |class: &str| HdfsError::RPCError(class.to_owned(), "m\n\tat x".to_owned());
        for (theirs, ours) in [
            (HdfsError::IOError(refused), ErrorKind::Unavailable),
            (rpc("java.io.FileNotFoundException"), ErrorKind::NotFound),
            (
                rpc("org.apache.hadoop.security.AccessControlException"),
                ErrorKind::PermissionDenied,
            ),
            (
                rpc("org.apache.hadoop.hdfs.server.namenode.SafeModeException"),
                ErrorKind::Unavailable,
            ),
            (
                HdfsError::AlreadyExists("x".into()),
                ErrorKind::AlreadyExists,
            ),
            (rpc("java.io.IOException"), ErrorKind::Io),
        ] {
            let error = Failure::from(theirs).named("get", "hdfs://h/x".to_owned());
            assert_eq!(error.kind(), ours, "{error:?}");
            assert!(!format!("{error:?}").contains("at x"), "{error:?}");
        }
    }
}
