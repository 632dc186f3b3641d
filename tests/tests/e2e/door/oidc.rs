//! Logging in with a provider of OpenID Connect: a small real one.

use forebay_tests::{Answer, Api, Forebay, Options};
use serde_json::json;
use ureq::http::Method;

use super::provider::Provider;
use super::{ask, cookie};

fn location(answer: &Answer) -> String {
    assert_eq!(answer.status, 303, "{}", answer.body);
    answer.headers["location"].to_str().unwrap().to_owned()
}

/// Leaves for the provider: where to, and the cookie for the way back.
fn leave(api: &Api, next: &str) -> (String, String) {
    let begun = ask(api, Method::GET, &format!("/api/session/oidc?next={next}"), &[]);
    let kept = begun.headers["set-cookie"].to_str().unwrap();
    assert!(kept.contains("; HttpOnly; SameSite=Lax;") && kept.contains("Path=/f/api/session/oidc"), "{kept}");
    (location(&begun), kept.split(';').next().unwrap().to_owned())
}

/// The path and query of the way back.
fn back(url: &str) -> &str {
    let path = url.strip_prefix("https://forebay.example/f").unwrap_or_else(|| panic!("{url} does not lead back"));
    assert!(path.starts_with("/api/session/oidc/callback?"), "{url}");
    path
}

#[test]
fn whom_the_provider_knows_and_a_rule_names_is_let_in_as_that_rule_says() {
    let provider = Provider::start();
    let arguments = [
        "--public-url",
        "https://forebay.example/f",
        "--oidc-issuer",
        &provider.address,
        "--oidc-client-id",
        "forebay",
        "--oidc-allow",
        "@example.com",
        "--oidc-admins",
        "bob@example.com,group:ops",
    ];
    let environment = vec![("FOREBAY_OIDC_CLIENT_SECRET", "secret".to_owned())];
    let arguments = arguments.map(str::to_owned).to_vec();
    let forebay = Forebay::start(Options { arguments, environment, ..Options::default() });
    let api = &forebay.api;
    assert_eq!(ask(api, Method::GET, "/api/session", &[]).body["oidc"], true);

    let come_back = |sub: &str| {
        let (url, kept) = leave(api, "/failures?timeRange=1h");
        for part in ["code_challenge_method=S256", "code_challenge=", "state=", "nonce=", "response_type=code"] {
            assert!(url.contains(part), "{url} lacks {part}");
        }
        let returned = provider.pass(&url, sub);
        ask(api, Method::GET, back(&returned), &[("cookie", &kept)])
    };
    for (sub, name, role) in
        [("1", "ann@example.com", "reader"), ("2", "bob@example.com", "admin"), ("4", "4", "admin")]
    {
        let answer = come_back(sub);
        assert_eq!(location(&answer), "/f/failures?timeRange=1h", "{:?}", answer.headers);
        let session = cookie(&answer);
        let who = ask(api, Method::GET, "/api/session", &[("cookie", &session)]).body;
        assert_eq!(who, json!({ "authenticated": true, "name": name, "role": role, "login": "oidc", "oidc": true }));
        assert_eq!(ask(api, Method::GET, "/api/jobs", &[("cookie", &session)]).status, 200);
        let body = serde_json::to_vec(&json!({ "name": format!("by {sub}") })).unwrap();
        let made = api.send(Method::POST, "/api/connections", &[("cookie", &session)], &body).unwrap();
        assert_eq!(made.status, if role == "admin" { 201 } else { 403 }, "{}", made.body);
    }
    let gives_no_session = |answer: &Answer| {
        !answer.headers.get_all("set-cookie").iter().any(|set| set.to_str().unwrap().starts_with("forebay_session="))
    };
    for stranger in ["3", "5"] {
        let answer = come_back(stranger);
        assert_eq!(location(&answer), "/f/login#refused=not-allowed");
        assert!(gives_no_session(&answer), "{stranger}");
    }

    // A way back is good in the browser that left, once, and with what it left with.
    let (url, kept) = leave(api, "/");
    let returned = provider.pass(&url, "2");
    let (_, others) = leave(api, "/");
    let forged = format!("forebay_oidc={}", "A".repeat(400));
    for cookie in ["", others.as_str(), forged.as_str()] {
        let answer = ask(api, Method::GET, back(&returned), &[("cookie", cookie)]);
        assert_eq!(location(&answer), "/f/login#refused=not-begun", "{cookie}");
        assert!(gives_no_session(&answer));
    }
    assert_eq!(location(&ask(api, Method::GET, back(&returned), &[("cookie", &kept)])), "/f/");
    let again = ask(api, Method::GET, back(&returned), &[("cookie", &kept)]);
    assert_eq!(location(&again), "/f/login#refused=provider", "the code is used");
    // The code of one with the way back of another: its nonce is not theirs.
    let (url, kept) = leave(api, "/");
    let state = url.split('&').find(|part| part.contains("state=")).unwrap().rsplit("state=").next().unwrap();
    let (other, _) = leave(api, "/");
    let stolen = provider.pass(&other, "2");
    let code = stolen.split(['?', '&']).find(|part| part.starts_with("code=")).unwrap();
    let mixed = format!("/api/session/oidc/callback?{code}&state={state}");
    let answer = ask(api, Method::GET, &mixed, &[("cookie", &kept)]);
    assert_eq!(location(&answer), "/f/login#refused=provider");
    assert!(gives_no_session(&answer));
    let (url, kept) = leave(api, "//evil.example/x");
    let returned = provider.pass(&url, "2");
    assert_eq!(location(&ask(api, Method::GET, back(&returned), &[("cookie", &kept)])), "/f/", "never elsewhere");
    let audit = api.get("/api/audit").body;
    let logins = audit["data"].as_array().unwrap().iter().filter(|change| change["action"] == "login").count();
    assert_eq!(logins, 5, "{audit:#}");
}
