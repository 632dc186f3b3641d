//! What Flower's scripts ask.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use ureq::http::Method;

use crate::harness::{Answer, DEADLINE, Server, TOKEN, event};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn get(server: &Server, path: &str) -> Answer {
    server.client.get(&format!("/flower/api/{path}")).header("authorization", &basic("admin", TOKEN)).send()
}

/// The ids of the tasks of a list, in its order.
fn ids(server: &Server, query: &str) -> Vec<String> {
    let answer = get(server, &format!("tasks?{query}"));
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    // The order of a JSON object is that of its text.
    let text = String::from_utf8(answer.bytes).unwrap();
    let mut ids: Vec<(usize, String)> = answer
        .body
        .as_object()
        .unwrap()
        .keys()
        .map(|id| (text.find(&format!("\"{id}\": {{")).unwrap(), id.clone()))
        .collect();
    ids.sort_unstable();
    ids.into_iter().map(|(_, id)| id).collect()
}

/// One task in each state that Celery has a name for, of the workers `a` and `b`.
fn tasks() -> Value {
    let mut events = Vec::new();
    for (minute, (id, states)) in [
        ("pending", vec!["queued"]),
        ("received", vec!["queued"]),
        ("started", vec!["queued", "active"]),
        ("success", vec!["queued", "active", "completed"]),
        ("failure", vec!["queued", "active", "failed"]),
        ("retry", vec!["queued", "active", "retrying"]),
        ("revoked", vec!["queued", "cancelled"]),
    ]
    .into_iter()
    .enumerate()
    {
        for (second, state) in states.iter().enumerate() {
            let mut event = event(id, state, &format!("2026-02-27T10:{minute:02}:{second:02}.250Z"));
            event["job"]["name"] = json!(format!("shop.{id}"));
            if !["pending", "revoked"].contains(&id) {
                event["job"]["workerId"] = json!(if minute.is_multiple_of(2) { "celery@a" } else { "celery@b" });
            }
            match *state {
                "queued" => event["job"]["args"] = json!("(1, 'x')"),
                "completed" => event["job"]["result"] = json!("'done'"),
                "failed" | "retrying" => {
                    event["job"]["error"] = json!("KeyError('x')");
                    event["job"]["stacktrace"] = json!("Traceback…");
                }
                _ => {}
            }
            events.push(event);
        }
    }
    json!(events)
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_filtered_and_ordered_by_flowers_parameters() {
    let server = Server::start().await;
    server.given(&tasks());
    let newest_first = ["revoked", "retry", "failure", "success", "started", "received", "pending"];
    for (query, expected) in [
        ("", &newest_first[..]),
        ("limit=2&offset=3", &newest_first[3..5]),
        ("offset=6", &newest_first[6..]),
        ("offset=7", &[]),
        ("limit=0", &[]),
        ("sort_by=name", &["failure", "pending", "received", "retry", "revoked", "started", "success"]),
        ("sort_by=-name&limit=1", &["success"]),
        ("sort_by=received&limit=2", &["pending", "received"]),
        ("sort_by=-started&limit=1", &["retry"]),
        ("sort_by=state", &["failure", "pending", "received", "retry", "revoked", "started", "success"]),
        ("sort_by=-state&offset=1&limit=3", &["started", "revoked", "retry"]),
        ("state=PENDING", &["pending"]),
        ("state=received", &["received"]),
        ("state=All&workername=All&taskname=All&limit=1", &["revoked"]),
        ("state=REJECTED", &[]),
        ("workername=celery@b", &["retry", "success", "received"][..]),
        ("taskname=shop.failure", &["failure"]),
        ("received_start=2026-02-27+10:05", &["revoked", "retry"]),
        ("received_start=2026-02-27+10:01&received_end=2026-02-27+10:02", &["received"]),
        ("search=state:SUCCESS", &["success"]),
        ("search=REC", &["received"]),
        ("search=worker:celery@a+name:shop.star", &["started"]),
    ] {
        assert_eq!(ids(&server, query), expected, "{query}");
    }
    for (query, field) in [("search=a+OR+b", "search"), ("state=DONE", "state"), ("page=2", "page")] {
        let error = get(&server, &format!("tasks?{query}"));
        assert!(error.error(400, "VALIDATION_ERROR")["details"][field].is_string(), "{}", error.body);
    }
    let all = get(&server, "tasks").body;
    for (id, task) in all.as_object().unwrap() {
        assert_eq!((task["uuid"].as_str(), &task["state"]), (Some(id.as_str()), &json!(id.to_uppercase())));
        assert_eq!(get(&server, &format!("task/info/{id}")).body, *task);
    }
    let failure = &all["failure"];
    assert_eq!((&failure["exception"], &failure["traceback"]), (&json!("KeyError('x')"), &json!("Traceback…")));
    assert_eq!((&failure["failed"], &failure["worker"]), (&json!(1_772_186_642.25), &json!("celery@a")));
    assert_eq!(
        (&failure["args"], &failure["kwargs"], &failure["children"]),
        (&json!("(1, 'x')"), &Value::Null, &json!([]))
    );
    let names = get(&server, "task/types").body["task-types"].clone();
    assert_eq!(
        names,
        json!(
            ["failure", "pending", "received", "retry", "revoked", "started", "success"].map(|id| format!("shop.{id}"))
        )
    );
    get(&server, "task/info/nobody").error(404, "NOT_FOUND");
    get(&server, "task/nothing").error(404, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_that_of_the_record_and_is_waited_for() {
    let server = Server::start().await;
    server.given(&tasks());
    let result = |id: &str| get(&server, &format!("task/result/{id}")).body;
    assert_eq!(result("success"), json!({ "task-id": "success", "state": "SUCCESS", "result": "'done'" }));
    let failure =
        json!({ "task-id": "failure", "state": "FAILURE", "result": "KeyError('x')", "traceback": "Traceback…" });
    assert_eq!(result("failure"), failure);
    assert_eq!(result("started"), json!({ "task-id": "started", "state": "STARTED" }));
    assert_eq!(result("nobody"), json!({ "task-id": "nobody", "state": "PENDING" }), "as Celery has it");
    let began = Instant::now();
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| get(&server, "task/result/started?timeout=20"));
        // Whether it asks before or after this, it has the answer of after.
        server.given(&json!([event("started", "completed", "2026-02-27T10:03:00Z")]));
        waiting.join().unwrap()
    });
    assert_eq!(waiting.body, json!({ "task-id": "started", "state": "SUCCESS", "result": null }));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(get(&server, "task/result/pending?timeout=0.05").body["state"], "PENDING");
    get(&server, "task/result/pending?timeout=soon").error(400, "VALIDATION_ERROR");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_wait_for_a_result_at_once_and_all_of_them_have_it() {
    let server = Server::start().await;
    server.given(&tasks());
    let path = "/flower/api/task/result/started?timeout=60";
    let waiting: Vec<TcpStream> = (0..256)
        .map(|_| {
            let mut socket = TcpStream::connect(server.client.address()).unwrap();
            write!(
                socket,
                "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
            )
            .unwrap();
            socket
        })
        .collect();
    let more = server.client.until("/flower/api/task/result/started?timeout=0.001", |answer| answer.status == 503);
    assert_eq!((more.error(503, "UNAVAILABLE"), more.header("retry-after")), (&more.body["error"], Some("2")));
    assert_eq!(get(&server, "task/result/success?timeout=9").body["state"], "SUCCESS", "who does not wait is answered");
    server.given(&json!([event("started", "completed", "2026-02-27T10:03:00Z")]));
    for mut socket in waiting {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"state\":\"SUCCESS\""), "{answer}");
    }
    assert_eq!(get(&server, "task/result/pending?timeout=0.001").body["state"], "PENDING", "and leave their places");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_a_key_that_may_read_and_nobody_commands() {
    let server = Server::start().await;
    server.given(&tasks());
    let ask = |method: Method, path: &str, authorization: &str| {
        server.client.request(method, path).header("authorization", authorization).send()
    };
    let made = server.client.post("/api/keys", &json!({ "name": "flower" })).admin().send().body;
    let key = made["apiKey"].as_str().unwrap();
    for good in [basic("whoever", key), basic("", TOKEN), format!("Bearer {key}")] {
        assert_eq!(ask(Method::GET, "/flower/api/tasks?limit=1", &good).status, 200);
    }
    for bad in [basic(key, ""), basic("admin", "admin"), "Basic ???".to_owned(), basic("a", crate::harness::KEY)] {
        for path in
            ["/flower/api/tasks", "/flower/api/task/info/success", "/flower/api/workers", "/flower/api/queues/length"]
        {
            let refused = ask(Method::GET, path, &bad);
            refused.error(401, "UNAUTHORIZED");
            assert!(refused.header("www-authenticate").unwrap().starts_with("Basic realm="));
        }
        ask(Method::POST, "/flower/api/task/revoke/success", &bad).error(401, "UNAUTHORIZED");
    }
    // Nowhere else does a password do: a browser that has learnt it here shows it there, too.
    assert_eq!(ask(Method::GET, "/api/jobs", &basic("whoever", key)).status, 401);
    for path in [
        "task/revoke/success",
        "task/apply/shop.success",
        "task/async-apply/a",
        "worker/shutdown/celery@a",
        "worker/pool/grow/a",
    ] {
        let refused = ask(Method::POST, &format!("/flower/api/{path}"), &basic("", key));
        let error = refused.error(501, "NOT_IMPLEMENTED");
        assert!(error["message"].as_str().unwrap().contains("commands nothing"), "{error}");
    }
    let read_only = ask(Method::POST, "/flower/api/tasks", &basic("", key));
    assert_eq!((read_only.status, read_only.header("allow")), (405, Some("GET, HEAD")));
    assert_eq!(get(&server, "task/result/success").body["state"], "SUCCESS", "and nothing was commanded");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_id_in_several_connections_the_newest_task_is_told() {
    let server = Server::start().await;
    let other = server.client.post("/api/connections", &json!({ "name": "other" })).admin().send().body;
    let given = |key: &str, time: &str, name: &str| {
        let mut event = event("same", "queued", time);
        event.as_object_mut().unwrap().remove("connectionId");
        event["job"]["name"] = json!(name);
        let answer = server.client.post("/api/ingest", &json!({ "events": [event] })).bearer(key).send();
        assert_eq!((answer.status, &answer.body["rejected"]), (202, &json!([])), "{}", answer.body);
        server.client.get(&format!("/api/jobs?atLeast={}", answer.body["sequence"])).admin().send();
    };
    given(other["apiKey"].as_str().unwrap(), "2026-02-27T10:01:00Z", "newer");
    given(crate::harness::KEY, "2026-02-27T10:00:00Z", "older");
    assert_eq!(get(&server, "task/info/same").body["name"], "newer");
    let list = get(&server, "tasks").body;
    assert_eq!((list.as_object().unwrap().len(), &list["same"]["name"]), (1, &json!("newer")));
    assert_eq!(ids(&server, "offset=0&limit=5"), ["same"]);
}
