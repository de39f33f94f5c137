//! Two tiers under one directory: table files that are on the local disk, in a remote store, or on their way.
//!
//! [`UnionEnv`] is an [`Env`](lazurite_env::Env) over a local Env and a
//! [`RemoteStore`](lazurite_env::remote::RemoteStore). Table files (`<root>/db/*.sst`) may be remote; everything else
//! passes through. Which remote object a table file is, is kept in the *catalog*, durable in `<root>/CATALOG`. The end
//! of each file (footer, properties, index, filter) comes from the *tail bundle*, one object held in memory, so that
//! opening a database of remote files reads nothing from the store. What reads bring is kept, page by page, in a *chunk
//! cache* on the local disk, within a budget. Where the whole disk has one, local files that the store holds are *demoted*:
//! they are remote again. A [`Downloader`] brings files over behind the
//! reads and *promotes* them: a promoted file was verified, whole, against its length and checksum.
//!
//! # Who verifies what
//! * Whole files: length and xxh3-128 ([`Checksum`]) before promotion. The catalog, the bundle: the same, when loaded.
//! * Ranges read from a remote file: only their length, here. The reader above must check the blocks that it reads, as
//!   RocksDB does, and may ask for them again with [`Activity::Reread`](lazurite_env::Activity::Reread).
//! * Pages of the cache: against a checksum of their own, each time they are read.

mod ahead;
mod budget;
mod cache;
mod catalog;
mod checksum;
mod disk;
mod download;
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

pub use ahead::{ReadAhead, ScanEnd, ScanFile, ScanPlace, ScanPlan};
pub use budget::TransferBudget;
pub use cache::CacheOptions;
#[cfg(feature = "policy")]
pub use cache::policy::ChunkPolicy;
pub use catalog::{CatalogEntry, RemoteFile, TailSpec};
pub use checksum::{Checksum, ChecksumHasher};
pub use download::{DownloadOptions, DownloadProgress, Downloader};
pub use layout::is_table_name;
pub use reads::{ReadObserver, ReadStats, ReadTier};
pub use stats::TierStats;
pub use union::{OpenFiles, Reuse, UnionEnv, UnionOptions};
