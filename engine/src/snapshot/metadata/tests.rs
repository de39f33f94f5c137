//! What is written can be read, and what cannot be read is not written.

use super::*;
use crate::{key_groups::KeyGroupRange, snapshot::heat::Heat};

fn metadata() -> SnapshotMetadata {
    SnapshotMetadata {
        job: "job".into(),
        id: 7,
        writer: "w".into(),
        created_unix_ms: 0,
        user_metadata: BTreeMap::new(),
        claimed: Vec::new(),
        origin: None,
        in_use: Vec::new(),
        savepoint: false,
        subtasks: vec![state(0, 3)],
    }
}

fn state(start: u16, end: u16) -> SubtaskState {
    SubtaskState {
        operator: "state".into(),
        writer: "w".into(),
        key_groups: 4,
        key_group_range: KeyGroupRange::new(start, end).unwrap(),
        tables: Vec::new(),
        columns: Vec::new(),
        user_metadata: BTreeMap::new(),
        manifest: ManifestRef {
            key: format!("job/chk-7/manifest-{start}"),
            len: 8,
            checksum: Checksum::of(b""),
            parts: vec![("CURRENT".into(), 8)],
        },
        tails: Vec::new(),
        files: Vec::new(),
    }
}

#[test]
fn heat_may_be_absent_and_absurd_and_other_fields_unknown() {
    let place = Place::parse("job/chk-7").unwrap();
    let mut metadata = metadata();
    let file = |number: u64, heat| SnapshotFile {
        name: format!("{number:06}.sst"),
        level: 0,
        key: format!("job/shared/{number}.sst"),
        len: 0,
        checksum: Checksum::of(b""),
        tail_offset: 0,
        tail_checksum: Checksum::of(b""),
        tail: None,
        heat,
        hot: None,
    };
    metadata.subtasks[0].files = vec![
        file(1, None),
        file(2, Some(u64::MAX)),
        file(3, Some(u64::MAX)),
    ];
    let bytes = metadata.encode(&place).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert_eq!(text.matches("heat").count(), 2, "{text}");
    let read = SnapshotMetadata::decode(&place, &bytes).unwrap();
    assert_eq!(read, metadata);
    assert!(Heat::of(&read.subtasks[0].files).of_file("000003.sst") < Some(u64::MAX));
    // As a later version may write it.
    let body = text.split_once('\n').unwrap().1;
    let body = body.replace("\"heat\":18446744073709551615", "\"warmth\":[1.5]");
    let bytes = framed::encode(FORMAT, VERSION, body.as_bytes());
    let read = SnapshotMetadata::decode(&place, &bytes).unwrap();
    assert_eq!(read.subtasks[0].files[1].heat, None);
}

#[test]
fn hot_chunks_may_be_absent_and_anything() {
    let place = Place::parse("job/chk-7").unwrap();
    let mut metadata = metadata();
    let file = |number: u64, hot: &str| SnapshotFile {
        name: format!("{number:06}.sst"),
        level: 0,
        key: format!("job/shared/{number}.sst"),
        len: 100 << 10,
        checksum: Checksum::of(b""),
        tail_offset: 100 << 10,
        tail_checksum: Checksum::of(b""),
        tail: None,
        heat: None,
        hot: Some(hot.to_owned()),
    };
    let long = "_".repeat(1 << 20);
    metadata.subtasks[0].files = vec![
        file(1, "_"),
        file(2, &long),
        file(3, "no text?"),
        file(4, "E"),
    ];
    let bytes = metadata.encode(&place).unwrap();
    let read = SnapshotMetadata::decode(&place, &bytes).unwrap();
    assert_eq!(read, metadata);
    let chunks = |metadata: &SnapshotMetadata| Heat::of(&metadata.subtasks[0].files).chunks.all();
    let hot = chunks(&read);
    assert_eq!(hot["000001.sst"], [3, 3], "no more chunks than it has");
    assert_eq!((hot["000004.sst"].as_slice(), hot.len()), (&[0, 1][..], 2));
    // Of another type.
    let text = String::from_utf8(bytes).unwrap();
    let body = text.split_once('\n').unwrap().1;
    let others = [
        "{\"E\":[1,null]}",
        "[0,\"_\",{}]",
        "null",
        "true",
        "-1",
        "7",
        "0.5",
    ];
    for other in others {
        let body = body.replace("\"hot\":\"E\"", &format!("\"hot\":{other}"));
        let bytes = framed::encode(FORMAT, VERSION, body.as_bytes());
        let read = SnapshotMetadata::decode(&place, &bytes).unwrap();
        assert_eq!(read.subtasks[0].files[3].hot, None, "{other}");
        assert_eq!(
            read.subtasks[0].files[..3],
            metadata.subtasks[0].files[..3],
            "{other}"
        );
    }
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let place = Place::parse("job/chk-7").unwrap();
    let mut metadata = metadata();
    let bytes = metadata.encode(&place).unwrap();
    assert_eq!(SnapshotMetadata::decode(&place, &bytes).unwrap(), metadata);
    assert!(metadata.encode_within(&place, bytes.len() as u64).is_ok());
    let error = metadata
        .encode_within(&place, bytes.len() as u64 - 1)
        .unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    metadata.subtasks[0]
        .manifest
        .parts
        .push(("CURRENT".into(), 0));
    let error = metadata.encode(&place).unwrap_err();
    assert!(error.to_string().contains("twice"), "{error}");
}
