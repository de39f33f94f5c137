//! Compiles the C++ side against the headers of the very RocksDB that librocksdb-sys builds.

use std::{env, path::PathBuf};

const SOURCES: [&str; 12] = [
    "cached_blocks.cc",
    "clip.cc",
    "entries.cc",
    "file_reads.cc",
    "file_system.cc",
    "local_files.cc",
    "partitioner.cc",
    "random_file.cc",
    "rocksdb_env.cc",
    "sst_info.cc",
    "stream_files.cc",
    "support.cc",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cpp");

    // Emitted by librocksdb-sys (`links = "rocksdb"`), hence the direct dependency on it.
    let sys = env::var_os("DEP_ROCKSDB_CARGO_MANIFEST_DIR")
        .expect("librocksdb-sys 0.19.0 tells its dependents where its sources are");
    let sources = PathBuf::from(sys).join("rocksdb");
    let include = sources.join("include");

    // No -march: this code moves pointers, and no public header of RocksDB changes its layout with the CPU.
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        .files(SOURCES.map(|name| format!("cpp/{name}")))
        .define("NDEBUG", None)
        .flag("-fno-rtti")
        .flag("-isystem")
        .flag(&include)
        // For the one file that needs to know how RocksDB names blocks; after everything else, since it has a folder `memory`.
        .flag("-idirafter")
        .flag(&sources)
        .flag("-include")
        .flag("cstdint")
        .warnings(true)
        .extra_warnings(true)
        .flag("-Wsign-compare")
        .flag("-Wshadow")
        .flag("-Woverloaded-virtual")
        .flag("-Wnon-virtual-dtor")
        .compile("lazurite_env_rocksdb");
}
