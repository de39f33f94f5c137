//! The `lazurite` command, run as a process.

mod kill;
mod metrics;
mod readme;
mod stores;
mod story;
mod support;
