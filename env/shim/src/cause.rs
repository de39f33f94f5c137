//! Typed errors that wait, by token, until RocksDB's string error comes back.
//!
//! RocksDB carries a status as a code and a text. The shim ends that text with `[lazurite-cause:<token>]`, and
//! [`cause`] finds the error of that token. The errors are not taken away: RocksDB repeats a background error to every
//! writer. Only the latest [`KEPT`] are kept, so that a caller that never asks costs a bounded amount of memory.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use lazurite_env::Error;

const KEPT: usize = 4096;
const MARK: &str = "[lazurite-cause:";

struct Ring {
    /// The token of `errors[0]`; the others follow.
    first: u64,
    errors: VecDeque<Error>,
}

impl Ring {
    const fn new() -> Self {
        Ring {
            first: 1,
            errors: VecDeque::new(),
        }
    }

    /// The token of `error`, and the error that had to go for it.
    fn push(&mut self, error: Error) -> (u64, Option<Error>) {
        let mut dropped = None;
        if self.errors.len() == KEPT {
            self.first += 1;
            dropped = self.errors.pop_front();
        }
        self.errors.push_back(error);
        (self.first + self.errors.len() as u64 - 1, dropped)
    }

    fn find(&self, message: &str) -> Option<Error> {
        message.split(MARK).skip(1).find_map(|rest| {
            let token: u64 = rest.split_once(']')?.0.parse().ok()?;
            let index = usize::try_from(token.checked_sub(self.first)?).ok()?;
            self.errors.get(index).cloned()
        })
    }
}

static RING: Mutex<Ring> = Mutex::new(Ring::new());

fn ring() -> MutexGuard<'static, Ring> {
    // Nothing inside the lock panics half way.
    RING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps `error` and gives its token, which is never 0.
pub(crate) fn keep(error: Error) -> u64 {
    // The dropped one outlives the lock: its source may have any destructor.
    let (token, _dropped) = ring().push(error);
    token
}

/// The typed error behind an error message of RocksDB, where it came from an [`Env`](lazurite_env::Env) method.
///
/// `None` where RocksDB itself or its POSIX file system failed (a local file that was opened by its native path), or
/// where more than 4096 errors have happened since. A message that quotes several errors gives the first that is still
/// known. Asking again gives the same answer. Safe from any thread; does not block on I/O.
pub fn cause(message: &str) -> Option<Error> {
    ring().find(message)
}

#[cfg(test)]
mod tests {
    use lazurite_env::ErrorKind;

    use super::*;

    fn error(message: &str) -> Error {
        Error::new(ErrorKind::Io, "read", "f", message)
    }

    #[test]
    fn finds_the_error_again_and_again_until_it_is_pushed_out() {
        let mut ring = Ring::new();
        let (token, _) = ring.push(error("mine"));
        let text = format!("IO error: [x] foo {MARK}{token}] while bar");
        assert_eq!(ring.find(&text).unwrap().message(), "mine");
        assert_eq!(ring.find(&text).unwrap().message(), "mine");
        let (second, _) = ring.push(error("other"));
        let both = format!("{MARK}{token}] then {MARK}{second}]");
        assert_eq!(ring.find(&both).unwrap().message(), "mine");
        for _ in 0..KEPT - 2 {
            assert!(ring.push(error("later")).1.is_none());
        }
        assert!(ring.find(&text).is_some());
        assert_eq!(ring.push(error("last")).1.unwrap().message(), "mine");
        assert!(ring.find(&text).is_none());
        assert_eq!(ring.find(&both).unwrap().message(), "other");
    }

    #[test]
    fn other_texts_have_no_cause() {
        for text in [
            "",
            "IO error: No such file",
            "[lazurite-cause:",
            "[lazurite-cause:]",
            "[lazurite-cause:0]",
            "[lazurite-cause:-1]",
            "[lazurite-cause:99999999999999999999999]",
            "[lazurite-cause:18446744073709551615]",
        ] {
            assert!(cause(text).is_none(), "{text}");
        }
    }
}
