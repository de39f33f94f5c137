//! The files below Lazurite: a pluggable [`Env`] for local ones, a [`RemoteStore`](remote::RemoteStore) for remote
//! ones, and the wrappers that trace, break or slow either. This crate knows nothing of the engine above it.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod env;
pub mod error;
mod ext;
pub mod fault;
pub mod mem;
mod op;
mod pending;
pub mod posix;
pub mod remote;
mod runtime;
pub mod trace;

#[doc(inline)]
pub use env::{
    Activity, BlockKind, DirEntry, Env, FileKind, FileLock, RandomFile, RangeRead, ReadHint,
    SequentialFile, SparseFile, Stat, WritableFile,
};
#[doc(inline)]
pub use error::{Error, ErrorKind, Result};
pub use ext::EnvExt;
#[doc(inline)]
pub use fault::{Decision, Effect, FaultEnv, FaultPlan, Injection, Share};
#[doc(inline)]
pub use mem::MemEnv;
pub use op::Op;
pub use pending::PendingRead;
#[doc(inline)]
pub use posix::PosixEnv;
pub use runtime::IoRuntime;
#[doc(inline)]
pub use trace::{OpCount, TraceEnv, TraceEvent};
