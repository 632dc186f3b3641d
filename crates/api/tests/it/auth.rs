//! Who may read, and who may not.

use std::time::Instant;

use api::Door;
use api::door::Proxies;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::harness::{Answer, Bare, Client, DEADLINE, KEY, PASSWORD, Server, TOKEN, event};

const PROTECTED: [(Method, &str); 14] = [
    (Method::GET, "/metrics"),
    (Method::GET, "/api/jobs"),
    (Method::GET, "/api/jobs/fbe08da7-0069-502f-90f8-dff3d29e3dc6"),
    (Method::GET, "/api/connections"),
    (Method::POST, "/api/connections"),
    (Method::DELETE, "/api/connections/default"),
    (Method::PATCH, "/api/connections/default"),
    (Method::POST, "/api/connections/default/rotate"),
    (Method::GET, "/api/keys"),
    (Method::POST, "/api/keys"),
    (Method::DELETE, "/api/keys/script"),
    (Method::GET, "/api/sources"),
    (Method::POST, "/api/sources"),
    (Method::DELETE, "/api/sources/main"),
];

/// `name=value` of the cookie that the answer sets.
fn cookie(answer: &Answer) -> String {
    let header = answer.header("set-cookie").unwrap();
    header.split(';').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_without_a_session_or_the_admin_token() {
    let server = Server::start().await;
    let session = cookie(&server.client.log_in(PASSWORD));
    let forged = session[..session.len() - 1].to_owned() + if session.ends_with('A') { "B" } else { "A" };
    let strangers = [
        ("authorization", String::new()),
        ("authorization", format!("Bearer {KEY}")),
        ("authorization", format!("Basic {TOKEN}")),
        ("authorization", format!("Bearer {}", &TOKEN[1..])),
        ("cookie", forged),
        ("cookie", "forebay_session=".to_owned()),
        ("cookie", session.replace("forebay_session", "other")),
    ];
    for (method, path) in PROTECTED {
        for (name, value) in &strangers {
            let answer = server.client.request(method.clone(), path).header(name, value).send();
            let error = answer.error(401, "UNAUTHORIZED");
            let expected = json!({
                "code": "UNAUTHORIZED", "message": "Authentication required.",
                "docs_url": "https://docs.sluice.sh/troubleshooting/auth",
            });
            assert_eq!(*error, expected, "{method} {path} with {name}: {value}");
        }
        let cookies = format!("theme=dark; {session}; other=1");
        for (name, value) in [("cookie", cookies), ("authorization", format!("bearer  {TOKEN}"))] {
            let answer = server.client.request(method.clone(), path).header(name, &value).send();
            assert_ne!(answer.status, 401, "{method} {path} with {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_one_time_link_logs_in_once_and_only_the_admin_token_makes_one() {
    let server = Server::start().await;
    let client = &server.client;
    let session = cookie(&client.log_in(PASSWORD));
    let link = || client.request(Method::POST, "/api/session/once");
    link().send().error(401, "UNAUTHORIZED");
    link().header("cookie", &session).send().error(401, "UNAUTHORIZED");
    let key = client.post("/api/keys", &json!({ "name": "script" })).admin().send();
    link().bearer(key.body["apiKey"].as_str().unwrap()).send().error(403, "FORBIDDEN");

    let made = link().admin().send();
    assert_eq!((made.status, &made.body["expiresInSeconds"]), (201, &json!(900)));
    let once = json!({ "once": made.body["token"] });
    let answer = client.post("/api/session", &once).send();
    assert_eq!((answer.status, &answer.body), (200, &who("link")));
    assert_eq!(client.get("/api/jobs").header("cookie", &cookie(&answer)).send().status, 200);
    let again = client.post("/api/session", &once).send();
    assert_eq!(again.error(401, "UNAUTHORIZED")["message"], "This link was used already, or is too old.");
    assert_eq!(again.header("set-cookie"), None);
    // Somebody else's page cannot log a browser in.
    let made = link().admin().send();
    let foreign = client.post("/api/session", &json!({ "once": made.body["token"] }));
    foreign.header("origin", "http://evil.example").send().error(403, "FORBIDDEN");

    let is_in = |cookie: &str| client.get("/api/session").header("cookie", cookie).send().body;
    assert_eq!(is_in(&session), who("password"));
    let nobody = json!({ "authenticated": false, "name": null, "role": null, "login": null, "oidc": false });
    assert_eq!(is_in("forebay_session=AAAA"), nobody);
}

/// Who has the password, or came by a link.
fn who(login: &str) -> Value {
    json!({ "authenticated": true, "name": "admin", "role": "admin", "login": login, "oidc": false })
}

/// Reads whose answers are the same from one moment to the next.
const READS: [&str; 10] = [
    "/api/jobs?state=failed&limit=1",
    "/api/jobs/a",
    "/api/jobs/a?asOf=1",
    "/api/jobs/a/events",
    "/api/jobs/nobody",
    "/api/quarantine",
    "/api/rebuilds",
    "/api/connections",
    "/api/keys",
    "/api/sources",
];

/// Everything that is more than a read, or that only the admin token may.
const CHANGES: [(Method, &str, &str); 17] = [
    (Method::POST, "/api/connections", r#"{"name":"new"}"#),
    (Method::PATCH, "/api/connections/billing", r#"{"name":"new"}"#),
    (Method::POST, "/api/connections/billing/rotate", ""),
    (Method::DELETE, "/api/connections/billing", ""),
    (Method::POST, "/api/keys", r#"{"name":"new"}"#),
    (Method::POST, "/api/sources", r#"{"name":"new","url":"redis://localhost:1/0"}"#),
    (Method::DELETE, "/api/sources/new", ""),
    (Method::DELETE, "/api/keys/script", ""),
    (Method::DELETE, "/api/keys/nobody", ""),
    (Method::POST, "/api/rebuilds", ""),
    (Method::DELETE, "/api/rebuilds/previous", ""),
    (Method::DELETE, "/api/rebuilds/0b9c7a52-6d0e-4d7b-a2b7-6f0b6f6d3a11", ""),
    (Method::POST, "/api/rebuilds/0b9c7a52-6d0e-4d7b-a2b7-6f0b6f6d3a11/promote", ""),
    (Method::POST, "/api/verifications", ""),
    (Method::DELETE, "/api/verifications/0b9c7a52-6d0e-4d7b-a2b7-6f0b6f6d3a11", ""),
    (Method::GET, "/api/export", ""),
    (Method::POST, "/api/import?merge=true", ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_read_key_reads_what_the_session_reads_and_changes_nothing() {
    let server = Server::start().await;
    let client = &server.client;
    server.given(&json!([event("a", "failed", "2026-02-27T10:29:55Z"), event("b", "failed", "2026-02-27T10:29:56Z")]));
    let session = cookie(&client.log_in(PASSWORD));
    let billing = client.post("/api/connections", &json!({ "name": "billing" })).header("cookie", &session).send();
    let made = client.post("/api/keys", &json!({ "name": "script" })).header("cookie", &session).send();
    let key = made.body["apiKey"].as_str().unwrap();
    assert_eq!((made.status, key.len(), key.starts_with("rk_live_")), (201, 48, true), "{key}");
    let own = || client.get("/api/keys").admin().send().body;
    let (keys, connections) = (own(), client.get("/api/connections").admin().send().body);
    let expected = json!({ "data": [
        { "id": made.body["id"], "name": "script", "createdAt": made.body["createdAt"] },
    ] });
    assert_eq!(keys, expected, "the key itself is not shown again");

    let verification = client.post("/api/verifications", &json!({})).admin().send();
    let verification = format!("/api/verifications/{}", verification.body["id"].as_str().unwrap());
    assert_eq!(client.get(&verification).bearer(key).send().status, 200);
    for path in READS {
        let (with_session, with_key) =
            (client.get(path).header("cookie", &session).send(), client.get(path).bearer(key).send());
        assert_eq!((with_key.status, &with_key.body), (with_session.status, &with_session.body), "{path}");
        assert_eq!(client.request(Method::HEAD, path).bearer(key).send().status, with_key.status, "{path}");
        assert!([200, 404].contains(&with_key.status), "{path}: {}", with_key.body);
    }
    for (method, path, body) in CHANGES {
        let answer = client.request(method.clone(), path).body(body).bearer(key).send();
        let error = answer.error(403, "FORBIDDEN");
        assert_eq!(error["message"], "This API key may only read.", "{method} {path}");
    }
    client.post("/api/ingest", &json!({ "events": [] })).bearer(key).send().error(401, "UNAUTHORIZED");
    assert_eq!(own(), keys);
    assert_eq!(client.get("/api/connections").admin().send().body, connections);
    assert_eq!(client.get("/api/rebuilds").admin().send().body, json!({ "data": [] }));
    let sender = billing.body["apiKey"].as_str().unwrap();
    let last = if key.ends_with('A') { "B" } else { "A" };
    let forged = key[..key.len() - 1].to_owned() + last;
    for stranger in [&forged, "rk_live_", &key[8..], &key.to_uppercase(), sender] {
        client.get("/api/jobs").bearer(stranger).send().error(401, "UNAUTHORIZED");
    }
    let both = client.delete("/api/keys/nobody").bearer(key).header("cookie", &session).send();
    both.error(404, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_key_is_good_on_every_node_until_it_is_deleted() {
    let server = Server::start().await;
    let other = server.another().await;
    let create = |name: &str| server.client.post("/api/keys", &json!({ "name": name })).admin().send();
    let (made, stays) = (create("a script/2"), create("other"));
    for (name, status, code) in [("other", 409, "CONFLICT"), (" ", 400, "VALIDATION_ERROR")] {
        create(name).error(status, code);
    }
    let reads = |client: &Client, key: &str| client.get("/api/jobs").bearer(key).send().status == 200;
    let key = |made: &Answer| made.body["apiKey"].as_str().unwrap().to_owned();
    let (gone, stays) = (key(&made), key(&stays));
    let list = || other.client.get("/api/keys").admin().send().body["data"].as_array().unwrap().len();
    while list() < 2 {
        std::thread::yield_now();
    }
    assert!([&server.client, &other.client].iter().all(|client| reads(client, &gone) && reads(client, &stays)));

    let deleted = other.client.delete("/api/keys/a%20script%2F2").admin().send();
    assert_eq!((deleted.status, &deleted.body["id"]), (200, &made.body["id"]));
    assert!(!reads(&other.client, &gone) && reads(&other.client, &stays), "at once");
    let deadline = Instant::now() + DEADLINE;
    while reads(&server.client, &gone) {
        assert!(Instant::now() < deadline, "the first node does not learn of it");
    }
    assert!(reads(&server.client, &stays));
    let again = create("a script/2");
    assert_ne!((again.status, &again.body["id"]), (409, &made.body["id"]), "the name is free");
    let by_id = format!("/api/keys/{}", again.body["id"].as_str().unwrap());
    assert_eq!(server.client.delete(&by_id).admin().send().status, 200);
    server.client.delete(&by_id).admin().send().error(404, "NOT_FOUND");
    assert!(!reads(&server.client, &key(&again)));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_starts_a_read_key_is_told_to_come_back() {
    let bare = Bare::start(PASSWORD).await;
    let unknown = bare.client.get("/api/jobs").bearer("rk_live_of_nobody_knows_whom_yet").send();
    unknown.error(503, "UNAVAILABLE");
    assert_eq!(unknown.header("retry-after"), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_is_for_us_alone_and_outlives_restarts_but_not_the_password() {
    let bare = Bare::start(PASSWORD).await;
    let login = bare.client.log_in(PASSWORD);
    assert_eq!(login.status, 200);
    let header = login.header("set-cookie").unwrap();
    let (_, attributes) = header.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict; Max-Age=604800");
    let over_tls = |bare: &Bare| {
        let login = bare.client.post("/api/session", &json!({ "password": PASSWORD }));
        login.header("x-forwarded-proto", "https").send().header("set-cookie").unwrap().ends_with("; Secure")
    };
    let proxies = Proxies::parse(&["127.0.0.1"]).unwrap();
    assert!(over_tls(&Bare::behind(Door { proxies, ..Door::default() }, PASSWORD).await), "a trusted proxy says so");
    assert!(!over_tls(&bare), "anybody may say so");

    let admitted = |bare: &Bare, cookie: &str| bare.client.get("/api/jobs").header("cookie", cookie).send().status;
    let session = cookie(&login);
    assert_eq!(admitted(&bare, &session), 503, "let in, though there is nothing to read yet");
    assert_eq!(admitted(&Bare::start(PASSWORD).await, &session), 503, "a restart");
    assert_eq!(admitted(&Bare::start("another password").await, &session), 401);

    let logout = bare.client.delete("/api/session").header("cookie", &session).send();
    assert_eq!(logout.status, 200);
    assert_eq!(logout.header("set-cookie").unwrap(), "forebay_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_wrong_passwords_in_a_minute_close_the_door_even_to_the_right_one() {
    let bare = Bare::start(PASSWORD).await;
    for _ in 0..2 {
        for _ in 0..4 {
            assert_eq!(bare.client.log_in("wrong").error(401, "UNAUTHORIZED")["message"], "Wrong password.");
        }
        assert_eq!(bare.client.log_in(PASSWORD).status, 200, "four are forgiven, and forgotten");
    }
    for attempt in ["", "wrong", "Correct horse battery staple", &"x".repeat(10_000), "wrong"] {
        bare.client.log_in(attempt).error(401, "UNAUTHORIZED");
    }
    let blocked = bare.client.log_in(PASSWORD);
    blocked.error(429, "RATE_LIMITED");
    let wait: u64 = blocked.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(bare.client.get("/api/jobs").admin().send().status, 503, "the admin token is another door");
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_made_at_once_are_counted_one_by_one() {
    let bare = Bare::start(PASSWORD).await;
    let guesses: Vec<_> = (0..20)
        .map(|_| {
            let client = bare.client.clone();
            tokio::task::spawn_blocking(move || client.log_in("wrong").status)
        })
        .collect();
    let mut statuses = Vec::new();
    for guess in guesses {
        statuses.push(guess.await.unwrap());
    }
    let wrong = statuses.iter().filter(|status| **status == 401).count();
    let blocked = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!((wrong, blocked), (5, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_change_nothing() {
    let server = Server::start().await;
    let own = format!("http://{}", server.client.address);
    let login = json!({ "password": PASSWORD });
    let changes = || {
        let client = &server.client;
        [
            client.post("/api/session", &login),
            client.delete("/api/session"),
            client.post("/api/connections", &json!({ "name": "new" })).admin(),
            client.patch("/api/connections/new", &json!({ "name": "newer" })).admin(),
            client.post("/api/connections/newer/rotate", &json!({})).admin(),
            client.delete("/api/connections/newer").admin(),
            client.post("/api/keys", &json!({ "name": "new" })).admin(),
            client.delete("/api/keys/new").admin(),
        ]
    };
    for foreign in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        for change in changes() {
            change.header("origin", foreign).send().error(403, "FORBIDDEN");
        }
    }
    for change in changes() {
        let status = change.header("origin", &own).send().status;
        assert!((200..300).contains(&status), "{status}");
    }
    for change in changes() {
        let status = change.send().status;
        assert!((200..300).contains(&status), "no origin: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_json_with_a_password_and_short() {
    let bare = Bare::start(PASSWORD).await;
    let bodies = ["", "{", "[]", "{}", r#"{"password":1}"#, r#"{"password":null}"#, r#"{"once":1}"#, "password=x"];
    for body in bodies {
        bare.client.request(Method::POST, "/api/session").body(body).send().error(400, "VALIDATION_ERROR");
    }
    let long = vec![b'x'; 20_000];
    bare.client.request(Method::POST, "/api/session").body(long).send().error(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(bare.client.log_in(PASSWORD).status, 200, "none of these counted as a guess");
    let method = bare.client.request(Method::PUT, "/api/session").send();
    method.error(405, "METHOD_NOT_ALLOWED");
    assert_eq!(method.header("allow"), Some("GET, HEAD, POST, DELETE"));
}
