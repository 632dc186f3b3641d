//! The dashboard's page and files, and how a first run is shown.

use std::io::Read as _;

use serde_json::{Value, json};
use ureq::http::Method;

use crate::harness::{Answer, Bare, CONNECTION, KEY, PASSWORD, Server, event};

/// The address of a file of the page, by its name.
fn file(page: &Answer, name: &str) -> String {
    let text = std::str::from_utf8(&page.bytes).unwrap();
    let end = text.find(&format!("/{name}\"")).unwrap() + name.len() + 1;
    text[text[..end].rfind('"').unwrap() + 1..end].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_there_for_everybody_from_the_start_and_lets_nothing_foreign_in() {
    let bare = Bare::start(PASSWORD).await;
    let client = &bare.client;
    let page = client.get("/").send();
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    let (style, script) = (file(&page, "app.css"), file(&page, "main.js"));
    for path in ["/", "/jobs", "/jobs/a%2Fb", "/task?name=x", "/login", &style, &script] {
        let answer = client.get(path).send();
        assert_eq!(answer.status, 200, "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(client.request(Method::HEAD, path).send().status, 200, "{path}");
        client.request(Method::POST, path).send().error(405, "METHOD_NOT_ALLOWED");
    }
    for nothing in
        ["/nothing", "/job", "/assets/", "/assets/main.js", "/assets/0/main.js", "/assets/../main.js", "/api"]
    {
        client.get(nothing).send().error(404, "NOT_FOUND");
    }
    client.get(&format!("{script}x")).send().error(404, "NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_compressed_and_kept_by_browsers_until_another_build_has_others() {
    let bare = Bare::start(PASSWORD).await;
    let client = &bare.client;
    let script = file(&client.get("/").send(), "main.js");
    let plain = client.get(&script).send();
    assert_eq!(plain.header("content-type"), Some("text/javascript; charset=utf-8"));
    assert_eq!(plain.header("cache-control"), Some("public, max-age=31536000, immutable"));
    let packed = client.get(&script).header("accept-encoding", "gzip, br").send();
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), (Some("gzip"), Some("Accept-Encoding")));
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(packed.bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.bytes);
    for path in ["/", &script] {
        let tag = client.get(path).send().header("etag").unwrap().to_owned();
        let again = client.get(path).header("if-none-match", &tag).send();
        assert_eq!((again.status, again.bytes.len(), again.header("etag")), (304, 0, Some(tag.as_str())), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_is_shown_until_a_job_is_known_and_only_to_an_operator() {
    let server = Server::start().await;
    let client = &server.client;
    let shown = || client.get("/api/first-run").admin().send().body;
    let none = json!({ "hasJobs": false, "connectionId": CONNECTION, "apiKey": null });
    assert_eq!(shown(), none, "one that the configuration gives is not shown");
    server.app.keep_first_key(Some("not the key any more".to_owned()));
    assert_eq!(shown(), none, "one that was replaced is not shown");
    server.app.keep_first_key(Some(KEY.to_owned()));
    assert_eq!(shown()["apiKey"], KEY);
    client.get("/api/first-run").send().error(401, "UNAUTHORIZED");
    client.get("/api/first-run").bearer(KEY).send().error(401, "UNAUTHORIZED");
    let key = client.post("/api/keys", &json!({ "name": "script" })).admin().send();
    client.get("/api/first-run").bearer(key.body["apiKey"].as_str().unwrap()).send().error(403, "FORBIDDEN");

    server.given(&json!([event("a", "queued", "2026-02-27T10:29:55Z")]));
    let after = json!({ "hasJobs": true, "connectionId": CONNECTION, "apiKey": Value::Null });
    assert_eq!(shown(), after);
}
