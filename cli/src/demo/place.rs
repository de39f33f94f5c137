//! [`Place`]: the directory that the demo works in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    probe,
};

/// Where the demo works.
pub struct Place {
    dir: PathBuf,
    keep: bool,
}

impl Place {
    /// Takes `dir`, emptied of an earlier demo, or makes a directory of its own.
    pub fn new(dir: Option<&Path>) -> Result<Self> {
        let place = match dir {
            Some(dir) => Place {
                dir: dir.to_owned(),
                keep: true,
            },
            None => Place {
                dir: std::env::temp_dir().join(format!("lazurite-demo-{}", std::process::id())),
                keep: false,
            },
        };
        for part in [place.text(), place.state(), place.remote(), place.build()] {
            probe::remove_dir(&part)?;
        }
        fs::create_dir_all(&place.dir).map_err(Error::file("create", &place.dir))?;
        Ok(place)
    }

    /// The text that is counted.
    pub fn text(&self) -> PathBuf {
        self.dir.join("text")
    }

    /// The local disk of the job.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The directory that plays the remote store.
    pub fn remote(&self) -> PathBuf {
        self.dir.join("remote")
    }

    /// What the job counted.
    pub fn output(&self) -> PathBuf {
        self.dir.join("counts.tsv")
    }

    /// Where the larger state is built.
    pub fn build(&self) -> PathBuf {
        self.dir.join("build")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = probe::remove_dir(&self.dir)
        {
            tracing::warn!("{}", error.chain());
        }
    }
}
