//! Copies behind the reads: a job that began with another's snapshot needs all of it in its own directory by its first snapshot. Where the store
//! copies by itself, that costs the process nothing but requests; so they begin soon after the open, and the first snapshot finds them made.
//!
//! What goes wrong here is left to that snapshot, which copies what is missing. Copies that no snapshot came to name are orphans.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use lazurite_env::{Error as EnvError, remote::CopyKind};

use super::{
    context::Context,
    copies::{PARALLEL_COPIES, adopt_some},
    pending::{Deadline, MAX_TIMEOUT},
};
use crate::{Error, Result};

/// The thread. Dropping it gives up what is under way, and waits for that.
#[derive(Debug)]
pub(crate) struct CopyAhead {
    deadline: Deadline,
    thread: Option<JoinHandle<()>>,
}

impl CopyAhead {
    /// Begins after `delay`; `None` where the store cannot copy: then the bytes would be in the way of the reads.
    pub(crate) fn start(context: &Arc<Context>, delay: Duration) -> Result<Option<CopyAhead>> {
        if context.store.capabilities().copy == CopyKind::Streamed {
            return Ok(None);
        }
        let deadline = Deadline::new(MAX_TIMEOUT);
        let (context, until) = (context.clone(), deadline.clone());
        let thread = std::thread::Builder::new()
            .name("lazurite-copy".into())
            .spawn(move || match run(&context, delay, &until) {
                Ok(()) | Err(Error::SnapshotAborted) => {}
                Err(error) => {
                    tracing::warn!(%error, "copies were not made ahead; the first snapshot makes them");
                }
            })
            .map_err(|e| EnvError::from_io("start", "the thread that copies", e))?;
        Ok(Some(CopyAhead {
            deadline,
            thread: Some(thread),
        }))
    }
}

impl CopyAhead {
    /// Has the thread end, without waiting for that.
    pub(crate) fn stop(&self) {
        self.deadline.abort();
    }
}

impl Drop for CopyAhead {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // It panics nowhere, and if it did, nothing is lost.
            let _ = thread.join();
        }
    }
}

fn run(context: &Context, delay: Duration, deadline: &Deadline) -> Result<()> {
    deadline.wait(&context.runtime, async move {
        tokio::time::sleep(delay).await;
        Ok(())
    })?;
    // A snapshot has its turn between two of these.
    while adopt_some(context, PARALLEL_COPIES, deadline)? {}
    tracing::info!("all that the state needs is the job's own");
    Ok(())
}
