//! The list of jobs as a file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use api::door::Limits;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

use crate::harness::{Answer, DEADLINE, Server, TOKEN, event, limits, until};

/// More than are found at once.
const MANY: usize = 20_150;
/// Events of a batch.
const BATCH: usize = 100;

fn get(server: &Server, query: &str) -> Answer {
    let answer = server.client.get(&format!("/api/jobs?{query}")).admin().send();
    assert_eq!(answer.status, 200, "{query}: {}", answer.body);
    answer
}

fn lines(answer: &Answer) -> Vec<Value> {
    let text = std::str::from_utf8(&answer.bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The whole list by pages of JSON.
fn paged(server: &Server, query: &str) -> Vec<Value> {
    let (mut jobs, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = get(server, &format!("{query}&limit=100{cursor}")).body;
        jobs.extend(page["data"].as_array().unwrap().clone());
        let Some(next) = page["pagination"]["nextCursor"].as_str() else { return jobs };
        cursor = format!("&cursor={next}");
    }
}

fn csv_of(answer: &Answer) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(answer.bytes.as_slice());
    reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_list_is_that_of_its_pages_in_every_order_and_as_either_file() {
    let server = Server::start().await;
    let states = ["queued", "active", "completed", "failed", "retrying"];
    let events: Vec<Value> = (0..350)
        .map(|number: usize| {
            let time = format!("2026-02-27T10:{:02}:{:02}Z", number / 60, number % 60);
            let mut event = event(&format!("job-{number}"), states[number % states.len()], &time);
            event["job"]["name"] = json!(format!("shop.task_{}", number % 7));
            if number.is_multiple_of(3) {
                event["job"]["queue"] = json!("mail");
                event["job"]["workerId"] = json!(format!("celery@{}", number % 4));
            }
            if number % states.len() == 3 {
                event["job"]["error"] = json!("ValueError(\"a, b\nand c\")");
            }
            event
        })
        .collect();
    events.chunks(BATCH).for_each(|events| server.given(&json!(events)));
    for query in [
        "",
        "state=failed,retrying&sortBy=name",
        "queue=mail&sortBy=worker&sortOrder=asc",
        "search=TASK_3&sortBy=startedAt",
        "errorContains=and&sortBy=durationMs",
        "name=shop.task_1&createdAfter=2026-02-27T10:01:00Z&sortBy=state",
        "name=nobody",
    ] {
        let pages = paged(&server, query);
        let whole = get(&server, &format!("{query}&format=jsonl"));
        assert_eq!(lines(&whole), pages, "{query}");
        assert_eq!(whole.header("content-type"), Some("application/x-ndjson"));
        let file = whole.header("content-disposition").unwrap();
        assert!(file.starts_with("attachment; filename=\"jobs-") && file.ends_with("Z.jsonl\""), "{file}");
        assert!(whole.header("forebay-applied").is_some());
        let rows = csv_of(&get(&server, &format!("{query}&format=csv")));
        let columns = &rows[0];
        assert_eq!(rows.len(), pages.len() + 1, "{query}");
        for (row, job) in rows[1..].iter().zip(&pages) {
            for (column, cell) in columns.iter().zip(row).filter(|(column, _)| *column != "attempt") {
                let expected = match &job[column.as_str()] {
                    value if ["lost", "stuck", "waiting"].contains(&column.as_str()) => value.is_object().to_string(),
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    value => value.to_string(),
                };
                assert_eq!(*cell, expected, "{column} of {job}");
            }
        }
    }
    let some = get(&server, "format=jsonl&limit=123");
    assert_eq!(lines(&some), paged(&server, "")[..123]);
    let page = get(&server, "limit=100").body;
    let cursor = page["pagination"]["nextCursor"].as_str().unwrap();
    assert_eq!(lines(&get(&server, &format!("format=jsonl&cursor={cursor}"))), paged(&server, "")[100..]);
    // What a client takes decides where no parameter does.
    let by_accept = |accept: &str, query: &str| {
        let answer = server.client.get(&format!("/api/jobs{query}")).admin().header("accept", accept).send();
        answer.header("content-type").unwrap().to_owned()
    };
    assert_eq!(by_accept("text/csv", ""), "text/csv; charset=utf-8");
    assert_eq!(by_accept("application/x-ndjson", ""), "application/x-ndjson");
    assert_eq!(by_accept("text/csv", "?format=json"), "application/json");
    assert_eq!(by_accept("*/*", ""), "application/json");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_longer_than_is_found_at_once_has_each_job_once() {
    let server = Server::start().await;
    let mut last = Value::Null;
    for batch in 0..MANY.div_ceil(BATCH) {
        let events: Vec<Value> = (batch * BATCH..MANY.min((batch + 1) * BATCH))
            .map(|number| event(&format!("job-{number}"), "completed", "2026-02-27T10:00:00Z"))
            .collect();
        let answer = server.ingest(&json!(events));
        assert_eq!(answer.status, 202, "{}", answer.body);
        last = answer.body["sequence"].clone();
    }
    let last = last.as_str().map_or_else(|| last.to_string(), str::to_owned);
    let whole = get(&server, &format!("format=csv&atLeast={last}&sortBy=name"));
    let ids: BTreeSet<String> = csv_of(&whole).into_iter().skip(1).map(|mut row| row.swap_remove(1)).collect();
    assert_eq!((csv_of(&whole).len() - 1, ids.len()), (MANY, MANY));
}

/// Whether the end of a connection that listens on `server` and was opened from `client` is still open there.
fn is_open(server: u16, client: u16) -> bool {
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next().unwrap(), 16).unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // "N: LOCAL REMOTE STATE …", and 01 is established.
    let mut rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.any(|row| (port(row[1]), port(row[2]), row[3]) == (server, client, "01"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_of_who_takes_nothing_of_a_list_is_ended() {
    let server = Server::within(Limits { list_silence: Duration::from_secs(1), ..limits() }).await;
    // More than sockets take.
    for batch in 0..10 {
        let job = |number: usize| {
            let mut event = event(&format!("job-{batch}-{number}"), "failed", "2026-02-27T10:00:00Z");
            event["job"]["error"] = json!("x".repeat(10_000));
            event
        };
        server.given(&json!((0..BATCH).map(job).collect::<Vec<_>>()));
    }
    let whole = get(&server, "format=jsonl").bytes.len();
    let address: SocketAddr = server.client.address().parse().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    // What a system may hold for who takes nothing is several megabytes.
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    let get = format!("GET /api/jobs?format=jsonl HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n\r\n");
    socket.write_all(get.as_bytes()).await.unwrap();
    let from = socket.local_addr().unwrap().port();
    until("the server to give it up", || !is_open(address.port(), from));
    // With or without a reset.
    let mut taken = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut taken)).await.expect("it is at an end");
    assert!(taken.len() < whole, "{} of {whole}", taken.len());
}
