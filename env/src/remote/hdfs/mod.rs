//! `hdfs://`: objects as files of HDFS, through the `hdfs-native` client directly.
//!
//! Not through OpenDAL, whose service for it writes to the final name, replaces by deleting first, and turns the
//! client's typed errors into text.
//!
//! * **Atomic.** Bytes go to a new file under `<root>/.lazurite-tmp/`, then one rename of the NameNode gives it its name:
//!   `rename(.., overwrite)` for `put`, one that refuses to replace for `put_if_absent`. It gets it only once readers see
//!   all of it, which some NameNodes let them do only after the file was closed.
//! * **Durable.** When the file was closed, in HDFS's own sense: each block is on the DataNodes of its pipeline, which
//!   write it to disk when their systems see fit.
//! * **Crash.** What a crash leaves is a whole object, or a file under `.lazurite-tmp` that nothing lists or reads.
//! * A directory that a delete emptied is removed with it; a write that finds its directory gone makes it again.
//! * A `get` costs two round trips: block locations from the NameNode, then the bytes from a DataNode. A `get_range` costs
//!   the second alone once its file was read before: the reader is kept ([`readers`]), and so, for three seconds, is the
//!   connection. A range of a file that another process has replaced meanwhile may be of the old one; Lazurite reads ranges
//!   of files that are never replaced.
//! * HDFS copies nothing by itself, so a `copy` is read and written again through this process.
//! * The client's tasks and sockets belong to one runtime, so every call is carried out on the [`IoRuntime`] that the
//!   store was opened with, whatever runtime the caller is on. A panic in the client becomes an error.
//!
//! The client's own failover loop would try a dead NameNode for minutes; it is cut to one attempt for each NameNode,
//! and [`Retry`] does the rest.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::{Client, ClientBuilder};
use tokio::sync::Semaphore;

use crate::{Error, ErrorKind, IoRuntime, Result};

use super::{
    Capabilities, CommitPrimitive, CopyKind, Key, Listed, ObjectWriter, RemoteOptions, RemoteStore,
    retry::Retry, uri::Place,
};

mod failure;
mod readers;
mod unfinished;
mod work;
mod writer;

use failure::Failure;
use readers::Readers;
use unfinished::Unfinished;
use writer::{HdfsWriter, State};

const TEMP_DIR: &str = ".lazurite-tmp";

/// Objects in HDFS. See the [module](self).
#[derive(Clone)]
pub(super) struct HdfsStore(Arc<Inner>);

struct Inner {
    uri: String,
    /// `/prefix`, or empty for the whole file system.
    root: String,
    client: Client,
    runtime: IoRuntime,
    limit: Semaphore,
    readers: Readers,
    retry: Retry,
    timeout: Duration,
    temp_token: u64,
    temp_next: AtomicU64,
}

impl HdfsStore {
    /// Reads the Hadoop configuration; no request is made.
    pub(super) fn new(
        uri: String,
        place: &Place,
        options: &RemoteOptions,
        runtime: &IoRuntime,
    ) -> Result<Self> {
        let client = ClientBuilder::new()
            .with_url(format!("hdfs://{}", place.host))
            .with_config([
                ("dfs.client.failover.max.attempts", "1"),
                ("dfs.client.failover.sleep.base.millis", "50"),
            ])
            .with_io_runtime(runtime.handle().clone())
            .build()
            .map_err(|e| Failure::from(e).named("open", uri.clone()))?;
        let root = match place.prefix.as_str() {
            "" => String::new(),
            prefix => format!("/{prefix}"),
        };
        Ok(HdfsStore(Arc::new(Inner {
            uri,
            root,
            client,
            runtime: runtime.clone(),
            limit: Semaphore::new(options.max_concurrent_requests),
            readers: Readers::default(),
            retry: Retry::new(options),
            timeout: options.request_timeout,
            temp_token: rand::random(),
            temp_next: AtomicU64::new(0),
        })))
    }

    /// One request that shows whether the NameNode answers. A missing prefix is well: it will be made.
    pub(super) async fn probe(&self) -> Result<()> {
        let attempt = || {
            let this = self.0.clone();
            let work = async move { this.probe().await };
            self.spawned("open", self.0.uri.clone(), work)
        };
        match self.0.retry.for_open().run(attempt).await? {
            true => Ok(()),
            false => Err(Error::new(
                ErrorKind::InvalidInput,
                "open",
                &self.0.uri,
                "this is a file, not a directory",
            )),
        }
    }

    /// Carries `attempt` out on the store's runtime, with a permit, again after temporary errors.
    async fn on_runtime<T, F>(
        &self,
        operation: &'static str,
        key: Option<&Key>,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let path = self.checked_path(operation, key)?;
        self.0
            .retry
            .run(|| self.spawned(operation, path.clone(), attempt()))
            .await
    }

    async fn spawned<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: String,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T> {
        let Ok(_permit) = self.0.limit.acquire().await else {
            unreachable!("the semaphore is never closed");
        };
        match self.0.runtime.spawn(work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(failure.named(operation, path)),
            Err(e) => Err(super::join_error(operation, path, &e)),
        }
    }

    fn checked_path(&self, operation: &'static str, key: Option<&Key>) -> Result<String> {
        let Some(key) = key else {
            return Ok(self.0.uri.clone());
        };
        let path = super::full_path(&self.0.uri, key);
        // The NameNode refuses these; here the message is clearer and nothing is sent.
        let reserved = key.as_str().split('/').next() == Some(TEMP_DIR);
        if reserved || key.as_str().contains(':') {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                operation,
                path,
                "a key in HDFS holds no `:` and does not begin with .lazurite-tmp",
            ));
        }
        Ok(path)
    }

    async fn write_whole(
        &self,
        operation: &'static str,
        key: &Key,
        bytes: Bytes,
        overwrite: bool,
    ) -> Result<()> {
        let path = self.checked_path(operation, Some(key))?;
        let target = self.0.path(key);
        let attempt = || {
            let (this, target, bytes) = (self.0.clone(), target.clone(), bytes.clone());
            let work = async move {
                let file = Unfinished::begin(this, bytes).await?;
                file.publish(&target, overwrite).await
            };
            self.spawned(operation, path.clone(), work)
        };
        if overwrite {
            self.0.retry.run(attempt).await
        } else {
            self.0.retry.run_creating(attempt).await
        }
    }
}

impl fmt::Debug for HdfsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client shows all of the Hadoop configuration, secrets among it.
        f.debug_tuple("HdfsStore").field(&self.0.uri).finish()
    }
}

#[async_trait]
impl RemoteStore for HdfsStore {
    fn uri(&self) -> &str {
        &self.0.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            copy: CopyKind::Streamed,
            commit: CommitPrimitive::ExclusiveRename,
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        let (this, path) = (self.0.clone(), self.0.path(key));
        self.on_runtime("get", Some(key), move || {
            let (this, path) = (this.clone(), path.clone());
            async move { this.read(&path).await }
        })
        .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (this, path) = (self.0.clone(), self.0.path(key));
        self.on_runtime("get_range", Some(key), move || {
            let (this, path, range) = (this.clone(), path.clone(), range.clone());
            async move { this.read_range(&path, range).await }
        })
        .await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.write_whole("put", key, bytes, true).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.write_whole("put_if_absent", key, bytes, false).await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(HdfsWriter {
            path: self.checked_path("writer", Some(key))?,
            target: self.0.path(key),
            store: self.clone(),
            state: State::New,
        }))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        let (this, path) = (self.0.clone(), self.0.path(key));
        self.on_runtime("len", Some(key), move || {
            let (this, path) = (this.clone(), path.clone());
            async move {
                let status = this.step(this.client.get_file_info(&path)).await?;
                match status.isdir {
                    false => Ok(status.length as u64),
                    true => Err(Failure::new(ErrorKind::NotFound, "")),
                }
            }
        })
        .await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        let (this, at_root) = (self.0.clone(), prefix.is_none());
        let path = prefix.map_or(self.0.root_path(), |prefix| self.0.path(prefix));
        let listed = self
            .on_runtime("list", prefix, move || {
                let (this, path) = (this.clone(), path.clone());
                async move { this.list(&path, at_root).await }
            })
            .await;
        match listed {
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            listed => listed,
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let (this, path) = (self.0.clone(), self.0.path(key));
        self.on_runtime("delete", Some(key), move || {
            let (this, path) = (this.clone(), path.clone());
            async move { this.delete(&path).await }
        })
        .await
    }
}
