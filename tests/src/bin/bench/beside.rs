//! What a reader notices while many events come in, and while the views are rebuilt.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forebay_tests::{Flood, Forebay, Redis, job_id, wait_for};
use serde::Serialize;
use serde_json::Value;

use crate::measures::{Percentiles, now};
use crate::million::{CHANNEL, memory};
use crate::raw::{Raw, request};

/// Clients that each send a job now and then and look for it.
const PROBES: u64 = 4;
/// Clients that ask for one job after another, each some hundred times a second.
const READERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(2);
/// Between two jobs of a probe.
const REST: Duration = Duration::from_millis(10);

/// Events at a steady rate: how soon they can be read, and how soon a read is answered meanwhile.
#[derive(Clone, Serialize)]
pub(crate) struct Following {
    pub(crate) events_per_message: usize,
    pub(crate) asked_per_second: f64,
    pub(crate) events_per_second: f64,
    /// From publishing a job's events on the broker until GET answers the job.
    pub(crate) lag_ms: Percentiles,
    pub(crate) get_ms: Percentiles,
}

/// A rebuild beside readers.
#[derive(Clone, Serialize)]
pub(crate) struct Rebuild {
    pub(crate) jobs: u64,
    pub(crate) events: u64,
    /// Until the whole log is folded and written.
    pub(crate) events_per_second: f64,
    /// Until the new views serve.
    pub(crate) seconds: f64,
    pub(crate) get_before_ms: Percentiles,
    pub(crate) get_during_ms: Percentiles,
    pub(crate) get_ratio: f64,
    pub(crate) live_data_mb: f64,
    pub(crate) peak_resident_mb: f64,
}

pub(crate) fn follow(
    forebay: &Forebay,
    redis: &Redis,
    flood: &mut Flood,
    ids: &[String],
    each: usize,
    rate: f64,
    time: Duration,
) -> Following {
    let before = flood.events();
    // Made beforehand, so that making them costs nothing of what is measured.
    let (messages, _) = flood.messages((rate * time.as_secs_f64() / 4.4) as usize, each);
    let sent = (flood.events() - before) as f64;
    let stop = AtomicBool::new(false);
    let (lag, get, seconds) = std::thread::scope(|scope| {
        let probe = |number| {
            scope.spawn({
                let stop = &stop;
                move || probe(forebay, redis, number, stop)
            })
        };
        let probes: Vec<_> = (0..PROBES).map(probe).collect();
        let reads = scope.spawn(|| read(forebay, ids, 0, &stop));
        let (_, seconds) = publish_at(redis, &messages, each, rate, &stop);
        stop.store(true, Ordering::Relaxed);
        let lag: Vec<f64> = probes.into_iter().flat_map(|probe| probe.join().unwrap()).collect();
        (lag, reads.join().unwrap(), seconds)
    });
    Following {
        events_per_message: each,
        asked_per_second: rate,
        events_per_second: sent / seconds,
        lag_ms: Percentiles::of(lag),
        get_ms: Percentiles::of(get),
    }
}

/// Publishes messages of so many events at a steady rate, all of them or until it is stopped: the share that was sent, and
/// in how many seconds.
pub(crate) fn publish_at(redis: &Redis, messages: &[Vec<u8>], each: usize, rate: f64, stop: &AtomicBool) -> (f64, f64) {
    // A hundred steps a second, or one for each message.
    let at_once = (rate / 100.0 / each as f64).max(1.0) as usize;
    let begin = Instant::now();
    let (mut due, mut sent) = (0.0, 0);
    for chunk in messages.chunks(at_once) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        redis.publish(CHANNEL, chunk);
        sent += chunk.len();
        due += (at_once * each) as f64 / rate;
        std::thread::sleep(Duration::from_secs_f64(due).saturating_sub(begin.elapsed()));
    }
    (sent as f64 / messages.len() as f64, begin.elapsed().as_secs_f64())
}

/// One job after another, each from its publishing until it can be read.
fn probe(forebay: &Forebay, redis: &Redis, number: u64, stop: &AtomicBool) -> Vec<f64> {
    let start = now();
    let mut flood = Flood::new(start as u64 * PROBES + number, start);
    let mut client = Raw::connect(forebay.api.address());
    let mut samples = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (messages, made) = flood.messages(1, 20);
        let get = request("GET", &format!("/api/jobs/{}", job_id(&made[0].id)), forebay.api.token(), "");
        let begin = Instant::now();
        redis.publish(CHANNEL, &messages);
        while client.call(&get) != 200 {
            std::thread::sleep(Duration::from_millis(1));
        }
        samples.push(milliseconds(begin));
        std::thread::sleep(REST);
    }
    samples
}

/// GET of one job after another.
fn read(forebay: &Forebay, ids: &[String], first: usize, stop: &AtomicBool) -> Vec<f64> {
    let mut client = Raw::connect(forebay.api.address());
    let (mut samples, mut place) = (Vec::new(), first);
    while !stop.load(Ordering::Relaxed) {
        // Far from the last one, so that it is not in the same page.
        place = (place + 7_919) % ids.len();
        let get = request("GET", &format!("/api/jobs/{}", ids[place]), forebay.api.token(), "");
        let begin = Instant::now();
        assert_eq!(client.call(&get), 200);
        samples.push(milliseconds(begin));
        std::thread::sleep(PAUSE);
    }
    samples
}

/// What readers notice while something else is done.
fn beside<T>(forebay: &Forebay, ids: &[String], work: impl FnOnce() -> T) -> (Percentiles, T) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = |first| {
            scope.spawn({
                let stop = &stop;
                move || read(forebay, ids, first, stop)
            })
        };
        let readers: Vec<_> = (0..READERS).map(reader).collect();
        let done = work();
        stop.store(true, Ordering::Relaxed);
        (Percentiles::of(readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()), done)
    })
}

pub(crate) fn rebuild(forebay: &Forebay, ids: &[String], time: Duration) -> Rebuild {
    let (get_before_ms, ()) = beside(forebay, ids, || std::thread::sleep(time));
    let begin = Instant::now();
    let (get_during_ms, status) = beside(forebay, ids, || rebuilt(forebay));
    assert_eq!(status["sameAsBefore"], true, "{status}");
    Rebuild {
        jobs: status["jobs"].as_u64().unwrap(),
        events: status["eventsDone"].as_u64().unwrap(),
        events_per_second: status["eventsPerSecond"].as_f64().unwrap(),
        seconds: begin.elapsed().as_secs_f64(),
        get_ratio: get_during_ms.p99 / get_before_ms.p99,
        get_before_ms,
        get_during_ms,
        live_data_mb: folded_bytes(forebay) / 1e6,
        peak_resident_mb: memory(forebay.process().pid(), "VmHWM:"),
    }
}

/// Rebuilds the views and waits until they serve.
fn rebuilt(forebay: &Forebay) -> Value {
    let token = format!("Bearer {}", forebay.api.token());
    let post = forebay.api.send(ureq::http::Method::POST, "/api/rebuilds", &[("authorization", &token)], b"").unwrap();
    assert_eq!(post.status, 202, "{}", post.body);
    let path = format!("/api/rebuilds/{}", post.body["id"].as_str().unwrap());
    wait_for("the rebuild to end", 600, || {
        let status = forebay.api.get(&path).body;
        assert!(status["state"] != "failed" && status["state"] != "aborted", "{status}");
        (status["state"] == "completed").then_some(status)
    })
}

/// The bytes of all rows with their keys, as the server's log has them.
fn folded_bytes(forebay: &Forebay) -> f64 {
    let log = forebay.process().log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter_map(|line| line["fields"]["bytes"].as_f64())
        .next_back()
        .expect("a rebuild tells the bytes that it wrote")
}

pub(crate) fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}
