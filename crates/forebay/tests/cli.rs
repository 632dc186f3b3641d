//! The program itself: started, killed and asked as a user would.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a test says in its name what it shows, and panics where that fails"
)]

mod listed;
mod logs;
mod lost;
mod managed;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use event_log::testing::{TestServer, nats_server};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const CONNECTION: &str = "550e8400-e29b-41d4-a716-446655440000";
const KEY: &str = "a key from the environment";
const JOB: &str = "fbe08da7-0069-502f-90f8-dff3d29e3dc6";
const DEADLINE: Duration = Duration::from_secs(60);

/// The program with nothing of our own environment in it.
fn forebay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FOREBAY_")) {
        command.env_remove(name);
    }
    command.env("FOREBAY_NATS_SERVER", nats_server()).args(arguments).stdin(Stdio::null());
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    forebay(arguments).args(["--data-dir", dir.to_str().unwrap()]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What it printed; the command must have gone well.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// The one line in which it says what is wrong.
fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let text = text(&output.stderr);
    let complaint = text.strip_prefix("forebay: ").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(complaint.lines().count(), 1, "{text}");
    complaint.trim_end().to_owned()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

struct Server {
    child: Child,
    dir: PathBuf,
    address: String,
    /// What it said until it listened.
    greeting: String,
    rest: mpsc::Receiver<String>,
}

impl Server {
    fn start(dir: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let server = Self::launch(dir, arguments, variables);
        server.until_health(|status, _| status == 200);
        server
    }

    /// Does not wait until all is well.
    fn launch(dir: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = forebay(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()])
            .args(arguments)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, rest) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let mut server = Self { child, dir: dir.to_owned(), address: String::new(), greeting: String::new(), rest };
        while server.address.is_empty() {
            let line = server.rest.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("does not listen: {}", server.greeting));
            line.strip_prefix("listening on http://").unwrap_or_default().clone_into(&mut server.address);
            server.greeting += &(line + "\n");
        }
        server
    }

    fn with_key(dir: &Path) -> Self {
        let variables = [("FOREBAY_API_KEY", KEY), ("FOREBAY_CONNECTION_ID", CONNECTION)];
        Self::start(dir, &[], &variables)
    }

    fn token(&self) -> String {
        let admin = std::fs::read(self.dir.join("admin.json")).unwrap();
        serde_json::from_slice::<Value>(&admin).unwrap()["token"].as_str().unwrap().to_owned()
    }

    fn request(&self, method: &str, path: &str, credential: &str, body: &str) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let request = request.header("authorization", format!("Bearer {credential}")).body(body.to_owned()).unwrap();
        let mut response = agent.run(request).unwrap();
        let body = response.body_mut().read_to_vec().unwrap();
        (response.status().as_u16(), serde_json::from_slice(&body).unwrap())
    }

    fn until_health(&self, wanted: impl Fn(u16, &Value) -> bool) {
        let began = Instant::now();
        loop {
            let (status, health) = self.request("GET", "/api/health", "", "");
            if wanted(status, &health) {
                return;
            }
            assert!(began.elapsed() < DEADLINE, "{status} {health}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends the documented example, and waits until it can be read.
    fn ingest(&self, key: &str) {
        let (status, answer) = self.request("POST", "/api/ingest", key, &batch().to_string());
        assert_eq!((status, &answer["accepted"], &answer["rejected"]), (202, &json!(3), &json!([])));
        let path = format!("/api/jobs?atLeast={}", answer["sequence"]);
        assert_eq!(self.request("GET", &path, &self.token(), "").0, 200);
    }

    fn record(&self) -> Value {
        let (status, record) = self.request("GET", &format!("/api/jobs/{JOB}"), &self.token(), "");
        assert_eq!(status, 200, "{record}");
        record
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and gives what it said since it listened.
    fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        let said: Vec<String> = self.rest.iter().collect();
        assert_eq!(status.code(), Some(0), "{said:?}");
        assert!(!self.dir.join("admin.json").exists());
        said.join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The job of the API's documentation, as events.
fn batch() -> Value {
    let event = |state: &str, time: &str, fields: Value| {
        let mut event = json!({
            "type": "job.state_change", "timestamp": time, "framework": "celery",
            "job": { "externalId": "abc123-def456-ghi789", "name": "app.tasks.send_email", "state": state },
        });
        event["job"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        event
    };
    json!({ "events": [
        event("queued", "2026-02-27T10:29:55.000Z", json!({ "queue": "default", "maxRetries": 3 })),
        event("active", "2026-02-27T10:29:56.000Z", json!({ "workerId": "celery@worker-1" })),
        event("failed", "2026-02-27T10:30:02.000Z", json!({
            "error": "ConnectionRefusedError: [Errno 111] Connection refused",
            "stacktrace": "Traceback (most recent call last):\n  File \"/app/tasks.py\", line 42\u{1b}[2J",
        })),
    ] })
}

const SHOWN: &str = "\
app.tasks.send_email  failed
  id             fbe08da7-0069-502f-90f8-dff3d29e3dc6
  external id    abc123-def456-ghi789
  connection     550e8400-e29b-41d4-a716-446655440000
  framework      celery
  queue          default
  worker         celery@worker-1
  attempt        1 of at most 4
  created        2026-02-27 10:29:55.000Z
  took           6.000 s

Timeline
  2026-02-27 10:29:55.000Z  queued
  2026-02-27 10:29:56.000Z  active     +1.000 s
  2026-02-27 10:30:02.000Z  failed     +6.000 s

Executions
  #  attempt  outcome  started                   took     worker           pid  error
  1  1        failed   2026-02-27 10:29:56.000Z  6.000 s  celery@worker-1  -    ConnectionRefusedError: [Errno 111] Connection refused

Error
  ConnectionRefusedError: [Errno 111] Connection refused

Traceback
  Traceback (most recent call last):
    File \"/app/tasks.py\", line 42\u{fffd}[2J
";

#[test]
fn a_job_outlives_kill_and_is_shown_beside_a_server_and_without_one() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let server = Server::with_key(&dir);
    server.ingest(KEY);
    let record = server.record();
    let shown = |id: &str| printed(&run(&dir, &["job", id]));
    let raw = || serde_json::from_str::<Value>(&printed(&run(&dir, &["job", JOB, "--json"]))).unwrap();
    assert_eq!(shown("abc123-def456-ghi789"), SHOWN, "by the framework's own id, beside the server");
    assert_eq!(raw(), record);
    let second = run(&dir, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(text(&second.stderr).contains(&format!("is in use by the server at {}", server.address)), "{second:?}");

    server.kill();
    assert_eq!(shown(JOB), SHOWN, "by our id, without a server");
    assert_eq!(raw(), record);
    assert_eq!(complaint(&run(&dir, &["job", "nope/100%"])), "no job has the id nope/100%");

    let again = Server::with_key(&dir);
    assert_eq!(again.record(), record);
    assert_eq!(shown(JOB), SHOWN);
    let said = again.greeting.clone() + &again.stop();
    assert!(!said.contains(KEY), "{said}");
    let nowhere = complaint(&run(&parent.path().join("typo"), &["job", JOB]));
    assert!(nowhere.contains("there is no data in"), "{nowhere}");
    assert!(!parent.path().join("typo").exists());
}

#[test]
fn views_are_rebuilt_and_verified_beside_a_server_and_without_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_key(dir.path());
    server.ingest(KEY);
    let record = server.record();
    let check = || {
        let verified = printed(&run(dir.path(), &["verify"]));
        assert!(verified.starts_with("equal: 1 jobs"), "{verified}");
        let rebuilt = printed(&run(dir.path(), &["rebuild"]));
        assert!(
            rebuilt.starts_with("rebuilt: 1 jobs from 3 events") && rebuilt.ends_with("the same as before\n"),
            "{rebuilt}"
        );
    };
    check();
    assert_eq!(server.record(), record);
    server.stop();
    check();
    assert!(printed(&run(dir.path(), &["rebuild", "--rollback"])).contains("of before serve again"));
    assert!(printed(&run(dir.path(), &["rebuild", "--discard-old"])).contains("removed"));
    assert!(complaint(&run(dir.path(), &["rebuild", "--rollback"])).contains("no earlier views"));

    let shown = printed(&run(dir.path(), &["job", JOB, "--json"]));
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["state"], record["state"]);
}

#[test]
fn a_job_is_explained_and_shown_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_key(dir.path());
    server.ingest(KEY);
    let late = json!({ "events": [{
        "type": "job.state_change", "timestamp": "2026-02-27T10:30:03.000Z", "framework": "celery",
        "job": { "externalId": "abc123-def456-ghi789", "state": "queued" },
    }] });
    let answer = server.request("POST", "/api/ingest", KEY, &late.to_string()).1;
    assert_eq!(server.request("GET", &format!("/api/jobs?atLeast={}", answer["sequence"]), &server.token(), "").0, 200);
    let check = || {
        let events = printed(&run(dir.path(), &["job", JOB, "--events"]));
        let rows: Vec<Vec<&str>> = events.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["abc123-def456-ghi789"]);
        let told: Vec<_> = rows[2..].iter().map(|row| (row[0], row[5], row[7..].join(" "))).collect();
        let counted = String::from("counted");
        let refused = String::from("refused the job had ended");
        let expected = [
            ("1.0", "queued", counted.clone()),
            ("1.1", "active", counted.clone()),
            ("1.2", "failed", counted),
            ("2.0", "queued", refused),
        ];
        assert_eq!(told, expected, "{events}");
        let raw: Value = serde_json::from_str(&printed(&run(dir.path(), &["job", JOB, "--events", "--json"]))).unwrap();
        assert_eq!(raw["data"][1]["event"]["job"]["workerId"], "celery@worker-1");
        let published = raw["data"][0]["publishedAt"].as_str().unwrap();
        for (then, state) in [("1.0", "queued"), ("1.1", "active"), ("1", "failed"), (published, "failed")] {
            let was = printed(&run(dir.path(), &["job", JOB, "--as-of", then]));
            let begin = format!("As the log stood at {then}\n\napp.tasks.send_email  {state}\n");
            assert!(was.starts_with(&begin), "{was}");
        }
        let unknown = complaint(&run(dir.path(), &["job", JOB, "--as-of", "2026-01-01T00:00:00+01:00"]));
        assert!(
            unknown.contains("Nothing was known of this job by then; its first event is at position 1.0"),
            "{unknown}"
        );
        assert!(complaint(&run(dir.path(), &["job", JOB, "--as-of", "noon"])).contains("RFC 3339"));
    };
    check();
    server.stop();
    check();
}

#[test]
fn views_of_a_log_that_was_deleted_are_replaced_when_a_person_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::with_key(dir.path());
    server.ingest(KEY);
    server.stop();
    std::fs::remove_dir_all(dir.path().join("nats")).unwrap();
    let rebuilt = run(dir.path(), &["rebuild"]);
    assert_eq!(rebuilt.status.code(), Some(1));
    assert!(text(&rebuilt.stdout).contains("waits to be promoted by hand"), "{}", text(&rebuilt.stdout));
    let shown = run(dir.path(), &["job", JOB]);
    assert!(printed(&shown).contains("failed") && text(&shown.stderr).contains("may be out of date"));
    assert!(printed(&run(dir.path(), &["rebuild", "--promote"])).contains("rebuilt: 0 jobs"));
    assert!(complaint(&run(dir.path(), &["job", JOB])).contains("no job has the id"));
    let server = Server::with_key(dir.path());
    server.ingest(KEY);
    assert_eq!(server.record()["state"], "failed");
    server.stop();
}

#[test]
fn what_was_not_configured_is_made_up_once_and_shown_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = Server::start(dir.path(), &[], &[]);
    let kept: Value = serde_json::from_slice(&std::fs::read(dir.path().join("credentials.json")).unwrap()).unwrap();
    let (key, password) = (kept["apiKey"].as_str().unwrap(), kept["adminPassword"].as_str().unwrap());
    first.ingest(key);
    let login = json!({ "password": password }).to_string();
    assert_eq!(first.request("POST", "/api/session", "", &login).0, 200);
    let said = first.greeting.clone() + &first.stop();
    for secret in [key, password] {
        assert_eq!(said.matches(secret).count(), 1, "{said}");
    }
    let second = Server::start(dir.path(), &["--json-logs"], &[]);
    second.ingest(key);
    let rotate = || -> Value {
        serde_json::from_str(&printed(&run(dir.path(), &["connection", "rotate", "default", "--json"]))).unwrap()
    };
    let status = |server: &Server, key: &str| server.request("POST", "/api/ingest", key, &batch().to_string()).0;
    let beside = rotate();
    let beside = beside["apiKey"].as_str().unwrap();
    assert_eq!((status(&second, key), status(&second, beside)), (401, 202), "at once");
    let said = second.greeting.clone() + &second.stop();
    for secret in [key, password, beside] {
        assert!(!said.contains(secret), "{said}");
    }
    let rotated = rotate();
    let rotated = rotated["apiKey"].as_str().unwrap();
    for _ in 0..2 {
        let server = Server::start(dir.path(), &[], &[]);
        let statuses = [key, beside, rotated].map(|key| status(&server, key));
        assert_eq!(statuses, [401, 401, 202], "a restart puts no old key back");
        server.stop();
    }
    let kept = std::fs::read_to_string(dir.path().join("credentials.json")).unwrap();
    assert!(!kept.contains(key) && kept.contains(password), "{kept}");
    let configured = Server::with_key(dir.path());
    let refused = complaint(&run(dir.path(), &["connection", "rotate", "default"]));
    assert!(refused.contains("FOREBAY_API_KEY"), "{refused}");
    assert_eq!(status(&configured, KEY), 202);
    configured.stop();
    assert!(complaint(&run(dir.path(), &["connection", "rotate", "default"])).contains("FOREBAY_API_KEY"));
}

#[test]
fn a_directory_whose_log_is_elsewhere_is_not_taken_for_an_empty_one() {
    let nats = TestServer::start();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("nats://user:s3cret@{}", nats.address());
    let variables = [("FOREBAY_API_KEY", KEY), ("FOREBAY_CONNECTION_ID", CONNECTION)];
    let server = Server::start(dir.path(), &["--nats-url", &url], &variables);
    server.ingest(KEY);
    let other_dir = tempfile::tempdir().unwrap();
    let other = Server::start(other_dir.path(), &["--nats-url", &url], &[]);
    other.ingest(KEY);
    assert_eq!(other.record(), server.record(), "a second node shares connections, keys and jobs");
    other.stop();
    let said = server.greeting.clone() + &server.stop();
    assert!(said.contains(&nats.address()) && !said.contains("s3cret"), "{said}");
    let refused = complaint(&run(dir.path(), &["job", JOB]));
    assert!(refused.contains("give --nats-url") && !refused.contains("s3cret"), "{refused}");
    assert!(!dir.path().join("nats").exists());
    assert_eq!(printed(&run(dir.path(), &["job", JOB, "--nats-url", &url])), SHOWN);
}

#[test]
fn a_broker_that_is_away_degrades_and_one_that_is_not_supported_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--celery", "shop=redis://:s3cret@127.0.0.1:1/0"], &[]);
    server.until_health(|status, health| {
        assert_eq!(status, 200, "{health}");
        assert!(!health.to_string().contains("s3cret"), "{health}");
        health["status"] == "degraded" && health["reason"] == "SOURCE_DOWN" && health["sources"][0]["name"] == "shop"
    });
    let said = server.greeting.clone() + &server.stop();
    assert!(!said.contains("s3cret"), "{said}");
    let list = printed(&run(dir.path(), &["connection", "list"]));
    assert!(list.contains("shop"), "made at first use: {list}");
    let refused = complaint(&run(dir.path(), &["serve", "--celery", "amqp://guest:s3cret@localhost:x//"]));
    assert!(refused.contains("RabbitMQ") && !refused.contains("s3cret"), "{refused}");
}

#[test]
fn events_are_folded_without_a_server() {
    let mut events = batch();
    for event in events["events"].as_array_mut().unwrap() {
        event["connectionId"] = json!(CONNECTION);
    }
    let fold = |arguments: &[&str], input: &str| {
        let mut child = forebay(&["fold"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let record: Value = serde_json::from_str(&printed(&fold(&[], &events.to_string()))).unwrap();
    assert_eq!((&record["id"], &record["state"], &record["durationMs"]), (&json!(JOB), &json!("failed"), &json!(6000)));

    // One event on each line, the last first, and in between what is none.
    let mut lines: Vec<String> = events["events"].as_array().unwrap().iter().rev().map(Value::to_string).collect();
    lines.insert(1, "not JSON".to_owned());
    lines.insert(2, String::new());
    let output = fold(&[], &lines.join("\n"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        record,
        "the order of the lines plays no part"
    );
    let complaints = text(&output.stderr);
    assert!(complaints.starts_with("line 2: not JSON") && complaints.lines().count() == 1, "{complaints}");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.jsonl");
    let raw = json!({ "type": "task-received", "uuid": "a", "hostname": "w", "pid": 1, "clock": 1, "timestamp": 1.5, "name": "n" });
    std::fs::write(&file, format!("{raw}\n{}\n", batch())).unwrap();
    let output = printed(&fold(&["--connection", CONNECTION, file.to_str().unwrap()], ""));
    let ids: Vec<Value> =
        output.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["externalId"].clone()).collect();
    assert_eq!(ids, ["a", "abc123-def456-ghi789"], "in the order in which they appear");
}

#[test]
fn every_command_teaches_and_a_wrong_one_is_usage() {
    for arguments in [
        vec!["--help"],
        vec!["serve", "--help"],
        vec!["job", "--help"],
        vec!["export", "--help"],
        vec!["import", "--help"],
        vec!["connection", "--help"],
        vec!["key", "--help"],
        vec!["fold", "--help"],
    ] {
        let help = printed(&forebay(&arguments).output().unwrap());
        assert!(help.contains("forebay "), "{help}");
        assert!(!help.contains("nats-helper"), "{help}");
    }
    for arguments in [vec![], vec!["job"], vec!["nope"], vec!["serve", "--nope"]] {
        assert_eq!(forebay(&arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("forebay.toml");
    std::fs::write(&config, "lisen = '127.0.0.1:1'").unwrap();
    let refused = forebay(&["serve", "--config", config.to_str().unwrap()]).output().unwrap();
    assert!(text(&refused.stderr).contains("lisen"), "{refused:?}");
    let mut version = forebay(&["--version"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    version.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, concat!("forebay ", env!("CARGO_PKG_VERSION"), "\n"));
    version.wait().unwrap();
}
