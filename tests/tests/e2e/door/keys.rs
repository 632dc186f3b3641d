//! Keys: guessed, of another connection, and used too much.

use forebay_tests::{API_KEY, Answer, Api, CONNECTION};
use serde_json::{Value, json};
use ureq::http::Method;

use super::{ask, code, serving};

fn event(id: &str, connection: &str) -> Value {
    json!({
        "type": "job_state_change", "timestamp": "2026-02-27T10:30:02Z", "framework": "celery",
        "connectionId": connection, "job": { "externalId": id, "name": "a", "state": "queued" },
    })
}

fn ingest(api: &Api, key: &str, events: &[Value]) -> Answer {
    let body = serde_json::to_vec(&json!({ "events": events })).unwrap();
    api.send(Method::POST, "/api/ingest", &[("authorization", &format!("Bearer {key}"))], &body).unwrap()
}

#[test]
fn who_guesses_keys_is_not_heard_for_a_while_and_good_senders_go_on() {
    let forebay = serving(&["--max-wrong-keys", "20"]);
    let api = &forebay.api;
    let other = api.try_post("/api/connections", &json!({ "name": "other" })).unwrap();
    let other = other.body["apiKey"].as_str().unwrap().to_owned();
    assert_eq!(ingest(api, API_KEY, &[]).status, 202);
    let mut heard = 0;
    let refused = loop {
        let answer = ingest(api, &format!("sk_live_{heard}"), &[]);
        if answer.status != 401 {
            break answer;
        }
        heard += 1;
        assert!(heard < 100, "guesses are not counted");
    };
    assert!((20..30).contains(&heard), "{heard}");
    assert_eq!((refused.status, code(&refused)), (429, json!("RATE_LIMITED")), "{}", refused.body);
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=5).contains(&wait), "{wait}");
    assert_eq!(ingest(api, API_KEY, &[]).status, 202, "it was good before");
    assert_eq!(api.get("/api/jobs").status, 200, "who can read the data directory does not guess");
    // Guesses of all kinds close the door again, also to a right one that was not seen before.
    let jobs = |key: &str| ask(api, Method::GET, "/api/jobs", &[("authorization", &format!("Bearer {key}"))]).status;
    let closed =
        (0..200).any(|number| jobs(&format!("rk_live_{number}")) == 429 && ingest(api, &other, &[]).status == 429);
    assert!(closed, "a right guess is told from a wrong one");
}

#[test]
fn a_key_writes_for_its_own_connection_and_reads_nothing() {
    let forebay = serving(&[]);
    let api = &forebay.api;
    let other = api.try_post("/api/connections", &json!({ "name": "other" })).unwrap().body;
    let (other_id, other_key) = (other["id"].as_str().unwrap(), other["apiKey"].as_str().unwrap());
    let ours = CONNECTION.to_string();
    let answer = ingest(api, other_key, &[event("theirs", &ours), event("own", other_id)]);
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(1)), "{}", answer.body);
    assert_eq!(answer.body["rejected"][0]["code"], "CONNECTION_MISMATCH");
    let sequence = answer.body["sequence"].as_u64().unwrap();
    let jobs = |connection: &str| {
        let all = api.get(&format!("/api/jobs?connectionId={connection}&atLeast={sequence}")).body;
        all["data"].as_array().unwrap().iter().map(|job| job["externalId"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((jobs(&ours), jobs(other_id)), (vec![], vec![json!("own")]));
    for path in
        ["/api/jobs", "/api/jobs/own", "/api/jobs/own/events", "/api/events/stream", "/api/connections", "/api/export"]
    {
        let answer = ask(api, Method::GET, path, &[("authorization", &format!("Bearer {other_key}"))]);
        assert_eq!(answer.status, 401, "{path}");
    }
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back_and_others_are_not_touched() {
    let forebay = serving(&["--max-requests-per-key", "5"]);
    let api = &forebay.api;
    let refused = (0..200).map(|_| ingest(api, API_KEY, &[])).find(|answer| answer.status != 202).unwrap();
    assert_eq!((refused.status, code(&refused)), (429, json!("RATE_LIMITED")));
    assert!(refused.headers.contains_key("retry-after"));
    let key =
        api.try_post("/api/keys", &json!({ "name": "script" })).unwrap().body["apiKey"].as_str().unwrap().to_owned();
    assert_eq!(ask(api, Method::GET, "/api/jobs", &[("authorization", &format!("Bearer {key}"))]).status, 200);
    for _ in 0..50 {
        assert_eq!(api.get("/api/jobs").status, 200, "commands on this machine are not limited");
    }
}
