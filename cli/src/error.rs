//! Why a command ended without success, and the exit code that says so.

use std::{error::Error as _, io, path::Path};

use lazurite_env::ErrorKind;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments cannot be right.
    #[error("{0}")]
    Usage(String),
    /// What was looked at is not as it must be, or what is there does not fit what was asked.
    #[error("{0}")]
    Wrong(String),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] lazurite::Error),
    /// A store or the I/O threads failed.
    #[error(transparent)]
    Env(#[from] lazurite_env::Error),
    /// The metrics cannot be served.
    #[error(transparent)]
    Metrics(#[from] lazurite::metrics::ServeError),
    /// A file of the user's failed.
    #[error("{operation} {path}")]
    File {
        operation: &'static str,
        path: String,
        source: io::Error,
    },
    /// Standard output failed.
    #[error("write to standard output")]
    Output(#[source] io::Error),
}

impl Error {
    /// Turns an I/O error of `operation` (a verb) on `path` into an [`Error`].
    pub fn file(
        operation: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.as_ref().display().to_string();
        move |source| Error::File {
            operation,
            path,
            source,
        }
    }

    /// 2 where the arguments cannot be right, 1 for all else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Engine(lazurite::Error::InvalidOption { .. }) => 2,
            // Of stores the command opens itself: a bad URI.
            Error::Env(e) if e.kind() == ErrorKind::InvalidInput => 2,
            _ => 1,
        }
    }

    /// True if the reader of standard output went away, as `head` does.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output(e) if e.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error and everything that caused it, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(e) = cause {
            let message = e.to_string();
            // Many errors repeat their source in their own text.
            if !text.contains(&message) {
                text.push_str(": ");
                text.push_str(&message);
            }
            cause = e.source();
        }
        text
    }
}
