//! Scrapes the endpoint of this process, and reads the text format.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::LazyLock,
};

/// The one endpoint of this process.
pub static ENDPOINT: LazyLock<SocketAddr> = LazyLock::new(|| {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    lazurite::metrics::serve(any).expect("a free port and no other recorder")
});

/// One sample, histograms as their own samples.
#[derive(Debug, Clone)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// A metric as it is served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Served {
    pub kind: String,
    pub labels: BTreeSet<String>,
    pub help: String,
}

/// One scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    pub metrics: BTreeMap<String, Served>,
    pub samples: Vec<Sample>,
}

/// The answer to a request: head and body.
pub fn ask(request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(*ENDPOINT).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// What is served now.
pub fn scrape() -> Scrape {
    let (head, body) = ask("GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    parse(&body)
}

impl Scrape {
    /// The value of the one sample of that name whose labels include these.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = self.matching(name, labels).collect();
        match found[..] {
            [sample] => sample.value,
            _ => panic!("{name} {labels:?}: {found:?}"),
        }
    }

    /// The sum over such samples, of which there is at least one.
    #[track_caller]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.matching(name, labels).count() > 0, "{name} {labels:?}");
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        let fits = move |sample: &&Sample| {
            let has = |(label, value): &(&str, &str)| {
                sample
                    .labels
                    .get(*label)
                    .is_some_and(|found| found == value)
            };
            sample.name == name && labels.iter().all(has)
        };
        self.samples.iter().filter(fits)
    }
}

fn parse(body: &str) -> Scrape {
    let mut scrape = Scrape::default();
    for line in body.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            scrape.metrics.entry(name.into()).or_default().help = help.into();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            scrape.metrics.entry(name.into()).or_default().kind = kind.into();
        } else {
            let sample = sample(line);
            let metric = family(&scrape.metrics, &sample.name);
            let metric = scrape.metrics.get_mut(&metric).unwrap();
            let mut labels: BTreeSet<String> = sample.labels.keys().cloned().collect();
            if metric.kind == "histogram" {
                labels.remove("le");
            }
            assert!(
                metric.labels.is_empty() || metric.labels == labels,
                "{line}: other series of it have {:?}",
                metric.labels
            );
            metric.labels = labels;
            scrape.samples.push(sample);
        }
    }
    scrape
}

/// The metric that a sample belongs to.
fn family(metrics: &BTreeMap<String, Served>, name: &str) -> String {
    let of_histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
        let base = name.strip_suffix(suffix)?;
        (metrics.get(base)?.kind == "histogram").then(|| base.to_owned())
    });
    of_histogram.unwrap_or_else(|| name.to_owned())
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').unwrap();
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
    };
    // No label value of these tests holds a quote or a comma.
    let labels = labels.split(',').filter(|pair| !pair.is_empty());
    Sample {
        name: name.to_owned(),
        labels: labels
            .map(|pair| {
                let (label, value) = pair.split_once('=').unwrap();
                (label.to_owned(), value.trim_matches('"').to_owned())
            })
            .collect(),
        value: value.parse().unwrap_or_else(|_| panic!("{line}")),
    }
}
