//! [`Checksum`]: the xxh3-128 of a file's bytes, by which every byte from a remote store is verified.
//!
//! It finds damage, not malice: whoever can write to the store can also write a matching checksum.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The xxh3-128 (seed 0) of some bytes. Shown and stored as 32 lower-case hex digits, most significant first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum(u128);

impl Checksum {
    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Checksum(xxh3_128(bytes))
    }

    /// Reads 32 lower-case hex digits; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.as_bytes().iter().all(hex) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Checksum)
    }

    /// The 16 bytes, most significant first.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl From<u128> for Checksum {
    fn from(xxh3: u128) -> Self {
        Checksum(xxh3)
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Checksum::from_hex(&text)
            .ok_or_else(|| de::Error::custom("a checksum is 32 lower-case hex digits"))
    }
}

/// Computes a [`Checksum`] of bytes that come piece by piece. Bytes hash to the same value however they are cut.
#[derive(Clone, Default)]
pub struct ChecksumHasher(Xxh3);

impl ChecksumHasher {
    /// A hasher that has seen no byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes at the end.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn finish(&self) -> Checksum {
        Checksum(self.0.digest128())
    }
}

impl fmt::Debug for ChecksumHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChecksumHasher({})", self.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value_hex_and_streaming_agree() {
        // The value that the xxHash reference gives for no bytes.
        assert_eq!(
            Checksum::of(b"").to_string(),
            "99aa06d3014798d86001c324468d497f"
        );
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut hasher = ChecksumHasher::new();
        for piece in bytes.chunks(1013) {
            hasher.update(piece);
        }
        let sum = Checksum::of(&bytes);
        assert_eq!(hasher.finish(), sum);
        assert_eq!(Checksum::from_hex(&sum.to_string()), Some(sum));
        let json = serde_json::to_string(&sum).unwrap();
        assert_eq!(serde_json::from_str::<Checksum>(&json).unwrap(), sum);
    }

    #[test]
    fn hex_that_is_not_ours_is_refused() {
        for bad in [
            "",
            "9",
            "+9aa06d3014798d86001c324468d497f",
            "99AA06D3014798D86001C324468D497F",
        ] {
            assert_eq!(Checksum::from_hex(bad), None, "{bad}");
        }
    }
}
