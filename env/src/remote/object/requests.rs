//! The requests themselves, with their layers, retries and checks. All of it runs on the store's runtime.

use std::{
    ops::Range,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::TryStreamExt;
use opendal::{
    EntryMode, Operator,
    layers::{ConcurrentLimitLayer, TimeoutLayer},
    options::{CopyOptions, ListOptions, ReadOptions, WriteOptions},
};

use crate::{Error, ErrorKind, IoRuntime, Result};

use super::{
    names::NameRange,
    parts::PartPlan,
    transport::{Permits, UploadRequests},
    upload::Upload,
};
use crate::remote::{
    CommitPrimitive, Key, Listed, RemoteOptions, copy::check_len, error::at_open,
    error::from_opendal, full_path, retries, retry::Retry, sort_key, too_short,
};

/// What a store copies in a second at the least, by itself. Some tens of MiB are usual; the request is one, and its answer
/// comes at the end.
const COPY_BYTES_PER_SECOND_MIN: u64 = 8 << 20;

/// What is done on the store's runtime.
pub(super) struct Requests {
    pub(super) uri: String,
    pub(super) base: String,
    /// For everything that is one request; retried here, by `retry`.
    pub(super) operator: Operator,
    /// The same without its limits, for copies, whose time depends on their length.
    bare: Operator,
    permits: Permits,
    timeout: Duration,
    /// Length of the longest object that the store copies by itself; `None`: it copies none.
    pub(super) copy_bytes_max: Option<u64>,
    /// For uploads in parts, which are many requests, each retried by its layer.
    uploads: Operator,
    retry: Retry,
    pub(super) commit: CommitPrimitive,
    plan: PartPlan,
    parallel_parts: usize,
}

impl Requests {
    /// Puts the layers around `bare`. No request is made.
    pub(super) fn new(
        uri: String,
        base: String,
        bare: Operator,
        commit: CommitPrimitive,
        options: &RemoteOptions,
    ) -> Self {
        let timeout = TimeoutLayer::new()
            .with_timeout(options.request_timeout)
            .with_io_timeout(options.request_timeout);
        let retry = Retry::new(options);
        let permits = Permits::new(options.max_concurrent_requests);
        let upload_requests = UploadRequests {
            permits: permits.clone(),
            timeout: options.request_timeout,
            retry: retry.clone(),
            scheme: retries::scheme(&uri).to_owned(),
        };
        // The timeout is inside, so that waiting for a permit is not timed.
        let limit = ConcurrentLimitLayer::with_semaphore(permits.clone());
        Requests {
            uri,
            base,
            operator: bare.clone().layer(timeout).layer(limit),
            copy_bytes_max: copy_bytes_max(&bare),
            uploads: bare.clone().layer(upload_requests),
            bare,
            permits,
            timeout: options.request_timeout,
            retry,
            commit,
            plan: PartPlan {
                first_bytes: options.upload_part_bytes as u64,
            },
            parallel_parts: options.upload_parallel_parts,
        }
    }

    pub(super) async fn probe(&self) -> Result<()> {
        self.retry
            .for_open()
            .run(|| async {
                let first = async {
                    let mut lister = self.operator.lister_with("/").limit(1).await?;
                    lister.try_next().await
                };
                match first.await {
                    Ok(_) => Ok(()),
                    Err(e) => match at_open(self.uri.clone(), &e) {
                        e if self.is_missing_prefix(&e) => Ok(()),
                        e if e.is_not_found() && e.message().is_empty() => Err(Error::new(
                            e.kind(),
                            "open",
                            &self.uri,
                            "the bucket or container does not exist; create it or correct the URI",
                        )),
                        e => Err(e),
                    },
                }
            })
            .await
    }

    /// A prefix under which nothing was written yet: an empty list everywhere but on WebHDFS.
    fn is_missing_prefix(&self, error: &Error) -> bool {
        error.is_not_found() && self.commit == CommitPrimitive::None
    }

    fn error(&self, operation: &'static str, key: &Key, error: &opendal::Error) -> Error {
        from_opendal(operation, full_path(&self.base, key), error)
    }

    fn check_writable(&self, operation: &'static str, key: &Key) -> Result<()> {
        match self.commit {
            CommitPrimitive::None => Err(Error::new(
                ErrorKind::Unsupported,
                operation,
                full_path(&self.base, key),
                "WebHDFS cannot put an object in place at once; open the store as hdfs:// to write",
            )),
            _ => Ok(()),
        }
    }

    pub(super) async fn read(
        &self,
        operation: &'static str,
        key: &Key,
        range: Option<Range<u64>>,
    ) -> Result<Bytes> {
        let bytes = self
            .retry
            .run(|| async {
                let options = ReadOptions {
                    range: range.clone().map(Into::into).unwrap_or_default(),
                    ..Default::default()
                };
                let buffer = self.operator.read_options(key.as_str(), options).await;
                buffer.map_err(|e| self.error(operation, key, &e))
            })
            .await?;
        Ok(bytes.to_bytes())
    }

    async fn write(
        &self,
        operation: &'static str,
        key: &Key,
        bytes: Bytes,
        if_not_exists: bool,
    ) -> Result<()> {
        let options = WriteOptions {
            if_not_exists,
            ..Default::default()
        };
        self.operator
            .write_options(key.as_str(), bytes, options)
            .await
            .map(|_| ())
            .map_err(|e| self.error(operation, key, &e))
    }

    /// Whether the store gives out listings in the order of the names, from any name on.
    pub(super) fn lists_from_anywhere(&self) -> bool {
        self.operator.info().capability().list_with_start_after
    }

    /// What lies under `prefix`, of that what `part` names.
    pub(super) async fn list(&self, prefix: Option<&Key>, part: &NameRange) -> Result<Vec<Listed>> {
        self.retry.run(|| self.list_once(prefix, part)).await
    }

    async fn list_once(&self, prefix: Option<&Key>, part: &NameRange) -> Result<Vec<Listed>> {
        let path = prefix.map_or("/".to_owned(), |prefix| format!("{prefix}/"));
        let below = path.trim_start_matches('/');
        let options = ListOptions {
            start_after: part.after.as_ref().map(|name| format!("{below}{name}")),
            ..Default::default()
        };
        let mut listed = Vec::new();
        let pages = async {
            let mut lister = self.operator.lister_options(&path, options).await?;
            while let Some(entry) = lister.try_next().await? {
                // OpenDAL lists the prefix itself where the store has an object or directory for it.
                let name = entry.path().strip_prefix(below).unwrap_or(entry.path());
                let name = name.trim_matches('/');
                let is_prefix = entry.metadata().mode() == EntryMode::DIR;
                // Each page has its prefixes before its objects, so only these end it.
                if !is_prefix && part.is_before(name) {
                    break;
                }
                if name.is_empty() || name.contains('/') || !part.contains(name) {
                    continue;
                }
                let name = name.to_owned();
                listed.push(match is_prefix {
                    true => Listed::Prefix { name },
                    false => Listed::Object {
                        name,
                        len: entry.metadata().content_length(),
                        modified: entry.metadata().last_modified().map(SystemTime::from),
                    },
                });
            }
            Ok(())
        };
        if let Err(e) = pages.await {
            let shown = prefix.map_or(self.base.clone(), |prefix| full_path(&self.base, prefix));
            return match from_opendal("list", shown, &e) {
                e if self.is_missing_prefix(&e) => Ok(Vec::new()),
                e => Err(e),
            };
        }
        listed.sort_by_cached_key(sort_key);
        Ok(listed)
    }

    pub(super) async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let bytes = self.read("get_range", key, Some(range.clone())).await?;
        if bytes.len() as u64 == range.end - range.start {
            Ok(bytes)
        } else {
            Err(too_short(
                full_path(&self.base, key),
                &range,
                range.start + bytes.len() as u64,
            ))
        }
    }

    /// True for an object that is better sent in parts than at once.
    pub(super) fn goes_in_parts(&self, len: usize) -> bool {
        len as u64 > 2 * self.plan.first_bytes
    }

    /// Writes an object at once.
    pub(super) async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.check_writable("put", key)?;
        self.retry
            .run(|| self.write("put", key, bytes.clone(), false))
            .await
    }

    pub(super) async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.check_writable("put_if_absent", key)?;
        self.retry
            .run_creating(|| self.write("put_if_absent", key, bytes.clone(), true))
            .await
    }

    /// Begins an object that goes in parts. No request is made.
    pub(super) async fn upload(
        &self,
        operation: &'static str,
        key: &Key,
        runtime: &IoRuntime,
    ) -> Result<Upload> {
        self.check_writable(operation, key)?;
        // Each part is cut here: what is handed to this writer at once goes as one.
        let writer = self
            .uploads
            .writer_with(key.as_str())
            .concurrent(self.parallel_parts)
            .await
            .map_err(|e| self.error(operation, key, &e))?;
        let path = full_path(&self.base, key);
        Ok(Upload::new(writer, self.plan, path, runtime.clone()))
    }

    /// Whether the store copies an object of that length by itself.
    pub(super) fn copies(&self, len: u64) -> bool {
        self.copy_bytes_max.is_some_and(|max| len <= max)
    }

    /// Lets the store copy an object, and looks whether it did.
    pub(super) async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<()> {
        let found = self.length("copy", from).await?;
        check_len(full_path(&self.base, from), len, found)?;
        let time = self.timeout + Duration::from_secs(len / COPY_BYTES_PER_SECOND_MIN);
        let timeout = TimeoutLayer::new().with_timeout(time).with_io_timeout(time);
        let limit = ConcurrentLimitLayer::with_semaphore(self.permits.clone());
        let operator = self.bare.clone().layer(timeout).layer(limit);
        self.retry
            .run(|| async {
                let options = CopyOptions {
                    // Else it would ask for the length again.
                    source_content_length_hint: Some(len),
                    ..Default::default()
                };
                let copied = operator.copy_options(from.as_str(), to.as_str(), options);
                copied.await.map(drop).map_err(|e| {
                    let missing = e.kind() == opendal::ErrorKind::NotFound;
                    self.error("copy", if missing { from } else { to }, &e)
                })
            })
            .await?;
        let found = match self.length("copy", to).await {
            Ok(found) if found == len => return Ok(()),
            Ok(found) => found,
            Err(e) if e.is_not_found() => 0,
            Err(e) => return Err(e),
        };
        // Not removed: it may be what somebody else has put there meanwhile.
        let message =
            format!("the store reported a copy of {len} bytes, but {found} are there; remove it");
        let path = full_path(&self.base, to);
        Err(Error::new(ErrorKind::Corruption, "copy", path, message))
    }

    pub(super) async fn len(&self, key: &Key) -> Result<u64> {
        self.length("len", key).await
    }

    async fn length(&self, operation: &'static str, key: &Key) -> Result<u64> {
        let metadata = self
            .retry
            .run(|| async {
                let stat = self.operator.stat(key.as_str()).await;
                stat.map_err(|e| self.error(operation, key, &e))
            })
            .await?;
        if metadata.mode() == EntryMode::DIR {
            let path = full_path(&self.base, key);
            return Err(Error::new(ErrorKind::NotFound, operation, path, ""));
        }
        Ok(metadata.content_length())
    }

    pub(super) async fn delete(&self, key: &Key) -> Result<()> {
        self.retry
            .run(|| async {
                match self.operator.delete(key.as_str()).await {
                    Ok(()) => Ok(()),
                    Err(e) => match self.error("delete", key, &e) {
                        e if self.is_missing_prefix(&e) => Ok(()),
                        e => Err(e),
                    },
                }
            })
            .await
    }
}

/// Length of the longest object that a store copies by one request that shows nothing before it is done.
fn copy_bytes_max(operator: &Operator) -> Option<u64> {
    let info = operator.info();
    match info.scheme() {
        // Longer ones go in parts: for these, OpenDAL's requests are refused by Ceph for want of a Content-Length.
        "s3" => Some(5 << 30),
        "gcs" => Some(u64::MAX),
        // Azure answers before it is done, and shows an empty object until then. WebHDFS has no copy.
        _ => None,
    }
}
