//! The part of the contract that is about the bytes of open files, and about many threads.

use std::{path::Path, thread};

use super::{HINT, fails, names, read, read_all, write};
use crate::{Env, EnvExt, ErrorKind, RangeRead};

pub(super) fn sequential_reads(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    write(env, &path, b"0123456789");
    let mut file = env.open_sequential(&path).unwrap();
    let mut buf = [0; 4];
    assert_eq!((file.read(&mut buf).unwrap(), &buf), (4, b"0123"));
    assert_eq!(file.read(&mut []).unwrap(), 0);
    file.skip(3).unwrap();
    assert_eq!(file.read(&mut buf).unwrap(), 3);
    assert_eq!(&buf[..3], b"789");
    assert_eq!(file.read(&mut buf).unwrap(), 0);
    let mut file = env.open_sequential(&path).unwrap();
    file.skip(1000).unwrap();
    assert_eq!(file.read(&mut buf).unwrap(), 0);
    file.skip(u64::MAX).unwrap();
    assert_eq!(file.read(&mut buf).unwrap(), 0);
}

pub(super) fn random_reads(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    write(env, &path, b"0123456789");
    let file = env.open_random(&path).unwrap();
    assert_eq!(file.len().unwrap(), 10);
    assert!(!file.is_empty().unwrap());
    let mut buf = [0; 4];
    for (offset, want) in [
        (0, &b"0123"[..]),
        (6, b"6789"),
        (8, b"89"),
        (10, b""),
        (11, b""),
        (1 << 40, b""),
        (u64::MAX, b""),
        (2, b"2345"),
    ] {
        let n = file.read_at(offset, &mut buf, HINT).unwrap();
        assert_eq!(&buf[..n], want, "at {offset}");
    }
    assert_eq!(file.read_at(3, &mut [], HINT).unwrap(), 0);
    file.prefetch(0, 100, HINT).unwrap();
    write(env, &dir.join("g"), b"");
    let empty = env.open_random(&dir.join("g")).unwrap();
    assert!(empty.is_empty().unwrap());
    assert_eq!(empty.read_at(0, &mut buf, HINT).unwrap(), 0);
    let again = env.open_random(&path).unwrap();
    assert_eq!(file.unique_id(), again.unique_id());
    if let Some(id) = file.unique_id() {
        assert_ne!(Some(id), empty.unique_id());
    }
}

pub(super) fn reads_of_many_ranges(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    write(env, &path, b"0123456789");
    let file = env.open_random(&path).unwrap();
    let ranges = [(4, 3), (0, 2), (8, 5), (4, 3), (20, 1), (3, 0)];
    let mut bufs: Vec<Vec<u8>> = ranges.iter().map(|(_, len)| vec![0; *len]).collect();
    let mut reads: Vec<RangeRead<'_>> = ranges
        .iter()
        .zip(&mut bufs)
        .map(|((offset, _), buf)| RangeRead {
            offset: *offset,
            buf,
            result: Ok(0),
        })
        .collect();
    file.read_many(&mut reads, HINT);
    let got: Vec<&[u8]> = reads
        .iter()
        .map(|read| &read.buf[..*read.result.as_ref().unwrap()])
        .collect();
    let want: [&[u8]; 6] = [b"456", b"01", b"89", b"456", b"", b""];
    assert_eq!(got, want);
    file.read_many(&mut [], HINT);
}

pub(super) fn reads_begun_and_waited_for(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    write(env, &path, b"0123456789");
    let file = env.open_random(&path).unwrap();
    let early = file.start_read(2, 3, HINT);
    let late = file.start_read(8, 100, HINT);
    drop(file.start_read(0, 10, HINT));
    let past = file.start_read(10, 1, HINT);
    assert_eq!(past.wait().unwrap(), b""[..]);
    assert_eq!(late.wait().unwrap(), b"89"[..]);
    drop(file);
    assert_eq!(early.wait().unwrap(), b"234"[..]);
}

pub(super) fn create_truncates(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    write(env, &path, b"something long");
    let mut file = env.create(&path).unwrap();
    assert_eq!((file.len(), file.is_empty()), (0, true));
    assert_eq!(read(env, &path), b"");
    file.append(b"new").unwrap();
    file.flush().unwrap();
    assert_eq!(read(env, &path), b"new");
}

pub(super) fn append_and_truncate(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    let mut file = env.open_append(&path).unwrap();
    file.append(b"abc").unwrap();
    file.append(b"").unwrap();
    file.append(b"def").unwrap();
    assert_eq!((file.len(), file.is_empty()), (6, false));
    file.sync().unwrap();
    drop(file);
    let mut file = env.open_append(&path).unwrap();
    assert_eq!(file.len(), 6);
    file.append(b"ghi").unwrap();
    file.truncate(4).unwrap();
    assert_eq!(file.len(), 4);
    file.append(b"X").unwrap();
    file.flush().unwrap();
    assert_eq!(read(env, &path), b"abcdX");
    file.truncate(8).unwrap();
    file.append(b"Y").unwrap();
    file.sync().unwrap();
    file.close().unwrap();
    assert_eq!(read(env, &path), b"abcdX\0\0\0Y");
    // More than one call of a kernel takes.
    let large: Vec<u8> = (0..3_000_000u32)
        .map(|i| i as u8 ^ (i >> 8) as u8)
        .collect();
    write(env, &path, &large);
    assert!(read(env, &path) == large);
}

pub(super) fn writer_after_close(env: &dyn Env, dir: &Path) {
    let mut file = env.create(&dir.join("f")).unwrap();
    file.append(b"a").unwrap();
    file.close().unwrap();
    fails(ErrorKind::InvalidInput, file.append(b"b"));
    fails(ErrorKind::InvalidInput, file.sync());
    fails(ErrorKind::InvalidInput, file.truncate(0));
    drop(file);
    assert_eq!(read(env, &dir.join("f")), b"a");
}

pub(super) fn delete_keeps_handles(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    write(env, &path, b"kept");
    let random = env.open_random(&path).unwrap();
    let mut sequential = env.open_sequential(&path).unwrap();
    let mut writer = env.open_append(&path).unwrap();
    env.delete(&path).unwrap();
    assert!(!env.exists(&path).unwrap());
    writer.append(b"!").unwrap();
    writer.flush().unwrap();
    assert_eq!(read_all(&*random), b"kept!");
    let mut buf = [0; 4];
    assert_eq!((sequential.read(&mut buf).unwrap(), &buf), (4, b"kept"));
    write(env, &path, b"another");
    assert_eq!(read_all(&*random), b"kept!");
    assert_eq!(read(env, &path), b"another");
}

pub(super) fn many_threads(env: &dyn Env, dir: &Path) {
    let shared = dir.join("shared");
    let bytes: Vec<u8> = (0..65_536u32).map(|i| (i / 256) as u8).collect();
    write(env, &shared, &bytes);
    let file = env.open_random(&shared).unwrap();
    let lock = dir.join("LOCK");
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let (file, bytes, shared) = (&file, &bytes, &shared);
            scope.spawn(move || {
                let own = dir.join(format!("own-{thread}"));
                for turn in 0..100u64 {
                    let offset = (thread * 7919 + turn * 613) % 65_000;
                    let mut buf = [0; 500];
                    assert_eq!(file.read_at(offset, &mut buf, HINT).unwrap(), 500);
                    assert!(buf == bytes[offset as usize..][..500]);
                    write(env, &own, &turn.to_le_bytes());
                    env.rename(&own, &dir.join("target")).unwrap();
                    // Whole, whoever wrote it last.
                    assert_eq!(read(env, &dir.join("target")).len(), 8);
                    let link = dir.join(format!("link-{thread}"));
                    env.link(shared, &link).unwrap();
                    assert!(env.list(dir).unwrap().len() >= 2);
                    env.sync_dir(dir).unwrap();
                    env.delete(&link).unwrap();
                    env.write_atomic(&dir.join("atomic"), &[turn as u8; 64])
                        .unwrap();
                    let atomic = read(env, &dir.join("atomic"));
                    assert!(atomic.len() == 64 && atomic.iter().all(|b| *b == atomic[0]));
                }
            });
        }
        let held = env.lock(&lock).unwrap();
        let rivals: Vec<_> = (0..4).map(|_| scope.spawn(|| env.lock(&lock))).collect();
        for rival in rivals {
            fails(ErrorKind::Locked, rival.join().unwrap());
        }
        drop(held);
    });
    assert_eq!(env.stat(&shared).unwrap().links, 1);
    assert_eq!(names(env, dir), ["LOCK", "atomic", "shared", "target"]);
}
