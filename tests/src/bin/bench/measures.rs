//! What is measured, each as a function of a running server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_tests::{API_KEY, CONNECTION, Forebay, job_id, wait_for};
use serde::Serialize;

use crate::raw::{Raw, request};

/// Two percentiles in milliseconds.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Percentiles {
    pub(crate) fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize];
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

/// One event at a time, from POST to acknowledgement, and from there until GET answers the job.
#[derive(Serialize)]
pub(crate) struct Latency {
    pub(crate) samples: usize,
    pub(crate) acknowledged_ms: Percentiles,
    pub(crate) readable_after_acknowledgement_ms: Percentiles,
    pub(crate) readable_ms: Percentiles,
}

pub(crate) fn latency(forebay: &Forebay, samples: usize) -> Latency {
    let mut client = Raw::connect(forebay.api.address());
    let (mut acknowledged, mut after, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let milliseconds = |from: Instant, to: Instant| (to - from).as_secs_f64() * 1_000.0;
    for sample in 0..samples {
        let id = format!("latency-{sample}");
        let post = request("POST", "/api/ingest", API_KEY, &batch(&[event(&id)]));
        let get = request("GET", &format!("/api/jobs/{}", job_id(&id)), forebay.api.token(), "");
        let begin = Instant::now();
        assert_eq!(client.call(&post), 202);
        let acknowledgement = Instant::now();
        while client.call(&get) != 200 {}
        let readable = Instant::now();
        acknowledged.push(milliseconds(begin, acknowledgement));
        after.push(milliseconds(acknowledgement, readable));
        whole.push(milliseconds(begin, readable));
    }
    Latency {
        samples,
        acknowledged_ms: Percentiles::of(acknowledged),
        readable_after_acknowledgement_ms: Percentiles::of(after),
        readable_ms: Percentiles::of(whole),
    }
}

/// As many POSTs as the server takes, each event the first of its job, and the time until all of them can be read.
#[derive(Serialize)]
pub(crate) struct Ingest {
    pub(crate) batch: usize,
    pub(crate) connections: usize,
    pub(crate) requests_per_second: f64,
    pub(crate) events_per_second: f64,
    pub(crate) recorded_per_second: f64,
}

pub(crate) fn ingest(forebay: &Forebay, size: usize, connections: usize, time: Duration) -> Ingest {
    static RUN: AtomicU64 = AtomicU64::new(0);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let begin = Instant::now();
    let requests = in_parallel(connections, time, |connection| {
        let mut client = Raw::connect(forebay.api.address());
        let mut number = 0_u64;
        move || {
            let events: Vec<String> = (0..size).map(|at| event(&format!("{run}-{connection}-{number}-{at}"))).collect();
            number += 1;
            assert_eq!(client.call(&request("POST", "/api/ingest", API_KEY, &batch(&events))), 202);
        }
    });
    let total = requests * time.as_secs_f64() * size as f64;
    wait_for("the projector to have applied it all", 600, || {
        let health = forebay.health();
        let (applied, last) = (health["projector"]["applied"].as_u64()?, health["log"]["lastSequence"].as_u64()?);
        (applied >= last).then_some(())
    });
    Ingest {
        batch: size,
        connections,
        requests_per_second: requests,
        events_per_second: requests * size as f64,
        recorded_per_second: total / begin.elapsed().as_secs_f64(),
    }
}

/// GET of one job beside a constant answer of the same server, in turns of one second each.
#[derive(Serialize)]
pub(crate) struct Reads {
    pub(crate) connections: usize,
    pub(crate) jobs_per_second: f64,
    pub(crate) constant_answers_per_second: f64,
    pub(crate) ratio: f64,
}

pub(crate) fn reads(forebay: &Forebay, connections: usize, turns: u32) -> Reads {
    let job = request("GET", &format!("/api/jobs/{}", job_id("latency-0")), forebay.api.token(), "");
    let constant = request("GET", "/api/health/live", forebay.api.token(), "");
    let rate = |request: &[u8]| {
        in_parallel(connections, Duration::from_secs(1), |_| {
            let mut client = Raw::connect(forebay.api.address());
            move || assert_eq!(client.call(request), 200)
        })
    };
    let (mut jobs, mut constants) = (0.0, 0.0);
    for _ in 0..turns {
        jobs += rate(&job);
        constants += rate(&constant);
    }
    let turns = f64::from(turns);
    Reads {
        connections,
        jobs_per_second: jobs / turns,
        constant_answers_per_second: constants / turns,
        ratio: jobs / constants,
    }
}

/// Epoch seconds.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Calls per second of all connections together.
pub(crate) fn in_parallel<W: FnMut() + Send>(connections: usize, time: Duration, worker: impl Fn(usize) -> W) -> f64 {
    let calls = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for connection in 0..connections {
            let (mut call, calls) = (worker(connection), &calls);
            scope.spawn(move || {
                while begin.elapsed() < time {
                    call();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    calls.into_inner() as f64 / begin.elapsed().as_secs_f64()
}

pub(crate) fn event(id: &str) -> String {
    format!(
        r#"{{"type":"job.state_change","timestamp":"2026-03-01T08:00:00.000Z","framework":"celery","connectionId":"{CONNECTION}","job":{{"externalId":"{id}","name":"shop.tasks.bench","state":"queued","workerId":"celery@worker-1","extensions":{{"celeryState":"RECEIVED"}}}}}}"#
    )
}

pub(crate) fn batch(events: &[String]) -> String {
    format!(r#"{{"events":[{}]}}"#, events.join(","))
}
