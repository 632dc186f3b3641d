//! Sessions: made by us alone, and ended when we say so.

use forebay_tests::{Api, Forebay, Options, PASSWORD};
use serde_json::json;
use ureq::http::Method;

use super::{ask, cookie, log_in, session};

#[test]
fn a_session_is_made_by_us_and_is_over_when_it_was_ended() {
    let environment = vec![("FOREBAY_ADMIN_PASSWORD", PASSWORD.to_owned())];
    let mut forebay = Forebay::start(Options { environment, own_credentials: true, ..Options::default() });
    let api = forebay.api.clone();
    let admitted = |api: &Api, session: &str| ask(api, Method::GET, "/api/jobs", &[("cookie", session)]).status;
    let planted = format!("forebay_session={}", "B".repeat(100));
    let after = cookie(&log_in(&api, PASSWORD, &[("cookie", &planted)]));
    assert_ne!(after, planted, "what somebody has planted is not taken over");
    assert_eq!((admitted(&api, &planted), admitted(&api, &after)), (401, 200));
    let (one, two) = (session(&api), session(&api));
    assert!(one != two && one != after);
    let answer = log_in(&api, PASSWORD, &[]);
    let attributes = answer.headers["set-cookie"].to_str().unwrap().to_owned();
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/;"] {
        assert!(attributes.contains(attribute), "{attributes}");
    }

    let out = ask(&api, Method::DELETE, "/api/session", &[("cookie", &one)]);
    assert_eq!((out.status, &out.body["authenticated"]), (200, &json!(false)));
    assert_eq!((admitted(&api, &one), admitted(&api, &two)), (401, 200), "a copy of the cookie is good no more");
    forebay.crash_and_restart();
    assert_eq!((admitted(&forebay.api, &one), admitted(&forebay.api, &two)), (401, 200), "after kill -9");

    let ended = forebay.command(&["logout"]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!((admitted(&forebay.api, &two), admitted(&forebay.api, &after)), (401, 401));
    let again = session(&forebay.api);
    assert_eq!(admitted(&forebay.api, &again), 200, "at once");
    forebay.stop();
    *forebay.environment() = vec![("FOREBAY_ADMIN_PASSWORD", "another password".to_owned())];
    forebay.restart();
    assert_eq!(admitted(&forebay.api, &again), 401, "another password ends all");
}
