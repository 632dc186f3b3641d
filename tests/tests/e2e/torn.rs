//! Our own files, when a crash, a disk or a person has damaged them: the server starts all the same and knows what it
//! knew, or it ends and names the file.

use std::fs;
use std::path::{Path, PathBuf};

use event_log::testing::TestServer;
use forebay_tests::{Forebay, Options, Redis, setting, wait_for};
use rustix::process::Signal;
use serde_json::json;

use crate::crashes::copy;

/// What it may hold instead.
type Way = fn(&[u8]) -> Vec<u8>;

const WAYS: [Way; 5] = [
    |_| Vec::new(),
    |bytes| bytes[..bytes.len() / 2].to_vec(),
    |bytes| vec![0; bytes.len()],
    |_| b"{\"\xff\": [[[1e999, -1, \"\\ud800\"".to_vec(),
    // As JSON it may be whole, and of another shape.
    |bytes| [b"[", bytes, b"]"].concat(),
];

/// Where a file is of no meaning to whoever starts: what locks, what the test itself wrote, and the log's own files.
fn is_left_out(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    ["LOCK", "output.log", "nats", "spool"].contains(&name) || name.starts_with("gen-")
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if is_left_out(&path) {
            continue;
        }
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
    found.sort();
}

/// `TORN_WAYS` of them for each file.
#[test]
fn whatever_became_of_one_of_its_files_it_starts_or_names_the_file() {
    let (nats, redis, config) = (TestServer::start(), Redis::start(), tempfile::tempdir().unwrap());
    let rules = config.path().join("forebay.toml");
    let rule = "name = 'fails'\nkind = 'failure-rate'\nwindow = '1h'\nmin-jobs = 1\ntrigger = '50%'\nto = ['a']\n";
    let webhook = "[alerts.webhook.a]\nurl = 'http://127.0.0.1:9'\nsecret = 'a secret of some length'\n";
    let settings = format!("[alerts]\nevery = '200ms'\n{webhook}[[alerts.rule]]\n{rule}");
    fs::write(&rules, format!("retention = '2s'\n{settings}")).unwrap();
    let mut options = Options::default();
    let url = format!("nats://{}", nats.address());
    options.arguments.extend(["--nats-url", &url, "--config", rules.to_str().unwrap()].map(str::to_owned));
    let mut forebay = Forebay::start(options.clone());
    // Something for each of the files.
    let ends = |forebay: &Forebay, id: &str| {
        let job = json!({ "externalId": id, "name": "shop.pay", "state": "failed", "error": "no" });
        let now = chrono::Utc::now().to_rfc3339();
        let event = json!({ "type": "job.state_change", "timestamp": now, "framework": "celery", "job": job });
        assert_eq!(forebay.api.ingest(&[event]).unwrap().status, 202);
    };
    ends(&forebay, "forgotten");
    let is_there = |forebay: &Forebay, name: &str| forebay.dir().join(name).exists().then_some(());
    wait_for("something to be forgotten", 30, || is_there(&forebay, "views/retention.json"));
    fs::write(&rules, settings).unwrap();
    forebay.process().signal(Signal::HUP);
    forebay.wait_until("keep all", |health| health["retention"]["keepSeconds"] == 7 * 24 * 60 * 60);
    ends(&forebay, "known");
    assert!(forebay.command(&["sources", "add", "shop", &redis.url(0)]).status.success());
    assert!(forebay.command(&["rebuild"]).status.success());
    assert!(forebay.command(&["verify"]).status.success());
    assert!(forebay.api.try_delete("/api/sessions").is_some_and(|answer| answer.status < 300));
    wait_for("an alert to be written down", 30, || is_there(&forebay, "alerts.json"));
    forebay.stop();

    let original = forebay.dir().to_owned();
    let mut found = Vec::new();
    files(&original, &mut found);
    assert!(found.len() >= 10, "{found:#?}");
    let ways = setting("TORN_WAYS", 1);
    for (number, file) in found.iter().enumerate() {
        for way in (0..WAYS.len()).cycle().skip(number).take(ways) {
            let place = tempfile::tempdir().unwrap();
            copy(&original, place.path());
            let torn = place.path().join(file.strip_prefix(&original).unwrap());
            fs::write(&torn, WAYS[way](&fs::read(&torn).unwrap())).unwrap();
            starts_or_names(Forebay::launch_in(place, options.clone()), &torn, way);
        }
    }
}

fn starts_or_names(mut forebay: Forebay, torn: &Path, way: usize) {
    let name = torn.file_name().unwrap().to_str().unwrap();
    let ended = wait_for(&format!("it to be well or to end, {name} torn in way {way}"), 60, || {
        forebay.ended().map(Some).or_else(|| forebay.is(|health| health["status"] == "ok").then_some(None))
    });
    let said = forebay.process().log();
    let last = said.lines().last().unwrap_or_default();
    if let Some(status) = ended {
        assert!(status.code() == Some(1) && last.contains(name), "{name}, way {way}: {status}: {said}");
    } else {
        let job = forebay.api.job("known");
        assert_eq!(job.map(|job| job["state"].clone()), Some(json!("failed")), "{name}, way {way}: {said}");
        forebay.stop();
    }
    eprintln!("{name}, way {way}: {}", if ended.is_some() { last } else { "it starts" });
    assert!(!said.contains("panicked"), "{said}");
}
