//! RocksDB: the only module of the engine that names it.
//!
//! A [`Db`] is one open database, a [`Column`] one column family of it, cheap to use: an operation takes no lock and looks
//! nothing up on this side of RocksDB. Keys and values are bytes here; what they mean is the tables' business.
//!
//! Invariants:
//! * Everything that points into RocksDB (columns, iterators, batches) holds the `Db` alive, and is dropped before it.
//! * Every error that leaves this module is an [`Error`](crate::Error), the cause below RocksDB kept where it is known.
//! * Writes skip the WAL or go through it for a database as a whole, never write by write.
//!
//! Crash story: with the WAL, what a write acknowledged is there after a crash of the process. Without it, what the last
//! complete flush holds is there. A flush holds all columns at the same point in time, also one that RocksDB began.

mod ahead;
mod batch;
mod clip;
mod cold;
mod column;
mod columns;
mod cursor;
mod db;
mod error;
mod events;
mod figures;
mod live_files;
pub(crate) mod manifest;
mod options;
pub(crate) mod plain;
mod pool;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use batch::Batch;
pub use clip::ClipProgress;
pub(crate) use clip::Straddler;
pub(crate) use column::Value;
pub(crate) use columns::Columns;
pub(crate) use cursor::Cursor;
pub(crate) use db::{DEFAULT_COLUMN, Db, DbConfig};
pub(crate) use live_files::{LiveFile, LiveFileKind};
