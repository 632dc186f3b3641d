//! Behind a proxy: below a path, and with another's address.

use forebay_tests::PASSWORD;
use serde_json::json;
use ureq::http::Method;

use super::{ask, cookie, log_in, raw, serving};
use std::time::Duration;

#[test]
fn below_a_path_everything_is_below_it_and_nothing_beside_it() {
    let forebay = serving(&["--public-url", "https://jobs.example/tools/forebay/", "--trusted-proxy", "127.0.0.1"]);
    let api = &forebay.api;
    let get = |path: &str| {
        raw(
            api.address(),
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes(),
            Duration::from_secs(2),
        )
    };
    for path in ["/tools/forebay", "/tools/forebay/", "/tools/forebay/jobs/x", "/jobs"] {
        let page = get(path);
        assert!(page.contains("<html lang=\"en\" data-base=\"/tools/forebay\">"), "{path}: {page}");
        let loaded: Vec<&str> = page.split(['"', '\'']).filter(|text| text.contains("/assets/")).collect();
        assert!(
            loaded.len() > 20 && loaded.iter().all(|text| text.starts_with("/tools/forebay/assets/")),
            "{loaded:?}"
        );
        let asset = get(loaded[0]);
        assert!(asset.starts_with("HTTP/1.1 200"), "{asset}");
    }
    let login = api.send(
        Method::POST,
        "/tools/forebay/api/session",
        &[("x-forwarded-proto", "https"), ("x-forwarded-host", "jobs.example"), ("origin", "https://jobs.example")],
        &serde_json::to_vec(&json!({ "password": PASSWORD })).unwrap(),
    );
    let login = login.unwrap();
    assert_eq!(login.status, 200, "{}", login.body);
    let set = login.headers["set-cookie"].to_str().unwrap();
    assert!(set.contains("; Path=/tools/forebay;") && set.ends_with("; Secure"), "{set}");
    assert!(login.headers.contains_key("strict-transport-security"));
    let session = cookie(&login);
    assert_eq!(ask(api, Method::GET, "/tools/forebay/api/jobs?limit=1", &[("cookie", &session)]).status, 200);
    assert_eq!(
        ask(api, Method::GET, "/api/jobs?limit=1", &[("cookie", &session)]).status,
        200,
        "a proxy may take it away"
    );
    let link = forebay.command(&["link"]);
    let link = String::from_utf8(link.stdout).unwrap();
    assert!(link.starts_with("https://jobs.example/tools/forebay/login#once="), "{link}");
    assert!(forebay.command(&["connection", "list"]).status.success(), "commands need no proxy");
}

#[test]
fn guesses_count_for_whom_the_trusted_proxy_names_and_nobody_else_names_anybody() {
    let proxied = serving(&["--trusted-proxy", "127.0.0.1,10.0.0.0/8"]);
    let from = |address: &str, password: &str| log_in(&proxied.api, password, &[("x-forwarded-for", address)]).status;
    for guess in 0..5 {
        assert_eq!(from(&format!("203.0.113.{guess}, 192.0.2.1, 10.0.0.7"), "wrong"), 401);
    }
    assert_eq!(from("198.51.100.9, 192.0.2.1", PASSWORD), 429, "what stands before it was made up");
    assert_eq!(from("192.0.2.2", PASSWORD), 200);

    let direct = serving(&[]);
    let from = |address: &str, password: &str| log_in(&direct.api, password, &[("x-forwarded-for", address)]);
    for guess in 0..5 {
        assert_eq!(from(&format!("192.0.2.{guess}"), "wrong").status, 401);
    }
    let refused = from("192.0.2.9", PASSWORD);
    assert_eq!(refused.status, 429, "no client says whose guesses its own are");
    assert!(!refused.headers.contains_key("strict-transport-security"));
}
