//! What is a secret is told to nobody, however much is told.

use forebay_tests::{Forebay, Options, PASSWORD};
use serde_json::{Value, json};
use ureq::http::Method;

use super::{ask, log_in, session};

#[test]
fn no_secret_is_in_the_log_however_much_is_told() {
    let key = "sk_live_configured_0123456789";
    let environment = vec![
        ("RUST_LOG", "trace".to_owned()),
        ("FOREBAY_API_KEY", key.to_owned()),
        ("FOREBAY_ADMIN_PASSWORD", PASSWORD.to_owned()),
        ("FOREBAY_OIDC_CLIENT_SECRET", "oidc-s3cret-value".to_owned()),
        ("FOREBAY_CELERY", "a=redis://:redis-s3cret-value@127.0.0.1:1/0".to_owned()),
        ("FOREBAY_CELERY_BACKEND", "redis://:backend-s3cret-value@127.0.0.1:1/0".to_owned()),
    ];
    let oidc = [
        "--public-url",
        "http://127.0.0.1:1",
        "--oidc-issuer",
        "http://127.0.0.1:1",
        "--oidc-client-id",
        "me",
        "--oidc-allow",
        "*",
    ];
    let arguments = oidc.map(str::to_owned).to_vec();
    let dir = tempfile::tempdir().unwrap();
    let mut forebay = Forebay::launch_in(dir, Options { arguments, environment, own_credentials: true });
    forebay.wait_until("know of its broker", |health| {
        health["sources"].as_array().is_some_and(|all| !all.is_empty()) && health["reason"] != "STARTING"
    });
    let api = forebay.api.clone();
    let mut secrets: Vec<String> = [
        "oidc-s3cret-value",
        "redis-s3cret-value",
        "backend-s3cret-value",
        "added-s3cret-value",
        key,
        PASSWORD,
        "a wrong password",
        "rk_live_guessed_0123456789",
    ]
    .map(str::to_owned)
    .into();
    let session = session(&api);
    log_in(&api, "a wrong password", &[]);
    ask(&api, Method::GET, "/api/session/oidc", &[]);
    ask(&api, Method::GET, "/api/jobs", &[("authorization", "Bearer rk_live_guessed_0123456789")]);
    ask(&api, Method::GET, "/api/jobs", &[("cookie", &session)]);
    secrets.push(session.split_once('=').unwrap().1.to_owned());
    let made = |path: &str, body: Value| api.try_post(path, &body).unwrap().body;
    for path in ["/api/connections", "/api/keys"] {
        secrets.push(made(path, json!({ "name": "new" }))["apiKey"].as_str().unwrap().to_owned());
    }
    let read_key = format!("Bearer {}", secrets.last().unwrap());
    assert_eq!(ask(&api, Method::GET, "/api/jobs", &[("authorization", &read_key)]).status, 200);
    let added = made("/api/sources", json!({ "name": "b", "url": "redis://:added-s3cret-value@127.0.0.1:1/0" }));
    assert_eq!(added["name"], "b", "{added}");
    made("/api/sources", json!({ "name": "c", "url": "amqp://u:added-s3cret-value@127.0.0.1:1//" }));
    api.send(Method::POST, "/api/ingest", &[("authorization", &format!("Bearer {key}"))], br#"{"events":[]}"#).unwrap();
    secrets.push(api.token().to_owned());
    let link = String::from_utf8(forebay.command(&["link"]).stdout).unwrap();
    secrets.push(link.trim().split_once("once=").unwrap().1.to_owned());
    let kept: Value = serde_json::from_slice(&std::fs::read(forebay.dir().join("credentials.json")).unwrap()).unwrap();
    secrets.push(kept["sessionSecret"].as_str().unwrap().to_owned());
    forebay.stop();
    let log = forebay.process().log();
    assert!(log.contains("TRACE") && log.len() > 10_000, "there is much to be seen");
    for hidden in secrets {
        let found = log.lines().find(|line| line.contains(&hidden));
        assert_eq!(found, None, "{hidden}");
    }
}
