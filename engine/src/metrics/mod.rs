//! Figures of every open backend of this process, for Prometheus and for any other recorder of the `metrics`
//! crate. `docs/METRICS.md` lists them.
//!
//! `serve` (feature `prometheus`, on by default) is all that a program needs: it installs a recorder and answers scrapes.
//! Backends appear in it by themselves, whether they are opened before or after. A program that has a recorder of its
//! own calls [`enable`] once that is installed, and [`collect`] before each time it looks at its figures.
//!
//! Nearly everything is counted where it happens anyway, and read when somebody looks; nothing is pushed. What takes time and
//! goes over the network (requests, waits for them, phases of snapshots and restores) is recorded when it happens, once
//! [`enable`] was called.

mod durations;
mod names;
#[cfg(feature = "prometheus")]
mod serve;
mod sheet;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use names::{ALL, Kind};
use sheet::{Series, Sheet};

pub(crate) use durations::{PhaseClock, observe_reads, request_observer};
pub(crate) use names::{RESTORE_PHASE_SECONDS, SNAPSHOT_PHASE_SECONDS};
#[cfg(feature = "prometheus")]
pub use serve::{ServeError, serve};
pub(crate) use source::{Source, kind_of};

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    next_id: 0,
    open: BTreeMap::new(),
    closed: BTreeMap::new(),
    newest: BTreeMap::new(),
    gauges: BTreeSet::new(),
});

/// The backends of this process.
struct Registry {
    next_id: u64,
    /// A backend holds no more than the key, so that [`leave`] takes the last part of it from here.
    open: BTreeMap<u64, Source>,
    /// What the counters of closed backends came to, so that no counter ever falls.
    closed: BTreeMap<Series, u64>,
    newest: BTreeMap<Series, u64>,
    /// Gauges that were ever set: 0 once no backend has a value for them.
    gauges: BTreeSet<Series>,
}

/// Describes every metric to the recorder that is installed, and from now on records durations. To be called once, after
/// the recorder was installed; `serve` does it by itself.
pub fn enable() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => ::metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge | Kind::Newest => ::metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => ::metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    durations::enable();
}

/// Sets every counter and gauge of the recorder to what it is now. Takes some milliseconds, and blocks no reader and no
/// writer for longer than RocksDB's own mutex is held, which is microseconds.
pub fn collect() {
    let mut registry = registry();
    let mut sheet = Sheet {
        counters: registry.closed.clone(),
        ..Sheet::default()
    };
    source::process(&mut sheet);
    for source in registry.open.values() {
        source.sample(&mut sheet);
    }
    for (series, value) in &sheet.counters {
        ::metrics::counter!(series.name, series.labels()).absolute(*value);
    }
    registry.gauges.extend(sheet.gauges.keys().cloned());
    for series in &registry.gauges {
        let value = sheet.gauges.get(series).copied().unwrap_or(0);
        ::metrics::gauge!(series.name, series.labels()).set(value as f64);
    }
    registry.keep_newest(sheet.newest);
    for (series, value) in &registry.newest {
        ::metrics::gauge!(series.name, series.labels()).set(*value as f64);
    }
}

/// Takes a backend in.
pub(crate) fn join(source: Source) -> u64 {
    let mut registry = registry();
    let id = registry.next_id;
    registry.next_id += 1;
    registry.open.insert(id, source);
    id
}

/// Takes a backend out. On return nobody here has any part of it, so that it closes when its owner closes it: nothing that
/// [`collect`] looks at leaves the lock.
pub(crate) fn leave(id: u64) {
    let mut registry = registry();
    let Some(source) = registry.open.remove(&id) else {
        return;
    };
    let mut last = Sheet::default();
    source.sample(&mut last);
    registry.gauges.extend(last.gauges.into_keys());
    registry.keep_newest(last.newest);
    for (series, value) in last.counters {
        *registry.closed.entry(series).or_default() += value;
    }
}

impl Registry {
    fn keep_newest(&mut self, newest: BTreeMap<Series, u64>) {
        for (series, value) in newest {
            let kept = self.newest.entry(series).or_default();
            *kept = value.max(*kept);
        }
    }
}

fn registry() -> MutexGuard<'static, Registry> {
    // Its parts are right by themselves: a panic (of a recorder, say) leaves a figure out at worst.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}
