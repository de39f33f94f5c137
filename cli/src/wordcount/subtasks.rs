//! [`Subtasks`]: the backends of a run, each with its own range of the key groups.
//!
//! Invariant: a word is counted by the subtask that owns its key group and by no other, so the state of the job is that of all
//! subtasks together, and a run with any other parallelism finds each word where it looks for it.

use std::{collections::HashMap, path::Path, sync::Arc, thread};

use lazurite::{
    Codec, DownloadProgress, LoadPolicy, Postcard, Restore, RocksDbOptions, StateBackend, Subtask,
    TierStats, ValueState, ValueStateDescriptor,
    key_groups::{assign_to_key_group, operator_for_key_group, range_for_operator},
};
use lazurite_env::{IoRuntime, remote::RemoteStore};

use super::{Args, dirs::Directory};
use crate::{
    Load,
    error::{Error, Result},
};

/// The operator of a backend that does not say otherwise, so that snapshots of one backend can be restored too.
const OPERATOR: &str = "state";
/// What a subtask has at least, however many there are.
const MIN_BLOCK_CACHE_BYTES: usize = 8 << 20;
const MIN_WRITE_BUFFER_BYTES: usize = 4 << 20;
const MIN_COLD_READ_THREADS: usize = 4;
/// What the engine asks for at least.
const MIN_CACHE_MIB: u64 = 1;
const MIN_DISK_BUDGET_MIB: u64 = 4;

/// The state: how often each word was seen.
pub type Counts = ValueState<String, u64>;

/// The table of counts.
pub fn counts(backend: &StateBackend) -> Result<Counts> {
    Ok(backend.value_state(&ValueStateDescriptor::new("counts"))?)
}

/// One of them.
pub struct Member {
    // Dropped before the backend, whose directory it keeps locked.
    pub counts: Counts,
    pub backend: StateBackend,
}

/// What each subtask may take of memory and disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    rocksdb: RocksDbOptions,
    cache_bytes: Option<u64>,
    disk_budget_bytes: Option<u64>,
}

impl Share {
    /// An even share of what `args` give to all. Refuses a parallelism that cannot be, and shares that are too small.
    pub fn new(args: &Args, statistics: bool) -> Result<Self> {
        let parallelism = args.parallelism;
        if parallelism > args.key_groups {
            return Err(Error::Usage(format!(
                "--parallelism {parallelism} is more than the {} --key-groups: each subtask needs one at least",
                args.key_groups
            )));
        }
        let divide = |option: &str, mib: Option<u64>, min: u64| match mib {
            Some(mib) if mib < min * u64::from(parallelism) => Err(Error::Usage(format!(
                "{option} {mib} is too little for {parallelism} subtasks: each needs {min} at least"
            ))),
            _ => Ok(mib.map(|mib| (mib << 20) / u64::from(parallelism))),
        };
        let (all, of) = (RocksDbOptions::default(), usize::from(parallelism));
        Ok(Share {
            cache_bytes: divide("--cache-mib", args.cache_mib, MIN_CACHE_MIB)?,
            disk_budget_bytes: divide(
                "--disk-budget-mib",
                args.disk_budget_mib,
                MIN_DISK_BUDGET_MIB,
            )?,
            rocksdb: RocksDbOptions {
                block_cache_bytes: (all.block_cache_bytes / of).max(MIN_BLOCK_CACHE_BYTES),
                write_buffer_bytes: (all.write_buffer_bytes / of).max(MIN_WRITE_BUFFER_BYTES),
                cold_read_threads: (all.cold_read_threads / of).max(MIN_COLD_READ_THREADS),
                statistics,
                ..all
            },
        })
    }
}

/// The subtasks of a run, open.
pub struct Subtasks {
    key_groups: u16,
    members: Vec<Member>,
}

impl Subtasks {
    /// Opens all of them at once, with the state that `restore` says.
    pub fn open(
        args: &Args,
        share: &Share,
        directory: &Directory,
        store: &Arc<dyn RemoteStore>,
        runtime: &IoRuntime,
        restore: Restore,
    ) -> Result<Self> {
        let open = |index| {
            let range = range_for_operator(args.key_groups, args.parallelism, index)?;
            let mut builder = StateBackend::builder(directory.subtask(index))
                .remote_store(store.clone())
                .io_runtime(runtime.clone())
                .job(&args.job)
                .operator(OPERATOR)
                .key_groups(args.key_groups)
                .key_group_range(range)
                .restore(restore)
                .rocksdb(share.rocksdb.clone())
                .load_policy(match args.load {
                    // All together, and behind a bar: `wait_until_local`.
                    Load::Eager => LoadPolicy::OnDemand,
                    load => load.into(),
                });
            if let Some(bytes) = share.cache_bytes {
                builder = builder.cache_bytes(bytes);
            }
            if let Some(bytes) = share.disk_budget_bytes {
                builder = builder.disk_budget_bytes(bytes);
            }
            let backend = builder.open()?;
            Ok(Member {
                counts: counts(&backend)?,
                backend,
            })
        };
        Ok(Subtasks {
            key_groups: args.key_groups,
            members: in_parallel((0..args.parallelism).collect(), open)?,
        })
    }

    /// How many there are.
    pub fn parallelism(&self) -> u16 {
        self.members.len() as u16 // as many as were asked for
    }

    /// Those of whom a snapshot needs a part.
    pub fn members(&self) -> Vec<Subtask> {
        let of = |member: &Member| Subtask {
            operator: OPERATOR.into(),
            key_group_range: member.backend.key_group_range(),
        };
        self.members.iter().map(of).collect()
    }

    /// What `work` gives for each of them, in their order; on a thread for each.
    pub fn each<T: Send>(&self, work: impl Fn(&Member) -> Result<T> + Sync) -> Result<Vec<T>> {
        in_parallel(self.members.iter().collect(), work)
    }

    /// How often `word` was counted.
    pub fn get(&self, word: &String) -> Result<Option<u64>> {
        let owner = &self.members[self.owner(word)?];
        Ok(owner.counts.get(word)?)
    }

    /// Adds up `words` and what is there already. Gives how many of them were new.
    pub fn add(&self, words: impl Iterator<Item = (String, u64)>) -> Result<u64> {
        let mut shares: Vec<_> = self.members.iter().map(|m| (m, HashMap::new())).collect();
        for (word, added) in words {
            let owner = self.owner(&word)?;
            shares[owner].1.insert(word, added);
        }
        shares.retain(|(_, share)| !share.is_empty());
        let new = in_parallel(shares, |(member, share)| member.add(share))?;
        Ok(new.iter().sum())
    }

    /// All words with their counts, in no order.
    pub fn all(&self) -> Result<Vec<(String, u64)>> {
        let of = |member: &Member| Ok(member.counts.iter()?.collect::<Result<Vec<_>, _>>()?);
        Ok(self.each(of)?.concat())
    }

    /// The table files that they found on the local disk when they were opened.
    pub fn reused_files(&self) -> u64 {
        let restored = self.members.iter().filter_map(|m| m.backend.restored());
        restored.map(|report| report.reused_files).sum()
    }

    /// How far all downloads are.
    pub fn download_progress(&self) -> DownloadProgress {
        let mut all = DownloadProgress::default();
        for member in &self.members {
            let one = member.backend.download_progress();
            all.files_total += one.files_total;
            all.files_done += one.files_done;
            all.bytes_total += one.bytes_total;
            all.bytes_done += one.bytes_done;
            all.eta = all.eta.max(one.eta);
        }
        all
    }

    /// What was read from which tier, by each.
    pub fn tiers(&self) -> Vec<TierStats> {
        self.members.iter().map(|m| m.backend.tier()).collect()
    }

    /// The subtask that counts `word`.
    fn owner(&self, word: &String) -> Result<usize> {
        let mut key = Vec::with_capacity(word.len() + 4);
        // As the table does, which has the default codec.
        Codec::<String>::encode(&Postcard, word, &mut key)
            .map_err(|e| Error::Wrong(format!("{word:?} cannot be a key: {e}")))?;
        let group = assign_to_key_group(&key, self.key_groups);
        let owner = operator_for_key_group(self.key_groups, self.parallelism(), group)?;
        Ok(usize::from(owner))
    }
}

impl Member {
    fn add(&self, share: HashMap<String, u64>) -> Result<u64> {
        let known = self.counts.multi_get(share.keys())?;
        let (mut new, mut writes) = (0, self.backend.write_batch());
        for ((word, added), known) in share.iter().zip(known) {
            new += u64::from(known.is_none());
            self.counts
                .put_to(&mut writes, word, &(known.unwrap_or(0) + added))?;
        }
        self.backend.write(writes)?;
        Ok(new)
    }
}

/// What `work` gives for each of `items`, in their order; on a thread for each where there are several. The first error where there is one; the
/// others have ended by then.
fn in_parallel<I: Send, T: Send>(
    mut items: Vec<I>,
    work: impl Fn(I) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let work = &work;
    if items.len() == 1 {
        return items.drain(..).map(work).collect();
    }
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .into_iter()
            .map(|item| {
                thread::Builder::new()
                    .name("subtask".into())
                    .spawn_scoped(scope, move || work(item))
                    .map_err(Error::file("start", Path::new("a thread")))
            })
            .collect();
        let results: Vec<_> = threads
            .into_iter()
            .map(|thread| {
                thread?
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect();
        results.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn share(options: &str) -> Result<Share> {
        let line = format!("run --dir d --remote memory:// {options} text");
        Share::new(&Line::parse_from(line.split(' ')).args, false)
    }

    #[test]
    fn what_is_given_to_all_is_divided() {
        let alone = share("--parallelism 1").unwrap();
        assert_eq!(alone.rocksdb, RocksDbOptions::default());
        assert_eq!((alone.cache_bytes, alone.disk_budget_bytes), (None, None));
        let one = share("--parallelism 3 --cache-mib 3 --disk-budget-mib 16").unwrap();
        assert_eq!(one.cache_bytes, Some(1 << 20));
        assert_eq!(one.disk_budget_bytes, Some((16 << 20) / 3));
        assert_eq!(one.rocksdb.block_cache_bytes, (256 << 20) / 3);
        let of_many = share("--parallelism 128").unwrap();
        assert_eq!(of_many.rocksdb.write_buffer_bytes, MIN_WRITE_BUFFER_BYTES);
        assert_eq!(of_many.rocksdb.block_cache_bytes, MIN_BLOCK_CACHE_BYTES);
        of_many.rocksdb.validate().unwrap();
    }

    #[test]
    fn shares_that_are_too_small_are_a_usage_error() {
        for options in [
            "--parallelism 129",
            "--parallelism 5 --key-groups 4",
            "--parallelism 3 --cache-mib 2",
            "--parallelism 2 --disk-budget-mib 7",
        ] {
            assert_eq!(share(options).unwrap_err().exit_code(), 2, "{options}");
        }
        share("--parallelism 4 --key-groups 4").unwrap();
    }

    #[test]
    fn work_in_parallel_keeps_the_order_and_ends_before_its_error_is_told() {
        let squares = in_parallel((0..9).collect(), |n: u64| Ok(n * n)).unwrap();
        assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36, 49, 64]);
        let ended = AtomicUsize::new(0);
        let result = in_parallel((0..4).collect(), |n: u64| {
            std::thread::sleep(std::time::Duration::from_millis(10 * n));
            ended.fetch_add(1, SeqCst);
            match n {
                1 | 2 => Err(Error::Wrong(n.to_string())),
                _ => Ok(()),
            }
        });
        assert_eq!(result.unwrap_err().to_string(), "1");
        assert_eq!(ended.load(SeqCst), 4);
    }
}
