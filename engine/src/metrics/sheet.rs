//! [`Sheet`]: the values of one look at everything, before they go to the recorder.

use std::collections::BTreeMap;

use metrics::Label;

use super::names::{Kind, Metric};

/// One time series: a metric and the values of its labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Series {
    pub name: &'static str,
    labels: Vec<(&'static str, String)>,
}

impl Series {
    /// As the `metrics` crate takes them.
    pub fn labels(&self) -> Vec<Label> {
        self.labels.iter().map(Label::from).collect()
    }
}

/// Values by series: what several backends say of the same series is one value.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    pub counters: BTreeMap<Series, u64>,
    pub gauges: BTreeMap<Series, u64>,
    pub newest: BTreeMap<Series, u64>,
}

impl Sheet {
    /// Enters a value. Labels are in the order of the metric's own.
    pub fn put(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let values = labels.iter().map(|value| (*value).to_owned());
        let series = Series {
            name: metric.name,
            labels: metric.labels.iter().copied().zip(values).collect(),
        };
        let column = match metric.kind {
            Kind::Counter => &mut self.counters,
            Kind::Gauge => &mut self.gauges,
            Kind::Newest => {
                let newest = self.newest.entry(series).or_default();
                *newest = value.max(*newest);
                return;
            }
            // Recorded when it happens, never collected.
            Kind::Histogram => return debug_assert!(false, "{}", metric.name),
        };
        *column.entry(series).or_default() += value;
    }
}
