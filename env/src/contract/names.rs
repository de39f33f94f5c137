//! The part of the contract that is about names: files, links, directories and locks, and the sugar over them.

use std::{path::Path, thread};

use super::{fails, names, read, read_all, write};
use crate::{Env, EnvExt, ErrorKind, FileKind};

pub(super) fn rename_replaces(env: &dyn Env, dir: &Path) {
    let (a, b) = (dir.join("a"), dir.join("b"));
    write(env, &a, b"new");
    write(env, &b, b"old");
    let old = env.open_random(&b).unwrap();
    let new = env.open_random(&a).unwrap();
    env.rename(&a, &b).unwrap();
    assert_eq!(names(env, dir), ["b"]);
    assert_eq!(read(env, &b), b"new");
    assert_eq!(
        (read_all(&*old), read_all(&*new)),
        (b"old".to_vec(), b"new".to_vec())
    );
    env.rename(&b, &b).unwrap();
    assert_eq!(read(env, &b), b"new");
    // A file that is still written goes on under its new name.
    let mut file = env.create(&a).unwrap();
    file.append(b"1").unwrap();
    env.rename(&a, &b).unwrap();
    file.append(b"2").unwrap();
    file.close().unwrap();
    assert_eq!(read(env, &b), b"12");
    fails(ErrorKind::NotFound, env.rename(&a, &b));
    assert_eq!(read(env, &b), b"12");
}

pub(super) fn rename_of_directories(env: &dyn Env, dir: &Path) {
    let (a, b, f) = (dir.join("a"), dir.join("b"), dir.join("f"));
    env.create_dir(&a).unwrap();
    env.create_dir(&a.join("x")).unwrap();
    write(env, &a.join("x/y"), b"deep");
    write(env, &f, b"file");
    env.rename(&a, &b).unwrap();
    assert_eq!(read(env, &b.join("x/y")), b"deep");
    assert!(!env.exists(&a).unwrap());
    assert!(env.rename(&f, &b).is_err(), "a file replaced a directory");
    assert!(env.rename(&b, &f).is_err(), "a directory replaced a file");
    assert!(env.rename(&b, &b.join("x/z")).is_err(), "moved into itself");
    env.create_dir(&a).unwrap();
    assert!(env.rename(&a, &b).is_err(), "replaced a full directory");
    env.rename(&b, &a).unwrap();
    assert_eq!(names(env, dir), ["a", "f"]);
    // Out of a directory and into another.
    env.rename(&a.join("x/y"), &dir.join("y")).unwrap();
    assert_eq!(read(env, &dir.join("y")), b"deep");
    assert!(names(env, &a.join("x")).is_empty());
}

pub(super) fn links(env: &dyn Env, dir: &Path) {
    let (a, b, c) = (dir.join("a"), dir.join("b"), dir.join("c"));
    write(env, &a, b"1");
    assert_eq!(env.stat(&a).unwrap().links, 1);
    let before = env.stat(&a).unwrap();
    assert_eq!(before.changed, before.modified.max(before.changed));
    // Longer than a tick of a system's coarse clock.
    std::thread::sleep(std::time::Duration::from_millis(30));
    env.link(&a, &b).unwrap();
    let linked = env.stat(&b).unwrap();
    assert_eq!((linked.links, linked.modified), (2, before.modified));
    assert!(linked.changed > before.changed, "a link is told by no time");
    assert_eq!(env.stat(&a).unwrap(), linked);
    write(env, &c, b"other");
    fails(ErrorKind::AlreadyExists, env.link(&a, &c));
    fails(ErrorKind::AlreadyExists, env.link(&a, &b));
    fails(
        ErrorKind::NotFound,
        env.link(&dir.join("none"), &dir.join("d")),
    );
    assert_eq!(read(env, &c), b"other");
    let mut file = env.open_append(&b).unwrap();
    file.append(b"2").unwrap();
    file.close().unwrap();
    assert_eq!(read(env, &a), b"12");
    // Two names of one file: both stay.
    env.rename(&a, &b).unwrap();
    assert_eq!(names(env, dir), ["a", "b", "c"]);
    env.delete(&a).unwrap();
    assert_eq!(env.stat(&b).unwrap().links, 1);
    assert_eq!(read(env, &b), b"12");
}

pub(super) fn directories(env: &dyn Env, dir: &Path) {
    let (d, f) = (dir.join("d"), dir.join("f"));
    env.create_dir(&d).unwrap();
    fails(ErrorKind::AlreadyExists, env.create_dir(&d));
    write(env, &f, b"");
    fails(ErrorKind::AlreadyExists, env.create_dir(&f));
    fails(ErrorKind::NotFound, env.create_dir(&dir.join("none/d")));
    write(env, &d.join("x"), b"");
    assert!(env.delete_dir(&d).is_err(), "deleted a full directory");
    assert!(env.delete(&d).is_err(), "deleted a directory as a file");
    assert!(env.delete_dir(&f).is_err(), "deleted a file as a directory");
    assert!(env.create(&d).is_err(), "created a file over a directory");
    assert!(env.create(&f.join("x")).is_err(), "a file holds a file");
    env.delete(&d.join("x")).unwrap();
    env.sync_dir(&d).unwrap();
    env.delete_dir(&d).unwrap();
    env.sync_dir(dir).unwrap();
    fails(ErrorKind::NotFound, env.sync_dir(&d));
    assert!(env.sync_dir(&f).is_err(), "synced a file as a directory");
    assert_eq!(names(env, dir), ["f"]);
}

pub(super) fn listing_and_stat(env: &dyn Env, dir: &Path) {
    assert!(env.list(dir).unwrap().is_empty());
    write(env, &dir.join("file"), b"12345");
    env.create_dir(&dir.join("dir")).unwrap();
    write(env, &dir.join("dir/below"), b"");
    let mut entries = env.list(dir).unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let seen: Vec<(&str, FileKind)> = entries.iter().map(|e| (&*e.name, e.kind)).collect();
    assert_eq!(
        seen,
        [("dir", FileKind::Directory), ("file", FileKind::File)]
    );
    let file = env.stat(&dir.join("file")).unwrap();
    assert_eq!((file.kind, file.len, file.links), (FileKind::File, 5, 1));
    let below = env.stat(&dir.join("dir")).unwrap();
    assert_eq!(
        (below.kind, below.len, below.links),
        (FileKind::Directory, 0, 1)
    );
    let mut writer = env.open_append(&dir.join("file")).unwrap();
    writer.append(b"6").unwrap();
    writer.flush().unwrap();
    let grown = env.stat(&dir.join("file")).unwrap();
    assert_eq!(grown.len, 6);
    assert!(grown.modified >= file.modified);
    assert!(env.list(&dir.join("file")).is_err(), "listed a file");
}

pub(super) fn missing_is_not_found(env: &dyn Env, dir: &Path) {
    for path in [dir.join("none"), dir.join("none/none")] {
        let e = fails(ErrorKind::NotFound, env.open_random(&path));
        assert!(e.is_not_found() && !e.is_temporary());
        assert!(e.path().contains("none"), "the error names no path: {e}");
        fails(ErrorKind::NotFound, env.open_sequential(&path));
        fails(ErrorKind::NotFound, env.delete(&path));
        fails(ErrorKind::NotFound, env.delete_dir(&path));
        fails(ErrorKind::NotFound, env.list(&path));
        fails(ErrorKind::NotFound, env.stat(&path));
        fails(ErrorKind::NotFound, env.sync_dir(&path));
        fails(ErrorKind::NotFound, env.rename(&path, &dir.join("x")));
        assert!(!env.exists(&path).unwrap());
    }
    let path = dir.join("none/f");
    fails(ErrorKind::NotFound, env.create(&path));
    fails(ErrorKind::NotFound, env.open_append(&path));
    fails(ErrorKind::NotFound, env.lock(&path));
    write(env, &dir.join("f"), b"");
    fails(ErrorKind::NotFound, env.rename(&dir.join("f"), &path));
    fails(ErrorKind::NotFound, env.link(&dir.join("f"), &path));
    assert_eq!(names(env, dir), ["f"]);
}

pub(super) fn locks(env: &dyn Env, dir: &Path) {
    let path = dir.join("LOCK");
    let lock = env.lock(&path).unwrap();
    fails(ErrorKind::Locked, env.lock(&path));
    thread::scope(|scope| {
        scope.spawn(|| fails(ErrorKind::Locked, env.lock(&path)));
    });
    // Neither reading nor writing the file touches the lock.
    write(env, &path, b"owner");
    assert_eq!(read(env, &path), b"owner");
    fails(ErrorKind::Locked, env.lock(&path));
    let other = env.lock(&dir.join("OTHER")).unwrap();
    drop(lock);
    let again = env.lock(&path).unwrap();
    fails(ErrorKind::Locked, env.lock(&dir.join("OTHER")));
    drop((again, other));
    assert_eq!(names(env, dir), ["LOCK", "OTHER"]);
    assert_eq!(read(env, &path), b"owner");
}

pub(super) fn free_space(env: &dyn Env, dir: &Path) {
    assert!(env.free_space(dir).unwrap() > 0);
    fails(ErrorKind::NotFound, env.free_space(&dir.join("none")));
}

pub(super) fn native_paths(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    write(env, &path, b"native");
    if let Some(native) = env.native_path(&path) {
        assert_eq!(std::fs::read(native).unwrap(), b"native");
    }
}

pub(super) fn sugar_directories(env: &dyn Env, dir: &Path) {
    let deep = dir.join("a/b/c");
    env.create_dir_all(&deep).unwrap();
    env.create_dir_all(&deep).unwrap();
    env.create_dir_all(dir).unwrap();
    assert!(env.exists(&deep).unwrap());
    write(env, &deep.join("f"), b"x");
    fails(
        ErrorKind::AlreadyExists,
        env.create_dir_all(&deep.join("f")),
    );
    assert!(env.create_dir_all(&deep.join("f/g")).is_err());
    write(env, &dir.join("a/f"), b"x");
    env.remove_dir_all(&dir.join("a")).unwrap();
    env.remove_dir_all(&dir.join("a")).unwrap();
    assert!(env.list(dir).unwrap().is_empty());
}

pub(super) fn sugar_files(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    env.write_atomic(&path, b"first").unwrap();
    let old = env.open_random(&path).unwrap();
    // What a crash may leave behind.
    write(env, &dir.join("f.tmp"), b"half");
    env.write_atomic(&path, b"second").unwrap();
    assert_eq!(read_all(&*old), b"first");
    assert_eq!(read(env, &path), b"second");
    assert_eq!(names(env, dir), ["f"]);
    fails(
        ErrorKind::NotFound,
        env.write_atomic(&dir.join("none/f"), b""),
    );
    env.create_dir(&dir.join("d")).unwrap();
    assert!(env.write_atomic(&dir.join("d"), b"").is_err());
    assert_eq!(names(env, dir), ["d", "f"], "the temporary file stayed");
    assert_eq!(env.read_to_vec(&path, 6).unwrap(), b"second");
    fails(ErrorKind::Corruption, env.read_to_vec(&path, 5));
    fails(ErrorKind::NotFound, env.read_to_vec(&dir.join("g"), 5));
    let large = vec![7; 200_000];
    env.write_atomic(&path, &large).unwrap();
    assert!(env.read_to_vec(&path, 200_000).unwrap() == large);
    fails(ErrorKind::Corruption, env.read_to_vec(&path, 199_999));
    env.write_atomic(&path, b"").unwrap();
    assert_eq!(env.read_to_vec(&path, 0).unwrap(), b"");
}
