//! Things in the store that no job has put there.

use lazurite::upkeep::UnknownObject;
use lazurite_tests::World;

use super::*;

/// Whatever has another name than a job gives is told and left, however near it comes.
#[test]
fn what_is_not_known_is_left() {
    let stored = Stored::new();
    let (token, id) = ("0123456789abcdef".repeat(2), "0123456789abcdef".repeat(3));
    let objects = [
        "a/shared/evil.sst".to_owned(),
        "a/shared/.sst".into(),
        format!("a/shared/{id}.sst~"),
        format!("a/shared/{}.sst", id.to_uppercase()),
        format!("a/shared/{token}"),
        "a/chk-1/manifest-x".into(),
        "a/chk-1/_metadata.bak".into(),
        format!("a/chk-77/{token}.tails"),
        "a/notes".into(),
        "a/_gc-now".into(),
        "a/.hidden ü?*%2f".into(),
    ];
    let below = [
        ("a/chk-007/", "_metadata"),
        ("a/chk-18446744073709551615/", "_metadata"),
        ("a/Shared/", "x.sst"),
        ("a/shared/sub/", &*format!("{id}.sst")),
        ("a/chk-1/sub/", &*format!("manifest-{token}-{token}")),
    ];
    objects.iter().for_each(|key| stored.put(key, b"mine"));
    for (prefix, name) in below {
        stored.put(&format!("{prefix}{name}"), b"mine");
    }
    // A snapshot that lies on its own, below a name that a job could have, and what no job can be called.
    for key in [
        "alone/_metadata".to_owned(),
        format!("alone/shared/{id}.sst"),
        "copied/shared/_metadata".into(),
        format!("copied/shared/{id}-01234567.sst"),
        format!("alone/chk-1/manifest-{token}-{token}"),
        format!(".job/shared/{id}.sst"),
        format!("a b/shared/{id}.sst"),
        format!("shared/{id}.sst/x"),
    ] {
        stored.put(&key, b"mine");
    }
    stored.age_all();
    let before = stored.keys();
    let report = stored.gc(true);
    assert!(report.is_ok());
    assert_eq!(stored.keys(), before);
    assert_eq!(orphans(&report), BTreeSet::new());
    let mut unknown: Vec<UnknownObject> = objects
        .into_iter()
        .map(|key| UnknownObject {
            key,
            bytes: Some(4),
        })
        .collect();
    let prefixes = below.iter().map(|(key, _)| UnknownObject {
        key: (*key).into(),
        bytes: None,
    });
    unknown.extend(prefixes);
    unknown.sort();
    assert_eq!(of(&report, "a").unknown, unknown);
    for (job, key) in [("alone", "alone/"), ("copied", "copied/shared/")] {
        let unknown = UnknownObject {
            key: key.into(),
            bytes: None,
        };
        assert_eq!(of(&report, job).unknown, [unknown]);
        assert_eq!(of(&report, job).referenced, Count::default());
    }
    let fsck = stored.tools().fsck(&Default::default(), &|_| ()).unwrap();
    assert!(fsck.is_ok());
    stored.check();
}

/// The marker that tells the time is put below a job, whatever else comes before it by name.
#[test]
fn nothing_is_put_where_no_job_is() {
    let (mut stored, id) = (Stored::default(), "0123456789abcdef".repeat(3));
    let strangers = [
        "0-notes/letter".to_owned(),
        "1-alone/_metadata".into(),
        format!("1-alone/shared/{id}-01234567.sst"),
        "2-copy/sub/shared/x".into(),
        "3-claimed/_claimed".into(),
    ];
    let claim = br#"{"job":"z","snapshot":"3-claimed/chk-1","created_unix_ms":0}"#;
    let claim = lazurite_tiering::framed::encode("lazurite-claim", 1, claim);
    let put = |stored: &Stored| strangers.iter().for_each(|key| stored.put(key, &claim));
    put(&stored);
    let gc = |stored: &Stored, at: &str| {
        let plan = FaultPlan::new();
        plan.set_filter(|op| op == Op::Put, at);
        plan.fail_from(0, Effect::Fail(ErrorKind::PermissionDenied));
        let store = FaultStore::new(Arc::new(stored.store.clone()), plan.clone());
        let tools = SnapshotStore::new(Arc::new(store), RUNTIME.clone());
        let options = GcOptions {
            delete: true,
            ..GcOptions::default()
        };
        (tools.gc(&options), plan.injected())
    };
    // Without a job there is nothing to delete, and nothing is put at all.
    let (report, refused) = gc(&stored, "");
    assert_eq!((orphans(&report.unwrap()), refused), (BTreeSet::new(), 0));
    stored.job("a", 1);
    stored.fail_a_snapshot("a");
    stored.age_all();
    let mut needed = stored.needed();
    needed.extend(strangers.iter().cloned());
    let (report, refused) = gc(&stored, "a/_gc-");
    assert!(report.is_err() && refused > 0, "it is put below the job");
    for place in ["0-", "1-", "2-", "3-"] {
        let (report, refused) = gc(&stored, place);
        assert!(report.unwrap().is_ok());
        assert_eq!(refused, 0, "{place}");
    }
    assert_eq!(stored.keys(), needed);
    stored.check();
}

/// Names that cannot be keys do no harm, and are shown so that a terminal survives them.
#[test]
fn names_that_cannot_be_keys_are_left() {
    let world = World::new();
    let backend = world.builder().open().unwrap();
    let counts = backend.value_state(&lazurite_tests::COUNTS).unwrap();
    lazurite_tests::fill(&counts, 0..10, 1, 50);
    lazurite_tests::snapshot(&backend);
    drop(backend);
    for name in [
        "job/shared/a\nb\u{1b}[2J",
        "job/chk-1/back\\slash",
        "job/shared/manifest-\u{7}",
    ] {
        std::fs::write(world.store_dir().join(name), "mine").unwrap();
    }
    let before = world.objects();
    let options = GcOptions {
        delete: true,
        min_age: Duration::ZERO,
        ..GcOptions::default()
    };
    let report = world.snapshots().gc(&options).unwrap();
    assert_eq!(world.objects(), before);
    let unknown = of(&report, "job").unknown.iter();
    let unknown: Vec<&str> = unknown.map(|of| of.key.as_str()).collect();
    let expected = [
        "job/chk-1/back\\slash",
        "job/shared/a\\nb\\u{1b}[2J",
        "job/shared/manifest-\\u{7}",
    ];
    assert_eq!(unknown, expected);
}
