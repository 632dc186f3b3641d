//! What the server says of what it does.

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::{KEY, Server, forebay};

/// What a server says of one batch of three events, each line as JSON.
fn said(variables: &[(&str, &str)]) -> Vec<Value> {
    let dir = tempfile::tempdir().unwrap();
    let known = [("FOREBAY_API_KEY", KEY), ("FOREBAY_CONNECTION_ID", crate::CONNECTION)];
    let server = Server::start(dir.path(), &[], &[&known, variables].concat());
    server.ingest(KEY);
    server.record();
    let said = server.greeting.clone() + &server.stop();
    let lines = said.lines().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn applied(said: &[Value]) -> Vec<&Value> {
    said.iter().filter(|line| line["fields"]["message"] == "a batch is applied").collect()
}

#[test]
fn to_a_file_each_line_is_json_and_says_where_in_the_log_it_was() {
    let lines = said(&[("RUST_LOG", "projector=debug,api=debug")]);
    for line in &lines {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["target"].is_string(), "{line}");
    }
    let batches = applied(&lines);
    assert!(!batches.is_empty(), "RUST_LOG is heard: {lines:?}");
    let (first, last) = (&batches[0]["span"]["first"], &batches[0]["span"]["last"]);
    assert_eq!(batches[0]["span"]["name"], "batch");
    assert!(first.as_u64().unwrap() >= 1 && last.as_u64() >= first.as_u64(), "{}", batches[0]);
    let requests: Vec<&Value> = lines.iter().filter(|line| line["fields"]["message"] == "request").collect();
    assert!(requests.iter().any(|line| line["fields"]["path"] == "/api/ingest" && line["fields"]["status"] == 202));
    // Ours says more than everybody's.
    let lines = said(&[("FOREBAY_LOG", "error"), ("RUST_LOG", "trace")]);
    assert!(lines.iter().all(|line| line["level"] == "ERROR"), "{lines:?}");
    let lines = said(&[("FOREBAY_LOG", "projector=debug"), ("RUST_LOG", "error")]);
    assert!(!applied(&lines).is_empty());
}

#[test]
fn on_a_terminal_it_is_for_people() {
    let dir = tempfile::tempdir().unwrap();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let other_end = OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut server = forebay(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.path().to_str().unwrap()])
        .stderr(other_end)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(std::fs::File::from(terminal)).lines().map_while(Result::ok);
    let line = lines.find(|line| line.contains("default connection")).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(line.contains("\u{1b}[32m INFO"), "{line:?}");
    assert!(serde_json::from_str::<Value>(&line).is_err(), "{line:?}");
}
