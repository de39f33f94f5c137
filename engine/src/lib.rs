//! Keyed state that is back in seconds: key-grouped tables on RocksDB, incremental snapshots in a remote store, and
//! lazy restore that reads remote files in place while they download behind it.
//!
//! Open a [`StateBackend`] with its [builder](StateBackend::builder), ask it for tables by their descriptors, take
//! [snapshots](StateBackend::snapshot). The next open, on any machine, finds the newest one.
//!
//! ```
//! use lazurite::{SnapshotOptions, StateBackend, ValueStateDescriptor};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let backend = StateBackend::builder(dir.path()).remote("memory://").open()?;
//! let counts = backend.value_state(&ValueStateDescriptor::<String, u64>::new("counts"))?;
//! counts.put(&"lazy".into(), &1)?;
//! let report = backend.snapshot(SnapshotOptions::new())?.wait()?;
//! assert_eq!((report.id, report.uploaded_files), (1, 1));
//! # Ok(())
//! # }
//! ```

mod backend;
mod builder;
mod clip;
mod codec;
mod coordinator;
mod directory;
mod error;
pub mod key_groups;
pub mod metrics;
mod open;
mod options;
mod parallel;
mod reader;
mod restore;
mod rocks;
pub mod snapshot;
mod stats;
mod table;
pub mod upkeep;

pub use backend::StateBackend;
pub use builder::{Durability, LoadPolicy, Restore, StateBackendBuilder};
pub use codec::{Codec, CodecError, Postcard, RawBytes};
pub use coordinator::{CompletedSnapshot, Coordinator, CoordinatorBuilder, OnCancel, Subtask};
pub use directory::job_of_directory;
pub use error::{Error, Result};
pub use key_groups::KeyGroupRange;
pub use lazurite_tiering::{DownloadOptions, DownloadProgress, Downloader};
pub use options::{Compression, RocksDbOptions};
pub use reader::{
    ExportOptions, ExportReport, ExportWay, ExportedTable, RawEntries, RawEntry, RawKey,
    ReaderOptions, SnapshotReader, SnapshotTable, export,
};
pub use restore::{RestoreEstimate, RestorePlan, RestoreReport};
pub use rocks::ClipProgress;
pub use snapshot::{
    ClaimMode, PendingSnapshot, SnapshotOptions, SnapshotPath, SnapshotReport, SnapshotStore,
    SubtaskHandle,
};
pub use stats::TierStats;
pub use table::{
    MapEntries, MapEntry, MapIter, MapState, MapStateDescriptor, TableDescriptor, TableKind,
    TableSchema, ValueEntry, ValueIter, ValueState, ValueStateDescriptor, WriteBatch,
};
pub use upkeep::{FsckOptions, FsckReport, GcOptions, GcReport};

/// The code in README.md, run as a doctest.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
