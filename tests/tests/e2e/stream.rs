//! Celery's own event stream over Redis, from prefork workers with `-E`.

use std::collections::BTreeMap;

use forebay_tests::{Forebay, Options, Redis, Shop, Truth, job_id, wait_for};
use serde_json::{Value, json};

use crate::compare;

#[test]
fn every_job_is_recorded_as_celery_reports_it_and_stays_so() {
    let mut redis = Redis::start();
    let mut forebay = Forebay::start(Options::celery(&[redis.url(3)]));
    let shop = Shop::new(redis.url(3));
    let [mut fast, mut slow] = shop.workers([
        ("fast", &["-E", "--queues", "celery,mail", "--concurrency", "4"]),
        ("slow", &["-E", "--queues", "slow", "--concurrency", "1"]),
    ]);

    let (never, jobs): (Vec<Truth>, Vec<Truth>) =
        shop.drive("stories").into_iter().partition(|truth| truth.status == "NONE");
    assert!(jobs.len() > 25 && never.len() == 1);
    for truth in &jobs {
        compare::check(&compare::record(&forebay.api, truth), truth, &shop);
    }
    let unknown = forebay.api.get(&format!("/api/jobs/{}", job_id(&never[0].id)));
    assert_eq!((unknown.status, &unknown.body["error"]["message"]), (404, &json!("Job not found.")));
    lists_agree(&forebay, &jobs);
    command_line_agrees(&forebay, &jobs);

    let before = records(&forebay, &jobs);
    forebay.crash_and_restart();
    assert_eq!(records(&forebay, &jobs), before, "after kill -9 of the server");

    forebay.kill_nats();
    forebay.wait_until_well();
    let note = json!({
        "type": "job.state_change", "timestamp": "2026-03-01T08:00:00Z", "framework": "celery",
        "connectionId": forebay_tests::CONNECTION.to_string(),
        "job": { "externalId": "a note", "name": "note", "state": "queued" },
    });
    wait_for("the log to take events again", 30, || {
        let answer = forebay.api.ingest(std::slice::from_ref(&note))?;
        (answer.status == 202 && answer.body["accepted"] == 1).then_some(())
    });
    assert_eq!(records(&forebay, &jobs), before, "after kill -9 of nats-server");

    redis.restart();
    forebay.wait_until_well();
    assert_eq!(records(&forebay, &jobs), before, "after a restart of the broker");

    // And all goes on: the workers come back by themselves, and so does the source.
    let later = wait_for("a job after the restarts to be recorded", 60, || {
        let truth = shop.drive("one").remove(0);
        forebay.api.job(&job_id(&truth.id)).filter(|record| record["state"] == "completed").map(|_| truth)
    });
    compare::check(&compare::record(&forebay.api, &later), &later, &shop);
    fast.stop();
    slow.stop();
    forebay.stop();
}

/// Every record but for the other runs of the same name that are shown with it.
fn records(forebay: &Forebay, jobs: &[Truth]) -> BTreeMap<String, Value> {
    let record = |truth: &Truth| {
        let record = forebay.api.job(&truth.id).unwrap_or_else(|| panic!("{} is gone", truth.story));
        (truth.id.clone(), record)
    };
    jobs.iter().map(record).collect()
}

fn lists_agree(forebay: &Forebay, jobs: &[Truth]) {
    for state in ["completed", "failed", "cancelled", "active"] {
        let expected = jobs.iter().filter(|truth| compare::state(truth) == state).count();
        let answer = forebay.api.get(&format!("/api/jobs?limit=100&state={state}"));
        assert_eq!(answer.body["pagination"]["total"], json!(expected), "total of {state}");
        assert_eq!(answer.body["data"].as_array().unwrap().len(), expected, "jobs that are {state}");
    }
}

fn command_line_agrees(forebay: &Forebay, jobs: &[Truth]) {
    let failed = jobs.iter().find(|truth| truth.story == "fail").unwrap();
    for id in [failed.id.clone(), job_id(&failed.id)] {
        let output = forebay.command(&["job", &id]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for part in ["shop.fail", "queued", "active", "failed", "order 17 has no address", "Traceback", "fast@test"] {
            assert!(text.contains(part), "{part} is missing in:\n{text}");
        }
    }
    let output = forebay.command(&["job", &failed.id, "--json"]);
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed, forebay.api.job(&failed.id).unwrap());
}
