//! The remote tier: objects in S3, HDFS, or anything else that OpenDAL reaches. OpenDAL is named nowhere else.
//!
//! [`open`] makes a [`RemoteStore`] from one URI. Wrappers around any store: [`CountingStore`] counts requests,
//! [`DelayStore`] puts a slow link before it, [`FaultStore`] breaks it on purpose.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod copy;
mod count;
mod delay;
mod error;
pub mod fault;
#[cfg(feature = "services-fs")]
mod file;
#[cfg(feature = "services-hdfs-native")]
mod hdfs;
mod memory;
mod object;
mod open;
mod options;
mod redact;
mod retries;
mod retry;
mod services;
pub mod store;
#[cfg(test)]
mod tests;
mod uri;

use std::ops::Range;

use crate::{Error, ErrorKind, IoRuntime, Result};

pub use copy::{Copied, CopyKind};
pub use count::{
    CountingStore, RequestCounts, RequestKind, RequestObserver, RequestOutcome, RequestRecord,
    sequential_round_trips,
};
pub use delay::{DelayStore, LinkOptions};
pub use fault::FaultStore;
pub use memory::MemoryStore;
pub use open::open;
pub use options::RemoteOptions;
pub use retries::{RetryCount, retries};
pub use store::{Capabilities, CommitPrimitive, Key, Listed, ObjectWriter, RemoteStore};

/// What an error calls an object: the store's URI without its query, and the key.
fn full_path(base: &str, key: &Key) -> String {
    format!("{}/{key}", base.trim_end_matches('/'))
}

/// By name; where a prefix has an object's name, the object first.
fn sort_key(listed: &Listed) -> (String, bool) {
    match listed {
        Listed::Object { name, .. } => (name.clone(), false),
        Listed::Prefix { name } => (name.clone(), true),
    }
}

/// The error for a range that ends behind its object.
fn too_short(path: String, range: &Range<u64>, len: u64) -> Error {
    Error::new(
        ErrorKind::Corruption,
        "get_range",
        path,
        format!(
            "bytes {}..{} were asked for, but the object ends at {len}",
            range.start, range.end
        ),
    )
}

/// Carries `work` out on `runtime`. Dropping the future gives the work up.
async fn spawned<T: Send + 'static>(
    runtime: &IoRuntime,
    operation: &'static str,
    path: String,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut task = AbortOnDrop(runtime.spawn(work));
    match (&mut task.0).await {
        Ok(result) => result,
        Err(e) => Err(join_error(operation, path, &e)),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The error for a task that gave no answer.
fn join_error(operation: &'static str, path: String, error: &tokio::task::JoinError) -> Error {
    let (kind, message) = if error.is_panic() {
        (ErrorKind::Panicked, "the task panicked")
    } else {
        (ErrorKind::Unavailable, "the I/O threads were stopped")
    };
    Error::new(kind, operation, path, message)
}
