//! What `compose` decides, on files that do not exist.

use super::*;

/// A file of level 0 with the keys from `smallest` to `largest`.
fn file(number: u64, smallest: &[u8], largest: &[u8]) -> ManifestFile {
    let internal = |user: &[u8]| [user, &[1; FOOTER]].concat();
    ManifestFile {
        number,
        level: 0,
        len: 100,
        smallest: internal(smallest),
        largest: internal(largest),
        smallest_seqno: 1,
        largest_seqno: 9,
        epoch: number,
        custom: vec![(12, vec![7; 16])],
    }
}

fn manifest(files: Vec<ManifestFile>) -> Manifest {
    let column = |id, name: &str, files| ManifestColumn {
        id,
        name: name.into(),
        comparator: BYTEWISE.into(),
        files,
    };
    Manifest {
        columns: vec![column(0, DEFAULT_COLUMN, vec![]), column(3, "a", files)],
        last_sequence: 10,
        next_file_number: 50,
        max_column_family: 5,
        db_id: None,
    }
}

fn part(source: usize, keep: (u16, u16)) -> Part<'static> {
    Part {
        source,
        column: "a",
        into: 0,
        keep,
    }
}

/// Whether the file straddles, where it is kept.
fn kept(file: ManifestFile, keep: (u16, u16)) -> Option<bool> {
    let composed = compose(
        &[manifest(vec![file])],
        &["a".into()],
        &[part(0, keep)],
        own,
        |_, _| None,
    );
    let files = composed.unwrap().files;
    files.first().map(|file| file.straddles)
}

#[test]
fn a_file_is_kept_where_its_keys_touch_the_key_groups() {
    let plain = |smallest: &[u8], largest: &[u8]| kept(file(7, smallest, largest), (2, 5));
    assert_eq!(plain(&[0, 2], &[0, 5, 255]), Some(false));
    assert_eq!(plain(&[0, 1, 255], &[0, 1, 255]), None);
    assert_eq!(plain(&[0, 1, 255], &[0, 2]), Some(true));
    assert_eq!(plain(&[0, 5, 9], &[0, 6]), Some(true));
    assert_eq!(plain(&[0, 6], &[0, 6]), None);
    assert_eq!(plain(&[], &[255; 9]), Some(true));
    assert_eq!(plain(&[], &[0]), None);

    let ended = |smallest: &[u8], end: &[u8]| {
        let mut file = file(7, smallest, end);
        file.largest = [end, &SENTINEL].concat();
        kept(file, (2, 5))
    };
    assert_eq!(ended(&[0, 2], &[0, 6]), Some(false));
    assert_eq!(ended(&[0, 2], &[0, 6, 0]), Some(true));
    assert_eq!(ended(&[0, 1], &[0, 2]), None);
    assert_eq!(ended(&[0, 1], &[0, 2, 0]), Some(true));

    let all = kept(file(7, &[], &[255; 9]), (0, u16::MAX));
    assert_eq!(all, Some(true)); // the empty key is of no group
    assert_eq!(
        kept(file(7, &[255; 2], &[255; 9]), (9, u16::MAX)),
        Some(false)
    );
}

#[test]
fn numbers_are_hinted_or_old_or_new_and_never_twice() {
    let files = |numbers: [u64; 3]| {
        let file = |(group, number)| file(number, &[0, group], &[0, group, 1]);
        manifest((0..).zip(numbers).map(file).collect())
    };
    let sources = [files([10, 11, 12]), files([10, 11, 12])];
    let hint = |source, number| match (source, number) {
        (0, 10) => Some(12), // which is the old number of others
        (1, 10) => Some(12), // taken
        (1, 11) => Some(90),
        (1, 12) => Some(0), // none
        _ => None,
    };
    let parts = [
        part(0, (0, 1)),
        Part {
            into: 1,
            ..part(1, (0, 2))
        },
    ];
    let targets = ["a".to_string(), "b".to_string()];
    let composed = compose(&sources, &targets, &parts, own, hint).unwrap();
    let numbers: Vec<_> = composed
        .files
        .iter()
        .map(|file: &ComposedFile| (file.source, file.number, file.new_number, file.column))
        .collect();
    assert_eq!(
        numbers,
        [
            (0, 10, 12, 0),
            (0, 11, 11, 0),
            (1, 10, 10, 1),
            (1, 11, 90, 1),
            (1, 12, 91, 1)
        ]
    );
    assert_eq!(composed.manifest_number, 92);
    assert_eq!(composed.manifest.next_file_number, 93);
    let dropped = |files, bytes| Dropped { files, bytes };
    assert_eq!(composed.dropped, [dropped(1, 100), dropped(0, 0)]);
    let ids: Vec<u32> = composed.manifest.columns.iter().map(|c| c.id).collect();
    assert_eq!(
        (ids, composed.manifest.max_column_family),
        (vec![0, 1, 2], 2)
    );
}

#[test]
fn one_file_may_go_into_two_columns() {
    let source = [manifest(vec![file(10, &[0, 0], &[0, 9])])];
    let parts = [
        part(0, (0, 4)),
        Part {
            into: 1,
            ..part(0, (5, 9))
        },
    ];
    let targets = ["a".to_string(), "b".to_string()];
    let composed = compose(&source, &targets, &parts, own, |_, number| Some(number)).unwrap();
    let numbers: Vec<u64> = composed.files.iter().map(|f| f.new_number).collect();
    assert_eq!(numbers, [10, 50]);
    composed.manifest.encode().unwrap();
}

#[test]
fn what_cannot_be_is_refused() {
    let source = || manifest(vec![file(10, &[0, 0], &[0, 9])]);
    let compose = |source: Manifest, targets: &[&str], parts: &[Part]| {
        let targets: Vec<String> = targets.iter().map(|t| t.to_string()).collect();
        compose(&[source], &targets, parts, own, |_, _| None).map(|_| ())
    };
    let all = part(0, (0, 9));
    compose(source(), &["a"], &[all]).unwrap();
    for (targets, parts) in [
        (&["a", "a"][..], &[all][..]),
        (&["default"], &[all]),
        (&["a"], &[part(1, (0, 9))]),
        (&["a"], &[part(0, (1, 0))]),
        (&["a"], &[Part { into: 1, ..all }]),
        (&["a"], &[all, part(0, (9, 12))]),
    ] {
        let error = compose(source(), targets, parts).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let mut reversed = source();
    reversed.columns[1].comparator = "rocksdb.ReverseBytewiseComparator".into();
    let mut old = source();
    old.columns[1].files[0].epoch = 0;
    let mut full = source();
    full.next_file_number = MAX_FILE_NUMBER;
    for source in [reversed, old, full] {
        let error = compose(source, &["a"], &[all]).unwrap_err();
        assert!(error.to_string().contains("not supported"), "{error}");
    }
    let changes: [fn(&mut Manifest); 9] = [
        |m| m.next_file_number = 10,
        |m| m.max_column_family = 2,
        |m| m.columns[1].id = 0,
        |m| m.columns[1].name = DEFAULT_COLUMN.into(),
        |m| drop(m.columns.remove(0)),
        |m| m.last_sequence = MAX_SEQUENCE + 1,
        |m| m.columns[1].files.push(file(10, b"a", b"b")),
        |m| m.columns[1].files[0].largest.truncate(7),
        |m| m.columns[1].files[0].smallest = [9; 12].to_vec(),
    ];
    for change in changes {
        let mut source = source();
        source.encode().unwrap();
        change(&mut source);
        let error = source.encode().unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
}
