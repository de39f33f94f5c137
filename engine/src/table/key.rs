//! The bytes of a stored key.
//!
//! ```text
//! [key group: u16 big-endian][LEB128 length][key][LEB128 length][namespace][user key, to the end]
//! ```
//!
//! The user key is there in map tables only. Big-endian key groups sort by number, so a range of key groups is a range of
//! keys. Lengths stand before what they measure, so that no (key, namespace) is a prefix of another one: the entries of a
//! map key are exactly the keys with its prefix, and they sort by their user key's bytes.
//!
//! Invariant: this is the format of stored state. It never changes without a new snapshot format version.

use std::cell::RefCell;

use crate::{
    codec::CodecError,
    key_groups::{KeyGroupRange, assign_to_key_group},
};

/// The parts of a stored key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredKey<'a> {
    /// Undecoded: a narrow number among these would cost an iteration more than all of the parsing, in copies that wait for it.
    key_group: &'a [u8; 2],
    pub key: &'a [u8],
    pub namespace: &'a [u8],
    pub user_key: &'a [u8],
}

impl StoredKey<'_> {
    pub(crate) fn key_group(&self) -> u16 {
        u16::from_be_bytes(*self.key_group)
    }
}

/// Bytes before the key when its length takes one byte, as it nearly always does.
const SHORT_HEAD: usize = 3;

/// Appends (key group, key, namespace) to `out` and gives the key group. `encode` appends the key's bytes.
pub(crate) fn append_prefix(
    out: &mut Vec<u8>,
    key_groups: u16,
    namespace: &[u8],
    encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecError>,
) -> Result<u16, CodecError> {
    let start = out.len();
    out.extend_from_slice(&[0; SHORT_HEAD]);
    encode(out)?;
    // The key is encoded in place, before its length and its group are known.
    let Some(key) = out.get(start + SHORT_HEAD..) else {
        return Err(CodecError::new(
            "the key codec shortened the buffer that it was to append to",
        ));
    };
    let (len, key_group) = (key.len(), assign_to_key_group(key, key_groups));
    out[start..start + 2].copy_from_slice(&key_group.to_be_bytes());
    if len < 0x80 {
        out[start + 2] = len as u8; // below 0x80
    } else {
        let mut head = Vec::with_capacity(10);
        append_length(&mut head, len);
        out.splice(start + 2..start + SHORT_HEAD, head);
    }
    append_length(out, namespace.len());
    out.extend_from_slice(namespace);
    Ok(key_group)
}

/// The parts of a stored key; `None` where it is none.
#[inline]
pub(crate) fn parse(bytes: &[u8]) -> Option<StoredKey<'_>> {
    let (key_group, rest) = bytes.split_first_chunk::<2>()?;
    let (key, rest) = split_counted(rest)?;
    let (namespace, user_key) = split_counted(rest)?;
    Some(StoredKey {
        key_group,
        key,
        namespace,
        user_key,
    })
}

/// The first key of a range of key groups, and the first one after it.
pub(crate) fn group_bounds(range: KeyGroupRange) -> (Vec<u8>, Vec<u8>) {
    // The highest key group is 32767, so the one after it is a u16 too.
    (
        range.start().to_be_bytes().to_vec(),
        (range.end() + 1).to_be_bytes().to_vec(),
    )
}

/// The first key after all that start with `prefix`, which starts with a key group.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    // A key group's first byte is at most 0x7f, so this stops there at the latest.
    while end.last() == Some(&0xff) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn append_length(out: &mut Vec<u8>, mut len: usize) {
    while len >= 0x80 {
        out.push(len as u8 | 0x80); // the low seven bits
        len >>= 7;
    }
    out.push(len as u8);
}

#[inline]
fn split_counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    // Nearly every length takes one byte.
    if let [len @ 0..0x80, rest @ ..] = bytes {
        return rest.split_at_checked(usize::from(*len));
    }
    split_long(bytes)
}

#[cold]
fn split_long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut len = 0usize;
    for (i, byte) in bytes.iter().enumerate() {
        let bits = usize::from(byte & 0x7f);
        len |= bits
            .checked_shl(7 * i as u32)
            .filter(|shifted| shifted >> (7 * i) == bits)?;
        if byte & 0x80 == 0 {
            return bytes[i + 1..].split_at_checked(len);
        }
    }
    None
}

/// Buffers beyond this are not kept: one huge value must not stay in the memory of every thread.
const KEPT_CAPACITY: usize = 64 << 10;
/// A put needs two buffers at once; a codec that uses another table needs more.
const KEPT_BUFFERS: usize = 4;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with an empty buffer that this thread has used before, so that an operation allocates nothing. May be nested.
pub(crate) fn with_buffer<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    // Without thread-local storage (the thread is ending) a new buffer serves as well.
    let mut buffer = BUFFERS
        .try_with(|b| b.borrow_mut().pop())
        .ok()
        .flatten()
        .unwrap_or_default();
    let result = f(&mut buffer);
    if buffer.capacity() <= KEPT_CAPACITY {
        buffer.clear();
        let _ = BUFFERS.try_with(|b| {
            let mut kept = b.borrow_mut();
            if kept.len() < KEPT_BUFFERS {
                kept.push(buffer);
            }
        });
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn prefix(key: &[u8], namespace: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append_prefix(&mut out, 128, namespace, |out| {
            out.extend_from_slice(key);
            Ok(())
        })
        .unwrap();
        out
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(any::<u8>(), 0..6),
            vec(Just(0xff), 0..4),
            vec(any::<u8>(), 120..300)
        ]
    }

    proptest! {
        #[test]
        fn parts_come_back(key in bytes(), namespace in bytes(), user_key in bytes(), before in bytes()) {
            let mut out = before.clone();
            let key_group = append_prefix(&mut out, 128, &namespace, |out| {
                out.extend_from_slice(&key);
                Ok(())
            }).unwrap();
            out.extend_from_slice(&user_key);
            prop_assert_eq!(&out[..before.len()], &before);
            let parts = StoredKey { key_group: &key_group.to_be_bytes(), key: &key, namespace: &namespace, user_key: &user_key };
            prop_assert_eq!(parse(&out[before.len()..]), Some(parts));
            prop_assert_eq!(key_group, assign_to_key_group(&key, 128));
        }

        #[test]
        fn a_prefix_holds_its_entries_and_no_others(
            a in (bytes(), bytes()), b in (bytes(), bytes()), user_key in bytes()
        ) {
            let (pa, pb) = (prefix(&a.0, &a.1), prefix(&b.0, &b.1));
            let mut entry = pb.clone();
            entry.extend_from_slice(&user_key);
            prop_assert!(pb <= entry && entry < prefix_end(&pb));
            prop_assert_eq!(pa <= entry && entry < prefix_end(&pa), a == b);
        }

        #[test]
        fn key_groups_sort_by_number(a in bytes(), b in bytes(), start in 0u16..128, len in 0u16..128) {
            let range = KeyGroupRange::new(start, (start + len).min(127)).unwrap();
            let (lower, upper) = group_bounds(range);
            let stored = prefix(&a, &b);
            let inside = range.contains(assign_to_key_group(&a, 128));
            prop_assert_eq!(lower <= stored && stored < upper, inside);
        }

        #[test]
        fn parsing_never_panics(bytes in vec(any::<u8>(), 0..40)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn the_format_is_what_it_always_was() {
        // murmur3("test") % 128 = 19
        assert_eq!(prefix(b"test", b"n"), b"\x00\x13\x04test\x01n");
        let long = prefix(&[7; 300], b"");
        assert_eq!(&long[2..4], &[0xac, 0x02]); // 300 = 0x2c + 2 * 128
        assert_eq!(long.len(), 2 + 2 + 300 + 1);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bytes in [
            &b""[..],
            b"\x00",
            b"\x00\x01",
            b"\x00\x01\x05abc",
            b"\x00\x01\x80",
            b"\x00\x01\x01a",
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
        let mut huge = vec![0, 1];
        huge.extend([0xff; 20]);
        assert_eq!(parse(&huge), None);
    }

    #[test]
    fn a_codec_that_shortens_the_buffer_is_an_error() {
        let shortened = append_prefix(&mut Vec::new(), 128, b"", |out| {
            out.clear();
            Ok(())
        });
        assert!(shortened.is_err());
    }

    #[test]
    fn buffers_nest_and_come_back_empty() {
        with_buffer(|a| {
            a.push(1);
            with_buffer(|b| {
                assert!(b.is_empty());
                b.push(2);
            });
            assert_eq!(a, &[1]);
        });
        with_buffer(|a| assert!(a.is_empty() && a.capacity() > 0));
        with_buffer(|a| a.reserve(KEPT_CAPACITY + 1));
        BUFFERS.with(|b| {
            assert!(
                b.borrow()
                    .iter()
                    .all(|kept| kept.capacity() <= KEPT_CAPACITY)
            )
        });
    }
}
