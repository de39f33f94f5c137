//! The last step of a snapshot, and what becomes of it when its answer is an error or is lost.

use std::sync::Arc;

use lazurite::{Error, SnapshotOptions};
use lazurite_env::{Effect, ErrorKind, FaultPlan, Op, remote::FaultStore};
use lazurite_tests::{COUNTS, World, fill, snapshot, value};

use super::{assert_tidy, open};

/// Takes a first snapshot whose commit meets `effect`, gives its outcome, and checks that the next one is whole.
fn commit_under(effect: Effect) -> Result<u64, Error> {
    let world = World::new();
    let plan = FaultPlan::new();
    let store = FaultStore::new(Arc::new(world.store.clone()), plan.clone());
    let backend = world.builder_over(Arc::new(store)).open().unwrap();
    let table = backend.value_state(&COUNTS).unwrap();
    fill(&table, 0..200, 1, 100);
    plan.set_filter(|op| op == Op::PutIfAbsent, "");
    plan.fail_nth(0, effect);
    let outcome = backend.snapshot(SnapshotOptions::new()).unwrap().wait();
    assert_eq!(plan.injected(), 1);
    for id in world.ids() {
        assert!(world.verify(id).is_empty(), "{effect:?}");
    }
    // The next one has a number of its own, and takes away what the failed one may have left.
    fill(&table, 100..300, 2, 100);
    let next = snapshot(&backend);
    assert_eq!(next.id, 2, "{effect:?}");
    assert_eq!(world.ids(), [2]);
    let manifests = |keys: &std::collections::BTreeSet<String>| {
        keys.iter()
            .filter(|key| key.contains("chk-1/"))
            .cloned()
            .collect::<Vec<_>>()
    };
    if effect == Effect::FailAfter(ErrorKind::Io) || outcome.is_ok() {
        assert_eq!(manifests(&world.objects()), Vec::<String>::new());
        assert_tidy(&world);
    }
    drop((table, backend));
    let (backend, table) = open(&world);
    assert_eq!(backend.restored().unwrap().snapshot_id, 2);
    assert_eq!(table.get(&50).unwrap(), Some(value(50, 1, 100)));
    assert_eq!(table.get(&250).unwrap(), Some(value(250, 2, 100)));
    outcome.map(|report| report.id)
}

#[test]
fn a_commit_that_failed_for_good_is_not_taken_as_done() {
    // The object is there and can be read; but its directory could not be synced, say, so a power cut may take it.
    for kind in [
        ErrorKind::Io,
        ErrorKind::NoSpace,
        ErrorKind::PermissionDenied,
    ] {
        let error = commit_under(Effect::FailAfter(kind)).unwrap_err();
        assert!(
            matches!(&error, Error::Env(error) if error.kind() == kind),
            "{error:?}"
        );
        assert!(!error.is_temporary());
    }
}

#[test]
fn a_commit_whose_answer_was_lost_is_found_to_be_done() {
    assert_eq!(
        commit_under(Effect::FailAfter(ErrorKind::Unavailable)).unwrap(),
        1
    );
}

#[test]
fn a_commit_that_was_not_carried_out_is_an_error() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Io] {
        let error = commit_under(Effect::Fail(kind)).unwrap_err();
        assert_eq!(error.is_temporary(), kind == ErrorKind::Unavailable);
    }
}
