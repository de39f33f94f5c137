//! [`RemoteOptions`]: how patient and how parallel a remote store's requests are.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// Timeouts, retries and limits of one remote store. The same for every kind of store; `file://` and `memory://` have
/// no network and use none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteOptions {
    /// How long one step of a request (connect and answer, the next piece of a body, one part of an upload) may take
    /// before it counts as lost. Default 10 s.
    pub request_timeout: Duration,
    /// For how long, from its first try, a request is sent again after temporary errors: a store that is back within this
    /// time is only slow. Then the last error, still temporary, is the caller's. A try under way is not cut short. `open`
    /// sends nothing again after 5 s, so that a wrong address is told soon. Of an upload each part has this time for itself.
    /// Zero: no second try. Default 30 s.
    pub retry_deadline: Duration,
    /// Wait before the first retry; each further wait doubles, with up to half of it added by chance. Default 100 ms.
    pub retry_min_delay: Duration,
    /// Longest wait between two retries. Default 5 s.
    pub retry_max_delay: Duration,
    /// Requests under way at once; more wait for their turn. Of an upload each part counts, while it is on its way.
    /// Default 256.
    pub max_concurrent_requests: usize,
    /// Length in bytes of one part of a large upload, at least 5 MiB (the least that S3 takes). Default 8 MiB.
    pub upload_part_bytes: usize,
    /// Parts of one object on their way at once; each holds `upload_part_bytes` of memory. Default 4.
    pub upload_parallel_parts: usize,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        RemoteOptions {
            request_timeout: Duration::from_secs(10),
            retry_deadline: Duration::from_secs(30),
            retry_min_delay: Duration::from_millis(100),
            retry_max_delay: Duration::from_secs(5),
            max_concurrent_requests: 256,
            upload_part_bytes: 8 << 20,
            upload_parallel_parts: 4,
        }
    }
}

impl RemoteOptions {
    /// `InvalidInput` naming the option where one of them cannot work.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            (
                !self.request_timeout.is_zero(),
                "request_timeout: must not be zero",
            ),
            (
                self.retry_deadline <= Duration::from_secs(24 * 3600),
                "retry_deadline: at most 24 hours",
            ),
            (
                !self.retry_min_delay.is_zero(),
                "retry_min_delay: must not be zero",
            ),
            (
                self.retry_min_delay <= self.retry_max_delay,
                "retry_min_delay: must not exceed retry_max_delay",
            ),
            (
                (1..=65_536).contains(&self.max_concurrent_requests),
                "max_concurrent_requests: must be 1 to 65536",
            ),
            (
                (5 << 20..=1 << 30).contains(&self.upload_part_bytes),
                "upload_part_bytes: must be 5 MiB to 1 GiB",
            ),
            (
                (1..=64).contains(&self.upload_parallel_parts),
                "upload_parallel_parts: must be 1 to 64",
            ),
        ];
        match checks.iter().find(|(sound, _)| !sound) {
            None => Ok(()),
            Some((_, message)) => Err(Error::new(
                ErrorKind::InvalidInput,
                "check options",
                "remote store",
                *message,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_is_valid_and_nonsense_is_named() {
        let good = RemoteOptions::default();
        good.validate().unwrap();
        let bad = RemoteOptions {
            upload_part_bytes: 1 << 20,
            ..good
        };
        let error = bad.validate().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.message().starts_with("upload_part_bytes"));
    }
}
