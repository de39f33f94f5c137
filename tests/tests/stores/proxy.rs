//! A proxy before an S3 endpoint: counts connections, records requests, and can make the way longer.
//!
//! It reads requests by their heads (`Content-Length` says where a body ends) and passes the bytes on as they are; answers
//! pass unread.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use lazurite_env::IoRuntime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::mpsc,
    time::Instant,
};

pub struct Proxy {
    pub address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub connections: usize,
    /// Heads of requests: the request line and the header lines, as they were sent.
    pub requests: Vec<String>,
    /// Most bodies of uploads that were being sent at once.
    pub uploads_at_once: usize,
    uploads_now: usize,
}

impl Seen {
    /// How many requests begin so.
    pub fn count(&self, method: &str) -> usize {
        self.requests
            .iter()
            .filter(|r| r.starts_with(method))
            .count()
    }
}

impl Proxy {
    /// Passes on to `endpoint` (`http://host:port`), each way `one_way` later.
    pub fn start(endpoint: &str, one_way: Duration, runtime: &IoRuntime) -> Self {
        let target = endpoint.strip_prefix("http://").unwrap().to_owned();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = seen.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((client, _)) = listener.accept().await {
                shared.lock().unwrap().connections += 1;
                let Ok(server) = TcpStream::connect(&target).await else {
                    continue;
                };
                client.set_nodelay(true).unwrap();
                server.set_nodelay(true).unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let head = Head::new(shared.clone());
                tokio::spawn(pass(from_client, to_server, one_way, Some(head)));
                tokio::spawn(pass(from_server, to_client, one_way, None));
            }
        });
        Proxy { address, seen }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was seen since the last call.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    one_way: Duration,
    mut head: Option<Head>,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    });
    let mut buffer = vec![0; 256 << 10];
    while let Ok(n) = from.read(&mut buffer).await
        && n > 0
    {
        if let Some(head) = &mut head {
            head.read(&buffer[..n]);
        }
        if sender
            .send((Instant::now() + one_way, buffer[..n].to_vec()))
            .is_err()
        {
            return;
        }
    }
}

/// Finds the heads in one connection's stream of requests.
struct Head {
    seen: Arc<Mutex<Seen>>,
    head: Vec<u8>,
    /// Bytes of the body that are still to come.
    body: usize,
    is_upload: bool,
}

impl Head {
    fn new(seen: Arc<Mutex<Seen>>) -> Self {
        Head {
            seen,
            head: Vec::new(),
            body: 0,
            is_upload: false,
        }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.body > 0 {
                let taken = self.body.min(bytes.len());
                self.body -= taken;
                bytes = &bytes[taken..];
                if self.body == 0 && self.is_upload {
                    self.seen.lock().unwrap().uploads_now -= 1;
                }
                continue;
            }
            self.head.push(bytes[0]);
            bytes = &bytes[1..];
            if self.head.ends_with(b"\r\n\r\n") {
                self.finish();
            }
        }
    }

    fn finish(&mut self) {
        let head = String::from_utf8(std::mem::take(&mut self.head)).unwrap();
        let lower = head.to_ascii_lowercase();
        assert!(!lower.contains("transfer-encoding"), "{head}");
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        self.body = length.map_or(0, |length| length.trim().parse().unwrap());
        self.is_upload = head.starts_with("PUT ") && self.body > 0;
        let mut seen = self.seen.lock().unwrap();
        if self.is_upload {
            seen.uploads_now += 1;
            seen.uploads_at_once = seen.uploads_at_once.max(seen.uploads_now);
        }
        seen.requests.push(head);
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        if self.is_upload && self.body > 0 {
            self.seen.lock().unwrap().uploads_now -= 1;
        }
    }
}
