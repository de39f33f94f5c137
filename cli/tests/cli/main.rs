//! The `lazurite` command, run as a process.

mod kill;
mod readme;
mod story;
mod support;
