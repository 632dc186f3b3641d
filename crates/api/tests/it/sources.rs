//! Sources that are added and removed while the server runs.

use std::os::unix::fs::PermissionsExt as _;

use event_log::Outlet;
use serde_json::{Value, json};
use sources::{Fleet, FleetError, Habits, Origin, parse_source};
use ureq::http::Method;

use crate::harness::{Answer, CONNECTION, Server};

/// Nobody listens there.
const URL: &str = "redis://forebay:s3cret@127.0.0.1:1/3";
const MASKED: &str = "redis://forebay:***@127.0.0.1:1/3";

fn add(server: &Server, body: &Value) -> Answer {
    let answer = server.client.post("/api/sources", body).admin().send();
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("s3cret"), "{}", answer.body);
    answer
}

fn listed(server: &Server) -> Vec<(String, String, String)> {
    let answer = server.client.get("/api/sources").admin().send();
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("s3cret"), "{}", answer.body);
    let text = |source: &Value, key: &str| source[key].as_str().unwrap().to_owned();
    let data = answer.body["data"].as_array().unwrap().clone();
    data.iter().map(|source| (text(source, "name"), text(source, "origin"), text(source, "connectionId"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_is_added_kept_listed_and_removed_and_its_password_shown_to_nobody() {
    let server = Server::start().await;
    assert_eq!(listed(&server), []);
    let added = add(&server, &json!({ "name": "shop", "url": URL }));
    assert_eq!((added.status, &added.body["urlMasked"]), (201, &json!(MASKED)), "{}", added.body);
    let shop = server.connections.find("shop").unwrap().id.to_string();
    let mine = ("shop".to_owned(), "api".to_owned(), shop.clone());
    assert_eq!(listed(&server), std::slice::from_ref(&mine));
    let health = server.client.get("/api/health").send();
    assert_eq!(health.body["sources"][0]["name"], "shop", "{}", health.body);

    // What says the same, or is called the same, is refused, and makes no connection.
    let connections = server.connections.list().len();
    add(&server, &json!({ "name": "shop", "url": "redis://127.0.0.1:1/4" })).error(409, "CONFLICT");
    add(&server, &json!({ "name": "again", "url": "redis://127.0.0.1:1/3", "connection": "shop" }))
        .error(409, "CONFLICT");
    for (body, field) in [
        (json!({ "name": "a b", "url": URL }), "name"),
        (json!({ "name": "x", "url": "redis://:s3cret@127.0.0.1:1/s3cret" }), "url"),
        (json!({ "name": "x", "url": "kafka://s3cret" }), "url"),
        (json!({ "name": "x", "url": "s3cret" }), "url"),
    ] {
        let answer = add(&server, &body);
        let error = answer.error(400, "VALIDATION_ERROR");
        assert!(error["details"][field].is_string(), "{error}");
    }
    add(&server, &json!({ "name": "x" })).error(400, "VALIDATION_ERROR");
    add(&server, &json!({ "name": "x", "url": URL, "more": 1 })).error(400, "VALIDATION_ERROR");
    assert_eq!(server.connections.list().len(), connections);

    // Another broker for the same connection, and the same broker for another, are something else.
    assert_eq!(
        add(&server, &json!({ "name": "second", "url": "redis://127.0.0.1:1/5", "connection": "shop" })).status,
        201
    );
    assert_eq!(add(&server, &json!({ "name": "default", "url": URL })).status, 201);
    let expected =
        [mine, ("second".into(), "api".into(), shop), ("default".into(), "api".into(), CONNECTION.to_string())];
    assert_eq!(listed(&server), expected);

    // The next start finds them, and nobody else does.
    let file = server.dir.path().join("sources.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let next = Fleet::open(file.clone(), Outlet::new(None), Habits::default()).unwrap();
    let added: Vec<_> = next.added().await.into_iter().map(|added| (added.name, added.connection)).collect();
    assert_eq!(
        added,
        [("shop", "shop"), ("second", "shop"), ("default", "default")].map(|(a, b)| (a.into(), b.into()))
    );
    assert!(std::fs::read_to_string(&file).unwrap().contains("s3cret"), "the password is kept");

    server.client.delete("/api/sources/nobody").admin().send().error(404, "NOT_FOUND");
    let gone = server.client.delete("/api/sources/shop").admin().send();
    assert_eq!((gone.status, &gone.body["urlMasked"]), (200, &json!(MASKED)), "{}", gone.body);
    server.client.delete("/api/sources/shop").admin().send().error(404, "NOT_FOUND");
    assert_eq!(listed(&server), expected[1..]);
    assert!(server.connections.find("shop").is_some(), "its connection and its jobs stay");
    let next = Fleet::open(file, Outlet::new(None), Habits::default()).unwrap();
    assert_eq!(next.added().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_declares_is_removed_there_alone() {
    let server = Server::start().await;
    let url = parse_source(URL).unwrap().url;
    server.fleet.start("shop", &url, CONNECTION, Origin::Configuration).unwrap();
    let answer = server.client.delete("/api/sources/shop").admin().send();
    let error = answer.error(409, "CONFLICT");
    assert!(error["message"].as_str().unwrap().contains("--celery"), "{error}");
    assert_eq!(listed(&server).len(), 1);
    server.client.request(Method::PATCH, "/api/sources/shop").admin().send().error(405, "METHOD_NOT_ALLOWED");
    add(&server, &json!({ "name": "default", "url": URL })).error(409, "CONFLICT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_kept_and_does_not_run_can_be_removed_and_is_not_doubled() {
    let server = Server::start().await;
    assert_eq!(add(&server, &json!({ "name": "shop", "url": URL })).status, 201);
    let shop = server.connections.find("shop").unwrap().id;
    let file = server.dir.path().join("sources.json");
    let kept = || -> Value { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };

    // Added and not started yet, as after a restart, or without a log: RabbitMQ keeps, and so is not listened to at once.
    let next = |log| Fleet::open(file.clone(), log, Habits::default()).unwrap();
    let gone = next(Outlet::new(None)).remove("shop").await.unwrap();
    assert_eq!((gone.connection_id, gone.origin, gone.status.url_masked.as_str()), (shop, Origin::Api, MASKED));
    assert_eq!(kept()["added"], json!([]));
    assert!(matches!(next(Outlet::new(None)).remove("shop").await, Err(FleetError::Unknown)));

    // What does not start is not kept, and what was there before stays.
    let without_log = next(Outlet::new(None));
    without_log.add("bunny", "redis://127.0.0.1:1/7", shop, "shop").await.unwrap();
    without_log.stop().await;
    let before = kept();
    for name in ["other", "bunny"] {
        let refused = next(Outlet::new(None)).add(name, "amqp://u:s3cret@127.0.0.1:1/", shop, "shop").await;
        assert!(matches!(refused, Err(FleetError::Spawn(_))), "{name}");
        assert_eq!(kept(), before);
    }

    // Who adds it again means that one alone.
    let again = next(Outlet::from(&server.log));
    let added = again.add("bunny", "amqp://u:s3cret@127.0.0.1:1/", shop, "shop").await.unwrap();
    assert_eq!(added.status.kind, "celery-rabbitmq");
    assert_eq!(kept()["added"].as_array().unwrap().len(), 1, "{}", kept());
    again.stop().await;
    let gone = next(Outlet::new(None)).remove("bunny").await.unwrap();
    assert!(!gone.status.url_masked.contains("s3cret"), "{}", gone.status.url_masked);
    assert_eq!(kept()["added"], json!([]));

    // Nor does a URL that this version cannot read stay forever.
    let unreadable = json!({ "added": [{ "name": "odd", "connection": "odd", "url": "kafka://u:s3cret@h" }] });
    std::fs::write(&file, unreadable.to_string()).unwrap();
    let gone = next(Outlet::new(None)).remove("odd").await.unwrap();
    assert_eq!(gone.status.url_masked, "***");
    assert_eq!(kept()["added"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_neither_renamed_nor_deleted_while_a_source_listens_for_it() {
    let server = Server::start().await;
    assert_eq!(add(&server, &json!({ "name": "redis-1", "url": URL, "connection": "shop" })).status, 201);
    let id = server.connections.find("shop").unwrap().id;
    for which in ["shop".to_owned(), id.to_string()] {
        let answer = server.client.delete(&format!("/api/connections/{which}")).admin().send();
        let error = answer.error(409, "CONFLICT");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("redis-1") && message.contains("remove the source first"), "{message}");
        let renamed =
            server.client.patch(&format!("/api/connections/{which}"), &json!({ "name": "store" })).admin().send();
        let error = renamed.error(409, "CONFLICT");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("redis-1") && message.contains("stop the server"), "{message}");
    }
    assert!(server.connections.find("shop").is_some() && server.connections.find("store").is_none());
    assert_eq!(server.client.delete("/api/sources/redis-1").admin().send().status, 200);
    assert_eq!(server.client.delete("/api/connections/shop").admin().send().status, 200);
    assert!(server.connections.find("shop").is_none());
}
