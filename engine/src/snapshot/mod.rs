//! Incremental snapshots: what a backend writes to the store, and what tools read there.
//!
//! `capture` (synchronous: flush, link) -> `upload` -> `tails` -> `commit` -> `retention`; `run` holds them together.
//! `metadata` and `layout` are the format. A snapshot exists from the moment at which its `_metadata` does, and then
//! whole; see `docs/FORMAT.md`.

mod capture;
pub(crate) mod chunks;
pub(crate) mod claims;
pub(crate) mod commit;
pub(crate) mod committer;
pub(crate) mod context;
pub(crate) mod copies;
pub(crate) mod copy_ahead;
mod figures;
pub(crate) mod heat;
mod hot;
pub(crate) mod job;
pub(crate) mod layout;
pub(crate) mod metadata;
mod moment;
pub(crate) mod origin;
mod part;
mod pending;
pub(crate) mod place;
pub(crate) mod registry;
pub(crate) mod retention;
pub(crate) mod run;
pub(crate) mod store;
mod tails;
mod upload;
pub(crate) mod verify;

pub(crate) use capture::Capture;
pub use claims::ClaimMode;
pub use metadata::{
    ManifestRef, SnapshotFile, SnapshotMetadata, SubtaskState, TailsRef, UserValue,
};
pub use part::SubtaskHandle;
pub(crate) use pending::{Deadline, MAX_TIMEOUT};
pub use pending::{PendingSnapshot, SnapshotOptions, SnapshotReport};
pub use place::SnapshotPath;
pub(crate) use run::{Job, uploaded};
pub use store::SnapshotStore;
pub use verify::{Finding, Problem};
