//! Clients that take their time, and many of them.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ureq::http::Method;

use super::{ask, read, serving};
use forebay_tests::wait_for;

/// Longer than a head may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than a body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(90);

fn connected(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    stream
}

#[test]
fn who_sends_byte_by_byte_is_cut_off_and_nobody_waits_for_it() {
    let forebay = serving(&[]);
    let api = &forebay.api;
    let began = Instant::now();
    let head = b"GET /api/jobs HTTP/1.1\r\nHost: a\r\nX-A: ".to_vec();
    let mut heads: Vec<(TcpStream, bool)> = (0..100).map(|_| (connected(api.address()), false)).collect();
    let mut body = connected(api.address());
    body.write_all(b"POST /api/session HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n{").unwrap();
    let (mut sent, mut told) = (0, String::new());
    wait_for("all to be cut off", BODY_PATIENCE.as_secs(), || {
        let byte = [*head.get(sent).unwrap_or(&b'a')];
        sent += 1;
        for (stream, closed) in heads.iter_mut().filter(|(_, closed)| !closed) {
            *closed = stream.write_all(&byte).is_err() || read(stream).1;
        }
        let _ = body.write_all(b" ");
        let (more, closed) = read(&mut body);
        told += &more;
        let asked = Instant::now();
        assert_eq!(ask(api, Method::GET, "/api/health/live", &[]).status, 200);
        assert!(asked.elapsed() < Duration::from_secs(2), "others are served");
        let open = heads.iter().filter(|(_, closed)| !closed).count();
        assert!(open == 0 || began.elapsed() < PATIENCE, "{open} are still open");
        let refused = told.contains("408") || closed;
        (open == 0 && refused).then_some(())
    });
    assert!(told.contains("HTTP/1.1 408"), "a body is told why: {told}");
    assert!(began.elapsed() > Duration::from_secs(10), "but nobody is hurried");
}

#[test]
fn one_address_takes_only_so_many_connections_and_gets_them_back() {
    let forebay = serving(&["--max-connections-per-address", "30"]);
    let address = forebay.api.address();
    let mut idle: Vec<TcpStream> = (0..100).map(|_| connected(address)).collect();
    let open = |idle: &mut Vec<TcpStream>| {
        idle.retain_mut(|stream| !read(stream).1);
        idle.len()
    };
    wait_for("those beyond the limit to be closed", 20, || (open(&mut idle) <= 30).then_some(()));
    // The client of the test holds some itself.
    assert!(open(&mut idle) >= 20, "the others stay: {}", idle.len());
    idle.clear();
    wait_for("a connection to be let in again", 20, || forebay.api.try_get("/api/health/live"));
    let trusted = serving(&["--max-connections-per-address", "10", "--trusted-proxy", "127.0.0.0/8"]);
    let mut idle: Vec<TcpStream> = (0..100).map(|_| connected(trusted.api.address())).collect();
    assert_eq!(trusted.api.get("/api/health/live").status, 200);
    assert_eq!(open(&mut idle), 100, "a proxy brings many");
}
