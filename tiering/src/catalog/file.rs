//! The durable form of the catalog: a [framed](crate::framed) file with a JSON body.
//!
//! Version 2 differs from 1 in that a tail may be without a place in the bundle. It is written only where there is such a
//! tail, so that programs which know version 1 alone read the others.

use std::path::Path;

use lazurite_env::{Error, ErrorKind, Result, remote::Key};
use serde::{Deserialize, Serialize};

use super::{CatalogEntry, RemoteFile, TailSpec};
use crate::{Checksum, framed, tails::Bundle};

const FORMAT: &str = "lazurite-catalog";
const NEWEST_VERSION: u32 = 2;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    tails: Option<Tails>,
    files: Vec<File>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tails {
    name: String,
    len: u64,
    xxh3: Checksum,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    level: u8,
    key: String,
    len: u64,
    xxh3: Checksum,
    tail: Option<Tail>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    offset: u64,
    bundle_offset: Option<u64>,
    xxh3: Checksum,
}

/// What a catalog file holds.
pub(crate) struct Decoded {
    pub tails: Option<Bundle>,
    pub entries: Vec<CatalogEntry>,
}

/// The bytes of the catalog file.
pub(super) fn encode<'a>(
    path: &Path,
    tails: Option<&Bundle>,
    entries: impl Iterator<Item = &'a CatalogEntry>,
) -> Result<Vec<u8>> {
    let mut version = 1;
    let body = Body {
        tails: tails.map(|bundle| Tails {
            name: bundle.name.clone(),
            len: bundle.len,
            xxh3: bundle.checksum,
        }),
        files: entries
            .map(|entry| File {
                name: entry.name.clone(),
                level: entry.level,
                key: entry.file.key.as_str().to_owned(),
                len: entry.file.len,
                xxh3: entry.file.checksum,
                tail: entry.tail.map(|tail| {
                    if tail.bundle_offset.is_none() {
                        version = 2;
                    }
                    Tail {
                        offset: tail.offset,
                        bundle_offset: tail.bundle_offset,
                        xxh3: tail.checksum,
                    }
                }),
            })
            .collect(),
    };
    let body = serde_json::to_vec(&body)
        .map_err(|e| Error::with_source(ErrorKind::InvalidInput, "encode", path, "", e))?;
    Ok(framed::encode(FORMAT, version, &body))
}

/// Reads and checks the bytes of the catalog file at `path`, which every error names.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Decoded> {
    let bad = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::with_source(ErrorKind::Corruption, "decode", path, "bad catalog", e)
    };
    let (_, body) = framed::decode(FORMAT, NEWEST_VERSION, &path.display().to_string(), bytes)?;
    let body: Body = serde_json::from_slice(body).map_err(|e| bad(e.into()))?;
    check(body).map_err(|e| bad(e.into()))
}

fn check(body: Body) -> Result<Decoded> {
    let tails = match body.tails {
        Some(tails) => Some(Bundle::new(tails.name, tails.len, tails.xxh3)?),
        None => None,
    };
    let entries = body
        .files
        .into_iter()
        .map(|file| {
            Ok(CatalogEntry {
                name: file.name,
                level: file.level,
                file: RemoteFile {
                    key: Key::new(file.key)?,
                    len: file.len,
                    checksum: file.xxh3,
                },
                tail: file.tail.map(|tail| TailSpec {
                    offset: tail.offset,
                    bundle_offset: tail.bundle_offset,
                    checksum: tail.xxh3,
                }),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    CatalogEntry::check_all(&entries, tails.as_ref().map_or(0, |bundle| bundle.len))?;
    Ok(Decoded { tails, entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tail_without_a_place_needs_version_2() {
        let path = Path::new("CATALOG");
        let entry = |bundle_offset| CatalogEntry {
            name: "000012.sst".into(),
            level: 1,
            file: RemoteFile {
                key: Key::new("job/shared/1.sst").unwrap(),
                len: 1000,
                checksum: Checksum::of(b"file"),
            },
            tail: Some(TailSpec {
                offset: 900,
                bundle_offset,
                checksum: Checksum::of(b"tail"),
            }),
        };
        let bundle = Bundle::new("bundle".into(), 100, Checksum::of(b"bundle")).unwrap();
        for (bundle_offset, version) in [(Some(0), 1), (None, 2)] {
            let bytes = encode(path, Some(&bundle), [&entry(bundle_offset)].into_iter()).unwrap();
            let header = format!("{{\"format\":\"lazurite-catalog\",\"version\":{version},");
            assert!(bytes.starts_with(header.as_bytes()));
            let decoded = decode(path, &bytes).unwrap();
            assert_eq!(decoded.entries, [entry(bundle_offset)]);
        }
    }
}
