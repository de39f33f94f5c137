//! Every kind of store that the engine is used with: files, memory, and real S3 and HDFS servers.
//!
//! `make test-stores` runs all of it. By itself it leaves out what needs a server: S3 unless `LAZURITE_TEST_S3_URI` names a
//! store, HDFS unless `LAZURITE_TEST_HDFS_URI` does, and what kills servers unless `LAZURITE_TEST_SERVERS` is the directory
//! of servers that the scripts in tests/servers have started.

mod chains;
mod contract;
mod costs;
mod faults;
mod proxy;
mod races;
mod reads;
mod refusals;
mod servers;
mod story;
mod uploads;
mod world;
