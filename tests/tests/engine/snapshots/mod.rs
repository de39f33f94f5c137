//! Snapshots: what they upload, keep, refuse and survive, and that each comes back as it was.

mod commit;
mod retention;
mod states;
mod under_way;
mod uploads;
mod writers;

use lazurite::{StateBackend, ValueState};
use lazurite_tests::{COUNTS, World};

fn open(world: &World) -> (StateBackend, ValueState<u64, Vec<u8>>) {
    let backend = world.builder().open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    (backend, table)
}

/// Nothing lies in the store that no listed snapshot needs, and everything that one needs is there and right.
#[track_caller]
fn assert_tidy(world: &World) {
    assert_eq!(world.objects(), world.needed_objects());
    for id in world.ids() {
        let findings = world.verify(id);
        assert!(findings.is_empty(), "snapshot {id}: {findings:?}");
    }
}
