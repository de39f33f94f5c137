//! The contract of [`Env`] as a test: [`check_env`]. Every Env and every wrapper passes it (cargo feature `contract`).
//!
//! What a power cut leaves is no part of it: only [`MemEnv`](crate::MemEnv) can be asked that.

mod bytes;
mod names;
mod sparse;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{Env, EnvExt, Error, ErrorKind, RandomFile, ReadHint, Result};

/// Checks the whole contract on Envs that `make` gives, each with the path of an empty directory that is there.
///
/// `make` is called many times; what it gives may share one disk as long as the directories differ. Writes a few MiB.
///
/// # Panics
/// At the first point at which the Env does not keep the contract.
pub fn check_env(make: &dyn Fn() -> (Arc<dyn Env>, PathBuf)) {
    let checks: &[fn(&dyn Env, &Path)] = &[
        bytes::sequential_reads,
        bytes::random_reads,
        bytes::reads_of_many_ranges,
        bytes::reads_begun_and_waited_for,
        bytes::create_truncates,
        bytes::append_and_truncate,
        bytes::writer_after_close,
        names::rename_replaces,
        names::rename_of_directories,
        names::links,
        bytes::delete_keeps_handles,
        names::directories,
        names::listing_and_stat,
        names::missing_is_not_found,
        names::locks,
        names::free_space,
        names::native_paths,
        bytes::many_threads,
        sparse::reads_and_writes,
        sparse::holes,
        sparse::names_and_handles,
        sparse::many_threads,
        names::sugar_directories,
        names::sugar_files,
    ];
    for check in checks {
        let (env, dir) = make();
        check(&*env, &dir);
    }
}

const HINT: ReadHint = ReadHint {
    activity: crate::Activity::Verify,
    block: crate::BlockKind::Data,
};

fn write(env: &dyn Env, path: &Path, bytes: &[u8]) {
    let mut file = env.create(path).unwrap();
    file.append(bytes).unwrap();
    file.close().unwrap();
}

fn read(env: &dyn Env, path: &Path) -> Vec<u8> {
    env.read_to_vec(path, u64::MAX).unwrap()
}

fn read_all(file: &dyn RandomFile) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap() + 1];
    let n = file.read_at(0, &mut bytes, HINT).unwrap();
    bytes.truncate(n);
    bytes
}

fn names(env: &dyn Env, dir: &Path) -> Vec<String> {
    let entries = env.list(dir).unwrap();
    let mut names: Vec<String> = entries.into_iter().map(|e| e.name).collect();
    names.sort();
    names
}

#[track_caller]
fn fails<T>(kind: ErrorKind, result: Result<T>) -> Error {
    match result {
        Ok(_) => panic!("must fail: {kind}"),
        Err(e) => {
            assert_eq!(e.kind(), kind, "{e:?}");
            e
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{FaultEnv, FaultPlan, MemEnv, PosixEnv, TraceEnv};

    fn on_disk(wrap: impl Fn(PosixEnv) -> Arc<dyn Env>) {
        let disk = tempfile::tempdir().unwrap();
        let next = AtomicU32::new(0);
        check_env(&|| {
            let dir = disk
                .path()
                .join(next.fetch_add(1, Ordering::Relaxed).to_string());
            std::fs::create_dir(&dir).unwrap();
            (wrap(PosixEnv), dir)
        });
    }

    fn in_memory(wrap: impl Fn(MemEnv) -> Arc<dyn Env>) {
        check_env(&|| {
            let env = MemEnv::new();
            env.create_dir_all(Path::new("/db/dir")).unwrap();
            (wrap(env), PathBuf::from("/db/dir"))
        });
    }

    #[test]
    fn posix_env_keeps_the_contract() {
        on_disk(|env| Arc::new(env));
    }

    #[test]
    fn mem_env_keeps_the_contract() {
        in_memory(|env| Arc::new(env));
    }

    #[test]
    fn a_power_cut_leaves_an_env_that_keeps_the_contract() {
        in_memory(|env| Arc::new(env.crash_clone(2)));
    }

    #[test]
    fn trace_env_keeps_the_contract() {
        in_memory(|env| Arc::new(TraceEnv::new(Arc::new(env))));
    }

    #[test]
    fn fault_env_without_faults_keeps_the_contract() {
        on_disk(|env| Arc::new(FaultEnv::new(Arc::new(env), FaultPlan::new())));
    }
}
