//! Framed files: one header line of JSON that tells format, version, length and checksum, then the body.
//!
//! ```text
//! {"format":"lazurite-catalog","version":1,"length":123,"xxh3":"<32 hex>"}\n
//! <123 bytes of body>\n
//! ```
//! A person can read such a file, and a damaged, cut or newer one is told apart before its body is looked at.
//! `length` counts the body without the newline that ends the file; `xxh3` is over the same bytes.

use lazurite_env::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::Checksum;

/// A header line is about 120 bytes; what has none within this many is of another format.
const MAX_HEADER_BYTES: usize = 1024;

/// What every version of the header has.
#[derive(Deserialize)]
struct Probe {
    format: String,
    version: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: u32,
    length: u64,
    xxh3: Checksum,
}

/// The bytes of a framed file. `format` is a plain name (`[a-z-]`), `version` at least 1.
pub fn encode(format: &str, version: u32, body: &[u8]) -> Vec<u8> {
    debug_assert!(version > 0 && format.chars().all(|c| c == '-' || c.is_ascii_lowercase()));
    let (length, xxh3) = (body.len(), Checksum::of(body));
    let mut file = format!(
        "{{\"format\":\"{format}\",\"version\":{version},\"length\":{length},\"xxh3\":\"{xxh3}\"}}\n"
    )
    .into_bytes();
    file.extend_from_slice(body);
    file.push(b'\n');
    file
}

/// The version and the verified body of the framed file `bytes`; `path` is only for errors.
///
/// # Errors
/// `Unsupported` where a newer version of this program wrote it. `Corruption` where it is of another format, cut, or
/// its bytes do not match its checksum.
pub fn decode<'a>(
    format: &str,
    max_version: u32,
    path: &str,
    bytes: &'a [u8],
) -> Result<(u32, &'a [u8])> {
    let corrupt = |message: String| Error::new(ErrorKind::Corruption, "decode", path, message);
    let other = |why: &str| corrupt(format!("not a {format} file: {why}"));

    let head = &bytes[..bytes.len().min(MAX_HEADER_BYTES)];
    let end = head.iter().position(|&b| b == b'\n').ok_or_else(|| {
        if bytes.len() < MAX_HEADER_BYTES {
            corrupt("truncated in its first line".into())
        } else {
            other("its first line is no header")
        }
    })?;
    let (header, rest) = (&bytes[..end], &bytes[end + 1..]);
    let probe: Probe =
        serde_json::from_slice(header).map_err(|_| other("its first line is no header"))?;
    if probe.format != format {
        return Err(other("its header names another format"));
    }
    if probe.version > max_version {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "decode",
            path,
            format!(
                "written by a newer version (format version {}, this program reads up to {max_version}): upgrade",
                probe.version
            ),
        ));
    }
    if probe.version == 0 {
        return Err(corrupt("its header names version 0".into()));
    }
    let header: Header =
        serde_json::from_slice(header).map_err(|e| corrupt(format!("bad header: {e}")))?;

    // The body and the newline after it.
    let found = rest.len() as u64;
    if found <= header.length {
        return Err(corrupt(format!(
            "truncated: the body should have {} bytes and a newline, {found} bytes are there",
            header.length
        )));
    }
    let (body, ending) = rest.split_at(header.length as usize);
    if ending != b"\n" {
        return Err(corrupt("does not end where its header says".into()));
    }
    let actual = Checksum::of(body);
    if actual != header.xxh3 {
        return Err(corrupt(format!(
            "checksum mismatch: the header says {}, the body has {actual}",
            header.xxh3
        )));
    }
    Ok((probe.version, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for body in [&b""[..], b"{}", b"two\nlines"] {
            let file = encode("lazurite-test", 2, body);
            assert_eq!(decode("lazurite-test", 3, "f", &file).unwrap(), (2, body));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let file = encode("lazurite-test", 1, b"{\"a\": [1, 2, 3]}");
        for bit in 0..file.len() * 8 {
            let mut bad = file.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let error = decode("lazurite-test", 1, "some/path", &bad).unwrap_err();
            assert_eq!(error.path(), "some/path", "bit {bit}");
        }
        for len in 0..file.len() {
            let error = decode("lazurite-test", 1, "f", &file[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corruption, "length {len}");
        }
        let longer = [&file[..], b"\n"].concat();
        assert!(decode("lazurite-test", 1, "f", &longer).is_err());
    }

    #[test]
    fn a_newer_version_says_upgrade_whatever_its_header_holds() {
        let newer = b"{\"format\":\"lazurite-test\",\"version\":9,\"blake3\":\"x\"}\n...";
        let error = decode("lazurite-test", 1, "f", newer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("upgrade"), "{error}");
    }

    #[test]
    fn another_format_is_told_apart() {
        let file = encode("lazurite-other", 1, b"{}");
        let error = decode("lazurite-test", 1, "f", &file).unwrap_err();
        assert!(error.to_string().contains("another format"), "{error}");
        let error = decode("lazurite-test", 1, "f", &[b'x'; 5000]).unwrap_err();
        assert!(error.to_string().contains("not a lazurite-test"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            proptest::prop_assert!(decode("lazurite-test", 1, "f", &bytes).is_err());
        }
    }
}
