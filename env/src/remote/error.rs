//! From an OpenDAL error to ours: the kind, a sentence that helps, and nothing secret.
//!
//! OpenDAL puts the request's URI and the response's headers into its errors, so neither its `Display` nor the error
//! itself as a source is let through. What is kept is its message and the messages of its sources, each cleaned.

use std::error::Error as _;

use opendal::ErrorKind as Theirs;

use crate::{Error, ErrorKind};

use super::redact::clean;

/// Our error for an OpenDAL one in `operation` on `path`.
pub(super) fn from_opendal(operation: &'static str, path: String, error: &opendal::Error) -> Error {
    let cause = cause(error);
    let kind = kind(error, &cause);
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
        _ if error.is_temporary() || was_temporary(error) => ErrorKind::Unavailable,
        _ => ErrorKind::Io,
    }
}

/// True where the request could not be signed: no credentials, or a file of them that cannot be read.
fn is_credential_failure(cause: &str) -> bool {
    cause.contains("signing http request") || cause.contains("loading credential")
}

/// True for an error that the retry layer gave up on. That layer gives every error the same label, so what it was before
/// is read from what it holds: a transport error has a source, an answer of the server has a status.
fn was_temporary(error: &opendal::Error) -> bool {
    if !error.is_persistent() {
        return false;
    }
    let shown = error.to_string();
    match shown.split_once("status: ") {
        Some((_, status)) => {
            status.starts_with('5') || status.starts_with("429") || status.starts_with("499")
        }
        None => error.source().is_some(),
    }
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
fn cause(error: &opendal::Error) -> String {
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
        let busy = || opendal::Error::new(Theirs::Unexpected, "busy").set_temporary();
        assert_eq!(converted(busy()).kind(), ErrorKind::Unavailable);
        let given_up = busy()
            .with_context("response", "Parts { status: 503, version")
            .set_persistent();
        assert_eq!(converted(given_up).kind(), ErrorKind::Unavailable);
        let refused = opendal::Error::new(Theirs::Unexpected, "bad request")
            .with_context("response", "Parts { status: 400, version")
            .set_persistent();
        assert_eq!(converted(refused).kind(), ErrorKind::Io);
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
