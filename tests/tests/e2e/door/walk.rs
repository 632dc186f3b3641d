//! Over all that the API declares.

use std::collections::BTreeSet;

use forebay_tests::API_KEY;
use serde_json::json;
use ureq::http::Method;

use super::{ask, code, declared, serving, session};

/// What is open to everybody.
const OPEN: [&str; 8] = [
    "DELETE /api/session",
    "GET /api/health",
    "GET /api/health/live",
    "GET /api/openapi.json",
    "GET /api/session",
    "GET /api/session/oidc",
    "GET /api/session/oidc/callback",
    "POST /api/session",
];

const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

#[test]
fn no_route_opens_without_a_key_or_a_login_but_health_login_and_assets() {
    let forebay = serving(&["--max-wrong-keys", "off"]);
    let api = &forebay.api;
    let all = declared(api);
    assert!(all.len() > 30, "{}", all.len());
    let open: BTreeSet<String> = all
        .iter()
        .filter(|(_, _, schemes)| schemes.is_empty())
        .map(|(method, path, _)| format!("{method} {path}"))
        .collect();
    assert_eq!(open, OPEN.map(str::to_owned).into(), "only these are declared as open");

    let forged = format!("forebay_session={}", "A".repeat(88));
    let key = format!("Bearer {API_KEY}");
    let strangers: [&[(&str, &str)]; 7] = [
        &[],
        &[("authorization", "Bearer rk_live_0123456789012345678901234567890123456789")],
        &[("authorization", "Basic YWRtaW46YWRtaW4=")],
        &[("cookie", &forged)],
        &[("x-remote-user", "admin"), ("x-forwarded-for", "127.0.0.1"), ("x-forwarded-user", "admin")],
        &[("x-original-url", "/api/health"), ("x-rewrite-url", "/api/health"), ("x-http-method-override", "GET")],
        &[("authorization", &key)],
    ];
    let paths: BTreeSet<&String> = all.iter().map(|(_, path, _)| path).collect();
    for path in paths {
        for method in METHODS {
            let name = format!("{} {path}", if method == Method::HEAD { Method::GET } else { method.clone() });
            for headers in strangers {
                if OPEN.contains(&name.as_str())
                    || (path == "/api/ingest" && headers == [("authorization", key.as_str())])
                {
                    continue;
                }
                let answer = ask(api, method.clone(), path, headers);
                assert!(
                    [401, 405].contains(&answer.status),
                    "{method} {path} {headers:?}: {} {}",
                    answer.status,
                    answer.body
                );
                let is_declared = all.iter().any(|(known, at, _)| at == path && *known == method);
                assert!(!is_declared || answer.status == 401, "{method} {path} {headers:?}: {}", answer.status);
            }
        }
    }
    for path in ["tasks", "task/info/a", "task/result/a", "task/types", "workers", "queues/length", "task/revoke/a"] {
        for method in METHODS {
            for headers in strangers {
                let answer = ask(api, method.clone(), &format!("/flower/api/{path}"), headers);
                assert!([401, 405].contains(&answer.status), "{method} {path} {headers:?}: {}", answer.status);
            }
        }
    }
    // What is beside the API is the page, which says nothing, or is not there.
    for path in ["/debug/pprof", "/.git/config", "/admin.json", "/credentials.json", "/metrics", "/flower"] {
        let answer = ask(api, Method::GET, path, &[]);
        assert!([401, 404].contains(&answer.status), "{path}: {}", answer.status);
    }
}

#[test]
fn a_reader_sees_all_and_changes_nothing() {
    let users = ["--trusted-proxy", "127.0.0.1", "--auth-header", "X-Remote-User", "--auth-admins", "root"];
    let forebay = serving(&users);
    let api = &forebay.api;
    let made = api.try_post("/api/keys", &json!({ "name": "script" })).unwrap();
    let key = format!("Bearer {}", made.body["apiKey"].as_str().unwrap());
    let before = (api.get("/api/connections").body, api.get("/api/keys").body);
    let readers: [&[(&str, &str)]; 3] = [
        &[("x-remote-user", "ann")],
        &[("authorization", &key)],
        &[("x-remote-user", "ROOT"), ("authorization", &key)],
    ];
    let all = declared(api);
    for headers in readers {
        for (method, path, schemes) in &all {
            let for_readers = schemes.iter().any(|scheme| scheme == "readKey");
            if schemes.is_empty() || path == "/api/events/stream" {
                continue;
            }
            let answer = ask(api, method.clone(), path, headers);
            if for_readers {
                assert!([200, 400, 404].contains(&answer.status), "{method} {path} {headers:?}: {}", answer.status);
            } else {
                assert!(
                    [401, 403].contains(&answer.status),
                    "{method} {path} {headers:?}: {} {}",
                    answer.status,
                    answer.body
                );
                assert!(answer.status == 403 || path == "/api/ingest" || schemes == &["adminToken"], "{method} {path}");
            }
        }
    }
    assert_eq!((api.get("/api/connections").body, api.get("/api/keys").body), before);
    let whoever = |name: &str| ask(api, Method::GET, "/api/session", &[("x-remote-user", name)]).body;
    assert_eq!((&whoever("ann")["role"], &whoever("root")["role"]), (&json!("reader"), &json!("admin")));
    let root = [("x-remote-user", "root")];
    let created = api.send(Method::POST, "/api/connections", &root, br#"{"name":"by root"}"#).unwrap();
    assert_eq!(created.status, 201, "{}", created.body);
    let two = [("x-remote-user", "ann"), ("x-remote-user", "root")];
    assert_eq!(ask(api, Method::GET, "/api/jobs", &two).status, 401, "of two names neither is believed");
}

#[test]
fn pages_of_other_sites_change_nothing_whoever_is_logged_in() {
    let forebay = serving(&[]);
    let api = &forebay.api;
    let session = session(api);
    let foreign: [(&str, &str); 4] = [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:1"),
        ("sec-fetch-site", "cross-site"),
    ];
    for (method, path, _) in declared(api) {
        // A sender shows a key, which no browser adds by itself.
        if method == Method::GET || path == "/api/ingest" {
            continue;
        }
        for header in foreign {
            let answer = ask(api, method.clone(), &path, &[("cookie", &session), header]);
            assert_eq!((answer.status, code(&answer)), (403, json!("FORBIDDEN")), "{method} {path} {header:?}");
        }
    }
    let own = format!("http://{}", api.address());
    let body = br#"{"name":"ours"}"#;
    let headers = [("cookie", session.as_str()), ("origin", &own), ("sec-fetch-site", "same-origin")];
    assert_eq!(api.send(Method::POST, "/api/connections", &headers, body).unwrap().status, 201);
}
