//! Who may read, and who may not.

use serde_json::json;
use ureq::http::Method;

use crate::harness::{Answer, Bare, KEY, PASSWORD, Server, TOKEN};

const PROTECTED: [(Method, &str); 5] = [
    (Method::GET, "/api/jobs"),
    (Method::GET, "/api/jobs/fbe08da7-0069-502f-90f8-dff3d29e3dc6"),
    (Method::GET, "/api/connections"),
    (Method::POST, "/api/connections"),
    (Method::DELETE, "/api/connections/default"),
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
async fn the_cookie_is_for_us_alone_and_outlives_restarts_but_not_the_password() {
    let bare = Bare::start(PASSWORD).await;
    let login = bare.client.log_in(PASSWORD);
    assert_eq!(login.status, 200);
    let header = login.header("set-cookie").unwrap();
    let (_, attributes) = header.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Strict; Max-Age=604800");
    let over_tls = bare.client.post("/api/session", &json!({ "password": PASSWORD }));
    let over_tls = over_tls.header("x-forwarded-proto", "https").send();
    assert!(over_tls.header("set-cookie").unwrap().ends_with("; Secure"));

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
            client.delete("/api/connections/new").admin(),
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
    let bodies = ["", "{", "[]", "{}", r#"{"password":1}"#, r#"{"password":null}"#, "password=x"];
    for body in bodies {
        bare.client.request(Method::POST, "/api/session").body(body).send().error(400, "VALIDATION_ERROR");
    }
    let long = vec![b'x'; 20_000];
    bare.client.request(Method::POST, "/api/session").body(long).send().error(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(bare.client.log_in(PASSWORD).status, 200, "none of these counted as a guess");
    let method = bare.client.get("/api/session").send();
    method.error(405, "METHOD_NOT_ALLOWED");
    assert_eq!(method.header("allow"), Some("POST, DELETE"));
}
