//! One binary, since each one links RocksDB.

mod causes;
mod clip;
mod entries;
mod heat;
mod lifetime;
mod native;
mod partitioner;
mod remote;
mod sst;
mod support;
mod swap;
