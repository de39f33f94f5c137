//! How often requests were sent again, by every store of this process: [`retries`].
//!
//! A retry is rare and is followed by a wait, so one lock for all of them is no hindrance.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::Error;

type Counts = BTreeMap<(String, &'static str), u64>;

static COUNTS: Mutex<Counts> = Mutex::new(BTreeMap::new());

/// Requests of one kind that were sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryCount {
    /// The kind of store: the scheme of its URI.
    pub scheme: String,
    /// The operation, as errors name it.
    pub operation: &'static str,
    /// How often, since the process began.
    pub count: u64,
}

/// The requests that were sent again after a temporary error, since the process began: by kind of store and operation,
/// in that order. All requests of an upload in parts are `write`.
pub fn retries() -> Vec<RetryCount> {
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let rows = counts.iter();
    rows.map(|((scheme, operation), count)| RetryCount {
        scheme: scheme.clone(),
        operation,
        count: *count,
    })
    .collect()
}

/// Counts that what ended with `error` is sent again.
pub(super) fn count(error: &Error) {
    count_for(scheme(error.path()), error.operation());
}

/// The same where there is no error of ours.
pub(super) fn count_for(scheme: &str, operation: &'static str) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry((scheme.to_owned(), operation)).or_default() += 1;
}

/// The scheme of a URI; `other` where it has none.
pub(super) fn scheme(uri: &str) -> &str {
    uri.split_once("://").map_or("other", |(scheme, _)| scheme)
}
