//! Makes a [`rocksdb::Env`] of a [`lazurite_env::Env`], for RocksDB 11.8.1.
//!
//! A `FileSystem` in C++ (`cpp/`) forwards to Rust over a hand-written C ABI (`cpp/abi.h`, `src/abi.rs`). Names always
//! go to the Env. Bytes go to the Env only where it names no native path; a local file is RocksDB's own POSIX file, with
//! no Rust, no lock and no extra system call on its reads. A file that was opened remotely and says later that it is on
//! the local disk is swapped underneath RocksDB, without reopening anything; and back, where [`LocalFiles`] is told to let
//! it go.
//!
//! RocksDB's errors are strings; [`cause`] turns one back into the typed error of the Env that failed. A panic inside an
//! Env becomes such an error too.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let my_env: std::sync::Arc<dyn lazurite_env::Env> = todo!();
//! let env = lazurite_env_rocksdb::rocksdb_env(my_env)?;
//! let mut options = rocksdb::Options::default();
//! options.create_if_missing(true);
//! options.set_env(env.env());
//! let db = rocksdb::DB::open(&options, "/var/lib/app/db")
//!     .map_err(|e| match lazurite_env_rocksdb::cause(e.as_ref()) {
//!         Some(typed) => Box::<dyn std::error::Error>::from(typed),
//!         None => e.into(),
//!     })?;
//! # Ok(())
//! # }
//! ```

mod abi;
mod cached_blocks;
mod cause;
mod clip;
mod entries;
mod env;
mod file_reads;
mod files;
mod partitioner;
mod rocksdb_env;
mod sst_info;

pub use cached_blocks::{CachedBlock, cached_blocks};
pub use cause::cause;
pub use clip::Clip;
pub use entries::{Entries, Span};
pub use file_reads::file_reads;
pub use partitioner::cut_at_key_groups;
pub use rocksdb_env::{LocalFiles, LocalReads, RocksEnv, rocksdb_env};
pub use sst_info::{SstInfo, sst_info};
