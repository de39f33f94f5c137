//! Opens the store of a `--remote` URI, and puts a simulated link before it where the URI asks for one.
//!
//! `file:///dir?latency_ms=10&bandwidth_mbps=1000` is a directory that answers as a store at the end of such a link
//! would. For demos and benches only; either parameter may be left out.

use std::{sync::Arc, time::Duration};

use lazurite_env::{
    IoRuntime,
    remote::{self, DelayStore, LinkOptions, RemoteOptions, RemoteStore},
};

use crate::error::{Error, Result};

const LATENCY: &str = "latency_ms";
const BANDWIDTH: &str = "bandwidth_mbps";

/// The link that a URI asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// What every request waits, in milliseconds.
    pub latency_ms: u64,
    /// Megabits per second that all requests share; `None`: as fast as the directory is.
    pub bandwidth_mbps: Option<u64>,
}

impl Link {
    /// The URI parameters that give this link.
    pub fn query(&self) -> String {
        let bandwidth = self
            .bandwidth_mbps
            .map(|mbps| format!("&{BANDWIDTH}={mbps}"));
        format!(
            "{LATENCY}={}{}",
            self.latency_ms,
            bandwidth.unwrap_or_default()
        )
    }

    /// Puts the link before `store`.
    pub fn slow_down(&self, store: Arc<dyn RemoteStore>) -> Result<Arc<dyn RemoteStore>> {
        let options = LinkOptions {
            latency: Duration::from_millis(self.latency_ms),
            bytes_per_second: self.bandwidth_mbps.unwrap_or(0) * 1_000_000 / 8,
        };
        Ok(Arc::new(DelayStore::new(store, options)?))
    }
}

/// Opens the store at `uri`. Blocks for its probe.
pub fn open_store(uri: &str, runtime: &IoRuntime) -> Result<Arc<dyn RemoteStore>> {
    let (uri, link) = split(uri)?;
    let store = remote::open(&uri, &RemoteOptions::default(), runtime)?;
    match link {
        Some(link) => link.slow_down(store),
        None => Ok(store),
    }
}

/// The URI of a local directory.
pub fn file_uri(dir: &std::path::Path) -> Result<String> {
    let dir = std::path::absolute(dir).map_err(Error::file("find", dir))?;
    let text = dir
        .to_str()
        .ok_or_else(|| Error::Usage(format!("{} is not UTF-8, as a URI must be", dir.display())))?;
    let mut uri = "file://".to_owned();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri += &format!("%{byte:02X}");
        }
    }
    Ok(uri)
}

/// Takes the link's parameters out of a file URI; leaves every other URI as it is.
fn split(uri: &str) -> Result<(String, Option<Link>)> {
    let Some((base, query)) = uri.split_once('?').filter(|_| uri.starts_with("file:")) else {
        return Ok((uri.to_owned(), None));
    };
    let mut link = None;
    let mut rest = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some((LATENCY, value)) => {
                let latency_ms = number(LATENCY, value, 0, 60_000)?;
                link.get_or_insert_with(Link::default).latency_ms = latency_ms;
            }
            Some((BANDWIDTH, value)) => {
                let bandwidth_mbps = number(BANDWIDTH, value, 1, 1_000_000)?;
                link.get_or_insert_with(Link::default).bandwidth_mbps = Some(bandwidth_mbps);
            }
            _ => rest.push(pair),
        }
    }
    let query = rest.join("&");
    let separator = if query.is_empty() { "" } else { "?" };
    Ok((format!("{base}{separator}{query}"), link))
}

fn number(name: &str, value: &str, min: u64, max: u64) -> Result<u64> {
    match value.parse() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err(Error::Usage(format!(
            "{name}={value}: must be a number from {min} to {max}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_uri_gives_up_its_link_and_nothing_else() {
        let (uri, link) = split("file:///a/b?latency_ms=10&x=1&bandwidth_mbps=1000").unwrap();
        assert_eq!(uri, "file:///a/b?x=1");
        let want = Link {
            latency_ms: 10,
            bandwidth_mbps: Some(1000),
        };
        assert_eq!(link, Some(want));
        assert_eq!(
            split(&format!("file:///a?{}", want.query())).unwrap(),
            ("file:///a".into(), Some(want))
        );
    }

    #[test]
    fn other_uris_stay_as_they_are() {
        for uri in [
            "file:///a",
            "file:///a?x=1",
            "s3://b/p?latency_ms=10&endpoint=http://h",
            "memory://",
        ] {
            assert_eq!(split(uri).unwrap(), (uri.to_owned(), None));
        }
    }

    #[test]
    fn a_link_that_cannot_be_is_a_usage_error() {
        for query in [
            "latency_ms=",
            "latency_ms=-1",
            "latency_ms=60001",
            "bandwidth_mbps=0",
            "bandwidth_mbps=1e3",
        ] {
            let error = split(&format!("file:///a?{query}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{query}");
        }
    }

    #[test]
    fn a_directory_becomes_a_uri() {
        assert_eq!(
            file_uri(std::path::Path::new("/tmp/a b?c")).unwrap(),
            "file:///tmp/a%20b%3Fc"
        );
    }
}
