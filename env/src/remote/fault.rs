//! [`FaultStore`]: a store that fails as a [`FaultPlan`] says, for tests.
//!
//! It breaks the contract of [`RemoteStore`] on purpose: reads may be short or changed without an error, for whoever
//! reads must verify. A plan sees keys as they are given here, without the store's URI; `list` shows its prefix.

use std::{ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::{Decision, Error, ErrorKind, FaultPlan, Op, Result};

use super::{Capabilities, Copied, Key, Listed, ObjectWriter, RemoteStore};

/// `inner`, with the faults of `plan`. See the [module](self).
#[derive(Debug, Clone)]
pub struct FaultStore {
    inner: Arc<dyn RemoteStore>,
    plan: Arc<FaultPlan>,
}

impl FaultStore {
    /// Wraps `inner`. The plan may be shared with a [`FaultEnv`](crate::FaultEnv).
    pub fn new(inner: Arc<dyn RemoteStore>, plan: Arc<FaultPlan>) -> Self {
        FaultStore { inner, plan }
    }

    async fn read(
        &self,
        op: Op,
        key: &Key,
        request: impl Future<Output = Result<Bytes>>,
    ) -> Result<Bytes> {
        let decision = self.plan.decide(op, key.as_str());
        let bytes = carry_out(decision, op, key.as_str(), request).await?;
        Ok(match decision {
            Decision::Short(share) => bytes.slice(..share.of(bytes.len())),
            Decision::Corrupt(share) if !bytes.is_empty() => {
                let mut bytes = BytesMut::from(bytes);
                let at = share.of(bytes.len());
                bytes[at] ^= 1 << (at % 8);
                bytes.freeze()
            }
            _ => bytes,
        })
    }

    async fn decided<T>(
        &self,
        op: Op,
        path: &str,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        carry_out(self.plan.decide(op, path), op, path, request).await
    }
}

/// What a decision means for a request as a whole; a future that is not to happen is dropped without being polled.
async fn carry_out<T>(
    decision: Decision,
    op: Op,
    path: &str,
    request: impl Future<Output = Result<T>>,
) -> Result<T> {
    match decision {
        Decision::Fail(kind) => Err(FaultPlan::error(kind, op, path)),
        Decision::FailAfter(kind) | Decision::Torn(kind, _) => {
            request.await?;
            Err(FaultPlan::error(kind, op, path))
        }
        Decision::Delay(time) => {
            tokio::time::sleep(time).await;
            request.await
        }
        // What changes bytes is done by whoever has them.
        Decision::Pass | Decision::Short(_) | Decision::Corrupt(_) => request.await,
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl RemoteStore for FaultStore {
    fn uri(&self) -> &str {
        self.inner.uri()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn get(&self, key: &Key) -> Result<Bytes> {
        self.read(Op::Get, key, self.inner.get(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let request = self.inner.get_range(key, range);
        self.read(Op::GetRange, key, request).await
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let request = self.inner.put(key, bytes);
        self.decided(Op::Put, key.as_str(), request).await
    }

    async fn put_if_absent(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let request = self.inner.put_if_absent(key, bytes);
        self.decided(Op::PutIfAbsent, key.as_str(), request).await
    }

    async fn writer(&self, key: &Key) -> Result<Box<dyn ObjectWriter>> {
        let request = self.inner.writer(key);
        let inner = self.decided(Op::WriterOpen, key.as_str(), request).await?;
        Ok(Box::new(FaultWriter {
            inner,
            key: key.clone(),
            plan: self.plan.clone(),
            broken: false,
        }))
    }

    async fn len(&self, key: &Key) -> Result<u64> {
        let request = self.inner.len(key);
        self.decided(Op::ObjectLen, key.as_str(), request).await
    }

    async fn list(&self, prefix: Option<&Key>) -> Result<Vec<Listed>> {
        let path = prefix.map_or("", Key::as_str);
        let request = self.inner.list(prefix);
        self.decided(Op::ObjectList, path, request).await
    }

    async fn list_likely(&self, prefix: &Key, likely: &[&str]) -> Result<Vec<Listed>> {
        let request = self.inner.list_likely(prefix, likely);
        self.decided(Op::ObjectList, prefix.as_str(), request).await
    }

    /// A plan sees the copy's key. Torn: an upload of some bytes that is left unfinished, as by a process that died.
    async fn copy(&self, from: &Key, to: &Key, len: u64) -> Result<Copied> {
        let decision = self.plan.decide(Op::Copy, to.as_str());
        if let Decision::Torn(kind, share) = decision {
            let bytes = self.inner.get(from).await?;
            let mut writer = self.inner.writer(to).await?;
            writer.write(bytes.slice(..share.of(bytes.len()))).await?;
            return Err(FaultPlan::error(kind, Op::Copy, to.as_str()));
        }
        let request = self.inner.copy(from, to, len);
        carry_out(decision, Op::Copy, to.as_str(), request).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let request = self.inner.delete(key);
        self.decided(Op::ObjectDelete, key.as_str(), request).await
    }
}

struct FaultWriter {
    inner: Box<dyn ObjectWriter>,
    key: Key,
    plan: Arc<FaultPlan>,
    /// A write failed: as with a real store, nothing can be made of this object any more.
    broken: bool,
}

impl FaultWriter {
    fn check(&self, op: Op) -> Result<()> {
        if self.broken {
            return Err(Error::new(
                ErrorKind::Io,
                op.name(),
                self.key.as_str(),
                "an earlier write failed; begin the object again",
            ));
        }
        Ok(())
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ObjectWriter for FaultWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.check(Op::WriterWrite)?;
        let path = self.key.as_str();
        let decision = self.plan.decide(Op::WriterWrite, path);
        let bytes = match decision {
            Decision::Torn(_, share) => bytes.slice(..share.of(bytes.len())),
            _ => bytes,
        };
        let request = self.inner.write(bytes);
        let written = carry_out(decision, Op::WriterWrite, path, request).await;
        self.broken = written.is_err();
        written
    }

    async fn finish(self: Box<Self>) -> Result<()> {
        self.check(Op::WriterFinish)?;
        let path = self.key.as_str();
        let decision = self.plan.decide(Op::WriterFinish, path);
        carry_out(decision, Op::WriterFinish, path, self.inner.finish()).await
    }

    async fn abort(self: Box<Self>) -> Result<()> {
        let path = self.key.as_str();
        let decision = self.plan.decide(Op::WriterAbort, path);
        carry_out(decision, Op::WriterAbort, path, self.inner.abort()).await
    }
}
