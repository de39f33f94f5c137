//! [`ObjectStore`]: S3, GCS, Azure Blob and WebHDFS through OpenDAL.
//!
//! What OpenDAL offers and this does not use, for it loses data without an error: append (S3 servers replace the object
//! instead), copy with `if_not_exists` (ignored by the servers tried), rename.
//!
//! * `put_if_absent` is one PUT with `If-None-Match: *`, whatever its length: servers ignore the condition on the
//!   completion of a multipart upload.
//! * A `put` of more than two parts, and every `writer` of more than one, is a multipart upload: its parts go in parallel
//!   and are invisible until its completion. One that fails or is given up is aborted. What a crash leaves of it is
//!   invisible too, and costs space until the bucket's own rule for incomplete uploads removes it.
//! * A `copy` is the store's own where it has one that shows nothing before it is done (S3 and GCS), and looked for
//!   afterwards, for S3 may fail with status 200. Its time limit grows with the object. Elsewhere it goes through this process.
//! * Every answer's length is checked against what was asked for.
//! * A connection that is kept for the next request is served by the runtime that opened it, and is dead to a request
//!   from another one that is not running. So every request is carried out on the [`IoRuntime`] that the store was
//!   opened with, whatever runtime the caller is on.

mod names;
mod parts;
mod requests;
#[cfg(all(test, feature = "services-s3"))]
mod tests;
mod transport;
mod upload;

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::try_join_all;
use opendal::Operator;

use crate::{IoRuntime, Result};

use super::{
    Capabilities, CommitPrimitive, Copied, CopyKind, Key, Listed, ObjectWriter, RemoteOptions,
    RemoteStore,
    copy::{check_keys, streamed},
    sort_key,
};

use names::NameRange;
use requests::Requests;

/// Objects through OpenDAL. See the [module](self).
#[derive(Clone)]
pub(super) struct ObjectStore {
    requests: Arc<Requests>,
    runtime: IoRuntime,
}

impl ObjectStore {
    /// Puts the layers around `bare`. No request is made.
    pub(super) fn new(
        uri: String,
        base: String,
        bare: Operator,
        commit: CommitPrimitive,
        options: &RemoteOptions,
        runtime: &IoRuntime,
    ) -> Self {
        let requests = Requests::new(uri, base, bare, commit, options);
        ObjectStore {
            requests: Arc::new(requests),
            runtime: runtime.clone(),
        }
    }

    /// One request that shows whether the store answers and the credentials are good: the first page of a list.
    pub(super) async fn probe(&self) -> Result<()> {
        self.requests.probe().await
    }

    async fn list_part(&self, prefix: Option<Key>, part: NameRange) -> Result<Vec<Listed>> {
        let requests = self.requests.clone();
        let path = match &prefix {
            Some(prefix) => super::full_path(&requests.base, prefix),
            None => requests.base.clone(),
        };
        let work = async move { requests.list(prefix.as_ref(), &part).await };
        super::spawned(&self.runtime, "list", path, work).await
    }

    /// Carries `work` out on the store's runtime.
    async fn run<T, F>(
        &self,
        operation: &'static str,
        key: &Key,
        work: impl FnOnce(Arc<Requests>, Key) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let path = super::full_path(&self.requests.base, key);
        let work = work(self.requests.clone(), key.clone());
        super::spawned(&self.runtime, operation, path, work).await
    }
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The operators hold what signs requests.
        f.debug_tuple("ObjectStore")
            .field(&self.requests.uri)
            .finish()
    }
}

#[async_trait]
impl RemoteStore for ObjectStore {
    fn uri(&self) -> &str {
        &self.requests.uri
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            copy: match self.requests.copies(0) {
                true => CopyKind::ServerSide,
                false => CopyKind::Streamed,
            },
            commit: self.requests.commit,
        }
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.run("get", key, |requests, key| async move {
            requests.read("get", &key, None).await
        })
        .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        self.run("get_range", key, |requests, key| async move {
            requests.get_range(&key, range).await
        })
        .await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        if self.requests.goes_in_parts(bytes.len()) {
            let upload = self.requests.upload("put", key, &self.runtime).await?;
            return upload.send("put", bytes).await;
        }
        self.run("put", key, |requests, key| async move {
            requests.put(&key, bytes).await
        })
        .await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.run("put_if_absent", key, |requests, key| async move {
            requests.put_if_absent(&key, bytes).await
        })
        .await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        let upload = self.requests.upload("writer", key, &self.runtime).await?;
        Ok(Box::new(upload))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        self.run("len", key, |requests, key| async move {
            requests.len(&key).await
        })
        .await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        self.list_part(prefix.cloned(), NameRange::default()).await
    }

    async fn list_likely(&self, prefix: &Key, likely: &[&str]) -> Result<Vec<Listed>> {
        if !self.requests.lists_from_anywhere() {
            return self.list(Some(prefix)).await;
        }
        let parts = NameRange::cut(likely.to_vec()).into_iter();
        let parts = parts.map(|part| self.list_part(Some(prefix.clone()), part));
        let mut listed = try_join_all(parts).await?.concat();
        listed.sort_by_cached_key(sort_key);
        Ok(listed)
    }

    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        if !self.requests.copies(len) {
            return streamed(self, from, to, len).await;
        }
        check_keys(&self.requests.base, from, to)?;
        let to = to.clone();
        self.run("copy", from, |requests, from| async move {
            requests.copy(&from, &to, len).await
        })
        .await?;
        Ok(Copied::without_bytes(CopyKind::ServerSide))
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.run("delete", key, |requests, key| async move {
            requests.delete(&key).await
        })
        .await
    }
}
