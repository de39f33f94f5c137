//! The engine from outside, as its users see it.

mod asynchronous;
mod batches;
mod budget;
mod budget_edges;
mod cache;
mod clip;
mod costs;
mod downloads;
mod export;
mod faults;
mod heat;
mod kept;
mod metadata;
mod power;
mod reader;
mod readers;
mod refusals;
mod reopen;
mod rescale;
mod restore;
mod retention;
mod scans;
mod snapshots;
mod tails;
mod warm;
