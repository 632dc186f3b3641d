//! What may be wrong with jobs that have not ended, with what shows it.

use std::time::{SystemTime, UNIX_EPOCH};

use proto_events::Timestamp;
use serde_json::{Value, json};

use super::harness::{Answer, CONNECTION, Node, Server, event};

/// So many seconds ago.
fn ago(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
    Timestamp(now - seconds * 1_000_000).to_millis_text()
}

fn job(id: &str, state: &str, seconds: i64, fields: &Value) -> Value {
    let mut event = event(id, state, &ago(seconds));
    event["job"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    event
}

fn worker(state: &str, pid: i64, seconds: i64) -> Value {
    json!({
        "type": "worker.state_change", "timestamp": ago(seconds), "framework": "celery", "connectionId": CONNECTION,
        "worker": { "externalId": "w", "hostname": "w", "state": state, "pid": pid },
    })
}

fn get(node: &Node, path: &str) -> Value {
    let answer = node.client.get(path).admin().send();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

/// The ids of the jobs of which this holds, as the list tells; the overview counts as many.
fn ids(node: &Node, sign: &str) -> Vec<String> {
    let listed = get(node, &format!("/api/jobs?{sign}=true&sortBy=createdAt&sortOrder=asc&limit=100"));
    let items = listed["data"].as_array().unwrap();
    for item in items {
        assert!(item[sign].is_object(), "{item}");
        assert_eq!(get(node, &format!("/api/jobs/{}", item["id"].as_str().unwrap()))[sign], item[sign]);
    }
    let others = get(node, &format!("/api/jobs?{sign}=false&limit=100"));
    assert!(others["data"].as_array().unwrap().iter().all(|item| item[sign].is_null()), "{others}");
    assert_eq!(get(node, "/api/overview")[sign]["count"], json!(items.len()));
    items.iter().map(|item| item["externalId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_ran_that_is_gone_is_lost_until_it_is_heard_of() {
    let server = Server::start().await;
    let of_worker = json!({ "workerId": "w" });
    server.given(&json!([
        worker("online", 1, 100),
        job("old", "active", 90, &of_worker),
        worker("offline", 1, 80),
        worker("online", 1, 79),
    ]));
    assert_eq!(ids(&server, "lost"), [""; 0], "it came back as it went");
    let began = ago(60);
    server.given(&json!([worker("online", 2, 60), job("new", "active", 50, &of_worker)]));
    assert_eq!(ids(&server, "lost"), ["old"]);
    let lost = &get(&server, "/api/jobs/old")["lost"];
    assert_eq!(
        (&lost["evidence"], &lost["workerId"], &lost["pid"], &lost["newPid"]),
        (&json!("newProcess"), &json!("w"), &json!(1), &json!(2)),
        "{lost}"
    );
    assert!(lost["since"].as_str().unwrap() >= began.as_str() && lost["since"] == lost["noticedAt"], "{lost}");
    server.given(&json!([job("old", "completed", 10, &of_worker)]));
    assert_eq!(ids(&server, "lost"), [""; 0], "it ended after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_or_waits_for_far_longer_than_others_is_stuck_or_waits_for_too_long() {
    let server = Server::start().await;
    let mut events = Vec::new();
    // Known: a task that takes 2 s, in a queue in which jobs wait for a minute.
    for number in 0..20 {
        let id = format!("usual-{number}");
        let quick = |fields: Value| {
            let mut all = json!({ "name": "app.quick", "queue": "busy" });
            all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            all
        };
        let created = json!({ "createdAt": ago(1_000 + number) });
        events.push(job(&id, "queued", 1_000 + number, &quick(created)));
        events.push(job(&id, "active", 940 + number, &quick(json!({}))));
        events.push(job(&id, "completed", 938 + number, &quick(json!({}))));
    }
    let run = |name: &str| json!({ "name": name, "workerId": "w" });
    let queue = |name: &str| json!({ "queue": name });
    events.extend([
        job("quick-stuck", "active", 100, &run("app.quick")),
        job("quick", "active", 30, &run("app.quick")),
        job("unknown-stuck", "active", 4_000, &run("app.unheard")),
        job("unknown", "active", 3_000, &run("app.unheard")),
        job("busy-waits", "queued", 400, &queue("busy")),
        job("busy", "queued", 100, &queue("busy")),
        job("idle-waits", "queued", 4_000, &queue("idle")),
        job("idle", "queued", 3_000, &queue("idle")),
        // Only its queue would say how long is long.
        job("no-queue", "queued", 9_000, &json!({})),
        job("eta-passed", "scheduled", 8_000, &json!({ "queue": "busy", "scheduledFor": ago(500) })),
        job("eta", "scheduled", 8_500, &json!({ "queue": "busy", "scheduledFor": ago(-500) })),
    ]);
    server.given(&json!(events));
    assert_eq!(ids(&server, "stuck"), ["unknown-stuck", "quick-stuck"]);
    assert_eq!(ids(&server, "waiting"), ["eta-passed", "idle-waits", "busy-waits"]);
    let stuck = |id: &str| get(&server, &format!("/api/jobs/{id}"))["stuck"].clone();
    let known = stuck("quick-stuck");
    assert_eq!(known["limitMs"], 60_000, "three times two seconds would be too few: {known}");
    let p99 = known["p99Ms"].as_u64().unwrap();
    assert!((1_900..2_100).contains(&p99), "{known}");
    assert_eq!(
        (&stuck("unknown-stuck")["limitMs"], &stuck("unknown-stuck")["p99Ms"]),
        (&json!(3_600_000), &json!(null))
    );
    let waiting = |id: &str| get(&server, &format!("/api/jobs/{id}"))["waiting"].clone();
    let known = waiting("busy-waits");
    let limit = known["limitMs"].as_u64().unwrap();
    assert!((170_000..190_000).contains(&limit) && known["pastEta"] == false, "{known}");
    let (began, since) = (known["beganAt"].as_str().unwrap(), known["since"].as_str().unwrap());
    let millis = |time: &str| Timestamp::parse(time).unwrap().millis();
    assert_eq!(millis(since) - millis(began), limit.cast_signed());
    assert_eq!((&waiting("eta-passed")["pastEta"], &waiting("eta-passed")["queue"]), (&json!(true), &json!("busy")));
    // What was true once is not told of a time in the past.
    assert_eq!(get(&server, "/api/jobs/busy-waits?asOf=2100-01-01T00:00:00Z")["waiting"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_in_what_is_heard_is_told_as_far_as_it_is_proven() {
    let server = Server::start().await;
    let mut events = Vec::new();
    for number in 0..6 {
        // As the SDK in a prefork worker: received, and no more.
        events.push(job(&format!("deaf-{number}"), "queued", 1_000, &json!({ "workerId": "deaf", "queue": "q" })));
        let id = format!("well-{number}");
        let args = if number < 2 { format!("('{}...',)", "x".repeat(1_015)) } else { "('...',)".to_owned() };
        events.push(job(&id, "queued", 1_000, &json!({ "workerId": "well", "args": args })));
        if number > 0 {
            events.push(job(&id, "active", 900, &json!({ "workerId": "well" })));
        }
    }
    let source = |state: &str, at: &str| {
        json!({
            "type": "source.state_change", "timestamp": at, "framework": "celery",
            "source": { "name": "main", "state": state, "reason": "gone" },
        })
    };
    let (left, back) = (ago(500), ago(400));
    let told = [source("connected", &ago(600)), source("disconnected", &left), source("connected", &back)];
    server.log.append(CONNECTION, serde_json::to_vec(&told).unwrap().into()).await.unwrap();
    server.given(&json!(events));
    // Whoever asked for health before us has had it looked at.
    let is_new = |answer: &Answer| answer.body["data"].as_array().is_some_and(|data| !data.is_empty());
    let missing = server.client.until("/api/coverage", is_new).body["data"].clone();
    let brief = |it: &Value| {
        json!([it["what"], it["workerId"], it["jobs"], it["of"], it["source"], it["from"], it["to"], it["reason"]])
    };
    let told: Vec<Value> = missing.as_array().unwrap().iter().map(brief).collect();
    assert_eq!(
        json!(told),
        json!([
            ["sentEvents", "well", 6, 6, null, null, null, null],
            ["arguments", "well", 2, 6, null, null, null, null],
            ["outcomes", "deaf", 6, 6, null, null, null, null],
            ["listening", null, null, null, "main", left, back, "gone"],
        ])
    );
    assert!(missing.as_array().unwrap().iter().all(|it| it["connectionId"] == json!(CONNECTION)));
    let health = server.client.get("/api/health").send().body;
    let warnings = health["warnings"].as_array().unwrap();
    assert_eq!((&health["status"], warnings.len()), (&json!("ok"), 4), "{health}");
    assert!(!health.to_string().contains("deaf"), "health is for everybody, and names nobody");
}
