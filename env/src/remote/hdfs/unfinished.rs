//! [`Unfinished`]: a file under `.lazurite-tmp` while it is written, until it is given its name.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hdfs_native::{WriteOptions, file::FileWriter};

use crate::ErrorKind;

use super::{Failure, Inner, work::within};

/// Bytes handed to the client at a time, so that the timeout is for a step and not for a whole file.
const WRITE_STEP_BYTES: usize = 1 << 20;

/// Shortest time allowed for closing a file: the client itself waits up to 15.5 s for the DataNodes to report the block.
const CLOSE_TIMEOUT_MIN: Duration = Duration::from_secs(20);

/// First and longest pause between looks whether all of a closed file can be read.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(2);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(200);

/// How often a write makes its directory again when deletes keep removing it.
const REMADE_MAX: usize = 16;

/// A file that nobody sees. Removed where it is dropped: by a failure, or a caller that went away.
pub(super) struct Unfinished {
    /// Empty once the file is no longer under this name.
    path: String,
    file: FileWriter,
    len: u64,
    store: Arc<Inner>,
}

impl Unfinished {
    /// A new one that holds `bytes` so far.
    pub(super) async fn begin(store: Arc<Inner>, bytes: Bytes) -> Result<Self, Failure> {
        let path = store.temp_path();
        let options = WriteOptions::default().create_parent(true);
        let file = store.step(store.client.create(&path, options)).await?;
        let mut this = Unfinished {
            path,
            file,
            len: 0,
            store,
        };
        this.append(bytes).await?;
        Ok(this)
    }

    pub(super) async fn append(&mut self, mut bytes: Bytes) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(WRITE_STEP_BYTES));
            self.len += piece.len() as u64;
            self.store.step(self.file.write_bytes(piece)).await?;
        }
        Ok(())
    }

    /// Waits until every DataNode of the file has what was written so far, and fails where one of them is dead. Nothing where
    /// the file cannot do that (erasure coding).
    pub(super) async fn settle(&mut self) -> Result<(), Failure> {
        match self.store.step(self.file.hsync()).await {
            Err(failure) if failure.kind().is_temporary() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Closes the file and gives it its name, in a directory that is made where it is missing.
    pub(super) async fn publish(mut self, target: &str, overwrite: bool) -> Result<(), Failure> {
        let store = self.store.clone();
        let time = store.timeout.max(CLOSE_TIMEOUT_MIN);
        within(time, self.file.close()).await?;
        match tokio::time::timeout(time, self.all_readable()).await {
            Ok(readable) => readable?,
            Err(_) => return Err(Failure::timed_out(time)),
        }
        let dir = target.rsplit_once('/').map_or("/", |(dir, _)| dir);
        for made in 0.. {
            let rename = store.client.rename(&self.path, target, overwrite);
            match store.step(rename).await {
                Err(e) if e.is_missing_directory() && made < REMADE_MAX => {
                    store.step(store.client.mkdirs(dir, 0o755, true)).await?;
                }
                renamed => {
                    store.readers.forget(target);
                    if renamed.is_ok() {
                        self.path.clear();
                    }
                    return renamed;
                }
            }
        }
        unreachable!("the loop ends by its return")
    }

    /// Waits until readers see the closed file whole: a NameNode whose `dfs.namenode.file.close.num-committed-allowed` is not
    /// 0 closes it before a DataNode has reported the last block, and gives it out without that block until then.
    async fn all_readable(&self) -> Result<(), Failure> {
        let mut pause = LOOK_PAUSE_MIN;
        loop {
            let reader = self.store.step(self.store.client.read(&self.path)).await?;
            if reader.file_length() as u64 == self.len {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_PAUSE_MAX);
        }
    }

    /// Removes it, and tells whether that worked; where it did not, the drop goes on trying.
    pub(super) async fn remove(mut self) -> Result<(), Failure> {
        let delete = self.store.client.delete(&self.path, false);
        self.store.step(delete).await?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.path.is_empty() {
            remove_later(self.store.clone(), std::mem::take(&mut self.path));
        }
    }
}

/// First and last pause between attempts to remove an unfinished file: about half an hour together.
const CLEAN_UP_PAUSE_MIN: Duration = Duration::from_secs(1);
const CLEAN_UP_PAUSE_MAX: Duration = Duration::from_secs(1024);

/// Removes an unfinished file, if need be later, when the NameNode answers again. Does not wait for it.
fn remove_later(store: Arc<Inner>, path: String) {
    let runtime = store.runtime.clone();
    runtime.spawn(async move {
        let mut pause = CLEAN_UP_PAUSE_MIN;
        while let Err(e) = store.step(store.client.delete(&path, false)).await {
            if e.kind() == ErrorKind::NotFound {
                return;
            }
            if pause > CLEAN_UP_PAUSE_MAX {
                tracing::warn!(file = path, error = %e, "an unfinished file was left behind");
                return;
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    });
}
