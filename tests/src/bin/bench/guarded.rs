//! What it costs to be guarded, and to be watched: the limits at the door, and a scrape of the metrics.

use std::time::{Duration, Instant};

use forebay_tests::{API_KEY, CONNECTION, Forebay, Options, job_id, wait_for};
use serde::Serialize;
use serde_json::json;

use crate::beside::milliseconds;
use crate::measures::{Percentiles, batch, event, in_parallel};
use crate::raw::{Raw, get_compressed, request};
use crate::stream::cpu_seconds;

/// Tasks and queues of which the metrics tell, each pair by itself: as many as they tell of by name.
const TASKS: usize = 100;
const QUEUES: usize = 50;
/// Events in one request.
const BATCH: usize = 100;
/// Prometheus asks so often unless it is told otherwise.
const INTERVAL: Duration = Duration::from_secs(15);
/// Limits that are there, and that nobody comes to.
const NEVER_REACHED: &str = "100000000";
const LIMITS: [&str; 4] =
    ["--max-requests-per-key", "--max-requests-per-address", "--max-wrong-keys", "--max-connections-per-address"];

#[derive(Serialize)]
pub(crate) struct Guarded {
    pub(crate) limits: Vec<Limited>,
    pub(crate) scrape: Scrape,
}

/// GET of one job by as many as the server takes, from one with limits and from one without, in turns of one second each.
#[derive(Serialize)]
pub(crate) struct Limited {
    pub(crate) what: &'static str,
    pub(crate) with: Answered,
    pub(crate) without: Answered,
    pub(crate) ratio: f64,
}

#[derive(Serialize)]
pub(crate) struct Answered {
    pub(crate) per_second: f64,
    /// Processor time of the server for one of them.
    pub(crate) us: f64,
}

/// `GET /metrics` as Prometheus asks for it.
#[derive(Serialize)]
pub(crate) struct Scrape {
    pub(crate) pairs: usize,
    pub(crate) samples: usize,
    pub(crate) ms: Percentiles,
    pub(crate) cpu_ms: f64,
    /// Of one processor, at a scrape every 15 seconds.
    pub(crate) cpu_percent: f64,
    pub(crate) bytes: usize,
    pub(crate) gzipped_bytes: usize,
}

pub(crate) fn measure(connections: usize, turns: u32, scrapes: usize) -> Guarded {
    let with = |value: &str| {
        let arguments = LIMITS.iter().flat_map(|limit| [(*limit).to_owned(), value.to_owned()]).collect();
        let forebay = Forebay::start(Options { arguments, ..Options::default() });
        assert_eq!(forebay.api.ingest(&[serde_json::from_str(&event("one")).unwrap()]).unwrap().status, 202);
        // Who reads the data directory is not limited.
        let key = forebay.api.try_post("/api/keys", &json!({ "name": "bench" })).unwrap().body["apiKey"].clone();
        let ask = request("GET", &format!("/api/jobs/{}", job_id("one")), key.as_str().unwrap(), "");
        Asked { forebay, ask }
    };
    let (limited, unlimited) = (with(NEVER_REACHED), with("off"));
    let limits = [false, true].map(|is_new| limited_beside(&limited, &unlimited, connections, is_new, turns)).into();
    drop((limited, unlimited));
    Guarded { limits, scrape: scrape(scrapes) }
}

/// A server, and what is asked of it.
struct Asked {
    forebay: Forebay,
    ask: Vec<u8>,
}

fn limited_beside(limited: &Asked, unlimited: &Asked, connections: usize, is_new: bool, turns: u32) -> Limited {
    let turn = |Asked { forebay, ask }: &Asked| {
        let used = cpu_seconds(forebay.process().pid());
        let rate = in_parallel(connections, Duration::from_secs(1), |_| {
            let mut client = Raw::connect(forebay.api.address());
            move || {
                if is_new {
                    client = Raw::connect(forebay.api.address());
                }
                assert_eq!(client.call(ask), 200);
            }
        });
        (rate, cpu_seconds(forebay.process().pid()) - used)
    };
    let (mut with, mut without) = ((0.0, 0.0), (0.0, 0.0));
    for _ in 0..turns {
        for (asked, sum) in [(limited, &mut with), (unlimited, &mut without)] {
            let (rate, used) = turn(asked);
            *sum = (sum.0 + rate, sum.1 + used);
        }
    }
    // Each turn takes a second.
    let answered =
        |(rates, used): (f64, f64)| Answered { per_second: rates / f64::from(turns), us: used * 1e6 / rates };
    let what = if is_new { "each over a connection of its own" } else { "over connections that are kept" };
    Limited { what, with: answered(with), without: answered(without), ratio: with.0 / without.0 }
}

/// A job of each pair, from its beginning to its end.
fn story(pair: usize) -> [String; 3] {
    [("queued", "10"), ("active", "11"), ("completed", "12")].map(|(state, second)| {
        format!(
            r#"{{"type":"job.state_change","timestamp":"2026-03-01T08:00:{second}.000Z","framework":"celery","connectionId":"{CONNECTION}","job":{{"externalId":"pair-{pair}","name":"shop.tasks.task_{}","queue":"queue-{}","state":"{state}","workerId":"celery@worker-1"}}}}"#,
            pair / QUEUES,
            pair % QUEUES,
        )
    })
}

fn scrape(samples: usize) -> Scrape {
    let forebay = Forebay::start(Options::default());
    let pairs = TASKS * QUEUES;
    let events: Vec<String> = (0..pairs).flat_map(story).collect();
    let mut client = Raw::connect(forebay.api.address());
    for part in events.chunks(BATCH) {
        assert_eq!(client.call(&request("POST", "/api/ingest", API_KEY, &batch(part))), 202);
    }
    // One whole round first, so that all of it is applied.
    let last =
        request("GET", &format!("/api/jobs/{}", job_id(&format!("pair-{}", pairs - 1))), forebay.api.token(), "");
    wait_for("the last pair", 60, || (client.call(&last) == 200).then_some(()));
    let plain = request("GET", "/metrics", forebay.api.token(), "");
    let told = |client: &mut Raw, wanted: &[u8]| {
        assert_eq!(client.call(wanted), 200);
        client.body().len()
    };
    let bytes = told(&mut client, &plain);
    let series = String::from_utf8(client.body().to_vec()).unwrap();
    let named = series.lines().filter(|line| line.starts_with("celery_task_succeeded_total{")).count();
    assert!(named >= pairs, "{named} of {pairs} are told by name");
    let gzipped = get_compressed("/metrics", forebay.api.token());
    let gzipped_bytes = told(&mut client, &gzipped);
    let used = cpu_seconds(forebay.process().pid());
    let times = (0..samples).map(|_| {
        let asked = Instant::now();
        told(&mut client, &gzipped);
        milliseconds(asked)
    });
    let ms = Percentiles::of(times.collect());
    let cpu = (cpu_seconds(forebay.process().pid()) - used) / samples as f64;
    let cpu_percent = cpu / INTERVAL.as_secs_f64() * 100.0;
    Scrape { pairs, samples, ms, cpu_ms: cpu * 1e3, cpu_percent, bytes, gzipped_bytes }
}
