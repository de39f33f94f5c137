//! What is done on the store's runtime, step by step, each step with its own timeout. Paths are those of HDFS.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use hdfs_native::{
    WriteOptions,
    file::{FileReader, FileWriter},
};

use crate::ErrorKind;

use super::{Failure, Inner, TEMP_DIR};
use crate::remote::{Key, Listed, sort_key};

/// Bytes handed to the client at a time, so that the timeout is for a step and not for a whole file.
const WRITE_STEP_BYTES: usize = 1 << 20;

/// Shortest time allowed for closing a file: the client itself waits up to 15.5 s for the DataNodes to report the block.
const CLOSE_TIMEOUT_MIN: Duration = Duration::from_secs(20);

/// First and last pause between attempts to remove an unfinished file: about half an hour together.
const CLEAN_UP_PAUSE_MIN: Duration = Duration::from_secs(1);
const CLEAN_UP_PAUSE_MAX: Duration = Duration::from_secs(1024);

/// How often a write makes its directory again when deletes keep removing it.
const REMADE_MAX: usize = 16;

impl Inner {
    pub(super) fn root_path(&self) -> String {
        match self.root.as_str() {
            "" => "/".to_owned(),
            root => root.to_owned(),
        }
    }

    pub(super) fn path(&self, key: &Key) -> String {
        format!("{}/{key}", self.root)
    }

    fn temp_path(&self) -> String {
        let number = self.temp_next.fetch_add(1, Ordering::Relaxed);
        format!("{}/{TEMP_DIR}/{:016x}-{number}", self.root, self.temp_token)
    }

    pub(super) async fn step<T>(
        &self,
        work: impl Future<Output = hdfs_native::Result<T>>,
    ) -> Result<T, Failure> {
        within(self.timeout, work).await
    }

    pub(super) async fn read(&self, path: &str) -> Result<Bytes, Failure> {
        let reader = self.step(self.client.read(path)).await?;
        let len = reader.file_length() as u64;
        self.read_through(&reader, 0..len).await
    }

    pub(super) async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, Failure> {
        let mut again = true;
        loop {
            let open = || self.step(self.client.read(path));
            let found = self.readers.get(path, open).await?;
            let Some(reader) = found.reader.get() else {
                unreachable!("it was opened above");
            };
            let failure = match self.read_through(reader, range.clone()).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failure,
            };
            self.readers.forget(path);
            if !found.was_open || !again {
                return Err(failure);
            }
            again = false;
            // The blocks may lie elsewhere by now, or the file may be another.
            tracing::debug!(file = path, error = %failure, "a read asks for the block locations again");
        }
    }

    async fn read_through(&self, reader: &FileReader, range: Range<u64>) -> Result<Bytes, Failure> {
        let len = reader.file_length() as u64;
        // The client panics past the end.
        if range.end > len {
            return Err(Failure::too_short(&range, len));
        }
        let wanted = (range.end - range.start) as usize;
        let mut bytes = BytesMut::with_capacity(wanted);
        if wanted > 0 {
            let mut stream = std::pin::pin!(reader.read_range_stream(range.start as usize, wanted));
            let next = async |stream: &mut std::pin::Pin<&mut _>| {
                self.step(async { StreamExt::next(stream).await.transpose() })
                    .await
            };
            while let Some(piece) = next(&mut stream).await? {
                bytes.extend_from_slice(&piece);
            }
        }
        if bytes.len() == wanted {
            Ok(bytes.freeze())
        } else {
            Err(Failure::too_short(&range, range.start + bytes.len() as u64))
        }
    }

    /// Whether the NameNode answers and lets this user see what lies under the prefix, which need not exist yet. `false`: it
    /// is a file.
    pub(super) async fn probe(&self) -> Result<bool, Failure> {
        let path = self.root_path();
        let entries = self.client.list_status_iter(&path, false);
        let first = self.step(async { entries.next().await.transpose() }).await;
        match first {
            Ok(Some(entry)) => Ok(entry.isdir || entry.path != path),
            Ok(None) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Waits until every DataNode of the file has what was written so far, and fails where one of them is dead. Nothing where
    /// the file cannot do that (erasure coding).
    pub(super) async fn settle(&self, file: &mut FileWriter) -> Result<(), Failure> {
        match self.step(file.hsync()).await {
            Err(failure) if failure.kind().is_temporary() => Err(failure),
            _ => Ok(()),
        }
    }

    pub(super) async fn append(
        &self,
        file: &mut FileWriter,
        mut bytes: Bytes,
    ) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(WRITE_STEP_BYTES));
            self.step(file.write_bytes(piece)).await?;
        }
        Ok(())
    }

    pub(super) async fn write_and_publish(
        self: &Arc<Self>,
        bytes: Bytes,
        target: &str,
        overwrite: bool,
    ) -> Result<(), Failure> {
        let (temp, file) = self.begin(bytes).await?;
        self.publish(file, &temp, target, overwrite).await?;
        temp.gone();
        Ok(())
    }

    /// A new unfinished file that holds `bytes` so far.
    pub(super) async fn begin(
        self: &Arc<Self>,
        bytes: Bytes,
    ) -> Result<(Temp, Box<FileWriter>), Failure> {
        let temp = Temp {
            path: self.temp_path(),
            store: self.clone(),
        };
        let options = WriteOptions::default().create_parent(true);
        let mut file = self.step(self.client.create(&temp.path, options)).await?;
        self.append(&mut file, bytes).await?;
        Ok((temp, Box::new(file)))
    }

    /// Closes the file and gives it its name, in a directory that is made where it is missing.
    pub(super) async fn publish(
        &self,
        mut file: Box<FileWriter>,
        temp: &Temp,
        target: &str,
        overwrite: bool,
    ) -> Result<(), Failure> {
        within(self.timeout.max(CLOSE_TIMEOUT_MIN), file.close()).await?;
        let dir = target.rsplit_once('/').map_or("/", |(dir, _)| dir);
        for made in 0.. {
            match self
                .step(self.client.rename(&temp.path, target, overwrite))
                .await
            {
                Err(e) if e.is_missing_directory() && made < REMADE_MAX => {
                    self.step(self.client.mkdirs(dir, 0o755, true)).await?;
                }
                renamed => {
                    self.readers.forget(target);
                    return renamed;
                }
            }
        }
        unreachable!("the loop ends by its return")
    }

    /// Removes an unfinished file, if need be later, when the NameNode answers again. It is invisible in any case. Does not
    /// wait for it.
    fn remove_later(self: &Arc<Self>, temp: String) {
        let this = self.clone();
        self.runtime.spawn(async move {
            let mut pause = CLEAN_UP_PAUSE_MIN;
            while let Err(e) = this.step(this.client.delete(&temp, false)).await {
                if e.kind() == ErrorKind::NotFound {
                    return;
                }
                if pause > CLEAN_UP_PAUSE_MAX {
                    tracing::warn!(file = temp, error = %e, "an unfinished file was left behind");
                    return;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        });
    }

    pub(super) async fn list(&self, path: &str, at_root: bool) -> Result<Vec<Listed>, Failure> {
        let entries = self.step(self.client.list_status(path, false)).await?;
        let mut listed = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.path == path && !entry.isdir {
                return Ok(Vec::new()); // an object, which has nothing below it
            }
            let name = entry.path.rsplit('/').next().unwrap_or_default().to_owned();
            if at_root && name == TEMP_DIR {
                continue;
            }
            listed.push(match entry.isdir {
                true => Listed::Prefix { name },
                false => Listed::Object {
                    name,
                    len: entry.length as u64,
                },
            });
        }
        listed.sort_by_cached_key(sort_key);
        Ok(listed)
    }

    pub(super) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.readers.forget(path);
        match self.step(self.client.delete(path, false)).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound || e.is_directory_not_empty() => {
                return Ok(()); // nothing, or a prefix of that name
            }
            Err(e) => return Err(e),
        }
        let mut dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        while dir.len() > self.root.len() {
            // Fails where the directory still holds something; the object is gone whatever comes of this.
            if !matches!(self.step(self.client.delete(dir, false)).await, Ok(true)) {
                break;
            }
            dir = dir.rsplit_once('/').map_or("", |(dir, _)| dir);
        }
        Ok(())
    }
}

/// The name of an unfinished file, which is removed where this is dropped: by a failure, or a caller that went away.
pub(super) struct Temp {
    pub(super) path: String,
    store: Arc<Inner>,
}

impl Temp {
    /// The file has its final name, or is removed.
    pub(super) fn gone(mut self) {
        self.path.clear();
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.path.is_empty() {
            self.store.remove_later(std::mem::take(&mut self.path));
        }
    }
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = hdfs_native::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(time, work).await {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::timed_out(time)),
    }
}
