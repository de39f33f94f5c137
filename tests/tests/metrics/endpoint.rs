//! The HTTP side.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use lazurite::metrics::{ServeError, serve};

use crate::exposition::{ENDPOINT, ask, scrape};

#[test]
fn only_metrics_are_served_and_only_to_get() {
    let (head, body) = ask("GET /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())));
    let (head, body) = ask("HEAD /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK") && body.is_empty());
    let (head, _) = ask("GET /metrics?name[]=x HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let (head, _) = ask("GET /etc/passwd HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    let (head, _) = ask("POST /metrics HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    let (head, _) = ask("\u{1}\u{2}\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
}

#[test]
fn a_client_that_does_not_ask_holds_nobody_up_for_long() {
    let silent = TcpStream::connect(*ENDPOINT).unwrap();
    let mut slow = TcpStream::connect(*ENDPOINT).unwrap();
    slow.write_all(b"GET /met").unwrap();
    let mut endless = TcpStream::connect(*ENDPOINT).unwrap();
    let _ = endless.write_all(&[b'x'; 20_000]);
    let begun = Instant::now();
    scrape();
    assert!(begun.elapsed() < Duration::from_secs(15));
    drop((silent, slow, endless));
}

#[test]
fn a_second_recorder_and_a_taken_port_are_told_apart() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let _ = *ENDPOINT;
    assert!(matches!(serve(any), Err(ServeError::RecorderInstalled)));
    let taken = TcpListener::bind(any).unwrap();
    let taken = taken.local_addr().unwrap();
    let Err(ServeError::Listen { addr, source }) = serve(*ENDPOINT) else {
        panic!("{} is taken", *ENDPOINT);
    };
    assert_eq!(addr, *ENDPOINT);
    assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
    let _ = taken;
    // An address of documentation, which no machine has.
    let foreign = SocketAddr::from(([192, 0, 2, 1], 9187));
    assert!(matches!(serve(foreign), Err(ServeError::Listen { .. })));
}
