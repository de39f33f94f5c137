//! Two tiers under one directory: table files that are on the local disk, in a remote store, or on their way.
//!
//! [`UnionEnv`] is an [`Env`](lazurite_env::Env) over a local Env and a
//! [`RemoteStore`](lazurite_env::remote::RemoteStore). Table files (`<root>/db/*.sst`) may be remote; everything else
//! passes through. Which remote object a table file is, is kept in the *catalog*, durable in `<root>/CATALOG`. The end
//! of each file (footer, properties, index, filter) comes from the *tail bundle*, one object held in memory, so that
//! opening a database of remote files reads nothing from the store. A [`Downloader`] brings files over behind the
//! reads and *promotes* them: a promoted file was verified, whole, against its length and checksum.
//!
//! # Who verifies what
//! * Whole files: length and xxh3-128 ([`Checksum`]) before promotion. The catalog, the bundle: the same, when loaded.
//! * Ranges read from a remote file: only their length, here. The reader above must check the blocks that it reads,
//!   as RocksDB does.

mod catalog;
mod checksum;
mod download;
mod fetch;
pub mod framed;
mod layout;
mod reads;
mod stats;
mod sync;
mod tails;
#[cfg(test)]
mod test_store;
#[cfg(test)]
mod tests;
mod union;

pub use catalog::{CatalogEntry, RemoteFile, TailSpec};
pub use checksum::{Checksum, ChecksumHasher};
pub use download::{DownloadOptions, DownloadProgress, Downloader};
pub use layout::is_table_name;
pub use reads::{ReadObserver, ReadStats, ReadTier};
pub use stats::TierStats;
pub use union::{Reuse, UnionEnv, UnionOptions};
