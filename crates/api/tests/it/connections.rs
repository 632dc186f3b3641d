//! Connections and their keys.

use std::time::Instant;

use api::{Connections, DefaultConnection};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{CONNECTION, DEADLINE, KEY, Server, event};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_made_used_listed_and_deleted() {
    let server = Server::start().await;
    let create = |name: Value| server.client.post("/api/connections", &json!({ "name": name })).admin().send();
    let made = create(json!("billing"));
    assert_eq!(made.status, 201);
    let (id, key) = (made.body["id"].as_str().unwrap(), made.body["apiKey"].as_str().unwrap());
    assert!(key.starts_with("sk_live_") && key.len() >= 40, "{key}");
    create(json!("billing")).error(409, "CONFLICT");
    for bad in
        [json!(""), json!("   "), json!("a\nb"), json!("x".repeat(256)), json!(CONNECTION), json!(7), Value::Null]
    {
        create(bad).error(400, "VALIDATION_ERROR");
    }

    let mut own = event("a", "queued", "2026-02-27T10:29:55Z");
    own["connectionId"] = json!(id);
    let body = json!({ "events": [own, event("b", "queued", "2026-02-27T10:29:55Z")] });
    let answer = server.client.post("/api/ingest", &body).bearer(key).send();
    assert_eq!(
        (&answer.body["accepted"], &answer.body["rejected"][0]["code"]),
        (&json!(1), &json!("CONNECTION_MISMATCH"))
    );
    let read = server.client.get("/api/jobs/a?atLeast=1").admin().send();
    assert_eq!((read.status, &read.body["connectionId"]), (200, &json!(id)), "found over all connections");

    let list = server.client.get("/api/connections").admin().send();
    let shown: Vec<_> = list.body["data"].as_array().unwrap().iter().map(|it| (&it["name"], &it["hasKey"])).collect();
    assert_eq!(shown, [(&json!("default"), &json!(true)), (&json!("billing"), &json!(true))]);
    let text = list.body.to_string();
    assert!(!text.contains(key) && !text.contains("apiKey") && !text.contains("Hash"), "{text}");

    let delete = |name: &str| server.client.delete(&format!("/api/connections/{name}")).admin().send();
    assert_eq!(delete(id).status, 200);
    delete("billing").error(404, "NOT_FOUND");
    delete("default").error(409, "CONFLICT");
    server.client.post("/api/ingest", &body).bearer(key).send().error(401, "UNAUTHORIZED");
    let kept = server.client.get(&format!("/api/jobs/{}", read.body["id"].as_str().unwrap())).admin().send();
    assert_eq!(kept.status, 200, "its jobs stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_learns_of_keys_and_no_key_is_stored() {
    let server = Server::start().await;
    let other = Connections::open(server.log.kv()).await.unwrap();
    let until = async |done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + DEADLINE;
        while !done() {
            assert!(Instant::now() < deadline, "the other node does not learn of it");
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    assert_eq!(other.by_key(KEY), Some(CONNECTION));
    let (made, key) = server.connections.create("shared").await.unwrap();
    until(&|| other.by_key(&key) == Some(made.id)).await;
    for (name, value) in server.log.kv().entries().await.unwrap() {
        let value = String::from_utf8_lossy(&value);
        assert!(!value.contains(&key) && !value.contains(KEY), "{name}: {value}");
    }
    server.connections.delete("shared").await.unwrap();
    until(&|| other.by_key(&key).is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_connection_follows_the_configuration() {
    let server = Server::start().await;
    let connections = &server.connections;
    let configured =
        |id: u128, key: &str| DefaultConnection { id: Some(Uuid::from_u128(id)), key: Some(key.to_owned()) };
    let same = connections.ensure_default(&DefaultConnection::default()).await.unwrap();
    assert_eq!((same.id, connections.by_key(KEY)), (CONNECTION, Some(CONNECTION)), "nothing said, nothing changed");
    let rotated = DefaultConnection { id: None, key: Some("another key of a user".to_owned()) };
    connections.ensure_default(&rotated).await.unwrap();
    assert_eq!((connections.by_key(KEY), connections.by_key("another key of a user")), (None, Some(CONNECTION)));
    connections.ensure_default(&configured(1, KEY)).await.unwrap();
    assert_eq!(connections.by_key(KEY), Some(Uuid::from_u128(1)));
    assert!(connections.ids().contains(&CONNECTION), "the jobs of the former id can still be found");
    assert_eq!(connections.by_key("another key of a user"), None);

    let (_, key) = connections.create("older").await.unwrap();
    connections.ensure_default(&configured(1, &key)).await.unwrap();
    for _ in 0..20 {
        // Each node holds them in another order.
        let node = Connections::open(server.log.kv()).await.unwrap();
        assert_eq!(node.by_key(&key), Some(Uuid::from_u128(1)), "what is configured wins everywhere");
    }

    let first = connections.ensure("celery").await.unwrap();
    let again = Connections::open(server.log.kv()).await.unwrap().ensure("celery").await.unwrap();
    assert_eq!((again.id, again.has_key()), (first.id, false));
}
