//! The documented contract: fields and their types, paging, parameters with defaults and limits, errors word for word.
//! What is additive is named here, so that nothing is added by accident.

use std::collections::{BTreeMap, BTreeSet};

use proto_events::Timestamp;
use serde_json::{Value, json};
use ureq::http::Method;
use uuid::Uuid;

use crate::harness::{Answer, Bare, CONNECTION, KEY, PASSWORD, SECRET, Server, TOKEN, event};
use crate::spec::Spec;

/// Fields of a job in a list; a question mark stands for null.
const ITEM: [(&str, &str); 15] = [
    ("id", "uuid"),
    ("externalId", "text"),
    ("framework", "framework"),
    ("connectionId", "uuid"),
    ("name", "text"),
    ("queue", "text?"),
    ("state", "state"),
    ("stateChangedAt", "time"),
    ("scheduledFor", "time?"),
    ("createdAt", "time"),
    ("startedAt", "time?"),
    ("completedAt", "time?"),
    ("durationMs", "count?"),
    ("workerId", "text?"),
    ("error", "text?"),
];

/// What a job in full has beside them.
const DETAIL: [(&str, &str); 13] = [
    ("tags", "object"),
    ("previousState", "state?"),
    ("attempt", "count"),
    ("maxRetries", "count?"),
    ("progress", "fraction?"),
    ("args", "any"),
    ("result", "any"),
    ("stacktrace", "text?"),
    ("parentId", "uuid?"),
    ("rootId", "uuid?"),
    ("extensions", "object"),
    ("stateHistory", "array"),
    ("recentExecutions", "array"),
];

/// What we add to a job in full.
const ADDED: [(&str, &str); 7] = [
    ("kwargs", "any"),
    ("executions", "array"),
    ("deliveries", "count"),
    ("truncated", "flag"),
    ("notes", "array"),
    ("notesTruncated", "flag"),
    ("outcomeFrom", "text?"),
];

/// What we add to every job: what may be wrong with it now.
const SIGNS: [(&str, &str); 3] = [("lost", "object?"), ("stuck", "object?"), ("waiting", "object?")];

const TRANSITION: [(&str, &str); 2] = [("state", "state"), ("timestamp", "time")];

const RECENT: [(&str, &str); 8] = [
    ("id", "uuid"),
    ("externalId", "text"),
    ("state", "state"),
    ("createdAt", "time"),
    ("startedAt", "time?"),
    ("completedAt", "time?"),
    ("durationMs", "count?"),
    ("error", "text?"),
];

const STATES: [&str; 8] = ["unknown", "queued", "scheduled", "active", "completed", "failed", "retrying", "cancelled"];

fn is(kind: &str, value: &Value) -> bool {
    if let Some(kind) = kind.strip_suffix('?') {
        return value.is_null() || is(kind, value);
    }
    let text = value.as_str();
    match kind {
        "text" => text.is_some(),
        "uuid" => text.is_some_and(|text| text.len() == 36 && Uuid::parse_str(text).is_ok()),
        "framework" => text.is_some_and(|text| ["celery", "bullmq", "sidekiq"].contains(&text)),
        "state" => text.is_some_and(|text| STATES.contains(&text)),
        // ISO 8601 in UTC, as the samples have it: with milliseconds and `Z`.
        "time" => text.is_some_and(|text| Timestamp::parse(text).is_some_and(|time| time.to_millis_text() == text)),
        "count" => value.is_u64(),
        "fraction" => value.as_f64().is_some_and(|fraction| (0.0..=1.0).contains(&fraction)),
        "flag" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "any" => true,
        _ => panic!("no kind {kind}"),
    }
}

/// Asserts that an object has these fields, of these kinds, and no others.
fn has_exactly(object: &Value, fields: &[(&str, &str)]) {
    let names: BTreeSet<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, fields.iter().map(|(name, _)| *name).collect(), "{object}");
    for (name, kind) in fields {
        assert!(is(kind, &object[*name]), "{name} is {} and no {kind}", object[*name]);
    }
}

/// Jobs of every state, one that says all there is to say, and one that says next to nothing.
fn jobs() -> Value {
    let mut events: Vec<Value> = STATES
        .iter()
        .enumerate()
        .map(|(number, state)| event(&format!("in-{state}"), state, &format!("2026-02-27T10:29:{number:02}Z")))
        .collect();
    let mut full = event("full", "queued", "2026-02-27T10:30:00.123456Z");
    full["job"]["queue"] = json!("high");
    full["job"]["maxRetries"] = json!(3);
    full["job"]["args"] = json!(["north", 1]);
    full["job"]["kwargs"] = json!({ "dry": true });
    full["job"]["tags"] = json!({ "team": "a" });
    full["job"]["parentId"] = json!("in-completed");
    full["job"]["rootId"] = json!("in-completed");
    full["job"]["extensions"] = json!({ "exchange": "" });
    full["job"]["scheduledFor"] = json!("2026-02-27T10:30:01Z");
    let mut active = event("full", "active", "2026-02-27T10:30:02Z");
    active["job"]["workerId"] = json!("celery@worker-1");
    active["job"]["progress"] = json!(0.5);
    let mut failed = event("full", "failed", "2026-02-27T10:30:08Z");
    failed["job"]["error"] = json!("KeyError('x')");
    failed["job"]["stacktrace"] = json!("Traceback (most recent call last):\n…");
    failed["job"]["result"] = json!({ "deep": [null] });
    events.extend([full, active, failed]);
    json!(events)
}

fn list(server: &Server, query: &str) -> Answer {
    let answer = server.client.get(&format!("/api/jobs?{query}")).admin().send();
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_have_the_documented_fields_of_the_documented_types_and_no_others_but_ours() {
    let server = Server::start().await;
    server.given(&jobs());
    let listed = list(&server, "").body;
    let items = listed["data"].as_array().unwrap();
    assert_eq!(items.len(), STATES.len() + 1);
    let listed = [ITEM.as_slice(), &SIGNS].concat();
    let detail = [listed.as_slice(), &DETAIL, &ADDED].concat();
    for item in items {
        has_exactly(item, &listed);
        let job = server.client.get(&format!("/api/jobs/{}", item["id"].as_str().unwrap())).admin().send().body;
        has_exactly(&job, &detail);
        for (name, _) in &listed {
            assert_eq!(job[*name], item[*name], "{name} is the same in the list and alone");
        }
        for transition in job["stateHistory"].as_array().unwrap() {
            has_exactly(transition, &TRANSITION);
        }
        let recent = job["recentExecutions"].as_array().unwrap();
        assert!(!recent.is_empty() && recent.iter().all(|other| other["id"] != job["id"]));
        for other in recent {
            has_exactly(other, &RECENT);
        }
    }
    // Nothing of what is documented is always null.
    let full = server.client.get("/api/jobs/full").admin().send().body;
    for (name, _) in [ITEM.as_slice(), &DETAIL, &ADDED].concat() {
        assert!(!full[name].is_null(), "{name} of {full}");
    }
    assert_eq!((&full["durationMs"], &full["createdAt"]), (&json!(6_000), &json!("2026-02-27T10:30:00.123Z")));
    let times: Vec<&str> =
        full["stateHistory"].as_array().unwrap().iter().map(|it| it["timestamp"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_paged_as_documented() {
    let server = Server::start().await;
    let events: Vec<Value> = (0..120)
        .map(|number| {
            event(&format!("{number}"), "queued", &format!("2026-02-27T10:{:02}:{:02}Z", number / 60, number % 60))
        })
        .collect();
    server.given(&json!(events));
    for (query, limit) in [("", 50), ("limit=1", 1), ("limit=100", 100)] {
        let page = list(&server, query).body;
        has_exactly(&page, &[("data", "array"), ("pagination", "object")]);
        has_exactly(&page["pagination"], &[("nextCursor", "text"), ("limit", "count"), ("total", "count")]);
        assert_eq!((&page["pagination"]["limit"], &page["pagination"]["total"]), (&json!(limit), &json!(120)));
        assert_eq!(page["data"].as_array().unwrap().len(), limit);
    }
    let mut seen = Vec::new();
    let mut query = String::new();
    loop {
        let page = list(&server, &query).body;
        seen.extend(page["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["pagination"]["nextCursor"].as_str() else { break };
        assert!(cursor.len() <= 1_000);
        query = format!("cursor={cursor}");
    }
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (120, 120), "each once, and then null");
}

/// The parameters of `GET /api/jobs` as documented, each with good values and with bad ones.
fn parameters() -> BTreeMap<&'static str, (Vec<String>, Vec<String>)> {
    let texts = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    let long = |characters: usize| "é".repeat(characters);
    BTreeMap::from([
        ("limit", (texts(&["1", "50", "100"]), texts(&["0", "101", "-1", "ten", ""]))),
        ("search", (vec!["send".to_owned(), long(500)], vec![long(501)])),
        ("state", (texts(&STATES), texts(&["stuck", "FAILED", ""]))),
        ("queue", (texts(&["default"]), vec![long(256)])),
        ("worker", (texts(&["celery@worker-1"]), vec![long(513)])),
        ("connectionId", (vec![CONNECTION.to_string()], texts(&["default", "550e8400"]))),
        ("framework", (texts(&["celery", "bullmq", "sidekiq"]), texts(&["rq", "Celery"]))),
        (
            "sortBy",
            (
                texts(&["createdAt", "name", "state", "durationMs", "queue", "startedAt", "worker"]),
                texts(&["id", "created_at"]),
            ),
        ),
        ("sortOrder", (texts(&["asc", "desc"]), texts(&["up", "ASC"]))),
        ("cursor", (vec![], vec![long(1_001), "x".to_owned()])),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_parameter_is_taken_within_its_limits_and_refused_by_name_outside() {
    let server = Server::start().await;
    server.given(&jobs());
    let ask = |name: &str, value: &str| {
        let value = value.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        server.client.get(&format!("/api/jobs?{name}={value}")).admin().send()
    };
    for (name, (good, bad)) in parameters() {
        for value in good {
            let answer = ask(name, &value);
            assert_eq!(answer.status, 200, "{name}={value}: {}", answer.body);
        }
        for value in bad {
            let answer = ask(name, &value);
            let error = answer.error(400, "VALIDATION_ERROR");
            assert_eq!(error["docs_url"], "https://docs.sluice.sh/troubleshooting/api-errors");
            assert!(error["details"][name].is_string(), "{name}={value}: {error}");
        }
    }
    // The document says the same of them.
    let spec = Spec::of(&server.client.address);
    let described = spec.document["paths"]["/api/jobs"]["get"]["parameters"].as_array().unwrap();
    let schema =
        |name: &str| &described.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name}"))["schema"];
    assert_eq!(*schema("limit"), json!({ "type": "integer", "minimum": 1, "maximum": 100, "default": 50 }));
    assert_eq!((&schema("search")["maxLength"], &schema("cursor")["maxLength"]), (&json!(500), &json!(1_000)));
    assert_eq!((&schema("sortBy")["default"], &schema("sortOrder")["default"]), (&json!("createdAt"), &json!("desc")));
    for name in ["framework", "sortBy", "sortOrder"] {
        assert_eq!(schema(name)["enum"], json!(parameters()[name].0), "{name}");
    }
    assert_eq!(schema("state")["items"]["enum"], json!(STATES));
    let ours: Vec<&str> =
        described.iter().map(|it| it["name"].as_str().unwrap()).filter(|it| !parameters().contains_key(it)).collect();
    let added = [
        "format",
        "name",
        "createdAfter",
        "createdBefore",
        "externalId",
        "errorContains",
        "attemptAtLeast",
        "tag",
        "lost",
        "stuck",
        "waiting",
        "atLeast",
        "maxStaleness",
    ];
    assert_eq!(ours, added, "beyond the contract");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_error_is_word_for_word() {
    let server = Server::start().await;
    let client = &server.client;
    let error = |code: &str, message: &str, page: &str| {
        let docs = format!("https://docs.sluice.sh/troubleshooting/{page}");
        json!({ "error": { "code": code, "message": message, "docs_url": docs } })
    };
    let no_session = error("UNAUTHORIZED", "Authentication required.", "auth");
    for path in ["/api/jobs", "/api/jobs/fbe08da7-0069-502f-90f8-dff3d29e3dc6"] {
        let answer = client.get(path).send();
        assert_eq!((answer.status, &answer.body), (401, &no_session), "{path}");
    }
    let no_key = error("UNAUTHORIZED", "Invalid or missing API key.", "api-key");
    let answer = client.post("/api/ingest", &json!({ "events": [] })).send();
    assert_eq!((answer.status, &answer.body), (401, &no_key));
    let answer = client.get("/api/jobs/fbe08da7-0069-502f-90f8-dff3d29e3dc6").admin().send();
    assert_eq!((answer.status, &answer.body), (404, &error("NOT_FOUND", "Job not found.", "api-errors")));
    let answer = client.get("/api/jobs?limit=0").admin().send();
    let mut invalid = error("VALIDATION_ERROR", "Invalid limit: must be a whole number from 1 to 100.", "api-errors");
    invalid["error"]["details"] = json!({ "limit": "must be a whole number from 1 to 100" });
    assert_eq!((answer.status, &answer.body), (400, &invalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_for_everybody_and_whole() {
    let bare = Bare::start(PASSWORD).await;
    let answer = bare.client.get("/api/openapi.json").send();
    assert_eq!((answer.status, &answer.body["openapi"]), (200, &json!("3.1.0")));
    assert_eq!(answer.body["info"]["version"], "1.2.3");
    let tag = answer.header("etag").unwrap();
    assert_eq!(bare.client.get("/api/openapi.json").header("if-none-match", tag).send().status, 304);
    bare.client.get("/api/openapi.json?x=1").send().error(400, "VALIDATION_ERROR");
    let text = answer.body.to_string();
    for secret in [KEY, PASSWORD, TOKEN, std::str::from_utf8(&SECRET).unwrap()] {
        assert!(!text.contains(secret));
    }
    let spec = Spec::of(&bare.client.address);
    for reference in text.split("\"$ref\":\"").skip(1) {
        spec.resolved(&json!({ "$ref": reference.split('"').next().unwrap() }));
    }
    for (name, schema) in answer.body["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::draft202012::meta::is_valid(schema), "{name}: {schema}");
        assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "two types are named {name} but for its number");
    }
    let mut ids = BTreeSet::new();
    for (path, methods) in answer.body["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path} has the id of another");
            let in_path = operation["parameters"].as_array().unwrap().iter().filter(|it| it["in"] == "path");
            let named: Vec<String> = in_path.map(|it| format!("{{{}}}", it["name"].as_str().unwrap())).collect();
            let variable: Vec<&str> = path.split('/').filter(|part| part.starts_with('{')).collect();
            assert_eq!(variable, named, "{method} {path}");
            for scheme in operation["security"].as_array().unwrap().iter().flat_map(|it| it.as_object().unwrap().keys())
            {
                assert!(answer.body["components"]["securitySchemes"][scheme].is_object(), "{scheme}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_has_the_methods_that_are_described_and_who_may_is_as_described() {
    let server = Server::start().await;
    let spec = Spec::of(&server.client.address);
    for (path, methods) in spec.document["paths"].as_object().unwrap() {
        let concrete = path.replace("{id}", "00000000-0000-0000-0000-000000000001").replace("{name}", "nobody");
        let answer = server.client.request(Method::PUT, &concrete).admin().send();
        answer.error(405, "METHOD_NOT_ALLOWED");
        let allowed: BTreeSet<&str> = answer.header("allow").unwrap().split(", ").filter(|it| *it != "HEAD").collect();
        let described: BTreeSet<String> = methods.as_object().unwrap().keys().map(|it| it.to_uppercase()).collect();
        assert_eq!(allowed, described.iter().map(String::as_str).collect(), "{path}");
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let stranger = server.client.request(method.clone(), &concrete).send().status;
            let open = operation["security"].as_array().unwrap().is_empty();
            // A log-in without a password is a stranger, too.
            assert_eq!(stranger != 401, open, "{method} {path} answers a stranger with {stranger}");
        }
    }
}
