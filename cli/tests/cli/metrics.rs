//! `--metrics-addr`: what a scraper sees of a run.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use crate::support::{Job, write_text};

/// The body of one scrape; the answer must be a good one.
fn scrape(addr: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {addr}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into()); // the process ended
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    Ok(body.to_owned())
}

/// Every sample by its series; comments must be of the two kinds that there are.
fn parse(body: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in body.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let known = comment.starts_with("HELP ") || comment.starts_with("TYPE ");
            assert!(known, "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(samples.insert(series.to_owned(), value).is_none(), "{line}");
    }
    samples
}

#[test]
fn a_run_is_scraped_while_it_runs() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 30_000);
    let job = Job::new(temp.path(), &text);
    // Slow enough to be met at work.
    let slow = format!("{}?latency_ms=20", job.remote());
    let mut child = job
        .command_over(&slow, 500, "lazy")
        .args(["--metrics-addr", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    let addr = line
        .strip_prefix("lazurite: metrics at http://")
        .and_then(|rest| rest.strip_suffix("/metrics\n"))
        .unwrap_or_else(|| panic!("{line}"))
        .to_owned();

    let (mut snapshots, mut requests) = (Vec::new(), Vec::new());
    let until = Instant::now() + Duration::from_secs(120);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "it does not end");
        // It may end between the look and the scrape.
        let Ok(body) = scrape(&addr) else { break };
        let samples = parse(&body);
        let of = |series: &str| samples.get(series).copied();
        let complete = "lazurite_snapshots_total{backend=\"wordcount\",result=\"complete\"}";
        snapshots.extend(of(complete));
        let puts = "lazurite_store_requests_total{backend=\"wordcount\",store=\"file\",operation=\"put\",result=\"ok\"}";
        requests.extend(of(puts));
        // Whoever watches gets what RocksDB counts only when asked to, too.
        assert!(
            of("lazurite_block_cache_misses_total{backend=\"wordcount\"}").is_some()
                || snapshots.is_empty()
        );
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(child.wait().unwrap().success());
    for (what, values) in [("snapshots", &snapshots), ("requests", &requests)] {
        assert!(values.is_sorted(), "{what}: {values:?}");
        let grew = values.first() < values.last();
        assert!(grew, "{what}: {values:?}");
    }
}

#[test]
fn an_address_that_cannot_be_served_is_said_before_anything_is_done() {
    let temp = tempfile::tempdir().unwrap();
    let text = temp.path().join("text");
    write_text(&text, 10);
    let job = Job::new(temp.path(), &text);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = job
        .command(500, "lazy")
        .args(["--metrics-addr", &addr])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&addr) && said.contains("in use"), "{said}");
    assert!(!job.dir.exists() && !job.store.exists());
    let output = job
        .command(500, "lazy")
        .args(["--metrics-addr", "nowhere"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
}
