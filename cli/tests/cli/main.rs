//! The `lazurite` command, run as a process.

mod cache;
mod kill;
mod points;
mod process;
mod readme;
mod stores;
mod story;
mod support;
