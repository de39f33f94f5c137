//! How keys and values become bytes.
//!
//! A codec has an [`id`](Codec::id) that is recorded in every snapshot, so that a table is never read with another codec
//! than it was written with.
//!
//! Invariant: a **key** codec is deterministic: equal keys give equal bytes, always and on every machine, because the bytes
//! are the identity of the key and decide its key group. So a type whose serialised order changes (`HashMap`, `HashSet`)
//! must not be a key, nor a part of one.

use std::{error::Error as StdError, fmt, ops::Deref, sync::Arc};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

/// Why a codec could not encode or decode. Cheap to clone; keeps its cause.
#[derive(Debug, Clone)]
pub struct CodecError(Arc<dyn StdError + Send + Sync>);

impl CodecError {
    /// An error with this cause: another error, or a sentence.
    pub fn new(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        CodecError(Arc::from(cause.into()))
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for CodecError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

/// Turns a `T` into bytes and back. Called from any thread at once; must not block.
pub trait Codec<T>: Send + Sync + 'static {
    /// Names the format, such as `postcard`. Recorded in snapshots: change it when the format changes.
    fn id(&self) -> &str;

    /// Appends the bytes of `value` to `out`, whose content must be left alone. Deterministic where `T` is a key.
    ///
    /// # Errors
    /// Where the value has no representation.
    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The value whose bytes are `bytes`, all of them.
    ///
    /// # Errors
    /// Where the bytes are not exactly one value.
    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// The default codec: serde's data model in the [postcard](https://docs.rs/postcard) format, compact and deterministic for
/// types that serialise deterministically. Integers are varints, so the order of encoded keys is not the order of numbers.
///
/// The bytes do not describe themselves: adding, removing or reordering the fields of a type makes stored bytes unreadable
/// or, worse, readable as something else. Change the type's declared name
/// ([`type_names`](crate::ValueStateDescriptor::type_names)) together with its fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Postcard;

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    fn id(&self) -> &str {
        "postcard"
    }

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        postcard::serialize_with_flavor(value, Append(out)).map_err(CodecError::new)
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let (value, rest) = postcard::take_from_bytes(bytes).map_err(CodecError::new)?;
        if rest.is_empty() {
            return Ok(value);
        }
        Err(CodecError::new(format!(
            "{} of {} bytes are left after the value",
            rest.len(),
            bytes.len()
        )))
    }
}

/// Postcard's output at the end of a buffer that is reused from call to call.
struct Append<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Bytes as they are, for `Vec<u8>` and `Bytes`. As user keys of a map they keep their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawBytes;

impl Codec<Vec<u8>> for RawBytes {
    fn id(&self) -> &str {
        "raw"
    }

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_vec())
    }
}

impl Codec<Bytes> for RawBytes {
    fn id(&self) -> &str {
        "raw"
    }

    fn encode(&self, value: &Bytes, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

/// A codec that a descriptor holds: a constant, so that descriptors can be `static`, or the user's own.
pub(crate) enum CodecHandle<T: 'static> {
    Static(&'static dyn Codec<T>),
    Shared(Arc<dyn Codec<T>>),
}

impl<T> Clone for CodecHandle<T> {
    fn clone(&self) -> Self {
        match self {
            CodecHandle::Static(codec) => CodecHandle::Static(*codec),
            CodecHandle::Shared(codec) => CodecHandle::Shared(codec.clone()),
        }
    }
}

impl<T> Deref for CodecHandle<T> {
    type Target = dyn Codec<T>;

    fn deref(&self) -> &Self::Target {
        match self {
            CodecHandle::Static(codec) => *codec,
            CodecHandle::Shared(codec) => codec.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode<T: 'static>(codec: &dyn Codec<T>, value: &T) -> Vec<u8> {
        let mut out = b"kept".to_vec();
        codec.encode(value, &mut out).unwrap();
        assert_eq!(&out[..4], b"kept");
        out.split_off(4)
    }

    #[test]
    fn postcard_round_trips_and_rejects_what_is_left_over() {
        let value = ("word".to_string(), 300u64, vec![1u8, 2]);
        let mut bytes = encode(&Postcard, &value);
        assert_eq!(
            <Postcard as Codec<(String, u64, Vec<u8>)>>::decode(&Postcard, &bytes).unwrap(),
            value
        );
        bytes.push(0);
        let error =
            <Postcard as Codec<(String, u64, Vec<u8>)>>::decode(&Postcard, &bytes).unwrap_err();
        assert!(
            error.to_string().contains("1 of 11 bytes are left"),
            "{error}"
        );
        assert!(<Postcard as Codec<String>>::decode(&Postcard, &[5, b'a']).is_err());
    }

    #[test]
    fn raw_bytes_are_the_bytes() {
        assert_eq!(encode(&RawBytes, &b"abc".to_vec()), b"abc");
        assert_eq!(encode(&RawBytes, &Bytes::from_static(b"")), b"");
        let bytes: Bytes = RawBytes.decode(b"abc").unwrap();
        assert_eq!(bytes, "abc");
    }
}
