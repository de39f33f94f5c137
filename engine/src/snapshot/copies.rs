//! Copies inside the store: what a job that began with a foreign snapshot, or a savepoint, needs of objects that are there.
//!
//! For each table file of a snapshot there are four ways, from the cheapest on: it is *named* where it lies, which is the job's own;
//! *copied* by the store; *streamed*, read and written again by this process, where the store cannot copy; or *uploaded* from the local disk, which
//! is better than streaming where the file is here, and the only way where the store does not have it. [`Capture`](super::capture::Capture)
//! decides who is staged for upload ([`better_uploaded`]), [`adopt`] copies the rest.
//!
//! Crash story: copies have names of their own, and nothing names them before the snapshot is complete: a crash leaves orphans. A
//! copy that was made for a snapshot that failed is taken by the next one, as uploads are.

use std::collections::BTreeMap;

use futures::StreamExt;
use lazurite_env::remote::{Copied, CopyKind, Key};
use lazurite_tiering::Checksum;

use super::{
    capture::CapturedFile,
    context::Context,
    metadata::SubtaskState,
    moment::Moment,
    pending::Deadline,
    registry::{Fresh, Registry},
};
use crate::{Error, Result};

/// Copies under way at once where the store makes them: each is some requests and no bytes.
pub(super) const PARALLEL_COPIES: usize = 64;

/// An object to be copied.
#[derive(Debug, Clone)]
struct Copy {
    from: Key,
    to: Key,
    len: u64,
    checksum: Checksum,
}

/// A copy that was made.
struct Done {
    copy: Copy,
    copied: Copied,
    /// It was not begun before.
    since: Moment,
}

/// What was copied of table files and tails.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CopiedSum {
    /// Table files that the store copied or linked.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Table files that went through this process.
    pub(crate) streamed_files: u64,
    pub(crate) streamed_file_bytes: u64,
    /// Their bytes, and those of tails.
    pub(crate) streamed_bytes: u64,
}

impl CopiedSum {
    fn add(&mut self, key: &Key, len: u64, copied: &Copied) {
        let file = u64::from(key.name().ends_with(".sst"));
        self.streamed_bytes += copied.streamed_bytes;
        if copied.kind == CopyKind::Streamed {
            self.streamed_files += file;
            self.streamed_file_bytes += file * len;
        } else {
            self.files += file;
            self.bytes += file * len;
        }
    }
}

/// True where a file that the store has elsewhere is better uploaded: it is here, and a copy would come and go through this process.
pub(crate) fn better_uploaded(context: &Context, name: &str) -> bool {
    context.store.capabilities().copy == CopyKind::Streamed && context.union.is_local(name)
}

/// Copies what the captured files have in the store outside of the job's own directories into the job's, and notes it in the registry. Waits for
/// copies that are made [ahead](super::copy_ahead). Gives what was copied of the files since the last complete snapshot, by whom ever.
pub(crate) fn adopt(
    context: &Context,
    files: &[CapturedFile],
    deadline: &Deadline,
) -> Result<CopiedSum> {
    let _turn = context.copying(deadline)?;
    let names = files.iter().filter(|file| file.staged.is_none());
    let names: Vec<&str> = names.map(|file| file.name.as_str()).collect();
    let copies = foreign(context, &names)?;
    let (done, result) = copy_all(context, &copies, deadline)?;
    note(context, done);
    result.map(|()| copied(&context.registry(), &names))
}

/// Makes so many copies, at most, of what any file has outside of the job's own directories. False once there are none to be made.
pub(super) fn adopt_some(context: &Context, count: usize, deadline: &Deadline) -> Result<bool> {
    let _turn = context.copying(deadline)?;
    let names = context.registry().names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut copies = foreign(context, &names)?;
    copies.truncate(count);
    let (done, result) = copy_all(context, &copies, deadline)?;
    note(context, done);
    result.map(|()| !copies.is_empty())
}

fn note(context: &Context, done: Vec<Done>) {
    let copies = done.into_iter().map(|done| {
        let fresh = Fresh {
            since: done.since,
            original: Some(done.copy.from.clone()),
            copied: Some(done.copied),
        };
        (done.copy.from, (done.copy.to, fresh))
    });
    context.registry().adopt(copies.collect());
}

/// Each foreign object that the files need, once.
fn foreign(context: &Context, names: &[&str]) -> Result<Vec<Copy>> {
    let (registry, bounds) = (context.registry(), &context.committer.bounds);
    let mut copies = BTreeMap::new();
    let mut add = |from: &Key, len: u64, checksum: Checksum| -> Result<()> {
        if !bounds.hold(from) {
            let to = context.layout.copy(from)?;
            let from = from.clone();
            copies.insert(
                from.clone(),
                Copy {
                    from,
                    to,
                    len,
                    checksum,
                },
            );
        }
        Ok(())
    };
    for stored in names.iter().filter_map(|name| registry.get(name)) {
        add(&stored.key, stored.len, stored.checksum)?;
        if let Some((key, _)) = &stored.stored_tail
            && let Some(tails) = registry.tails_object(key)
        {
            add(key, tails.len, tails.checksum)?;
        }
    }
    Ok(copies.into_values().collect())
}

/// What of these files is a copy that no complete snapshot names yet.
fn copied(registry: &Registry, names: &[&str]) -> CopiedSum {
    let mut objects = BTreeMap::new();
    for stored in names.iter().filter_map(|name| registry.get(name)) {
        if let Some(copied) = stored.fresh.as_ref().and_then(|of| of.copied) {
            objects.insert(&stored.key, (stored.len, copied));
        }
        if let Some((key, _)) = &stored.stored_tail
            && let Some(copied) = registry.tails_copied(key)
        {
            objects.insert(key, (copied.streamed_bytes, copied));
        }
    }
    let mut sum = CopiedSum::default();
    for (key, (len, copied)) in objects {
        sum.add(key, len, &copied);
    }
    sum
}

/// Copies the objects of `state` into `dir`, where it names them from then on. Its manifest lies there already.
pub(crate) fn relocate(
    context: &Context,
    state: &mut SubtaskState,
    dir: &Key,
    deadline: &Deadline,
) -> Result<CopiedSum> {
    let mut copies = BTreeMap::new();
    for (key, len, checksum) in state.objects() {
        let from = Key::new(key)?;
        let to = dir.join(from.name())?;
        if from != to {
            copies.insert(
                from.clone(),
                Copy {
                    from,
                    to,
                    len,
                    checksum,
                },
            );
        }
    }
    let copies: Vec<Copy> = copies.into_values().collect();
    let (done, result) = copy_all(context, &copies, deadline)?;
    result?;
    let mut sum = CopiedSum::default();
    done.iter()
        .for_each(|done| sum.add(&done.copy.from, done.copy.len, &done.copied));
    state.each_key(|key| -> Result<()> {
        *key = dir.join(Key::new(key.as_str())?.name())?.to_string();
        Ok(())
    })?;
    Ok(sum)
}

/// Copies all, or as many as can be before the first error: what was done, and that error.
fn copy_all(
    context: &Context,
    copies: &[Copy],
    deadline: &Deadline,
) -> Result<(Vec<Done>, Result<()>)> {
    let streamed = context.store.capabilities().copy == CopyKind::Streamed;
    let parallel = match streamed {
        true => context.upload_threads,
        false => PARALLEL_COPIES,
    };
    let (store, copies, deadline) = (context.store.clone(), copies.to_vec(), deadline.clone());
    let budget = context.union.transfer_budget().clone();
    Ok(context.runtime.wait(async move {
        let under_way = copies.into_iter().map(|copy| {
            let (store, deadline, budget) = (store.clone(), deadline.clone(), budget.clone());
            async move {
                let request = async {
                    if streamed {
                        budget.take(copy.len).await;
                    }
                    store.copy(&copy.from, &copy.to, copy.len).await
                };
                let since = Moment::now();
                let copied = deadline.within(request).await?;
                if copied
                    .xxh3
                    .is_some_and(|found| Checksum::from(found) != copy.checksum)
                {
                    // Nobody knows of it yet.
                    let _ = deadline.within(store.delete(&copy.to)).await;
                    return Err(Error::SnapshotCorrupt {
                        path: copy.from.to_string(),
                        reason: "its bytes are not those that were written".into(),
                    });
                }
                Ok(Done {
                    copy,
                    copied,
                    since,
                })
            }
        });
        let mut under_way = futures::stream::iter(under_way).buffer_unordered(parallel);
        let mut done = Vec::new();
        while let Some(result) = under_way.next().await {
            match result {
                Ok(copied) => done.push(copied),
                Err(error) => return Ok((done, Err(error))),
            }
        }
        Ok((done, Ok(())))
    })?)
}
