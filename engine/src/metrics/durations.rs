//! How long things took, recorded when they end.
//!
//! Until [`enable`] nothing is recorded and nothing is looked up. From then on a recorder is installed, for good, so that
//! what it gives for a series is kept where it is asked for often.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use lazurite_env::{
    Activity,
    remote::{RequestKind, RequestObserver},
};
use lazurite_tiering::{ReadObserver, ReadTier};
use metrics::{Histogram, Label};

use super::names::{Metric, READ_SECONDS, STORE_SECONDS};

static ENABLED: AtomicBool = AtomicBool::new(false);

pub(super) fn enable() {
    ENABLED.store(true, Relaxed);
}

fn histogram(metric: &'static Metric, values: &[&str]) -> Histogram {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pairs = metric.labels.iter().zip(values);
    let labels: Vec<Label> = pairs
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    metrics::histogram!(metric.name, labels)
}

/// Histograms of one metric, each looked up once.
struct Kept<const N: usize>([OnceLock<Histogram>; N]);

impl<const N: usize> Kept<N> {
    fn new() -> Self {
        Kept([const { OnceLock::new() }; N])
    }

    fn record(&self, index: usize, took: Duration, look_up: impl FnOnce() -> Histogram) {
        if ENABLED.load(Relaxed) {
            self.0[index].get_or_init(look_up).record(took);
        }
    }
}

const ACTIVITIES: usize = Activity::ALL.len();

/// Records how long readers of a job wait.
pub(crate) fn observe_reads(job: &str) -> ReadObserver {
    let job = job.to_owned();
    let kept = Kept::<{ ReadTier::ALL.len() * ACTIVITIES }>::new();
    Arc::new(move |tier, activity, took| {
        let index = tier as usize * ACTIVITIES + activity as usize;
        kept.record(index, took, || {
            histogram(&READ_SECONDS, &[&job, tier.name(), activity.name()])
        });
    })
}

/// Records how long the requests of a job take.
pub(crate) fn request_observer(job: &str, store: &str) -> RequestObserver {
    let (job, store) = (job.to_owned(), store.to_owned());
    let kept = Kept::<{ RequestKind::ALL.len() }>::new();
    Arc::new(move |kind, _, took| {
        kept.record(kind as usize, took, || {
            histogram(&STORE_SECONDS, &[&job, &store, kind.name()])
        });
    })
}

/// Times the phases of something, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct PhaseClock {
    metric: &'static Metric,
    job: String,
    begun: Instant,
}

impl PhaseClock {
    /// The first phase begins now.
    pub(crate) fn start(metric: &'static Metric, job: &str) -> Self {
        PhaseClock {
            metric,
            job: job.to_owned(),
            begun: Instant::now(),
        }
    }

    /// `phase` has ended, and the next one begins. A phase that fails is not recorded.
    pub(crate) fn ended(&mut self, phase: &'static str) {
        let took = self.begun.elapsed();
        self.begun += took;
        if ENABLED.load(Relaxed) {
            histogram(self.metric, &[&self.job, phase]).record(took);
        }
    }
}
