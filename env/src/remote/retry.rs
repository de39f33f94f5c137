//! Sending a request again after a temporary error, the same way for every store.
//!
//! OpenDAL's `RetryLayer` is not used. It counts tries and knows no deadline, relabels every error, so that "try later" can
//! no longer be told from "never", and reports a conditional write as lost to somebody else when the winner was its own
//! first try.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Error, ErrorKind, Result};

use super::{RemoteOptions, retries};

/// Longest that `open` goes on trying.
const OPEN_DEADLINE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub(super) struct Retry {
    deadline: Duration,
    min_delay: Duration,
    max_delay: Duration,
}

impl Retry {
    pub(super) fn new(options: &RemoteOptions) -> Self {
        Retry {
            deadline: options.retry_deadline,
            min_delay: options.retry_min_delay,
            max_delay: options.retry_max_delay,
        }
    }

    /// The same for the first request to a store, by which a wrong address is found out.
    pub(super) fn for_open(&self) -> Self {
        Retry {
            deadline: self.deadline.min(OPEN_DEADLINE_MAX),
            ..self.clone()
        }
    }

    /// Runs an operation that may be carried out twice without harm.
    pub(super) async fn run<T, F>(&self, attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let why_again = |result: &Result<T>| match result {
            Err(e) if e.is_temporary() => Some(e.to_string()),
            _ => None,
        };
        let again = |result: &Result<T>| {
            if let Err(error) = result {
                retries::count(error);
            }
        };
        self.repeat(attempt, why_again, again).await
    }

    /// Repeats what may be carried out twice while `why_again` of its outcome says a reason, until the deadline, and gives
    /// the last outcome. `again` is told each outcome that is not the last.
    pub(super) async fn repeat<T, F>(
        &self,
        mut attempt: impl FnMut() -> F,
        why_again: impl Fn(&T) -> Option<String>,
        again: impl Fn(&T),
    ) -> T
    where
        F: Future<Output = T>,
    {
        let begun = Instant::now();
        for number in 0.. {
            let outcome = attempt().await;
            let Some(reason) = why_again(&outcome) else {
                return outcome;
            };
            let left = self.deadline.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return outcome;
            }
            // The last try is at the deadline itself.
            let delay = self
                .delay(number)
                .mul_f64(1.0 + rand::random::<f64>() / 2.0);
            tracing::debug!(%reason, ?delay, "a remote request is sent again");
            again(&outcome);
            // Not kept for as long as the wait.
            drop(outcome);
            tokio::time::sleep(delay.min(left)).await;
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

    /// The wait before retry `number`, without what chance adds.
    fn delay(&self, number: u32) -> Duration {
        self.min_delay
            .saturating_mul(1 << number.min(16))
            .min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick(deadline: Duration) -> Retry {
        Retry {
            deadline,
            min_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(4),
        }
    }

    fn fail(kind: ErrorKind) -> Result<()> {
        Err(Error::new(kind, "put", "x", ""))
    }

    #[tokio::test]
    async fn what_is_sent_again_is_counted() {
        let mut left = 3;
        let attempt = || {
            left -= 1;
            let answer = match left {
                0 => Ok(()),
                _ => Err(Error::new(ErrorKind::Unavailable, "try", "counted://x", "")),
            };
            async move { answer }
        };
        quick(Duration::from_secs(5)).run(attempt).await.unwrap();
        let all = retries::retries();
        let counted = all.iter().find(|row| row.scheme == "counted").unwrap();
        assert_eq!((counted.operation, counted.count), ("try", 2));
    }

    async fn tries(retry: &Retry, kind: ErrorKind) -> u32 {
        let mut tries = 0;
        let result = retry
            .run(|| {
                tries += 1;
                async move { fail(kind) }
            })
            .await;
        assert_eq!(result.unwrap_err().kind(), kind);
        tries
    }

    #[tokio::test]
    async fn retries_what_is_temporary_until_the_deadline() {
        let retry = quick(Duration::from_millis(40));
        let begun = Instant::now();
        assert!(tries(&retry, ErrorKind::Unavailable).await > 4);
        assert!(begun.elapsed() >= Duration::from_millis(40));
        assert_eq!(tries(&retry, ErrorKind::NotFound).await, 1);
        let never = quick(Duration::ZERO);
        assert_eq!(tries(&never, ErrorKind::Unavailable).await, 1);
    }

    #[tokio::test]
    async fn a_lost_answer_is_not_taken_for_a_lost_race() {
        let retry = quick(Duration::from_millis(40));
        let mut answers = [ErrorKind::TimedOut, ErrorKind::AlreadyExists].into_iter();
        let attempt = || {
            let answer = fail(answers.next().unwrap());
            async move { answer }
        };
        let error = retry.run_creating(attempt).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);

        let error = retry
            .run_creating(|| async { fail(ErrorKind::AlreadyExists) })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }
}
