//! The part of the contract that is about sparse files. An Env without them says so and is asked no more.

use std::{path::Path, thread};

use super::{fails, read, read_all, write};
use crate::{Env, EnvExt, ErrorKind, SparseFile};

/// Larger than the block of any file system that the tests run on.
const BLOCK: u64 = 64 * 1024;

fn open(env: &dyn Env, path: &Path) -> Option<Box<dyn SparseFile>> {
    match env.open_sparse(path) {
        Err(e) if e.kind() == ErrorKind::Unsupported => None,
        file => Some(file.unwrap()),
    }
}

fn bytes_at(file: &dyn SparseFile, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![7; len];
    let n = file.read_at(offset, &mut bytes).unwrap();
    bytes.truncate(n);
    bytes
}

pub(super) fn reads_and_writes(env: &dyn Env, dir: &Path) {
    let path = dir.join("f");
    let Some(file) = open(env, &path) else { return };
    assert!(file.is_empty().unwrap() && bytes_at(&*file, 0, 10).is_empty());
    file.write_at(5, b"56789").unwrap();
    file.write_at(3, b"").unwrap();
    assert_eq!(file.len().unwrap(), 10);
    assert_eq!(bytes_at(&*file, 3, 100), b"\0\x0056789");
    file.write_at(0, b"01234X").unwrap();
    file.sync().unwrap();
    assert_eq!(bytes_at(&*file, 0, 10), b"01234X6789");
    assert!(bytes_at(&*file, 10, 1).is_empty() && bytes_at(&*file, u64::MAX, 1).is_empty());
    file.truncate(4).unwrap();
    file.truncate(6).unwrap();
    assert_eq!(bytes_at(&*file, 0, 10), b"0123\0\0");
    drop(file);
    // The bytes are a file like any other, and opening does not empty it.
    assert_eq!(read(env, &path), b"0123\0\0");
    let file = env.open_sparse(&path).unwrap();
    assert_eq!(file.len().unwrap(), 6);
    let mut writer = env.open_append(&path).unwrap();
    writer.append(b"end").unwrap();
    writer.flush().unwrap();
    assert_eq!(bytes_at(&*file, 4, 10), b"\0\0end");
    // More than one call of a kernel takes.
    let large: Vec<u8> = (0..3_000_000u32)
        .map(|i| i as u8 ^ (i >> 8) as u8)
        .collect();
    file.write_at(1, &large).unwrap();
    assert!(bytes_at(&*file, 1, large.len() + 9) == large);
}

pub(super) fn holes(env: &dyn Env, dir: &Path) {
    let Some(file) = open(env, &dir.join("f")) else {
        return;
    };
    file.truncate(8 * BLOCK + 100).unwrap();
    assert_eq!(file.len().unwrap(), 8 * BLOCK + 100);
    assert!(file.allocated().unwrap() < BLOCK);
    let ones = vec![1; (8 * BLOCK + 100) as usize];
    file.write_at(0, &ones).unwrap();
    file.sync().unwrap();
    let full = file.allocated().unwrap();
    assert!(full >= 8 * BLOCK, "{full}");
    match file.punch_hole(BLOCK..3 * BLOCK) {
        Err(e) if e.kind() == ErrorKind::Unsupported => {
            assert!(bytes_at(&*file, 0, ones.len()) == ones);
            return;
        }
        punched => punched.unwrap(),
    }
    file.punch_hole(5..5).unwrap();
    assert_eq!(file.len().unwrap(), 8 * BLOCK + 100);
    assert!(file.allocated().unwrap() <= full - 2 * BLOCK);
    let mut expected = ones.clone();
    expected[BLOCK as usize..3 * BLOCK as usize].fill(0);
    assert!(bytes_at(&*file, 0, ones.len()) == expected);
    // A part of a block only becomes zero; past the end nothing grows.
    file.punch_hole(10..20).unwrap();
    expected[10..20].fill(0);
    file.punch_hole(8 * BLOCK..9 * BLOCK).unwrap();
    expected[8 * BLOCK as usize..].fill(0);
    file.punch_hole(20 * BLOCK..21 * BLOCK).unwrap();
    assert!(bytes_at(&*file, 0, ones.len() + 9) == expected);
    file.write_at(2 * BLOCK, b"back").unwrap();
    assert_eq!(bytes_at(&*file, 2 * BLOCK - 1, 6), b"\0back\0");
}

pub(super) fn names_and_handles(env: &dyn Env, dir: &Path) {
    let (path, moved) = (dir.join("f"), dir.join("g"));
    let Some(file) = open(env, &path) else { return };
    file.write_at(2, b"abc").unwrap();
    env.rename(&path, &moved).unwrap();
    file.write_at(0, b"xy").unwrap();
    let random = env.open_random(&moved).unwrap();
    assert_eq!(read_all(&*random), b"xyabc");
    env.delete(&moved).unwrap();
    file.write_at(4, b"Z").unwrap();
    assert_eq!(bytes_at(&*file, 0, 9), b"xyabZ");
    assert!(!env.exists(&moved).unwrap());
    write(env, &path, b"another");
    assert_eq!(bytes_at(&*file, 0, 9), b"xyabZ");
    fails(ErrorKind::NotFound, env.open_sparse(&dir.join("no/f")));
}

pub(super) fn many_threads(env: &dyn Env, dir: &Path) {
    let Some(file) = open(env, &dir.join("f")) else {
        return;
    };
    file.truncate(64 * BLOCK).unwrap();
    thread::scope(|scope| {
        for thread in 0..4u64 {
            let file = &file;
            scope.spawn(move || {
                for turn in 0..16 {
                    let at = (turn * 4 + thread) * BLOCK;
                    let bytes = vec![thread as u8 + 1; BLOCK as usize];
                    file.write_at(at, &bytes).unwrap();
                    if turn % 4 == 3 {
                        let _ = file.punch_hole(at..at + BLOCK);
                    } else {
                        assert!(bytes_at(&**file, at, BLOCK as usize) == bytes);
                    }
                    file.sync().unwrap();
                    assert_eq!(file.len().unwrap(), 64 * BLOCK);
                }
            });
        }
    });
    for page in 0..64 {
        let bytes = bytes_at(&*file, page * BLOCK, BLOCK as usize);
        let punched = page / 4 % 4 == 3;
        assert!(
            bytes.iter().all(|b| *b == (page % 4) as u8 + 1)
                || punched && bytes.iter().all(|b| *b == 0)
        );
    }
}
