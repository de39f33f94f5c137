//! The `lazurite` command, run as a process.

mod cache;
mod kill;
mod metrics;
mod ownership;
mod parallelism;
mod plan;
mod points;
mod process;
mod readme;
mod rescale;
mod scan;
mod state;
mod stores;
mod story;
mod support;
mod upkeep;
