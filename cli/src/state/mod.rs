//! `lazurite get`, `scan` and `export`: what a snapshot holds, read where it lies.

pub mod export;
pub mod get;
mod print;
pub mod scan;

use lazurite::{KeyGroupRange, ReaderOptions, SnapshotStore};
use lazurite_env::IoRuntime;

use crate::{
    error::{Error, Result},
    link,
};

/// Which state.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// The store: file:///dir, s3://bucket/prefix?endpoint=…, hdfs://host:port/dir.
    #[arg(long, value_name = "URI")]
    remote: String,
    /// The job. Default: the only one in the store.
    #[arg(long)]
    job: Option<String>,
    /// The number of the snapshot. Default: the newest.
    #[arg(long, value_name = "ID")]
    snapshot: Option<u64>,
    /// The savepoint in this directory of the store, in place of a job's snapshot.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["job", "snapshot"])]
    savepoint: Option<String>,
    /// Whose state it is. Default: that of the only operator in the snapshot.
    #[arg(long)]
    operator: Option<String>,
}

impl Source {
    /// The store, and which state in it. Costs a request where no job is named.
    fn open(&self) -> Result<(SnapshotStore, ReaderOptions)> {
        let runtime = IoRuntime::new(2)?;
        let store = SnapshotStore::new(link::open_store(&self.remote, &runtime)?, runtime);
        let mut options = match (&self.savepoint, &self.job) {
            (Some(dir), _) => ReaderOptions::new().savepoint(dir),
            (None, Some(job)) => ReaderOptions::new().job(job),
            (None, None) => ReaderOptions::new().job(only_job(&store)?),
        };
        if let Some(id) = self.snapshot {
            options = options.snapshot(id);
        }
        if let Some(operator) = &self.operator {
            options = options.operator(operator);
        }
        Ok((store, options))
    }
}

fn only_job(store: &SnapshotStore) -> Result<String> {
    let mut jobs = store.jobs()?;
    match (jobs.pop(), jobs.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(Error::Wrong("the store holds no job".into())),
        (Some(last), false) => Err(Error::Usage(format!(
            "the store holds several jobs, name one with --job: {}, {last}",
            jobs.join(", ")
        ))),
    }
}

/// Key groups as `FIRST-LAST`, both included.
pub fn parse_range(text: &str) -> Result<KeyGroupRange, String> {
    let bounds = text.split_once('-');
    let (first, last) = bounds.ok_or("give FIRST-LAST, as 0-63")?;
    let number = |text: &str| {
        text.parse()
            .map_err(|_| format!("{text:?} is no key group"))
    };
    KeyGroupRange::new(number(first)?, number(last)?).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_both_ends() {
        assert_eq!(
            parse_range("0-63").unwrap(),
            KeyGroupRange::new(0, 63).unwrap()
        );
        for bad in ["", "5", "-5", "5-", "6-5", "0-32768", "a-b", "0-1-2"] {
            assert!(parse_range(bad).is_err(), "{bad}");
        }
    }
}
