//! Faults on purpose: [`FaultPlan`] decides them, [`FaultEnv`] carries them out on local files.
//!
//! One plan is shared by a [`FaultEnv`], the files opened through it, and a fault store, so that "fail the i-th" counts
//! through all of them. The plan only decides; whoever asked carries the decision out.
//!
//! Operations are numbered from 0 in the order in which they ask, and only those count that match: the filter lets
//! them through and the effect can happen to them (no append reads short). Setting a rule starts the numbering afresh,
//! which is all that this loop needs:
//!
//! ```
//! # use lazurite_env::{FaultPlan, ErrorKind, Op};
//! # let plan = FaultPlan::new();
//! # let run = || { plan.decide(Op::Sync, "a"); plan.decide(Op::Rename, "a"); };
//! for i in 0.. {
//!     plan.fail_nth(i, ErrorKind::Io);
//!     run();
//!     if plan.injected() == 0 {
//!         break; // the operation had fewer than i + 1 steps
//!     }
//! }
//! # assert_eq!(plan.seen(), 2);
//! ```

mod env;
mod plan;
#[cfg(test)]
mod tests;

pub use env::FaultEnv;
pub use plan::{Decision, Effect, FaultPlan, Injection, Share};
