//! From an OpenDAL error to ours: the kind, a sentence that helps, and nothing secret.
//!
//! OpenDAL puts the request's URI and the response's headers into its errors, so neither its `Display` nor the error
//! itself as a source is let through. What is kept is its message and the messages of its sources, each cleaned.

use std::error::Error as _;

use opendal::ErrorKind as Theirs;

use crate::{Error, ErrorKind};

use super::redact::clean;

/// Our error for an OpenDAL one in `operation` on `path`, of a store that was opened.
pub(super) fn from_opendal(operation: &'static str, path: String, error: &opendal::Error) -> Error {
    let cause = cause(error);
    match kind(error, &cause) {
        // They were found at open. What gives them out (a metadata service, STS, a file that is being replaced) may be away
        // for a moment, and its errors do not come through: the loader tells no difference between that and nothing there.
        ErrorKind::PermissionDenied if is_credential_failure(&cause) => {
            let message = format!("the credentials cannot be renewed just now ({cause})");
            Error::with_source(ErrorKind::Unavailable, operation, path, message, cause)
        }
        kind => described(kind, operation, path, cause),
    }
}

/// The same for what opens the store: credentials that are not found now are missing.
pub(super) fn at_open(uri: String, error: &opendal::Error) -> Error {
    let cause = cause(error);
    described(kind(error, &cause), "open", uri, cause)
}

fn described(kind: ErrorKind, operation: &'static str, path: String, cause: String) -> Error {
    let message = sentence(kind, &cause);
    Error::with_source(kind, operation, path, message, cause)
}

fn kind(error: &opendal::Error, cause: &str) -> ErrorKind {
    match error.kind() {
        // OpenDAL calls a missing bucket a wrong configuration.
        Theirs::ConfigInvalid if cause.contains("NoSuchBucket") => ErrorKind::NotFound,
        // A completed upload whose first answer was lost, or one that the store's clean-up took: sent again, it works.
        Theirs::NotFound if cause.contains("NoSuchUpload") => ErrorKind::Unavailable,
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::IsADirectory => ErrorKind::NotFound,
        Theirs::ConfigInvalid => ErrorKind::InvalidInput,
        // WebHDFS answers a range past the end with 403.
        Theirs::PermissionDenied if cause.contains("out of the range [") => ErrorKind::Corruption,
        Theirs::PermissionDenied => ErrorKind::PermissionDenied,
        Theirs::AlreadyExists | Theirs::ConditionNotMatch => ErrorKind::AlreadyExists,
        Theirs::RangeNotSatisfied => ErrorKind::Corruption,
        // A whole answer that is shorter than the range; a connection that broke off says "http response got".
        _ if cause.starts_with("reader got too") => ErrorKind::Corruption,
        Theirs::Unsupported => ErrorKind::Unsupported,
        Theirs::RateLimited | Theirs::Conflict => ErrorKind::Unavailable,
        _ if is_credential_failure(cause) => ErrorKind::PermissionDenied,
        _ if cause.contains("timeout") || cause.contains("timed out") => ErrorKind::TimedOut,
        _ if error.is_temporary() => ErrorKind::Unavailable,
        _ => ErrorKind::Io,
    }
}

/// True where the request could not be signed: no credentials, or a file of them that cannot be read.
fn is_credential_failure(cause: &str) -> bool {
    cause.contains("signing http request") || cause.contains("loading credential")
}

fn sentence(kind: ErrorKind, cause: &str) -> String {
    let advice = match kind {
        ErrorKind::NotFound if cause.contains("NoSuchBucket") => {
            "the bucket does not exist; create it or correct the URI"
        }
        ErrorKind::PermissionDenied if is_credential_failure(cause) => {
            "no usable credentials were found; set the store's usual environment variables or files"
        }
        ErrorKind::PermissionDenied
            if [
                "InvalidAccessKeyId",
                "SignatureDoesNotMatch",
                "InvalidToken",
                "ExpiredToken",
            ]
            .iter()
            .any(|code| cause.contains(code)) =>
        {
            "the store refused the credentials; check the key, the secret, the token and the region"
        }
        ErrorKind::PermissionDenied => "the credentials do not allow this",
        ErrorKind::NotFound | ErrorKind::AlreadyExists => return String::new(),
        ErrorKind::Corruption => "the object does not hold the range that was asked for",
        _ => return cause.to_owned(),
    };
    format!("{advice} ({cause})")
}

/// The message and those of its sources, on one line, without secrets.
pub(super) fn cause(error: &opendal::Error) -> String {
    let mut text = error.message().to_owned();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    clean(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(error: opendal::Error) -> Error {
        from_opendal("get", "s3://b/k".to_owned(), &error)
    }

    #[test]
    fn kinds_tell_what_to_do() {
        for (theirs, ours) in [
            (Theirs::NotFound, ErrorKind::NotFound),
            (Theirs::PermissionDenied, ErrorKind::PermissionDenied),
            (Theirs::ConditionNotMatch, ErrorKind::AlreadyExists),
            (Theirs::RangeNotSatisfied, ErrorKind::Corruption),
            (Theirs::RateLimited, ErrorKind::Unavailable),
            (Theirs::Unexpected, ErrorKind::Io),
        ] {
            assert_eq!(converted(opendal::Error::new(theirs, "m")).kind(), ours);
        }
        let missing =
            opendal::Error::new(Theirs::ConfigInvalid, "S3Error { code: \"NoSuchBucket\" }");
        assert_eq!(converted(missing).kind(), ErrorKind::NotFound);
        let busy = opendal::Error::new(Theirs::Unexpected, "busy").set_temporary();
        assert_eq!(converted(busy).kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn missing_credentials_are_permanent_at_open_and_away_later() {
        let unsigned = opendal::Error::new(Theirs::Unexpected, "signing http request")
            .set_source(std::io::Error::other("failed to load signing credential"));
        let error = at_open("s3://b".to_owned(), &unsigned);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let error = converted(unsigned);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        // What the store itself says of them is final.
        let refused = opendal::Error::new(Theirs::PermissionDenied, "InvalidAccessKeyId");
        assert_eq!(converted(refused).kind(), ErrorKind::PermissionDenied);
    }

    #[test]
    fn secrets_stay_behind() {
        let error = opendal::Error::new(
            Theirs::Unexpected,
            "<AWSAccessKeyId>SECRET</AWSAccessKeyId> GET https://h/k?X-Amz-Signature=SECRET failed",
        )
        .with_context("uri", "https://h/k?X-Amz-Security-Token=SECRET");
        let shown = converted(error);
        let shown = format!("{shown} {shown:?}");
        assert!(!shown.contains("SECRET"), "{shown}");
        assert!(shown.contains("https://h/k failed") || shown.contains("[removed]"));
    }
}
