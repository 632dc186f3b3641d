//! The log out of one installation and into another.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::Bytes;
use event_log::LogMessage;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, CONNECTION, KEY, PASSWORD, Server, TOKEN, event};

const TIME: &str = "2026-02-27T10:29:55Z";

impl Server {
    fn export(&self, query: &str) -> Export {
        let answer = self.client.get(&format!("/api/export{query}")).admin().send();
        assert_eq!(answer.status, 200, "{}", answer.body);
        Export(String::from_utf8(answer.bytes).unwrap())
    }

    fn import(&self, query: &str, export: &str) -> Answer {
        self.client
            .request(ureq::http::Method::POST, &format!("/api/import{query}"))
            .admin()
            .body(export)
            .send_chunked()
    }

    /// The digest of the views, once they hold the whole log.
    async fn digest(&self) -> String {
        let last = self.last_sequence().await;
        let health = self.client.until("/api/health", |answer| answer.body["views"]["sequence"] == last);
        health.body["views"]["digest"].as_str().unwrap().to_owned()
    }

    async fn messages(&self) -> Vec<LogMessage> {
        let mut messages = Vec::new();
        for sequence in 1..=self.last_sequence().await {
            messages.push(self.log.message(sequence).await.unwrap().unwrap());
        }
        messages
    }
}

struct Export(String);

impl Export {
    fn lines(&self) -> Vec<Value> {
        self.0.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn sequences(&self) -> Vec<u64> {
        self.lines().iter().filter_map(|line| line["sequence"].as_u64()).collect()
    }

    fn part(&self, lines: impl IntoIterator<Item = usize>) -> String {
        let all: Vec<&str> = self.0.split_inclusive('\n').collect();
        lines.into_iter().map(|line| all[line]).collect()
    }
}

/// A log of two connections with what a foreign publisher wrote in between: five messages.
async fn filled() -> (Server, String) {
    let server = Server::start().await;
    let made = server.client.post("/api/connections", &json!({ "name": "billing" })).admin().send();
    let key = made.body["apiKey"].as_str().unwrap().to_owned();
    server.given(&json!([event("a", "queued", TIME), event("b", "queued", TIME)]));
    let mut own = event("c", "queued", TIME);
    own["connectionId"] = made.body["id"].clone();
    let sent = server.client.post("/api/ingest", &json!({ "events": [own] })).bearer(&key).send();
    assert_eq!(sent.status, 202);
    server.log.append(CONNECTION, Bytes::from_static(b"\xff not JSON\n")).await.unwrap();
    server.given(&json!([event("a", "active", "2026-02-27T10:29:56Z")]));
    server.log.append(Uuid::from_u128(9), Bytes::from_static(b"{ \"of\": \"nobody\" }")).await.unwrap();
    (server, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_exported_comes_back_with_its_times_its_keys_and_its_records() {
    let (old, key) = filled().await;
    let export = old.export("");
    for secret in [KEY, &key] {
        assert!(!export.0.contains(secret), "{}", export.0);
    }
    let new = Server::start().await;
    let answer = new.import("", &export.0);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((&answer.body["messages"], &answer.body["complete"]), (&json!(5), &json!(true)));
    assert_eq!(new.digest().await, old.digest().await);

    let (before, after) = (old.messages().await, new.messages().await);
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.connection, &before.payload), (after.connection, &after.payload));
        assert_eq!(before.published, after.published);
        assert!(after.stored > before.stored);
    }
    assert_eq!(new.connections.by_key(&key), old.connections.by_key(&key));
    assert!(new.connections.by_key(&key).is_some());

    let again = new.import("", &export.0);
    assert_eq!((again.status, &again.body["complete"]), (200, &json!(true)), "{}", again.body);
    assert_eq!(new.last_sequence().await, 5, "nothing is doubled");
    let second = new.export("");
    assert_eq!(second.sequences(), [1, 2, 3, 4, 5]);
    assert_eq!(second.lines()[1..6], export.lines()[1..6], "an export of an import is the same again");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_never_take_names_or_keys_from_others() {
    let (old, key) = filled().await;
    let new = Server::start().await;
    let id = old.connections.by_key(&key).unwrap();
    let other = new.client.post("/api/connections", &json!({ "name": "billing" })).admin().send();
    let others_key = other.body["apiKey"].as_str().unwrap();
    let answer = new.import("?keys=false", &old.export("").0);
    let name = format!("billing-{}", &id.simple().to_string()[..8]);
    assert_eq!(answer.body["connections"][1], json!({ "id": id, "name": name, "was": "billing" }));
    assert_eq!(new.connections.by_key(&key), None, "without keys");
    assert_eq!(new.connections.by_key(others_key).map(|id| json!(id)), Some(other.body["id"].clone()));
    new.import("", &old.export("").0).error(409, "CONFLICT");

    let answer = new.import("?merge=true", &old.export("?keys=false").0);
    assert_eq!((answer.status, new.connections.by_key(&key)), (200, None), "{}", answer.body);
    assert_eq!(new.import("?merge=true", &old.export("").0).status, 200);
    assert_eq!(new.connections.by_key(&key), Some(id), "a key that was missing is added");
    assert_eq!(new.connections.by_key(KEY), Some(CONNECTION));
    let names: Vec<String> = new.connections.list().into_iter().map(|connection| connection.name).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    assert_eq!(new.digest().await, old.digest().await, "the same messages again change no record");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_keys_are_good_after_an_import_and_never_take_a_name_from_others() {
    let (old, _) = filled().await;
    let create = |server: &Server| server.client.post("/api/keys", &json!({ "name": "script" })).admin().send();
    let made = create(&old);
    let key = made.body["apiKey"].as_str().unwrap();
    let reads = |server: &Server, key: &str| server.client.get("/api/jobs").bearer(key).send().status == 200;
    let export = old.export("").0;
    assert!(export.contains("readKeys") && !export.contains(key), "{export}");

    let new = Server::start().await;
    let own = create(&new);
    for (query, without) in [("", export.as_str()), ("keys=false", ""), ("connection=billing", "")] {
        let merged = if without.is_empty() { old.export(&format!("?{query}")).0 } else { without.to_owned() };
        let flags = if without.is_empty() { "?merge=true" } else { "?merge=true&keys=false" };
        assert_eq!(new.import(flags, &merged).status, 200);
        assert!(!reads(&new, key), "{query}");
    }
    assert_eq!(new.import("?merge=true", &export).status, 200);
    assert!(reads(&new, key) && reads(&new, own.body["apiKey"].as_str().unwrap()));
    let list = new.client.get("/api/keys").admin().send();
    let name = format!("script-{}", &made.body["id"].as_str().unwrap().replace('-', "")[..8]);
    let mut names: Vec<_> = list.body["data"].as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
    names.sort_by_key(ToString::to_string);
    assert_eq!(names, [json!("script"), json!(name)]);

    let third = Server::start().await;
    assert_eq!(third.import("", &new.export("").0).status, 200);
    assert!(reads(&third, key), "an export of an import is as good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_chosen_by_position_time_and_connection() {
    let (server, _) = filled().await;
    let times: Vec<String> = server.messages().await.iter().map(|message| message.published.to_string()).collect();
    let time = |place: usize| &times[place - 1];
    let cases = [
        (String::new(), vec![1, 2, 3, 4, 5]),
        ("from=2&to=4".to_owned(), vec![2, 3, 4]),
        (format!("from={}", time(3)), vec![3, 4, 5]),
        (format!("to={}", time(3)), vec![1, 2]),
        (format!("from={}&to=4", time(2)), vec![2, 3, 4]),
        ("connection=billing".to_owned(), vec![2]),
        (format!("connection={CONNECTION}&from=2"), vec![3, 4]),
        (format!("connection={}", Uuid::from_u128(9)), vec![5]),
        ("from=6".to_owned(), vec![]),
        ("to=0".to_owned(), vec![]),
        ("after=3&last=4".to_owned(), vec![4]),
    ];
    for (query, expected) in cases {
        let export = server.export(&format!("?{query}"));
        assert_eq!(export.sequences(), expected, "{query}");
        let lines = export.lines();
        assert_eq!(lines.last().unwrap()["messages"], expected.len(), "{query}");
        let connections = lines[0]["connections"].as_array().unwrap().len();
        assert_eq!(
            connections,
            if query.contains(&Uuid::from_u128(9).to_string()) {
                0
            } else if query.contains("conn") {
                1
            } else {
                2
            }
        );
    }
    for (query, field) in
        [("from=x", "from"), ("to=-1", "to"), ("keys=1", "keys"), ("form=1", "form"), ("last=x", "last")]
    {
        let answer = server.client.get(&format!("/api/export?{query}")).admin().send();
        assert!(answer.error(400, "VALIDATION_ERROR")["details"].get(field).is_some(), "{}", answer.body);
    }
    server.client.get("/api/export?connection=nobody").admin().send().error(404, "NOT_FOUND");
    server.client.get("/api/export?last=6").admin().send().error(409, "CONFLICT");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_where_it_stopped_and_never_says_complete_before_it_is() {
    let (old, _) = filled().await;
    let export = old.export("");
    let new = Server::start().await;
    // It has been up for a while.
    new.log
        .append(
            CONNECTION,
            Bytes::from_static(
                br#"{"v":1,"type":"clock.tick","timestamp":"2026-02-27T10:29:55Z","framework":"celery"}"#,
            ),
        )
        .await
        .unwrap();
    let begun = new.import("?part=true", &export.part([0]));
    assert_eq!((begun.status, &begun.body["sequence"]), (200, &json!(0)), "{}", begun.body);
    let cut = new.import("", &export.part(0..3));
    assert!(cut.error(400, "VALIDATION_ERROR")["message"].as_str().unwrap().contains("incomplete"));
    let half_a_line = export.part(0..5);
    new.import("", &half_a_line[..half_a_line.len() - 9]).error(400, "VALIDATION_ERROR");
    let begun = new.import("?part=true", &export.part([0]));
    assert_eq!((&begun.body["sequence"], &begun.body["complete"]), (&json!(3), &json!(false)));
    let hole = new.import("?part=true", &export.part([0, 5, 6]));
    assert!(
        hole.error(400, "VALIDATION_ERROR")["message"].as_str().unwrap().contains("4 of them came"),
        "{}",
        hole.body
    );

    let new = Server::start().await;
    for lines in [vec![0, 1, 2], vec![0, 3], vec![0, 4, 5, 6]] {
        assert_eq!(new.import("?part=true", &export.part(lines)).status, 200);
    }
    assert_eq!(new.import("?part=true", &export.part([0])).body["complete"], true);
    assert_eq!(new.digest().await, old.digest().await);

    let damaged = export.0.replacen("\"queued\"", "\"queueD\"", 1);
    let other = Server::start().await;
    other.import("", &damaged).error(400, "VALIDATION_ERROR");
    assert_eq!(other.import("?part=true", &export.part([0])).body["complete"], false);
    let newer = export.0.replacen("\"version\":1", "\"version\":2", 1);
    for (body, said) in [(newer.as_str(), "version 2"), ("", "not an export"), ("{\"events\":[]}\n", "not an export")] {
        let refused = other.import("", body);
        assert!(refused.error(400, "VALIDATION_ERROR")["message"].as_str().unwrap().contains(said), "{}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_holder_of_the_admin_token_exports_or_imports() {
    let (server, key) = filled().await;
    let export = server.export("");
    let logged_in = server.client.log_in(PASSWORD);
    let cookie = logged_in.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert_eq!(server.client.get("/api/jobs").header("cookie", &cookie).send().status, 200);
    server.client.get("/api/export").header("cookie", &cookie).send().error(401, "UNAUTHORIZED");
    server.client.get("/api/export").bearer(&key).send().error(401, "UNAUTHORIZED");
    let import = || server.client.request(ureq::http::Method::POST, "/api/import?merge=true").body(export.0.clone());
    import().header("cookie", &cookie).send().error(401, "UNAUTHORIZED");
    import().bearer(&key).send().error(401, "UNAUTHORIZED");
    assert_eq!(server.last_sequence().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_the_forgetting_overtakes_breaks_off() {
    let server = Server::start().await;
    let mut last = 0;
    // More than is read ahead of a client that does not take it.
    for number in 0..40 {
        last = server.log.append(CONNECTION, Bytes::from(vec![b'0' + number; 2 << 20])).await.unwrap().sequence;
    }
    let mut stream = TcpStream::connect(server.client.address()).unwrap();
    let request = format!(
        "GET /api/export HTTP/1.1\r\nhost: forebay\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    // It has begun.
    stream.read_exact(&mut [0; 1_000]).unwrap();
    server.log.purge_before(last).await.unwrap();
    let mut rest = Vec::new();
    // However the connection ends.
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.len() < 70 << 20, "{} bytes: it had room for all of it", rest.len());
    let has = |text: &str| rest.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!has(&format!("\"sequence\":{last},")), "there is no message behind the hole");
    assert!(!rest.ends_with(b"0\r\n\r\n"), "it does not look whole");
}
