//! Key groups: the unit in which state moves between backends.
//!
//! A key belongs to one of `max_parallelism` key groups for ever: `murmur3_32(encoded key) % max_parallelism`. A backend
//! owns a contiguous range of them, by Flink's formula, so that a change of parallelism moves whole ranges.
//!
//! The hash is MurmurHash3 x86 32-bit with seed 0, over the bytes that the table's key codec writes. Flink hashes Java's
//! `hashCode()` of the key instead: so a given key is in another group here than in Flink, while the ranges are the same.
//!
//! | bytes | hash | of 128 groups |
//! |---|---|---|
//! | (none) | `0x00000000` | 0 |
//! | `test` | `0xba6bd213` | 19 |
//! | `Hello, world!` | `0xc0363e43` | 67 |
//! | `The quick brown fox jumps over the lazy dog` | `0x2e4ff723` | 35 |
//!
//! Invariant: the hash is part of the format. Changing it would lose every stored key.

use std::{fmt, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest number of key groups, and so the highest parallelism: 32768, as in Flink.
pub const MAX_KEY_GROUPS: u16 = 32768;

/// Key groups from `start` to `end`, both included, as in Flink. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bounds", into = "Bounds")]
pub struct KeyGroupRange {
    start: u16,
    end: u16,
}

#[derive(Serialize, Deserialize)]
struct Bounds {
    start: u16,
    end: u16,
}

impl KeyGroupRange {
    /// The key groups from `start` to `end`, both included.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where `start > end` or `end` is not below [`MAX_KEY_GROUPS`].
    pub fn new(start: u16, end: u16) -> Result<Self> {
        if start > end || end >= MAX_KEY_GROUPS {
            return Err(Error::InvalidOption {
                option: "key group range",
                reason: format!(
                    "{start}..={end} is not a range inside 0..={}",
                    MAX_KEY_GROUPS - 1
                ),
            });
        }
        Ok(KeyGroupRange { start, end })
    }

    /// Every one of `max_parallelism` key groups.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] where `max_parallelism` is not in `1..=32768`.
    pub fn all(max_parallelism: u16) -> Result<Self> {
        check_max_parallelism(max_parallelism)?;
        Self::new(0, max_parallelism - 1)
    }

    /// The first key group.
    pub fn start(&self) -> u16 {
        self.start
    }

    /// The last key group; it is in the range.
    pub fn end(&self) -> u16 {
        self.end
    }

    /// How many key groups there are, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.end - self.start) + 1
    }

    /// True where `key_group` is in the range.
    pub fn contains(&self, key_group: u16) -> bool {
        (self.start..=self.end).contains(&key_group)
    }

    /// True where every key group of `other` is in this range.
    pub fn covers(&self, other: KeyGroupRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The key groups that are in both ranges; `None` where there are none.
    pub fn intersection(&self, other: KeyGroupRange) -> Option<KeyGroupRange> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start <= end).then_some(KeyGroupRange { start, end })
    }

    /// The smallest range with all key groups of both.
    pub(crate) fn hull(&self, other: KeyGroupRange) -> KeyGroupRange {
        KeyGroupRange {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// The key groups in ascending order.
    pub fn iter(&self) -> RangeInclusive<u16> {
        self.start..=self.end
    }
}

impl fmt::Display for KeyGroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.start, self.end)
    }
}

impl TryFrom<Bounds> for KeyGroupRange {
    type Error = Error;

    fn try_from(bounds: Bounds) -> Result<Self> {
        Self::new(bounds.start, bounds.end)
    }
}

impl From<KeyGroupRange> for Bounds {
    fn from(range: KeyGroupRange) -> Self {
        Bounds {
            start: range.start,
            end: range.end,
        }
    }
}

/// The key group of a key, given the bytes that its codec writes. `max_parallelism` 0 is taken for 1.
pub fn assign_to_key_group(key_bytes: &[u8], max_parallelism: u16) -> u16 {
    let group = murmur3_32(key_bytes) % u32::from(max_parallelism.max(1));
    group as u16 // below max_parallelism, which is a u16
}

/// The key groups of the subtask `index` (from 0) of `parallelism`: Flink's
/// `KeyGroupRangeAssignment.computeKeyGroupRangeForOperatorIndex`.
///
/// # Errors
/// [`Error::InvalidOption`] where `max_parallelism` is not in `1..=32768`, `parallelism` not in `1..=max_parallelism`, or
/// `index` not below `parallelism`.
pub fn range_for_operator(
    max_parallelism: u16,
    parallelism: u16,
    index: u16,
) -> Result<KeyGroupRange> {
    check_parallelism(max_parallelism, parallelism)?;
    if index >= parallelism {
        return Err(Error::InvalidOption {
            option: "operator index",
            reason: format!("{index} is not below the parallelism {parallelism}"),
        });
    }
    let (max, parallelism, index) = (
        u32::from(max_parallelism),
        u32::from(parallelism),
        u32::from(index),
    );
    let start = (index * max).div_ceil(parallelism);
    let end = ((index + 1) * max - 1) / parallelism;
    KeyGroupRange::new(start as u16, end as u16) // both below max_parallelism
}

/// The subtask (from 0) of `parallelism` that owns `key_group`: the inverse of [`range_for_operator`].
///
/// # Errors
/// [`Error::InvalidOption`] where an argument is out of the limits there, or `key_group` is not below `max_parallelism`.
pub fn operator_for_key_group(
    max_parallelism: u16,
    parallelism: u16,
    key_group: u16,
) -> Result<u16> {
    check_parallelism(max_parallelism, parallelism)?;
    if key_group >= max_parallelism {
        return Err(Error::InvalidOption {
            option: "key group",
            reason: format!("{key_group} is not below the number of key groups {max_parallelism}"),
        });
    }
    let operator = u32::from(key_group) * u32::from(parallelism) / u32::from(max_parallelism);
    Ok(operator as u16) // below parallelism
}

/// Fails where `max_parallelism` is not in `1..=32768`.
pub(crate) fn check_max_parallelism(max_parallelism: u16) -> Result<()> {
    if (1..=MAX_KEY_GROUPS).contains(&max_parallelism) {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: "number of key groups",
        reason: format!("{max_parallelism} is not in 1..={MAX_KEY_GROUPS}"),
    })
}

fn check_parallelism(max_parallelism: u16, parallelism: u16) -> Result<()> {
    check_max_parallelism(max_parallelism)?;
    if (1..=max_parallelism).contains(&parallelism) {
        return Ok(());
    }
    Err(Error::InvalidOption {
        option: "parallelism",
        reason: format!("{parallelism} is not in 1..={max_parallelism}, the number of key groups"),
    })
}

/// MurmurHash3 x86 32-bit, seed 0.
fn murmur3_32(bytes: &[u8]) -> u32 {
    fn scramble(k: u32) -> u32 {
        k.wrapping_mul(0xcc9e_2d51)
            .rotate_left(15)
            .wrapping_mul(0x1b87_3593)
    }
    let (words, tail) = bytes.as_chunks::<4>();
    let mut hash = 0u32;
    for word in words {
        hash ^= scramble(u32::from_le_bytes(*word));
        hash = hash
            .rotate_left(13)
            .wrapping_mul(5)
            .wrapping_add(0xe654_6b64);
    }
    // The tail is read as a little-endian number; an empty one scrambles to 0.
    hash ^= scramble(
        tail.iter()
            .rev()
            .fold(0, |k, byte| k << 8 | u32::from(*byte)),
    );
    hash ^= bytes.len() as u32; // the algorithm takes the length modulo 2^32
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur3_agrees_with_published_vectors() {
        let vectors: [(&[u8], u32, u16); 12] = [
            (b"", 0, 0),
            (b"a", 0x3c25_69b2, 50),
            (b"ab", 0x9bbf_d75f, 95),
            (b"abc", 0xb3dd_93fa, 122),
            (b"test", 0xba6b_d213, 19),
            (b"Hello, world!", 0xc036_3e43, 67),
            (
                b"The quick brown fox jumps over the lazy dog",
                0x2e4f_f723,
                35,
            ),
            (&[0], 0x514e_28b7, 55),
            (&[0; 4], 0x2362_f9de, 94),
            (&[0xff; 4], 0x7629_3b50, 80),
            (&[0, 1, 2, 3, 4, 5, 6], 0x8d7e_4914, 20),
            (&[255, 254, 253, 252, 251, 250, 249, 248], 0xf168_2af1, 113),
        ];
        for (bytes, hash, group) in vectors {
            assert_eq!(murmur3_32(bytes), hash, "{bytes:?}");
            assert_eq!(assign_to_key_group(bytes, 128), group, "{bytes:?}");
        }
    }

    #[test]
    fn ranges_partition_the_key_groups_and_agree_with_the_owner() {
        for (max, parallelism) in [
            (1, 1),
            (128, 1),
            (128, 3),
            (128, 128),
            (10, 3),
            (32768, 7),
            (32768, 32768),
        ] {
            let mut next = 0u32;
            for index in 0..parallelism {
                let range = range_for_operator(max, parallelism, index).unwrap();
                assert_eq!(u32::from(range.start()), next);
                next = u32::from(range.end()) + 1;
                assert_eq!(
                    operator_for_key_group(max, parallelism, range.start()).unwrap(),
                    index
                );
                assert_eq!(
                    operator_for_key_group(max, parallelism, range.end()).unwrap(),
                    index
                );
            }
            assert_eq!(next, u32::from(max));
        }
    }

    #[test]
    fn ranges_are_those_of_flink() {
        // (0*10 + 2)/3 = 0 ..= (1*10 - 1)/3 = 3; (10 + 2)/3 = 4 ..= (20 - 1)/3 = 6; (20 + 2)/3 = 7 ..= (30 - 1)/3 = 9
        let ranges: Vec<String> = (0..3)
            .map(|i| range_for_operator(10, 3, i).unwrap().to_string())
            .collect();
        assert_eq!(ranges, ["0..=3", "4..=6", "7..=9"]);
    }

    #[test]
    fn limits_are_checked() {
        assert!(KeyGroupRange::new(5, 4).is_err());
        assert!(KeyGroupRange::new(0, 32768).is_err());
        assert!(KeyGroupRange::all(0).is_err());
        assert!(KeyGroupRange::all(32769).is_err());
        assert_eq!(KeyGroupRange::all(32768).unwrap().len(), 32768);
        assert!(range_for_operator(128, 129, 0).is_err());
        assert!(range_for_operator(128, 0, 0).is_err());
        assert!(range_for_operator(128, 4, 4).is_err());
        assert!(operator_for_key_group(128, 4, 128).is_err());
        assert_eq!(assign_to_key_group(b"x", 0), 0);
    }

    #[test]
    fn a_stored_range_is_checked_when_it_is_read() {
        let range = KeyGroupRange::new(3, 9).unwrap();
        let json = serde_json::to_string(&range).unwrap();
        assert_eq!(json, r#"{"start":3,"end":9}"#);
        assert_eq!(serde_json::from_str::<KeyGroupRange>(&json).unwrap(), range);
        assert!(serde_json::from_str::<KeyGroupRange>(r#"{"start":9,"end":3}"#).is_err());
    }
}
