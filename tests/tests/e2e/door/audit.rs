//! Who changed what.

use forebay_tests::PASSWORD;
use serde_json::{Value, json};
use ureq::http::Method;

use super::{ask, cookie, log_in, serving};

#[test]
fn whoever_changes_something_is_named_for_it_whatever_is_killed() {
    let users = ["--trusted-proxy", "127.0.0.1", "--auth-header", "X-Remote-User", "--auth-admins", "ann"];
    let mut forebay = serving(&users);
    let api = forebay.api.clone();
    assert_eq!(log_in(&api, "wrong", &[("x-forwarded-for", "192.0.2.1")]).status, 401);
    let session = cookie(&log_in(&api, PASSWORD, &[("x-forwarded-for", "192.0.2.2")]));
    let as_admin = [("cookie", session.as_str()), ("x-forwarded-for", "192.0.2.3")];
    let as_ann = [("x-remote-user", "ann")];
    assert_eq!(api.send(Method::POST, "/api/connections", &as_admin, br#"{"name":"billing"}"#).unwrap().status, 201);
    let rotated = api.send(Method::POST, "/api/connections/billing/rotate", &as_ann, b"").unwrap();
    let key = rotated.body["apiKey"].as_str().unwrap().to_owned();
    assert_eq!(ask(&api, Method::DELETE, "/api/connections/billing", &as_ann).status, 200);
    let made = api.try_post("/api/keys", &json!({ "name": "script" })).unwrap();
    assert_eq!(made.status, 201);
    let script = made.body["apiKey"].as_str().unwrap().to_owned();
    assert_eq!(api.try_post("/api/rebuilds", &json!({})).unwrap().status, 202);
    forebay.crash_and_restart();

    let listed = forebay.command(&["audit", "--json"]);
    let all: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let told = |change: &Value| {
        let who = change["who"]["name"].as_str().or(change["who"]["kind"].as_str()).unwrap().to_owned();
        (change["action"].as_str().unwrap().to_owned(), who, change["address"].as_str().unwrap_or("-").to_owned())
    };
    let told: Vec<_> = all.iter().rev().map(told).filter(|(action, ..)| action != "server.start").collect();
    let expected = [
        ("login.refused", "stranger", "192.0.2.1"),
        ("login", "admin", "192.0.2.2"),
        ("connection.create", "admin", "192.0.2.3"),
        ("connection.rotate", "ann", "127.0.0.1"),
        ("connection.delete", "ann", "127.0.0.1"),
        ("key.create", "token", "127.0.0.1"),
        ("rebuild.begin", "token", "127.0.0.1"),
    ];
    let expected = expected.map(|(action, who, address)| (action.to_owned(), who.to_owned(), address.to_owned()));
    assert_eq!(told, expected);
    assert_eq!(all.iter().filter(|change| change["action"] == "server.start").count(), 2, "{all:#?}");
    let text = String::from_utf8_lossy(&listed.stdout);
    assert!(!text.contains(&key) && !text.contains(&script), "no key is told");
    assert!(String::from_utf8(forebay.command(&["audit"]).stdout).unwrap().contains("connection.rotate"));

    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let page = forebay.api.get(&format!("/api/audit?limit=2{next}")).body;
        pages.extend(page["data"].as_array().unwrap().clone());
        let Some(before) = page["next"].as_u64() else { break };
        next = format!("&before={before}");
    }
    assert_eq!(pages, all, "page by page it is the same");
    let reader = [("x-remote-user", "bob")];
    assert_eq!(ask(&forebay.api, Method::GET, "/api/audit", &reader).status, 403);
    let quarantine = forebay.api.get("/api/quarantine").body;
    assert_eq!(quarantine["total"], 0, "the fold knows nothing of it");
}
