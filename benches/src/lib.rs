//! Measures what Lazurite costs where all files are local: plain RocksDB, RocksDB through Lazurite's env, and a typed
//! `ValueState`, on the same files with the same options.
//!
//! * [`Scene`]: the databases to compare, byte for byte the same.
//! * [`Side`] and [`Work`]: the operations, in slices.
//! * [`compare`]: slices of all sides in turn, and the ratios of those that ran next to each other.
//!
//! The program `local-path` prints the ratios. The criterion bench of the same name gives times per operation.

mod compare;
mod scene;
mod side;

/// What went wrong: any error, with its text.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

pub use compare::{CASES, Case, CaseReport, Quartiles, SideReport, compare};
pub use scene::{Scene, SceneOptions};
pub use side::{Data, KEY_GROUPS, Side, SideKind, Work};
