//! Objects that are copied to another place while files are served from them.

use lazurite_env::remote::RemoteStore;

use super::*;

fn moved(entry: &CatalogEntry) -> CatalogEntry {
    let mut entry = entry.clone();
    let place = format!("other/shared/{}", entry.file.key.name());
    entry.file.key = Key::new(place).unwrap();
    entry
}

#[test]
fn after_a_move_nothing_depends_on_the_original() {
    let (world, base, union, snapshot) = four_remote();
    let path = db("000012.sst");
    let before = union.open_random(&path).unwrap();
    let entries: Vec<CatalogEntry> = snapshot.entries.iter().map(moved).collect();
    for (old, new) in snapshot.entries.iter().zip(&entries) {
        let bytes = snapshot.contents[&old.name].clone();
        world.store.insert(&new.file.key, bytes);
    }
    union.catalogue_uploaded(&entries).unwrap();
    for old in &snapshot.entries {
        let (store, key) = (world.store.clone(), old.file.key.clone());
        let delete = async move { store.delete(&key).await };
        world.runtime.wait(delete).unwrap();
    }
    let expected = &snapshot.contents["000012.sst"];
    assert_eq!(read_at(&*before, 0, 500).unwrap(), expected[..500]);
    assert_eq!(read_file(&*union, &path).unwrap(), expected[..]);
    let keys: Vec<Key> = entries.iter().map(|entry| entry.file.key.clone()).collect();
    assert_eq!(union.referenced_keys(), keys.iter().cloned().collect());
    assert_eq!(union.get("000012.sst").unwrap().file.key, keys[0]);
    drop((before, union));

    // The file of the catalog has learnt it as well.
    let again = world.open(&base);
    assert_eq!(again.referenced_keys(), keys.into_iter().collect());
    assert_eq!(
        read_file(&*again, &db("000014.sst")).unwrap(),
        snapshot.contents["000014.sst"][..]
    );
    again.download().start().unwrap();
    again.download().wait_until_local().unwrap();
    assert_eq!(again.remote_files(), 0);
}

#[test]
fn what_is_here_of_the_original_is_as_good_for_the_copy() {
    let (world, base, union, snapshot) = four_remote();
    union.download().start().unwrap();
    union.download().wait_until_local().unwrap();
    drop(union);
    let mut elsewhere = snapshot.clone();
    elsewhere.entries = snapshot.entries.iter().map(moved).collect();
    let union = world.open(&base);
    let reuse = elsewhere.restore(&union).unwrap();
    assert_eq!(reuse.files, 4);
}

#[test]
fn another_content_is_no_copy() {
    let (_world, _base, union, snapshot) = four_remote();
    let mut entry = moved(&snapshot.entries[0]);
    entry.file.checksum = Checksum::of(b"other");
    assert!(union.catalogue_uploaded(&[entry]).is_err());
    let mut entry = moved(&snapshot.entries[0]);
    entry.file.len += 1;
    assert!(union.catalogue_uploaded(&[entry]).is_err());
}
