//! An object while it is being written: a file that nobody sees, until it is given its name.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Error, ErrorKind, Result, WritableFile};

use super::{FileStore, Inner, TEMP_DIR, io_kind};
use crate::remote::{Key, ObjectWriter, full_path};

/// A name under `.lazurite-tmp`. Dropping it removes what has it.
struct TempName {
    inner: Arc<Inner>,
    path: PathBuf,
}

impl TempName {
    /// Makes something under a new name, by `make`.
    fn create<T>(inner: &Arc<Inner>, make: impl Fn(&Path) -> Result<T>) -> Result<(Self, T)> {
        let dir = inner.root.join(TEMP_DIR);
        let number = inner.temp_next.fetch_add(1, Ordering::Relaxed);
        let name = TempName {
            inner: inner.clone(),
            path: dir.join(format!("{:016x}-{number}", inner.temp_token)),
        };
        let made = inner.in_dir(&dir, || make(&name.path))?;
        Ok((name, made))
    }

    /// Gives what has this name the object's. Durable on return, if the bytes are.
    fn publish(&self, target: &Path, exclusive: bool) -> Result<()> {
        let env = &self.inner.env;
        let dir = target.parent().unwrap_or(&self.inner.root);
        self.inner.in_dir(dir, || {
            if exclusive {
                env.link(&self.path, target)
            } else {
                env.rename(&self.path, target)
            }
        })?;
        env.sync_dir(dir)
    }
}

impl Drop for TempName {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove; after a link, one of two names; and so after a rename to another
        // name of the same file, which does nothing.
        let _ = self.inner.env.delete(&self.path);
    }
}

/// Gives the file of one object the name of another as well. Durable on return. `false`: this file cannot have that name
/// too, and nothing was done. The file system may be one that has no links, or has too many of this file, or ends between
/// the two; or the file is somebody else's, which some systems do not let others link.
pub(super) fn link(inner: &Arc<Inner>, source: &Path, target: &Path) -> Result<bool> {
    // Under a temporary name first, since a link does not replace.
    match TempName::create(inner, |temp| inner.env.link(source, temp)) {
        Ok((temp, ())) => temp.publish(target, false).map(|()| true),
        Err(e) if is_refusal(&e) => {
            tracing::debug!(error = %e, "an object is copied byte by byte");
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

fn is_refusal(error: &Error) -> bool {
    let kinds = [ErrorKind::Unsupported, ErrorKind::PermissionDenied];
    kinds.contains(&error.kind())
        || matches!(
            io_kind(error),
            Some(io::ErrorKind::CrossesDevices | io::ErrorKind::TooManyLinks)
        )
}

/// An unfinished file. Dropping it removes it.
pub(super) struct Temp {
    name: TempName,
    file: Box<dyn WritableFile>,
}

impl Temp {
    pub(super) fn create(inner: &Arc<Inner>) -> Result<Self> {
        let (name, file) = TempName::create(inner, |path| inner.env.create(path))?;
        Ok(Temp { name, file })
    }

    pub(super) fn write_whole(inner: &Arc<Inner>, bytes: &[u8]) -> Result<Self> {
        let mut temp = Temp::create(inner)?;
        temp.file.append(bytes)?;
        Ok(temp)
    }

    /// Gives the file its name. Durable on return.
    pub(super) fn publish(mut self, target: &Path, exclusive: bool) -> Result<()> {
        self.file.sync()?;
        self.file.close()?;
        self.name.publish(target, exclusive)
    }
}

pub(super) struct FileWriter {
    store: FileStore,
    key: Key,
    /// `None` once a write failed: the file's end is not known then.
    temp: Option<Temp>,
}

impl FileWriter {
    pub(super) fn new(store: FileStore, key: Key, temp: Temp) -> Self {
        FileWriter {
            store,
            key,
            temp: Some(temp),
        }
    }

    fn take(&mut self, operation: &'static str) -> Result<Temp> {
        self.temp.take().ok_or_else(|| {
            Error::new(
                ErrorKind::Io,
                operation,
                full_path(&self.store.0.uri, &self.key),
                "an earlier write failed; begin the object again",
            )
        })
    }
}

#[async_trait]
impl ObjectWriter for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut temp = self.take("write")?;
        let written = self
            .store
            .blocking("write", Some(&self.key), move |_| {
                temp.file.append(&bytes)?;
                Ok(temp)
            })
            .await?;
        self.temp = Some(written);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let temp = self.take("finish")?;
        let target = self.store.0.path(&self.key);
        self.store
            .blocking("finish", Some(&self.key), move |_| {
                temp.publish(&target, false)
            })
            .await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let temp = self.temp.take();
        self.store
            .blocking("abort", Some(&self.key), move |_| {
                drop(temp);
                Ok(())
            })
            .await
    }
}
