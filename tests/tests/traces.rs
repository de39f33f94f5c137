//! The `tracing` spans that an operator follows: restore, snapshot, promotion, compaction. A binary of its own, since
//! RocksDB's threads are heard by the process's default subscriber only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use lazurite::RocksDbOptions;
use lazurite_tests::{COUNTS, World, fill, snapshot, watchdog::within};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    Layer, filter::LevelFilter, layer::Context, prelude::*, registry::LookupSpan,
};

/// The names of the fields that closed spans were given, by the name of the span.
#[derive(Clone, Default)]
struct Closed(Arc<Mutex<BTreeMap<&'static str, BTreeSet<&'static str>>>>);

struct Fields(BTreeSet<&'static str>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, _: &dyn std::fmt::Debug) {
        self.0.insert(field.name());
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Closed {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields(BTreeSet::new());
        attributes.record(&mut fields);
        let span = context.span(id).expect("it was just made");
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).expect("it is open");
        values.record(
            span.extensions_mut()
                .get_mut::<Fields>()
                .expect("inserted above"),
        );
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).expect("it closes now");
        let fields = span.extensions_mut().remove::<Fields>();
        let mut closed = self.0.lock().unwrap();
        closed
            .entry(span.name())
            .or_default()
            .extend(fields.into_iter().flat_map(|fields| fields.0));
    }
}

impl Closed {
    fn wait_for(&self, span: &'static str, fields: &[&'static str]) {
        within(Duration::from_secs(60), span, || {
            loop {
                if let Some(found) = self.0.lock().unwrap().get(span) {
                    for field in fields {
                        assert!(found.contains(field), "{span} has {found:?}, not {field}");
                    }
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }
}

#[test]
fn long_work_is_a_span() {
    let closed = Closed::default();
    tracing_subscriber::registry()
        .with(closed.clone().with_filter(LevelFilter::INFO))
        .init();

    let world = World::new();
    let backend = world
        .builder()
        .rocksdb(RocksDbOptions {
            auto_compactions: true,
            ..RocksDbOptions::default()
        })
        .open()
        .unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    // Four files in level 0 are where RocksDB begins to compact.
    for version in 0..5 {
        fill(&table, 0..100, version, 100);
        backend.flush().unwrap();
    }
    let compaction = [
        "table",
        "from",
        "to",
        "input_files",
        "input_bytes",
        "output_files",
        "output_bytes",
    ];
    closed.wait_for("compaction", &compaction);
    snapshot(&backend);
    closed.wait_for("snapshot", &["id"]);
    drop((table, backend));

    world.lose_disk();
    let backend = world.builder().open().unwrap();
    closed.wait_for("restore", &["id", "files"]);
    backend.wait_until_local().unwrap();
    closed.wait_for("promotion", &["name", "key", "len"]);
}
