//! Keyed state that is back in seconds: key-grouped tables on RocksDB, incremental snapshots in a remote store, and
//! lazy restore that reads remote files in place while they download behind it.

mod backend;
mod builder;
mod codec;
mod directory;
mod error;
pub mod key_groups;
mod open;
mod options;
mod restore;
mod rocks;
pub mod snapshot;
mod stats;
mod table;

pub use backend::StateBackend;
pub use builder::{Durability, LoadPolicy, Restore, StateBackendBuilder};
pub use codec::{Codec, CodecError, Postcard, RawBytes};
pub use error::{Error, Result};
pub use key_groups::KeyGroupRange;
pub use lazurite_tiering::{DownloadOptions, DownloadProgress, Downloader};
pub use options::{Compression, RocksDbOptions};
pub use restore::RestoreReport;
pub use snapshot::{PendingSnapshot, SnapshotOptions, SnapshotReport, SnapshotStore};
pub use stats::TierStats;
pub use table::{
    MapEntries, MapIter, MapState, MapStateDescriptor, TableDescriptor, TableKind, TableSchema,
    ValueIter, ValueState, ValueStateDescriptor, WriteBatch,
};
