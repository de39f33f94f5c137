//! Sending a request again after a temporary error, the same way for every store.
//!
//! OpenDAL's `RetryLayer` is used for the parts of an upload only. Elsewhere it would hide two things that callers must
//! know: it relabels every error, so that "try later" can no longer be told from "never", and it reports a conditional
//! write as lost to somebody else when the winner was its own first try.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

use super::RemoteOptions;

#[derive(Debug, Clone)]
pub(super) struct Retry {
    times: u32,
    min_delay: Duration,
    max_delay: Duration,
}

impl Retry {
    pub(super) fn new(options: &RemoteOptions) -> Self {
        Retry {
            times: options.retry_times,
            min_delay: options.retry_min_delay,
            max_delay: options.retry_max_delay,
        }
    }

    /// Runs an operation that may be carried out twice without harm.
    pub(super) async fn run<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        for number in 0.. {
            match attempt().await {
                Err(e) if e.is_temporary() && number < self.times => self.pause(number, &e).await,
                result => return result,
            }
        }
        unreachable!("the loop ends by its return")
    }

    /// Runs an operation that creates something. Once a try has ended without a clear answer, `AlreadyExists` may mean
    /// that try's own success: then the outcome is not known, and the error says so.
    pub(super) async fn run_creating<F>(&self, mut attempt: impl FnMut() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        let mut tries = 0;
        let result = self
            .run(|| {
                tries += 1;
                attempt()
            })
            .await;
        match result {
            Err(e) if tries > 1 && e.kind() == ErrorKind::AlreadyExists => Err(Error::new(
                ErrorKind::Unavailable,
                e.operation(),
                e.path(),
                "the object is there, but an unanswered earlier try of this same call may have created it; read it back",
            )),
            result => result,
        }
    }

    async fn pause(&self, number: u32, error: &Error) {
        let delay = self
            .min_delay
            .saturating_mul(1 << number.min(16))
            .min(self.max_delay);
        let delay = delay.mul_f64(1.0 + rand::random::<f64>() / 2.0);
        tracing::debug!(%error, ?delay, "a remote request is sent again");
        tokio::time::sleep(delay).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> Retry {
        Retry {
            times: 3,
            min_delay: Duration::from_micros(10),
            max_delay: Duration::from_micros(20),
        }
    }

    fn fail(kind: ErrorKind) -> Result<()> {
        Err(Error::new(kind, "put", "x", ""))
    }

    #[tokio::test]
    async fn retries_what_is_temporary_and_nothing_else() {
        for (kind, expected) in [(ErrorKind::Unavailable, 4), (ErrorKind::NotFound, 1)] {
            let mut tries = 0;
            let result = quick()
                .run(|| {
                    tries += 1;
                    async move { fail(kind) }
                })
                .await;
            assert_eq!((tries, result.unwrap_err().kind()), (expected, kind));
        }
    }

    #[tokio::test]
    async fn a_lost_answer_is_not_taken_for_a_lost_race() {
        let mut answers = [ErrorKind::TimedOut, ErrorKind::AlreadyExists].into_iter();
        let attempt = || {
            let answer = fail(answers.next().unwrap());
            async move { answer }
        };
        let error = quick().run_creating(attempt).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);

        let error = quick()
            .run_creating(|| async { fail(ErrorKind::AlreadyExists) })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }
}
