//! Rebuilding and verifying while the views serve.

use serde_json::{Value, json};

use crate::harness::{Server, event};

fn ended(server: &Server, path: &str, begun: &Value) -> Value {
    let path = format!("{path}/{}", begun["id"].as_str().unwrap());
    let under_way = ["running", "catching_up", "verifying"];
    server.client.until(&path, |answer| !under_way.contains(&answer.body["state"].as_str().unwrap())).body
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_rebuilt_verified_and_gone_back_to_while_they_serve() {
    let server = Server::start().await;
    let jobs: Vec<Value> =
        (0..50).map(|number| event(&format!("job-{number}"), "completed", "2026-11-23T12:00:00Z")).collect();
    server.given(&json!(jobs));
    let before = server.client.get("/api/jobs").admin().send().body;

    let begun = server.client.post("/api/rebuilds", &json!({})).admin().send();
    assert_eq!(begun.status, 202, "{}", begun.body);
    let done = ended(&server, "/api/rebuilds", &begun.body);
    assert_eq!((&done["state"], &done["sameAsBefore"], &done["jobs"]), (&json!("completed"), &json!(true), &json!(50)));
    assert_eq!((&done["eventsDone"], &done["eventsTotal"], &done["reason"]), (&json!(50), &json!(50), &Value::Null));
    assert_eq!(server.client.get("/api/jobs").admin().send().body, before);
    assert_eq!(server.client.get("/api/rebuilds").admin().send().body["data"][0]["id"], begun.body["id"]);

    let verified = server.client.post("/api/verifications", &json!({})).admin().send();
    assert_eq!(verified.status, 202, "{}", verified.body);
    let verdict = &ended(&server, "/api/verifications", &verified.body)["verdict"];
    assert_eq!((&verdict["equal"], &verdict["jobs"], &verdict["differing"]), (&json!(true), &json!(50), &json!(0)));

    // Events go on to arrive in the views that were made, and in those that come back.
    server.given(&json!([event("later", "active", "2026-11-23T12:00:01Z")]));
    let back = server.client.post("/api/rebuilds", &json!({"rollback": true})).admin().send();
    assert_eq!(ended(&server, "/api/rebuilds", &back.body)["state"], "completed");
    server.given(&json!([event("last", "active", "2026-11-23T12:00:02Z")]));
    assert_eq!(server.client.get("/api/jobs?limit=1").admin().send().body["pagination"]["total"], 52);
    assert_eq!(server.client.delete("/api/rebuilds/previous").admin().send().body, json!({"removed": true}));
    server.client.post("/api/rebuilds", &json!({"rollback": true})).admin().send().error(409, "CONFLICT");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_maintenance_refuses_it_refuses_clearly() {
    let server = Server::start().await;
    let client = &server.client;
    let id = "0b9c7a52-6d0e-4d7b-a2b7-6f0b6f6d3a11";
    for path in ["/api/rebuilds", "/api/verifications"] {
        client.post(path, &json!({})).send().error(401, "UNAUTHORIZED");
        client.post(path, &json!({})).admin().header("origin", "https://evil.example").send().error(403, "FORBIDDEN");
        client.request(ureq::http::Method::PUT, path).admin().send().error(405, "METHOD_NOT_ALLOWED");
        client.get(&format!("{path}/{id}")).admin().send().error(404, "NOT_FOUND");
        client.get(&format!("{path}/nonsense")).admin().send().error(404, "NOT_FOUND");
        client.delete(&format!("{path}/{id}")).admin().send().error(404, "NOT_FOUND");
    }
    client.post("/api/rebuilds", &json!({"rollback": "yes"})).admin().send().error(400, "VALIDATION_ERROR");
    client.post(&format!("/api/rebuilds/{id}/promote"), &json!({})).admin().send().error(404, "NOT_FOUND");
    let begun = client.post("/api/rebuilds", &json!({})).admin().send().body;
    let done = ended(&server, "/api/rebuilds", &begun);
    assert_eq!(done["state"], "completed", "an empty log gives empty views: {done}");
    let path = format!("/api/rebuilds/{}/promote", done["id"].as_str().unwrap());
    client.post(&path, &json!({})).admin().send().error(409, "CONFLICT");
}
