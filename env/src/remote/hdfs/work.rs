//! What is done on the store's runtime, step by step, each step with its own timeout. Paths are those of HDFS.

use std::{
    ops::Range,
    sync::atomic::Ordering,
    time::{Duration, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use hdfs_native::file::FileReader;

use crate::ErrorKind;

use super::{Failure, Inner, TEMP_DIR};
use crate::remote::{Key, Listed, sort_key};

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

    pub(super) fn temp_path(&self) -> String {
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
                    modified: Some(UNIX_EPOCH + Duration::from_millis(entry.modification_time)),
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

pub(super) async fn within<T>(
    time: Duration,
    work: impl Future<Output = hdfs_native::Result<T>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(time, work).await {
        Ok(result) => result.map_err(Failure::from),
        Err(_) => Err(Failure::timed_out(time)),
    }
}
