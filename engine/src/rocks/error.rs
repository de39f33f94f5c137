//! From RocksDB's error strings to [`Error`].
//!
//! A failure of a file that our Env served carries a token in its message, by which its typed error is found again. What
//! fails inside RocksDB has no token; its status code is the message's prefix.

use lazurite_env::ErrorKind;

use crate::error::Error;

/// What RocksDB concludes when the first opening of CURRENT fails and the next one does not. Nothing here asks for direct
/// I/O, so its conclusion is never right.
const FIRST_LOOK_FAILED: &str = "Direct I/O is not supported by the specified DB";

/// Maps a failure of `operation` on `target` (a column's name or the database's path).
pub(super) fn map(operation: &'static str, target: &str, error: rocksdb::Error) -> Error {
    from_message(operation, target, error.into_string())
}

/// The same for a message that came through the C API.
pub(super) fn from_message(operation: &'static str, target: &str, message: String) -> Error {
    let cause = lazurite_env_rocksdb::cause(&message);
    let (kind, message) = match &cause {
        Some(cause) => (cause.kind(), cause.to_string()),
        None if message.contains(FIRST_LOOK_FAILED) => (
            ErrorKind::Unavailable,
            "the file CURRENT could not be opened, and could a moment later".to_string(),
        ),
        None => (kind_of(&message), without_token(message)),
    };
    Error::RocksDb {
        operation,
        target: target.to_string(),
        kind,
        message,
        cause,
    }
}

/// The message without the token of an error that is no longer known: it would tell nobody anything.
fn without_token(mut message: String) -> String {
    while let Some(start) = message.find("[lazurite-cause:")
        && let Some(len) = message[start..].find(']')
    {
        message.replace_range(start..=start + len, "");
    }
    message.truncate(message.trim_end().len());
    message
}

fn kind_of(message: &str) -> ErrorKind {
    let code = message.split(':').next().unwrap_or("");
    match code {
        "NotFound" => ErrorKind::NotFound,
        "Corruption" => ErrorKind::Corruption,
        "Not implemented" => ErrorKind::Unsupported,
        "Invalid argument" | "Column family dropped" => ErrorKind::InvalidInput,
        "Operation timed out" => ErrorKind::TimedOut,
        "Resource busy" | "Operation failed. Try again." => ErrorKind::Unavailable,
        // The sub-code of an I/O error stands behind its code.
        "IO error" if message.contains("No space left on device") => ErrorKind::NoSpace,
        "IO error" if message.contains("No such file or directory") => ErrorKind::NotFound,
        "IO error" if message.contains("lock hold by current process") => ErrorKind::Locked,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_leads_nowhere_is_left_out() {
        let message = |message: &str| match from_message("read", "t", message.into()) {
            Error::RocksDb { message, .. } => message,
            other => panic!("{other:?}"),
        };
        let lost = "IO error: a [lazurite-cause:18446744073709551615] b [lazurite-cause:0]";
        assert_eq!(message(lost), "IO error: a  b");
        assert_eq!(
            message("IO error: [lazurite-cause:1"),
            "IO error: [lazurite-cause:1"
        );
    }

    #[test]
    fn kinds_are_told_from_the_status_code() {
        let kind = |message: &str| match from_message("read", "t", message.into()) {
            Error::RocksDb { kind, .. } => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            kind("Corruption: block checksum mismatch"),
            ErrorKind::Corruption
        );
        assert_eq!(
            kind("IO error: No space left on device: While appending"),
            ErrorKind::NoSpace
        );
        assert_eq!(kind("Resource busy: "), ErrorKind::Unavailable);
        assert_eq!(
            kind("Invalid argument: Direct I/O is not supported by the specified DB."),
            ErrorKind::Unavailable
        );
        assert_eq!(kind("IO error: something else"), ErrorKind::Io);
        assert_eq!(kind("no code at all"), ErrorKind::Io);
    }
}
