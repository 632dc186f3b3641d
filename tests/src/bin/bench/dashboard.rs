//! What a dashboard asks, with many jobs in the views and while events come in: every kind of read, and how soon an event
//! is told to who listens.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay_tests::{API_KEY, CONNECTION, Flood, Forebay, Redis, job_id};
use serde::Serialize;

use crate::beside::{milliseconds, publish_at};
use crate::measures::{Percentiles, batch, event};
use crate::million::memory;
use crate::raw::{Raw, request};

/// Events per second that come in meanwhile, and how many a message holds.
const RATE: f64 = 10_000.0;
const EACH: usize = 20;
/// Between two reads of one client: a dashboard is no load test.
const PAUSE: Duration = Duration::from_millis(3);
/// Between two events whose way to a reader of the stream is measured.
const REST: Duration = Duration::from_millis(40);

const SORTS: [&str; 7] = ["createdAt", "name", "state", "durationMs", "queue", "startedAt", "worker"];
const ORDERS: [&str; 2] = ["asc", "desc"];
const RANGES: [&str; 4] = ["1h", "6h", "24h", "7d"];

#[derive(Clone, Serialize)]
pub(crate) struct Dashboard {
    pub(crate) jobs: u64,
    /// Only jobs of this time are asked for, where it is not all.
    pub(crate) window: Option<&'static str>,
    pub(crate) events_per_second: f64,
    pub(crate) reads: Vec<Read>,
    /// From the acknowledgement of an event until a reader of the stream has it.
    pub(crate) live_ms: Percentiles,
    pub(crate) resident_mb: f64,
}

#[derive(Clone, Serialize)]
pub(crate) struct Read {
    pub(crate) what: &'static str,
    pub(crate) samples: usize,
    pub(crate) ms: Percentiles,
    /// The slowest of its requests, by the p99 of that one alone where it was made often enough.
    pub(crate) slowest: String,
    pub(crate) slowest_ms: f64,
}

/// Requests of one kind.
struct Kind {
    what: &'static str,
    paths: Vec<String>,
}

pub(crate) fn measure(
    forebay: &Forebay,
    redis: &Redis,
    flood: &mut Flood,
    ids: &[String],
    since: Option<&str>,
    time: Duration,
) -> Dashboard {
    let kinds = kinds(ids, since);
    let events = (RATE * time.as_secs_f64() * (kinds.len() + 1) as f64) as usize;
    let before = flood.events();
    let (messages, _) = flood.messages(events * 10 / 44, EACH);
    let sent = (flood.events() - before) as f64;
    let stop = AtomicBool::new(false);
    let (reads, live, seconds) = std::thread::scope(|scope| {
        let stop = &stop;
        let publishing = scope.spawn(move || publish_at(redis, &messages, EACH, RATE, stop));
        let live = scope.spawn(move || live(forebay, stop));
        let reads: Vec<Read> = kinds.iter().map(|kind| kind.measure(forebay, time)).collect();
        stop.store(true, Ordering::Relaxed);
        (reads, live.join().unwrap(), publishing.join().unwrap())
    });
    let (sent, seconds) = (sent * seconds.0, seconds.1);
    let overview = forebay.api.get("/api/overview").body;
    Dashboard {
        jobs: overview["jobs"]["total"].as_u64().unwrap(),
        window: since.map(|_| "the last 24 h"),
        events_per_second: sent / seconds,
        reads,
        live_ms: Percentiles::of(live),
        resident_mb: memory(forebay.process().pid(), "VmRSS:"),
    }
}

fn kinds(ids: &[String], since: Option<&str>) -> Vec<Kind> {
    let since = since.map_or(String::new(), |since| format!("&createdAfter={since}"));
    let list = |filter: &str, sort: &str, order: &str| {
        format!("/api/jobs?limit=50&sortBy={sort}&sortOrder={order}{filter}{since}")
    };
    let in_every_order = |filters: &[&str]| {
        let of = |filter: &&str| {
            let pairs = SORTS.iter().flat_map(|sort| ORDERS.map(|order| (*sort, order)));
            pairs.map(|(sort, order)| list(filter, sort, order)).collect::<Vec<_>>()
        };
        filters.iter().flat_map(of).collect::<Vec<_>>()
    };
    let connection = format!("&connectionId={CONNECTION}");
    let single = in_every_order(&[
        "",
        "&state=failed",
        "&state=completed",
        "&state=active",
        "&queue=q1",
        "&worker=celery@worker-3",
        "&framework=celery",
        &connection,
        "&search=TASK_1",
        "&name=app.tasks.task_7",
        "&errorContains=refused",
        "&attemptAtLeast=2",
        "&lost=true",
        "&stuck=true",
    ]);
    let combined = in_every_order(&[
        "&state=failed,completed&queue=q1&worker=celery@worker-1",
        "&state=failed&errorContains=refused&search=task_1&framework=celery",
        "&state=completed&attemptAtLeast=2&queue=q2&name=app.tasks.task_7",
        "&search=task&framework=celery&state=completed,failed,active,queued,retrying",
    ]);
    let ranged = |path: &str| RANGES.map(|range| format!("{path}{range}")).to_vec();
    let job = |id: &String| format!("/api/jobs/{id}");
    vec![
        Kind { what: "GET one job", paths: ids.iter().step_by(7).map(job).collect() },
        Kind { what: "first page of jobs, one filter, any order", paths: single },
        Kind { what: "first page of jobs, several filters, any order", paths: combined },
        Kind { what: "tasks", paths: ranged("/api/tasks?timeRange=") },
        Kind { what: "failures", paths: ranged("/api/failures?timeRange=") },
        Kind { what: "workers", paths: vec!["/api/workers".to_owned()] },
        Kind { what: "queues", paths: ranged("/api/queues?timeRange=") },
        Kind { what: "overview", paths: ranged("/api/overview?timeRange=") },
    ]
}

impl Kind {
    /// One request after another, in turns, for so long.
    fn measure(&self, forebay: &Forebay, time: Duration) -> Read {
        let requests: Vec<Vec<u8>> =
            self.paths.iter().map(|path| request("GET", path, forebay.api.token(), "")).collect();
        let mut client = Raw::connect(forebay.api.address());
        let mut samples: Vec<Vec<f64>> = vec![Vec::new(); requests.len()];
        let begin = Instant::now();
        // Each at least once, however slow.
        for turn in 0.. {
            let place = turn % requests.len();
            if begin.elapsed() >= time && turn >= requests.len().min(1_000) {
                break;
            }
            let asked = Instant::now();
            assert_eq!(client.call(&requests[place]), 200, "{}", self.paths[place]);
            samples[place].push(milliseconds(asked));
            std::thread::sleep(PAUSE);
        }
        let slowest = (0..samples.len())
            .filter(|place| !samples[*place].is_empty())
            .map(|place| (Percentiles::of(samples[place].clone()).p99, place))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let (slowest_ms, place) = slowest.expect("each request was made");
        let all: Vec<f64> = samples.into_iter().flatten().collect();
        let read = Read {
            what: self.what,
            samples: all.len(),
            ms: Percentiles::of(all),
            slowest: self.paths[place].clone(),
            slowest_ms,
        };
        eprintln!("  {}", serde_json::to_string(&read).unwrap());
        read
    }
}

/// Events one by one, each from its acknowledgement until the stream has told it.
fn live(forebay: &Forebay, stop: &AtomicBool) -> Vec<f64> {
    let mut stream = TcpStream::connect(forebay.api.address()).unwrap();
    let path = format!("/api/events/stream?connectionId={CONNECTION}&types=job&name=shop.tasks.bench");
    stream.write_all(&request("GET", &path, forebay.api.token(), "")).unwrap();
    let mut lines = BufReader::new(stream);
    let mut wait_for = |wanted: &str| {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the stream ended");
        }
    };
    wait_for("retry:");
    let mut client = Raw::connect(forebay.api.address());
    let mut samples = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("live-{}-{number}", forebay.process().pid().as_raw_nonzero());
        assert_eq!(client.call(&request("POST", "/api/ingest", API_KEY, &batch(&[event(&id)]))), 202);
        let acknowledged = Instant::now();
        wait_for(&job_id(&id));
        samples.push(milliseconds(acknowledged));
        std::thread::sleep(REST);
    }
    samples
}
