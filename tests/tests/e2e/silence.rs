//! A server that nobody can hear.

use std::fs::File;
use std::process::{Command, Stdio};

use forebay_tests::{API_KEY, Api, forebay_binary, job_id, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

#[test]
fn a_server_whose_log_cannot_be_written_works_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let mut serve = Command::new(forebay_binary());
    serve.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path());
    // Every request is to be told of, and no line can be.
    serve.env("FOREBAY_API_KEY", API_KEY).env("FOREBAY_LOG", "debug").stdin(Stdio::null());
    let mut server = serve.stdout(full()).stderr(full()).spawn().unwrap();
    let api = wait_for("the server to be well", 60, || {
        assert_eq!(server.try_wait().unwrap(), None, "it goes on");
        let admin: Value = serde_json::from_slice(&std::fs::read(dir.path().join("admin.json")).ok()?).ok()?;
        let api = Api::new(admin["address"].as_str()?, admin["token"].as_str()?);
        (api.try_get("/api/health")?.body["status"] == "ok").then_some(api)
    });
    let event = json!({
        "type": "job.state_change", "timestamp": "2026-02-27T10:00:00Z", "framework": "celery",
        "job": { "externalId": "heard", "name": "shop.say", "state": "active" },
    });
    let stored = api.ingest(&[event]).unwrap();
    assert_eq!(stored.status, 202);
    let listed = api.get(&format!("/api/jobs?atLeast={}", stored.body["sequence"]));
    assert_eq!(listed.body["pagination"]["total"], 1, "{}", listed.body);
    assert_eq!(api.get(&format!("/api/jobs/{}", job_id("unheard-of"))).status, 404);
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
}
