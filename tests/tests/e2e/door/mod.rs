//! An attacker's checklist, against the real binary: what is not let in, what is cut off, what cannot be slipped through.

mod audit;
mod bytes;
mod keys;
mod oidc;
pub(crate) mod provider;
mod proxy;
mod secrets;
mod sessions;
mod slow;
mod tls;
mod walk;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use forebay_tests::{Answer, Api, Forebay, Options, PASSWORD};
use serde_json::{Value, json};
use ureq::http::Method;

/// A server with these arguments more.
fn serving(arguments: &[&str]) -> Forebay {
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Forebay::start(Options { arguments, ..Options::default() })
}

/// What is answered to these bytes until the server closes the connection, or is silent for so long.
fn raw(address: &str, bytes: &[u8], patience: Duration) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    // The server may have had enough before all is sent.
    let _ = stream.write_all(bytes);
    read(&mut stream).0
}

/// What comes, and whether the server has closed the connection after it.
fn read(stream: &mut TcpStream) -> (String, bool) {
    let mut all = Vec::new();
    let mut piece = [0; 4_096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (String::from_utf8_lossy(&all).into_owned(), true),
            Ok(length) => all.extend_from_slice(&piece[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return (String::from_utf8_lossy(&all).into_owned(), false);
            }
            Err(_) => return (String::from_utf8_lossy(&all).into_owned(), true),
        }
    }
}

/// The status line's number of a raw answer.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A request without a token.
fn ask(api: &Api, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
    let shown = format!("{method} {path}");
    api.send(method, path, headers, b"").unwrap_or_else(|| panic!("no answer to {shown}"))
}

fn log_in(api: &Api, password: &str, headers: &[(&str, &str)]) -> Answer {
    let body = serde_json::to_vec(&json!({ "password": password })).unwrap();
    api.send(Method::POST, "/api/session", headers, &body).unwrap()
}

/// `name=value` of the session that an answer gives.
fn cookie(answer: &Answer) -> String {
    let all = answer.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let ours = all.filter_map(|value| value.split(';').next()).find(|pair| pair.starts_with("forebay_session="));
    ours.unwrap_or_else(|| panic!("no session in {:?}", answer.headers)).to_owned()
}

/// The session of who knows the password.
fn session(api: &Api) -> String {
    cookie(&log_in(api, PASSWORD, &[]))
}

/// Each method of each path that the API declares, with something in place of what varies, and who may.
fn declared(api: &Api) -> Vec<(Method, String, Vec<String>)> {
    let document = api.get("/api/openapi.json").body;
    let paths = document["paths"].as_object().unwrap();
    let each = paths.iter().flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, operation)| {
            let schemes = operation["security"].as_array().unwrap().iter();
            let schemes = schemes.flat_map(|one| one.as_object().unwrap().keys().cloned()).collect();
            (method.to_uppercase().parse().unwrap(), filled(path), schemes)
        })
    });
    each.collect()
}

fn filled(path: &str) -> String {
    path.split('/')
        .map(|part| if part.starts_with('{') { "00000000-0000-4000-8000-000000000000" } else { part })
        .collect::<Vec<_>>()
        .join("/")
}

fn code(answer: &Answer) -> Value {
    answer.body["error"]["code"].clone()
}
