//! An object while it is being written: a file that nobody sees, until it is given its name.

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::file::FileWriter;

use crate::{Error, ErrorKind, Result};

use super::HdfsStore;
use crate::remote::ObjectWriter;

pub(super) struct HdfsWriter {
    pub(super) store: HdfsStore,
    pub(super) path: String,
    pub(super) target: String,
    pub(super) temp: String,
    /// Bytes were written.
    pub(super) begun: bool,
    /// `None` once the file was published, given up, or left with an unknown end by a failed write.
    pub(super) file: Option<FileWriter>,
}

impl HdfsWriter {
    /// The first write, to which a new file may be given as often as it takes: the client gives up a file whose first
    /// DataNode is dead, and the NameNode goes on naming that one for a while.
    async fn begin(&mut self, bytes: Bytes) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut made = Some((self.temp.clone(), self.take("write")?));
        let store = self.store.clone();
        let attempt = || {
            let (this, made, bytes) = (store.0.clone(), made.take(), bytes.clone());
            let work = async move {
                let (temp, mut file) = match made {
                    Some(made) => made,
                    None => {
                        let temp = this.temp_path();
                        let file = this.create(&temp).await?;
                        (temp, file)
                    }
                };
                match this.append(&mut file, bytes).await {
                    Ok(()) => Ok((temp, file)),
                    Err(failure) => {
                        this.remove_later(temp);
                        Err(failure)
                    }
                }
            };
            self.store.spawned("write", self.path.clone(), work)
        };
        let (temp, file) = self.store.0.retry.run(attempt).await?;
        (self.temp, self.file, self.begun) = (temp, Some(file), true);
        Ok(())
    }

    fn take(&mut self, operation: &'static str) -> Result<FileWriter> {
        self.file.take().ok_or_else(|| {
            Error::new(
                ErrorKind::Io,
                operation,
                &self.path,
                "an earlier write failed; begin the object again",
            )
        })
    }
}

#[async_trait]
impl ObjectWriter for HdfsWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        if !self.begun {
            return self.begin(bytes).await;
        }
        let mut file = self.take("write")?;
        let this = self.store.0.clone();
        let work = async move {
            this.append(&mut file, bytes).await?;
            Ok(file)
        };
        let file = self.store.spawned("write", self.path.clone(), work).await?;
        self.file = Some(file);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let file = self.take("finish")?;
        let this = self.store.0.clone();
        let (temp, target) = (self.temp.clone(), self.target.clone());
        let work = async move { this.publish(file, &temp, &target, true).await };
        self.store
            .spawned("finish", self.path.clone(), work)
            .await?;
        self.temp.clear();
        Ok(())
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        drop(self.file.take());
        let (this, temp) = (self.store.0.clone(), self.temp.clone());
        let work = async move {
            this.step(this.client.delete(&temp, false)).await?;
            Ok(())
        };
        self.store.spawned("abort", self.path.clone(), work).await?;
        // Else the drop goes on trying.
        self.temp.clear();
        Ok(())
    }
}

impl Drop for HdfsWriter {
    fn drop(&mut self) {
        // Empty after a finish or an abort.
        if !self.temp.is_empty() {
            self.store.0.remove_later(std::mem::take(&mut self.temp));
        }
    }
}
