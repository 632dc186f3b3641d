//! Upgrades to another version of the fold, under a steady stream of events and reads.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use forebay_tests::{Api, Forebay, Options, forebay_binary, job_id, wait_for};
use rand::Rng as _;
use serde_json::{Value, json};

const VERSION: &str = "FOREBAY_TEST_FOLD_VERSION";
/// Jobs in the log before anything else happens: so many that folding them takes a moment.
const JOBS: usize = 8_000;

/// A server that pretends to be version 1, with a log of some size.
fn filled() -> Forebay {
    let forebay = Forebay::start(Options { environment: vec![(VERSION, "1".to_owned())], ..Options::default() });
    for block in 0..JOBS / 100 {
        let events: Vec<Value> = (0..100).flat_map(|job| events_of(&format!("job-{}", block * 100 + job))).collect();
        assert_eq!(forebay.api.ingest(&events).unwrap().status, 202);
    }
    forebay
}

fn events_of(id: &str) -> Vec<Value> {
    let event = |(second, state): (usize, &str)| {
        json!({
            "type": "job.state_change", "timestamp": format!("2026-02-27T10:00:{second:02}.000Z"), "framework": "celery",
            "job": { "externalId": id, "name": "shop.pay", "state": state },
        })
    };
    ["queued", "active", "completed"].into_iter().enumerate().map(event).collect()
}

fn become_version(forebay: &mut Forebay, version: u32) {
    *forebay.environment() = vec![(VERSION, version.to_string())];
}

/// The version of the fold that made a record.
fn version_of(record: &Value) -> u64 {
    record["extensions"]["foldVersion"].as_u64().unwrap_or_else(|| panic!("{record:#}"))
}

/// Whoever sends and reads all the while, as if there were no upgrade.
struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    dir: PathBuf,
    stop: AtomicBool,
    /// The server is not there, or just coming.
    down: AtomicBool,
    /// Each job whose events were acknowledged, with the log position of the last one.
    acknowledged: Mutex<Vec<(String, u64)>>,
    reads: Mutex<Vec<Read>>,
}

/// What a read came to.
#[derive(Clone, Debug, PartialEq)]
struct Read {
    version: u64,
    stale: Option<String>,
    applied: u64,
}

impl Traffic {
    fn start(forebay: &Forebay) -> Self {
        let shared = Arc::new(Shared {
            dir: forebay.dir().to_owned(),
            stop: AtomicBool::new(false),
            down: AtomicBool::new(false),
            acknowledged: Mutex::default(),
            reads: Mutex::default(),
        });
        let (sender, reader) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![std::thread::spawn(move || sender.send()), std::thread::spawn(move || reader.read())];
        Self { shared, threads }
    }

    /// The reads since the last time.
    fn reads(&self) -> Vec<Read> {
        std::mem::take(&mut self.shared.reads.lock().unwrap())
    }

    fn is_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    fn stop(self) -> Vec<(String, u64)> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("neither sender nor reader was let down");
        }
        std::mem::take(&mut self.shared.acknowledged.lock().unwrap())
    }
}

impl Shared {
    fn send(&self) {
        let mut api = None;
        for number in 0_u64.. {
            let id = format!("stream-{number}");
            // Sent again until it is acknowledged, as any sender does.
            let sequence = loop {
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
                let answer = self.api(&mut api).and_then(|api| api.ingest(&events_of(&id)));
                match answer {
                    Some(answer) if answer.status == 202 => break answer.body["sequence"].as_u64().unwrap(),
                    Some(answer) => assert_eq!(answer.status, 503, "{}", answer.body),
                    None => api = None,
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            self.acknowledged.lock().unwrap().push((id, sequence));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn read(&self) {
        let mut api = None;
        let mut before: Option<Read> = None;
        while !self.stop.load(Ordering::SeqCst) {
            let was_down = self.down.load(Ordering::SeqCst);
            let answer = self.api(&mut api).and_then(|api| api.try_get(&format!("/api/jobs/{}", job_id("job-7"))));
            let excused = was_down || self.down.load(Ordering::SeqCst);
            match answer {
                Some(answer) if answer.status == 200 => {
                    let of = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
                    let applied = of("forebay-applied").unwrap().parse().unwrap();
                    let read = Read { version: version_of(&answer.body), stale: of("forebay-stale"), applied };
                    if let Some(before) = &before {
                        assert!(read.applied >= before.applied, "back in time: {read:?} after {before:?}");
                    }
                    before = Some(read.clone());
                    self.reads.lock().unwrap().push(read);
                }
                Some(answer) => assert!(excused, "a read was refused: {} {}", answer.status, answer.body),
                None => {
                    assert!(excused, "a read was not answered");
                    api = None;
                    before = None;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A client of the server that runs now.
    fn api<'a>(&self, kept: &'a mut Option<Api>) -> Option<&'a Api> {
        if kept.is_none() {
            let admin: Value = serde_json::from_slice(&std::fs::read(self.dir.join("admin.json")).ok()?).ok()?;
            *kept = Some(Api::new(admin["address"].as_str()?, admin["token"].as_str()?));
        }
        kept.as_ref()
    }
}

/// The command as another version than the server's.
fn command_of(version: u32, forebay: &Forebay, arguments: &[&str]) -> Command {
    let mut command = Command::new(forebay_binary());
    command.args(arguments).arg("--data-dir").arg(forebay.dir()).env(VERSION, version.to_string()).stdin(Stdio::null());
    command
}

fn prepare(version: u32, forebay: &Forebay) -> Output {
    command_of(version, forebay, &["rebuild", "--prepare"]).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complaint(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What was prepared and what became of it.
fn left(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("views")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("prepared") || name.starts_with("gen-"));
    names.sort();
    names
}

/// Everything that was acknowledged is there, and equal to a fresh replay.
fn check(forebay: &Forebay, acknowledged: &[(String, u64)], version: u64) {
    let (_, last) = acknowledged.last().expect("something was sent");
    assert!(acknowledged.len() > 20, "a steady stream: {}", acknowledged.len());
    for (id, _) in acknowledged {
        let answer = forebay.api.get(&format!("/api/jobs/{}?atLeast={last}", job_id(id)));
        assert_eq!((answer.status, &answer.body["state"]), (200, &json!("completed")), "{id}: {}", answer.body);
        assert_eq!(version_of(&answer.body), version, "{id}");
    }
    assert!(said(&forebay.command(&["verify"])).starts_with("equal: "));
}

/// Stops the server, or kills it, and starts it as another version; waits until it answers a read.
fn restart(forebay: &mut Forebay, traffic: &Traffic, version: u32, kill: bool) {
    traffic.is_down(true);
    if kill {
        forebay.kill();
    } else {
        forebay.stop();
    }
    drop(traffic.reads());
    become_version(forebay, version);
    forebay.launch();
    wait_for("a read to be answered", 60, || (!traffic.shared.reads.lock().unwrap().is_empty()).then_some(()));
    traffic.is_down(false);
    forebay.wait_until("answer", |_| true);
}

#[test]
fn prepared_views_answer_at_once_after_an_upgrade_and_so_do_the_old_ones_after_going_back() {
    let mut forebay = filled();
    let traffic = Traffic::start(&forebay);

    // Killed at any moment, it leaves nothing that is in the way.
    let mut random = rand::rng();
    for _ in 0..2 {
        let mut child = command_of(2, &forebay, &["rebuild", "--prepare"]).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.random_range(50..900)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let lock = File::options().create(true).append(true).open(forebay.dir().join("views/PREPARE.LOCK")).unwrap();
    lock.try_lock().unwrap();
    assert!(complaint(&prepare(2, &forebay)).contains("is under way"));
    drop(lock);
    assert!(said(&prepare(2, &forebay)).starts_with("prepared: "));
    assert_eq!(left(forebay.dir()), ["gen-0001", "prepared-2"]);
    assert!(said(&prepare(1, &forebay)).starts_with("nothing to prepare"));
    // The server goes on with its own views, and a rebuild of them leaves what is prepared alone.
    assert!(said(&forebay.command(&["rebuild"])).contains("the same as before"));
    let again = prepare(2, &forebay);
    assert!(said(&again).contains("brought up to date"), "{again:?}");
    assert_eq!(left(forebay.dir()), ["gen-0001", "gen-0002", "prepared-2"]);
    assert!(traffic.reads().iter().all(|read| read.version == 1 && read.stale.is_none()));

    restart(&mut forebay, &traffic, 2, false);
    forebay.wait_until_well();
    assert_eq!(forebay.health()["views"]["foldVersion"], 2);
    // And back: what served before serves again.
    let reads = traffic.reads();
    assert!(!reads.is_empty() && reads.iter().all(|read| read.version == 2 && read.stale.is_none()), "{reads:?}");
    assert_eq!(left(forebay.dir()), ["gen-0002", "gen-0003"]);
    restart(&mut forebay, &traffic, 1, true);
    forebay.wait_until_well();
    let reads = traffic.reads();
    assert!(!reads.is_empty() && reads.iter().all(|read| read.version == 1 && read.stale.is_none()), "{reads:?}");
    // Long enough for a stream.
    wait_for("more to be sent", 60, || (traffic.shared.acknowledged.lock().unwrap().len() > 60).then_some(()));
    let acknowledged = traffic.stop();
    check(&forebay, &acknowledged, 1);
}

#[test]
fn unprepared_the_old_views_answer_frozen_until_the_new_ones_take_over_by_themselves() {
    let mut forebay = filled();
    let traffic = Traffic::start(&forebay);
    wait_for("something to be sent", 60, || (!traffic.shared.acknowledged.lock().unwrap().is_empty()).then_some(()));
    restart(&mut forebay, &traffic, 2, false);
    let (health, began) = (forebay.health(), Instant::now());
    assert_eq!((&health["status"], &health["reason"]), (&json!("degraded"), &json!("UPGRADING")), "{health:#}");
    assert_eq!((&health["upgrade"]["from"], &health["upgrade"]["to"]), (&json!(1), &json!(2)), "{health:#}");
    // Newer than the frozen views: refused, and at once.
    let answer = forebay.api.ingest(&events_of("new")).unwrap();
    let read = forebay.api.get(&format!("/api/jobs?atLeast={}", answer.body["sequence"]));
    assert_eq!((answer.status, read.status), (202, 503), "{} after {:?}", read.body, began.elapsed());
    assert!(read.body["error"]["message"].as_str().unwrap().contains("another version"), "{}", read.body);
    let refused = forebay.command(&["verify"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let refused = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.contains("version 1 of the fold made the views, and this is version 2"), "{refused}");

    // Killed in the middle, it begins again.
    std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..400)));
    restart(&mut forebay, &traffic, 2, true);
    forebay.wait_until_well();
    let health = forebay.health();
    assert_eq!((&health["views"]["foldVersion"], &health["upgrade"]), (&json!(2), &Value::Null), "{health:#}");
    wait_for("a read of the new views", 60, || {
        traffic.shared.reads.lock().unwrap().last().is_some_and(|read| read.version == 2).then_some(())
    });
    let reads = traffic.reads();
    let frozen = reads.iter().position(|read| read.version == 2).unwrap();
    assert!(reads[..frozen].iter().all(|read| read.stale.as_deref() == Some("upgrading")), "{:?}", reads.first());
    assert!(reads[frozen..].iter().all(|read| read.version == 2), "there is no way back");
    let back = complaint(&forebay.command(&["rebuild", "--rollback"]));
    assert!(back.contains("ersion 1 of the fold made the views before, and this is version 2"), "{back}");
    wait_for("more to be sent", 60, || (traffic.shared.acknowledged.lock().unwrap().len() > 60).then_some(()));
    let acknowledged = traffic.stop();
    check(&forebay, &acknowledged, 2);
    assert_eq!(left(forebay.dir()).len(), 2, "the old generation is kept");

    // Without a server a job is answered at once, and a rebuild upgrades.
    forebay.stop();
    become_version(&mut forebay, 3);
    let job = forebay.command(&["job", "job-7", "--json"]);
    assert!(said(&job).contains("\"foldVersion\": 2"), "{job:?}");
    assert!(String::from_utf8_lossy(&job.stderr).contains("another version of Forebay"), "{job:?}");
    assert!(said(&forebay.command(&["rebuild"])).starts_with("rebuilt: "));
    assert!(said(&forebay.command(&["job", "job-7", "--json"])).contains("\"foldVersion\": 3"));
}

#[test]
fn views_that_are_gone_are_made_by_a_pass_over_the_log_and_progress_is_told() {
    let mut forebay = filled();
    wait_for("the views to hold the whole log", 60, || {
        let health = forebay.health();
        (health["views"]["sequence"] == health["log"]["lastSequence"]).then_some(())
    });
    let digest = forebay.health()["views"]["digest"].clone();
    forebay.stop();
    std::fs::remove_dir_all(forebay.dir().join("views")).unwrap();
    forebay.launch();
    // Killed in the middle, it begins again.
    forebay.wait_until("read its log", |health| health["upgrade"]["eventsDone"].as_u64().is_some_and(|done| done > 0));
    forebay.kill();
    forebay.launch();
    let (mut refusals, mut healths) = (Vec::new(), Vec::new());
    forebay.wait_until("answer", |_| true);
    let list = wait_for("the list of jobs", 60, || {
        let answer = forebay.api.get("/api/jobs?limit=1");
        if answer.status == 200 {
            return Some(answer.body);
        }
        healths.push(forebay.health());
        refusals.push(answer.body);
        None
    });
    assert_eq!(list["pagination"]["total"], JOBS);
    let is_told = |body: &Value| {
        let details = &body["error"]["details"];
        details["eventsDone"].is_u64() && details["eventsTotal"].as_u64().is_some_and(|total| total > 0)
    };
    assert!(refusals.iter().any(is_told), "{refusals:?}");
    let is_told = |health: &Value| {
        (&health["status"], &health["reason"]) == (&json!("unavailable"), &json!("CATCHING_UP"))
            && health["message"].as_str().unwrap().contains("the views are being made, ")
    };
    assert!(healths.iter().any(is_told), "{healths:?}");
    forebay.wait_until_well();
    wait_for("the same views", 60, || (forebay.health()["views"]["digest"] == digest).then_some(()));
    let none = complaint(&forebay.command(&["rebuild", "--rollback"]));
    assert!(none.contains("here are no earlier views"), "empty ones are none: {none}");
}
