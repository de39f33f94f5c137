//! [`serve`]: the endpoint that Prometheus scrapes.
//!
//! Two threads: one answers, one request after the other, as a scraper asks; one empties the buffers of the histograms where
//! nobody scrapes. They live as long as the process. A client that says nothing, or takes nothing, is let go after
//! [`PATIENCE`], so that it holds up a scrape for no longer.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

use super::{collect, enable};

/// Upper bounds of the buckets of every duration, in seconds: from a request on a fast network to a restore of terabytes.
const BUCKETS: [f64; 17] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 300.0,
];

/// How long a client may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Longest head of a request.
const HEAD_MAX: usize = 8 << 10;

/// How often durations are put into their buckets where nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be listened on: another process has the port, or the address is no address of this machine.
    #[error("cannot serve metrics on {addr}; choose a free port and an address of this machine")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The program has a recorder of the `metrics` crate already, and there is one per process.
    #[error(
        "a recorder of the metrics crate is installed already; use it: call metrics::enable once and metrics::collect \
         before each look at its figures"
    )]
    RecorderInstalled,
    /// The operating system gave no thread.
    #[error("cannot start the thread that serves metrics")]
    Thread(#[source] io::Error),
}

/// Serves the figures of every backend of this process at `http://<addr>/metrics`, in the text format of Prometheus, from
/// now on for as long as the process lives. Returns the address, with the port that was chosen where `addr` has port 0.
///
/// To be called once, before backends are opened where the phases of their restores are to be seen. Anyone who reaches
/// the address can read the figures, names of jobs among them; nothing else is served.
///
/// # Errors
/// [`ServeError`]; nothing was installed then, but where a thread was missing.
pub fn serve(addr: SocketAddr) -> Result<SocketAddr, ServeError> {
    let listen = |source| ServeError::Listen { addr, source };
    let listener = TcpListener::bind(addr).map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let handle = install()?;
    enable();
    let upkeep = handle.clone();
    spawn("lazurite-metrics-upkeep", move || {
        loop {
            thread::sleep(UPKEEP);
            upkeep.run_upkeep();
        }
    })?;
    spawn("lazurite-metrics", move || {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    if let Err(error) = answer(stream, &handle) {
                        tracing::debug!(%error, "a scrape of the metrics was cut short");
                    }
                }
                Err(error) => {
                    // Too many open files, say: do not spin.
                    tracing::warn!(%error, "a connection for metrics could not be accepted");
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    })?;
    tracing::info!(%bound, "metrics are served");
    Ok(bound)
}

fn install() -> Result<PrometheusHandle, ServeError> {
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS);
    match builder.and_then(PrometheusBuilder::install_recorder) {
        Ok(handle) => Ok(handle),
        Err(BuildError::FailedToSetGlobalRecorder(_)) => Err(ServeError::RecorderInstalled),
        // The buckets are not empty, and nothing else can fail; should it, there is no thread to blame it on.
        Err(error) => Err(ServeError::Thread(io::Error::other(error))),
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ServeError> {
    let thread = thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(ServeError::Thread)
}

/// Reads one request and answers it, as HTTP/1.1 with one request for each connection.
fn answer(mut stream: TcpStream, handle: &PrometheusHandle) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream)?;
    let mut words = head.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let (status, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics" | "/") => {
            collect();
            ("200 OK", handle.render())
        }
        ("GET" | "HEAD", _) => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "ask with GET\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

/// The head of a request, as far as it is text. A client that sends byte after byte is let go at the same time as one that
/// sends none.
fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > HEAD_MAX {
            return Err(io::Error::other("the request does not end"));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
