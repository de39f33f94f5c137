//! [`StoreUri`]: a store's URI, parsed and checked before anything is opened.
//!
//! Invariant: no secret passes through here. A URI that carries one is refused, and no error repeats any part of a URI
//! beyond its scheme before the whole of it was found to be free of secrets.

use std::{fmt, path::PathBuf};

use url::{Url, form_urlencoded};

use crate::{Error, ErrorKind, Result};

use super::Key;

/// One store and the prefix below which everything is kept. Displays as the URI that gives it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoreUri {
    /// `file:///absolute/path`
    File { root: PathBuf },
    /// `memory://name`, or `memory://` for a store that nobody else can open.
    Memory { name: Option<String> },
    /// `s3://bucket/prefix?endpoint=…&region=…&virtual_host_style=true`
    S3 {
        place: Place,
        endpoint: Option<String>,
        region: Option<String>,
        virtual_host_style: bool,
    },
    /// `hdfs://host:port/prefix`; without a port the host is a name service of the Hadoop configuration.
    Hdfs { place: Place },
    /// `webhdfs://host:port/prefix`
    WebHdfs { place: Place },
    /// `gs://bucket/prefix?endpoint=…`
    Gcs {
        place: Place,
        endpoint: Option<String>,
    },
    /// `az://container/prefix?account=…&endpoint=…`
    Azblob {
        place: Place,
        account: Option<String>,
        endpoint: Option<String>,
    },
}

/// Bucket, container or host, and the prefix in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: String,
    /// Without slashes at its ends; empty for all of the host.
    pub(super) prefix: String,
}

impl StoreUri {
    /// Takes the URIs named at [`open`](super::open); `InvalidInput` with one sentence for any other.
    pub(super) fn parse(uri: &str) -> Result<Self> {
        let scheme = match uri.split_once("://").map(|(scheme, _)| scheme) {
            Some("file") => "file",
            Some("memory") => "memory",
            Some("s3" | "s3a" | "s3n") => "s3",
            Some("hdfs") => "hdfs",
            Some("webhdfs") => "webhdfs",
            Some("gs" | "gcs") => "gs",
            Some("az" | "azblob") => "az",
            _ => {
                return Err(bad(
                    "remote store",
                    "its URI must begin with file://, memory://, s3://, hdfs://, webhdfs://, gs:// or az://",
                ));
            }
        };
        let url = Url::parse(uri).map_err(|e| bad(scheme, &format!("not a URI: {e}")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad(
                scheme,
                "a URI must not hold credentials; they are taken from the usual environment variables and files",
            ));
        }
        if url.fragment().is_some() {
            return Err(bad(scheme, "a store's URI has no `#` part"));
        }
        let mut query = Query::read(scheme, &url)?;
        let parsed = match scheme {
            "file" => StoreUri::File {
                root: file_root(&url)?,
            },
            "memory" => StoreUri::Memory {
                name: memory_name(&url)?,
            },
            "s3" => StoreUri::S3 {
                place: Place::read(scheme, &url, "a bucket")?,
                endpoint: query.endpoint()?,
                region: query.take("region")?,
                virtual_host_style: query.flag("virtual_host_style")?,
            },
            "hdfs" => StoreUri::Hdfs {
                place: Place::read(scheme, &url, "a name node")?,
            },
            "webhdfs" => StoreUri::WebHdfs {
                place: Place::read(scheme, &url, "a name node")?,
            },
            "gs" => StoreUri::Gcs {
                place: Place::read(scheme, &url, "a bucket")?,
                endpoint: query.endpoint()?,
            },
            _ => StoreUri::Azblob {
                place: Place::read(scheme, &url, "a container")?,
                account: query.take("account")?,
                endpoint: query.endpoint()?,
            },
        };
        query.end()?;
        Ok(parsed)
    }

    /// The URI without its query: what error messages put before a key.
    pub(super) fn base(&self) -> String {
        let shown = self.to_string();
        match shown.split_once('?') {
            Some((base, _)) => base.to_owned(),
            None => shown,
        }
    }
}

impl fmt::Display for StoreUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let mut add = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        };
        match self {
            StoreUri::File { root } => match Url::from_file_path(root) {
                Ok(url) => write!(f, "{url}")?,
                Err(()) => write!(f, "file://{}", root.display())?,
            },
            StoreUri::Memory { name } => write!(f, "memory://{}", name.as_deref().unwrap_or(""))?,
            StoreUri::S3 {
                place,
                endpoint,
                region,
                virtual_host_style,
            } => {
                write!(f, "s3://{place}")?;
                add("endpoint", endpoint);
                add("region", region);
                add(
                    "virtual_host_style",
                    &virtual_host_style.then(|| "true".to_owned()),
                );
            }
            StoreUri::Hdfs { place } => write!(f, "hdfs://{place}")?,
            StoreUri::WebHdfs { place } => write!(f, "webhdfs://{place}")?,
            StoreUri::Gcs { place, endpoint } => {
                write!(f, "gs://{place}")?;
                add("endpoint", endpoint);
            }
            StoreUri::Azblob {
                place,
                account,
                endpoint,
            } => {
                write!(f, "az://{place}")?;
                add("account", account);
                add("endpoint", endpoint);
            }
        }
        let query = query.finish();
        if query.is_empty() {
            Ok(())
        } else {
            write!(f, "?{query}")
        }
    }
}

impl Place {
    fn read(scheme: &'static str, url: &Url, what: &str) -> Result<Self> {
        let host = match (url.host_str(), url.port()) {
            (None | Some(""), _) => {
                return Err(bad(scheme, &format!("{what} must follow {scheme}://")));
            }
            (Some(host), None) => host.to_owned(),
            (Some(host), Some(port)) => format!("{host}:{port}"),
        };
        let prefix = decode(scheme, url.path())?;
        let prefix = prefix.trim_matches('/').to_owned();
        if !prefix.is_empty() && Key::new(prefix.clone()).is_err() {
            return Err(bad(
                scheme,
                "the prefix must have no empty, `.` or `..` part",
            ));
        }
        Ok(Place { host, prefix })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

fn file_root(url: &Url) -> Result<PathBuf> {
    match url.host_str() {
        None | Some("") => url
            .to_file_path()
            .map_err(|()| bad("file", "not an absolute path")),
        Some(_) => Err(bad(
            "file",
            "three slashes must stand before the absolute path: file:///path",
        )),
    }
}

fn memory_name(url: &Url) -> Result<Option<String>> {
    if !matches!(url.path(), "" | "/") || url.port().is_some() {
        return Err(bad("memory", "only a name may follow memory://"));
    }
    Ok(url.host_str().filter(|n| !n.is_empty()).map(str::to_owned))
}

/// The parameters that are left to be asked for.
struct Query {
    scheme: &'static str,
    pairs: Vec<(String, String)>,
}

impl Query {
    fn read(scheme: &'static str, url: &Url) -> Result<Self> {
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        for (at, (name, _)) in pairs.iter().enumerate() {
            if pairs[..at].iter().any(|(other, _)| other == name) {
                return Err(bad(scheme, "a parameter is given twice"));
            }
        }
        Ok(Query { scheme, pairs })
    }

    fn take(&mut self, name: &str) -> Result<Option<String>> {
        let Some(at) = self.pairs.iter().position(|(n, _)| n == name) else {
            return Ok(None);
        };
        match self.pairs.swap_remove(at).1 {
            value if value.is_empty() => Err(bad(self.scheme, &format!("`{name}` is empty"))),
            value => Ok(Some(value)),
        }
    }

    fn flag(&mut self, name: &str) -> Result<bool> {
        match self.take(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(bad(self.scheme, &format!("`{name}` must be true or false"))),
        }
    }

    fn endpoint(&mut self) -> Result<Option<String>> {
        let Some(endpoint) = self.take("endpoint")? else {
            return Ok(None);
        };
        let sound = Url::parse(&endpoint).is_ok_and(|url| {
            matches!(url.scheme(), "http" | "https")
                && url.has_host()
                && url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none()
        });
        if sound {
            Ok(Some(endpoint.trim_end_matches('/').to_owned()))
        } else {
            Err(bad(
                self.scheme,
                "`endpoint` must be http://host:port or https://host:port, without credentials",
            ))
        }
    }

    /// Refuses what nobody asked for, without repeating it: a misspelt name may have been meant for a secret.
    fn end(self) -> Result<()> {
        if self.pairs.is_empty() {
            return Ok(());
        }
        let known = match self.scheme {
            "s3" => "only endpoint, region and virtual_host_style",
            "gs" => "only endpoint",
            "az" => "only account and endpoint",
            _ => "no parameters",
        };
        Err(bad(
            self.scheme,
            &format!(
                "{}:// takes {known} after `?`; credentials come from the usual environment variables and files",
                self.scheme
            ),
        ))
    }
}

/// Undoes percent-encoding.
fn decode(scheme: &'static str, path: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| bad(scheme, "the prefix is not UTF-8"))
}

fn bad(what: impl AsRef<std::path::Path>, message: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, "parse URI", what, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(uri: &str) -> String {
        StoreUri::parse(uri).unwrap().to_string()
    }

    #[test]
    fn good_ones_come_back_in_one_form() {
        for uri in [
            "file:///var/lib/state",
            "memory://",
            "memory://name",
            "s3://bucket",
            "s3://bucket/a/b?endpoint=http%3A%2F%2F127.0.0.1%3A8000&region=eu-west-1",
            "s3://under_score/a?virtual_host_style=true",
            "hdfs://nameservice/a",
            "hdfs://10.0.0.1:9000/a/b",
            "gs://bucket/a",
            "az://container/a?account=name",
        ] {
            assert_eq!(shown(uri), uri);
        }
        assert_eq!(shown("s3a://bucket/a/"), "s3://bucket/a");
        assert_eq!(
            shown("s3://b?endpoint=http://h:1/"),
            "s3://b?endpoint=http%3A%2F%2Fh%3A1"
        );
        assert_eq!(shown("hdfs://h:9000/a%20b"), "hdfs://h:9000/a b");
        let file = StoreUri::parse("file:///a%20b/c").unwrap();
        assert_eq!(
            file,
            StoreUri::File {
                root: "/a b/c".into()
            }
        );
        assert_eq!(
            StoreUri::parse("s3://b/p?region=r").unwrap().base(),
            "s3://b/p"
        );
    }

    #[test]
    fn bad_ones_are_refused_without_repeating_a_secret() {
        for uri in [
            "",
            "/var/lib/state",
            "ftp://host/SECRET",
            "file://var/lib/state",
            "file:///var?x=SECRET",
            "memory://name/path",
            "s3://",
            "s3://USER:SECRET@bucket/a",
            "s3://SECRET@bucket/a",
            "s3://bucket?access_key_id=SECRET",
            "s3://bucket?SECRET",
            "s3://bucket?region=a&region=SECRET",
            "s3://bucket?endpoint=http://u:SECRET@h",
            "s3://bucket?endpoint=SECRET",
            "s3://bucket?virtual_host_style=SECRET",
            "s3://bucket/a//b",
            "s3://bucket/a#SECRET",
            "hdfs:///no-host",
            "hdfs://host/a?user=SECRET",
            "s3://buck et:SECRET/",
        ] {
            let error = StoreUri::parse(uri).expect_err(uri);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{uri}");
            assert!(!format!("{error} {error:?}").contains("SECRET"), "{error}");
            assert!(!error.message().is_empty());
        }
    }
}
