//! An object while it is being written: a file that nobody sees, until it is given its name.

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, ErrorKind, Result};

use super::{HdfsStore, unfinished::Unfinished};
use crate::remote::ObjectWriter;

pub(super) struct HdfsWriter {
    pub(super) store: HdfsStore,
    pub(super) path: String,
    pub(super) target: String,
    pub(super) state: State,
}

pub(super) enum State {
    /// Nothing was written, and there is no file.
    New,
    Open(Box<Unfinished>),
    /// Left with an unknown end by a failed write, or by a caller that did not wait for it.
    Failed,
}

impl HdfsWriter {
    /// A new file that holds `bytes`, begun as often as it takes: a dead DataNode among those that the NameNode names costs
    /// the whole file, and it goes on naming that one for a while. So the bytes are seen on all of them here, while they
    /// are still at hand.
    async fn begin(&self, operation: &'static str, bytes: Bytes) -> Result<Box<Unfinished>> {
        let attempt = || {
            let (this, bytes) = (self.store.0.clone(), bytes.clone());
            let work = async move {
                let mut file = Unfinished::begin(this, bytes).await?;
                file.settle().await?;
                Ok(Box::new(file))
            };
            self.store.spawned(operation, self.path.clone(), work)
        };
        self.store.0.retry.run(attempt).await
    }

    fn failed(&self, operation: &'static str) -> Error {
        Error::new(
            ErrorKind::Io,
            operation,
            &self.path,
            "an earlier write failed; begin the object again",
        )
    }
}

#[async_trait]
impl ObjectWriter for HdfsWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let file = match std::mem::replace(&mut self.state, State::Failed) {
            State::New => self.begin("write", bytes).await?,
            State::Open(mut file) => {
                let work = async move {
                    file.append(bytes).await?;
                    Ok(file)
                };
                self.store.spawned("write", self.path.clone(), work).await?
            }
            State::Failed => return Err(self.failed("write")),
        };
        self.state = State::Open(file);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let file = match std::mem::replace(&mut self.state, State::Failed) {
            State::New => self.begin("finish", Bytes::new()).await?,
            State::Open(file) => file,
            State::Failed => return Err(self.failed("finish")),
        };
        let target = self.target.clone();
        let work = async move { file.publish(&target, true).await };
        self.store.spawned("finish", self.path.clone(), work).await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let State::Open(file) = std::mem::replace(&mut self.state, State::Failed) else {
            return Ok(()); // nothing was written, or what failed removes it
        };
        let work = async move { file.remove().await };
        self.store.spawned("abort", self.path.clone(), work).await
    }
}
