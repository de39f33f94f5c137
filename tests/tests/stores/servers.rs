//! The servers: where they are, who may use them now, and how one of their parts is killed.

use std::{
    path::PathBuf,
    process::Command,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// Held for reading by what uses a server, for writing by what kills one.
static SERVERS: RwLock<()> = RwLock::new(());

/// While it lives, no server is killed by another test.
pub struct InUse(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>);

pub fn in_use() -> InUse {
    InUse(SERVERS.read().unwrap_or_else(PoisonError::into_inner))
}

/// The value of a variable, or a word that a test is left out for the lack of it.
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        println!("left out: {name} is not set");
    }
    value
}

/// Servers that may be killed. While it lives no other test uses them; when it is dropped all run again.
pub struct Servers {
    work: PathBuf,
    broken: Vec<(&'static str, &'static str)>,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Servers {
    pub fn alone() -> Option<Self> {
        let work = variable("LAZURITE_TEST_SERVERS")?.into();
        Some(Servers {
            work,
            broken: Vec::new(),
            _alone: SERVERS.write().unwrap_or_else(PoisonError::into_inner),
        })
    }

    fn script(&self, service: &str, arguments: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/servers");
        let output = Command::new(format!("{script}/{service}.sh"))
            .arg(arguments[0])
            .arg(self.work.join(service))
            .args(&arguments[1..])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{service} {arguments:?}: {said}");
    }

    /// kill -9 of one part, or another signal.
    pub fn kill(&mut self, service: &'static str, part: &'static str, signal: &str) {
        self.broken.push((service, part));
        self.script(service, &["kill", part, signal]);
    }

    /// Starts a part again, and waits until it serves.
    pub fn restart(&mut self, service: &'static str, part: &'static str) {
        self.script(service, &["restart", part]);
        self.broken.retain(|broken| *broken != (service, part));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (service, part) in std::mem::take(&mut self.broken) {
            self.script(service, &["restart", part]);
        }
    }
}

/// One answer of an HTTP server, whole. `url` has no query that needs a signature.
pub fn http_get(url: &str) -> String {
    let output = Command::new("curl")
        .args(["-fsS", "--noproxy", "*", "--max-time", "20", url])
        .output()
        .unwrap();
    assert!(output.status.success(), "{url}");
    String::from_utf8(output.stdout).unwrap()
}

/// The multipart uploads under way in the bucket of the S3 test URI: their keys.
pub fn uploads_under_way(uri: &str) -> Vec<String> {
    let (place, query) = uri.strip_prefix("s3://").unwrap().split_once('?').unwrap();
    let bucket = place.split('/').next().unwrap();
    let endpoint = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("endpoint="))
        .unwrap();
    let key = std::env::var("AWS_ACCESS_KEY_ID").unwrap();
    let secret = std::env::var("AWS_SECRET_ACCESS_KEY").unwrap();
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let output = Command::new("curl")
        .args([
            "-fsS",
            "--noproxy",
            "*",
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
        ])
        .args(["--user", &format!("{key}:{secret}")])
        .args(["-H", &format!("x-amz-content-sha256: {empty}")])
        .arg(format!("{endpoint}/{bucket}?uploads="))
        .output()
        .unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(listed.contains("ListMultipartUploadsResult"), "{listed}");
    listed
        .split("<Key>")
        .skip(1)
        .map(|rest| rest.split('<').next().unwrap().to_owned())
        .collect()
}
