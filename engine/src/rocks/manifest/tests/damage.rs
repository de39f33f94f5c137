//! MANIFESTs that are damaged, foreign or invented.

use proptest::{
    collection::vec,
    option,
    prelude::{Strategy, any, prop_assert_eq, proptest},
};

use super::*;

fn small() -> Vec<u8> {
    let mut store = Store::create(&["a"], (0, 3));
    for n in 0..3 {
        store.put("a", key(n, 1), b"1");
        store.db.flush_all().unwrap();
    }
    store.column("a").compact().unwrap();
    store.snapshot().bytes
}

fn log_of(records: &[Vec<u8>]) -> Vec<u8> {
    let mut log = Vec::new();
    for record in records {
        log::append(&mut log, record);
    }
    log
}

fn records_of(log: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut reader = log::Records::new(log);
    let mut records = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        records.push((record.offset, record.bytes.into_owned()));
    }
    records
}

fn is_corrupt(bytes: &[u8]) -> bool {
    let error = Manifest::decode("chk-7/manifest", bytes).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("chk-7/manifest") && text.contains("at byte"),
        "{text}"
    );
    matches!(error, Error::SnapshotCorrupt { .. })
}

#[test]
fn every_bit_counts() {
    let bytes = small();
    Manifest::decode("m", &bytes).unwrap();
    for at in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        assert!(is_corrupt(&bytes), "bit {at}");
    }
}

#[test]
fn a_cut_is_seen_unless_it_lies_between_two_records() {
    let bytes = small();
    let offsets: HashSet<usize> = records_of(&bytes).into_iter().map(|(at, _)| at).collect();
    for len in 0..bytes.len() {
        if offsets.contains(&len) {
            // What is left is a MANIFEST too, an older one: the caller knows the length.
            let _ = Manifest::decode("m", &bytes[..len]);
        } else {
            assert!(is_corrupt(&bytes[..len]), "{len}");
        }
    }
    assert!(is_corrupt(&[]));
    assert!(is_corrupt(&[&bytes[..], &[0]].concat()));
    assert!(is_corrupt(&[&bytes[..], &[0; 7]].concat()));
}

#[test]
fn what_cannot_be_carried_over_is_refused_by_name() {
    let records: Vec<Vec<u8>> = records_of(&small()).into_iter().map(|(_, r)| r).collect();
    let with = |record: &[u8]| {
        let mut records = records.clone();
        records.push(record.to_vec());
        Manifest::decode("m", &log_of(&records))
    };
    let tagged = |tag: u64, rest: &[u8]| {
        let mut record = Vec::new();
        wire::put(&mut record, tag);
        [&record[..], rest].concat()
    };
    const SAFE: u64 = 1 << 13;
    for (record, reason) in [
        (tagged(400, &[9, 1, 1, 0, 0, 0]), "blob files"),
        (tagged(401, &[9, 1, 1, 0]), "blob files"),
        (tagged(SAFE + 2, &[9, 1, 1, 0, 0, 0]), "blob files"),
        (tagged(SAFE + 6, &[1, 1]), "timestamps"),
        (tagged(SAFE + 9, &[1, 0]), "timestamps"),
        (tagged(8, &[0]), "tag 8"),
        (tagged(450, &[0]), "tag 450"),
    ] {
        let error = with(&record).unwrap_err();
        assert!(matches!(error, Error::Env(_)), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    let before = Manifest::decode("m", &log_of(&records)).unwrap();
    for passed_over in [
        tagged(SAFE + 4, &[9, 2, 5, 1]), // a WAL, its length and the end
        tagged(SAFE + 5, &[9]),
        tagged(SAFE + 7, &[2, 9, 1]),
        tagged(SAFE + 8, &[1, 9]),
        tagged(SAFE + 900, &[3, 0, 0, 0]), // unknown, but may be
        tagged(10, &[200, 1]),
        tagged(9, &[3]),
        tagged(5, &[1, 2, 8, 8]),
    ] {
        assert_eq!(with(&passed_over).unwrap(), before, "{passed_over:?}");
    }
    for corrupt in [
        tagged(202, &[]),                 // drops the default column family
        tagged(200, &[9]),                // of no column family
        tagged(6, &[0, 99]),              // deletes what is not there
        tagged(300, &[1]),                // a group that does not end
        tagged(4, &[]),                   // no number
        tagged(4, &[255; 10]),            // too many bits
        tagged(103, &[0, 9, 1, 2, 0, 0]), // a short file
        tagged(SAFE + 1, &[200, 1, 1]),   // longer than the record
    ] {
        let error = with(&corrupt).unwrap_err();
        assert!(matches!(error, Error::SnapshotCorrupt { .. }), "{error}");
    }
}

#[test]
fn formats_of_older_versions_are_read() {
    let key = |user: &[u8]| [&[user.len() as u8 + 8][..], user, &[1; 8]].concat();
    let keys = [key(b"a"), key(b"b")].concat();
    for (record, seqnos) in [
        ([&[7, 1, 9, 100][..], &keys].concat(), (MAX_SEQUENCE, 0)),
        ([&[100, 1, 9, 100][..], &keys, &[3, 4]].concat(), (3, 4)),
        ([&[102, 1, 9, 0, 100][..], &keys, &[3, 4]].concat(), (3, 4)),
        (
            [&[103, 1, 9, 100][..], &keys, &[3, 4, 13, 1, 0, 1]].concat(),
            (3, 4),
        ),
    ] {
        let edit = Edit::decode(0, &record).unwrap();
        let file = &edit.added[0];
        assert_eq!((file.level, file.number, file.len), (1, 9, 100));
        assert_eq!((file.smallest_seqno, file.largest_seqno), seqnos);
        assert_eq!(
            (user_key(&file.smallest), user_key(&file.largest)),
            (&b"a"[..], &b"b"[..])
        );
        assert_eq!(file.epoch, 0);
    }
    let in_path = [&[102, 1, 9, 2, 100][..], &keys, &[3, 4]].concat();
    assert!(Edit::decode(0, &in_path).unwrap_err().unsupported);
}

fn files() -> impl Strategy<Value = ManifestFile> {
    let keys = vec(any::<u8>(), 8..40);
    let custom = vec((14_u32..17, vec(any::<u8>(), 0..9)), 0..4);
    (any::<[u64; 5]>(), any::<u8>(), keys.clone(), keys, custom).prop_map(
        |(
            [number, len, smallest_seqno, largest_seqno, epoch],
            level,
            smallest,
            largest,
            custom,
        )| {
            ManifestFile {
                number,
                level,
                len,
                smallest,
                largest,
                smallest_seqno,
                largest_seqno,
                epoch,
                custom,
            }
        },
    )
}

fn edits() -> impl Strategy<Value = Edit> {
    let text = || option::of("[a-zß]{0,9}");
    let number = || option::of(any::<u64>());
    let files = vec(files(), 0..4);
    let deleted = vec(any::<(u8, u64)>(), 0..4);
    let small = any::<(
        u32,
        Option<u32>,
        Option<u32>,
        bool,
        Option<bool>,
        Option<u64>,
    )>();
    let texts = (text(), text(), text());
    let numbers = (number(), number(), number());
    let low = option::of(vec(any::<u8>(), 1..9));
    (files, deleted, small, texts, numbers, low).prop_map(
        |(added, deleted, small, texts, numbers, full_history_ts_low)| Edit {
            db_id: texts.0,
            comparator: texts.1,
            persist_timestamps: small.4,
            log_number: numbers.0,
            next_file_number: numbers.1,
            max_column_family: small.1,
            last_sequence: numbers.2,
            deleted,
            added,
            column: small.0,
            column_added: texts.2,
            column_dropped: small.3,
            in_group: small.2,
            full_history_ts_low,
            compacted_size: small.5,
        },
    )
}

proptest! {
    #[test]
    fn any_edit_comes_back(edit in edits()) {
        prop_assert_eq!(Edit::decode(0, &edit.encode()).unwrap(), edit);
    }

    #[test]
    fn no_edits_make_it_panic(edits in vec(edits(), 0..4)) {
        let records: Vec<Vec<u8>> = edits.iter().map(Edit::encode).collect();
        if let Ok(manifest) = Manifest::decode("m", &log_of(&records)) {
            prop_assert_eq!(Manifest::decode("m", &manifest.encode().unwrap()).unwrap(), manifest);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Manifest::decode("m", &bytes);
        let _ = Manifest::decode("m", &log_of(&[bytes]));
    }
}

/// Damage that checksums do not tell: bytes are changed before they are written into the log.
#[test]
fn changed_records_do_not_make_it_panic() {
    let records: Vec<Vec<u8>> = records_of(&small()).into_iter().map(|(_, r)| r).collect();
    let mut rng = StdRng::seed_from_u64(11);
    for _ in 0..20_000 {
        let mut records = records.clone();
        for _ in 0..rng.random_range(1..4) {
            let index = rng.random_range(0..records.len());
            let record = &mut records[index];
            let at = rng.random_range(0..record.len().max(1));
            match rng.random_range(0..3) {
                0 => record.truncate(at),
                1 => record.insert(at.min(record.len()), rng.random()),
                _ => record
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|b| *b = rng.random()),
            }
        }
        if let Ok(manifest) = Manifest::decode("m", &log_of(&records)) {
            let again = Manifest::decode("m", &manifest.encode().unwrap()).unwrap();
            assert_eq!(again, manifest);
            let part = Part {
                source: 0,
                column: "a",
                into: 0,
                keep: (0, 2),
            };
            let _ = compose(&[manifest], &["a".into()], &[part], own, |_, number| {
                Some(number)
            });
        }
    }
}
