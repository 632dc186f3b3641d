//! Crashes at random moments. `make test` runs a few rounds, `make soak` many: `SOAK_ROUNDS`, `SOAK_SEED`.

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, SecondsFormat};
use forebay_tests::{Api, Flood, Forebay, Options, Redis, job_id, wait_for};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const WRITERS: usize = 3;
const STATES: [&str; 3] = ["queued", "active", "completed"];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// A job that was acknowledged, with the history that it must have.
struct Acknowledged {
    id: String,
    history: Value,
}

#[test]
fn every_acknowledged_event_is_in_the_record_whatever_is_killed() {
    let (rounds, seed) = (setting("SOAK_ROUNDS", 3), setting("SOAK_SEED", 1));
    let mut random = StdRng::seed_from_u64(seed);
    let redis = Redis::start();
    let mut forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let mut flood = Flood::new(seed, start);
    let mut total = 0;
    for round in 0..rounds {
        // The first rounds of a short run see each kind of crash.
        let kind = if round < 3 { round } else { random.random_range(0..3) };
        let delay = Duration::from_millis(random.random_range(20..600));
        eprintln!("seed {seed}, round {round}: crash {kind} after {delay:?}");
        let acknowledged = crash(&mut forebay, round, kind, delay, &redis, &mut flood, &mut total);
        assert!(!acknowledged.is_empty(), "nothing was written before the crash");
        total += acknowledged.len();
        for job in &acknowledged {
            let record = forebay.api.job(&job_id(&job.id));
            let record = record.unwrap_or_else(|| panic!("{} was acknowledged and is gone", job.id));
            assert_eq!(record["stateHistory"], job.history, "{record:#}");
        }
    }
    let count = |forebay: &Forebay| forebay.api.get("/api/jobs?limit=1").body["pagination"]["total"].clone();
    assert_eq!(count(&forebay), json!(total));
    forebay.stop();
    forebay.restart();
    assert_eq!(count(&forebay), json!(total), "after a clean stop and a start");
}

/// Writes while something is killed, until all is well again and what was under way is acknowledged.
fn crash(
    forebay: &mut Forebay,
    round: u64,
    kind: u64,
    delay: Duration,
    redis: &Redis,
    flood: &mut Flood,
    total: &mut usize,
) -> Vec<Acknowledged> {
    let (api, stop) = (RwLock::new(forebay.api.clone()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (api, stop) = (&api, &stop);
                scope.spawn(move || write(api, stop, &format!("{round}-{writer}"), round * 10 + writer as u64))
            })
            .collect();
        // The random moment of the crash; nothing is waited for.
        std::thread::sleep(delay);
        match kind {
            0 => forebay.crash_and_restart(),
            1 => forebay.kill_nats(),
            _ => {
                forebay.kill_nats();
                forebay.crash_and_restart();
            }
        }
        if kind == 1 {
            *total += stream_goes_on(forebay, redis, flood);
        }
        forebay.wait_until_well();
        *api.write().unwrap() = forebay.api.clone();
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    })
}

/// What Celery publishes while the log is away is kept until the log is back.
fn stream_goes_on(forebay: &Forebay, redis: &Redis, flood: &mut Flood) -> usize {
    let (messages, jobs) = flood.messages(300, 7);
    redis.publish("/0.celeryev/task.multi", &messages);
    for job in &jobs {
        wait_for("a job of the stream to be recorded", 60, || {
            forebay.api.job(&job_id(&job.id)).filter(|record| record["state"] == job.state)
        });
    }
    jobs.len()
}

/// Posts batch after batch; a batch that is not acknowledged is posted again, as any client would.
fn write(api: &RwLock<Api>, stop: &AtomicBool, name: &str, seed: u64) -> Vec<Acknowledged> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (mut events, mut jobs) = (Vec::new(), Vec::new());
        for _ in 0..random.random_range(1..6) {
            let id = format!("{name}-{}", acknowledged.len() + jobs.len());
            let start = 1_772_000_000_000 + random.random_range(0..86_400_000);
            let times = [start, start + 15, start + 1_500].map(|millis| {
                DateTime::from_timestamp_millis(millis).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true)
            });
            for (state, time) in STATES.iter().zip(&times) {
                events.push(json!({
                    "type": "job.state_change", "timestamp": time, "framework": "celery",
                    "connectionId": forebay_tests::CONNECTION.to_string(),
                    "job": { "externalId": id, "name": "shop.crash", "state": state },
                }));
            }
            let entry = |(state, time): (&&str, &String)| json!({ "state": state, "timestamp": time });
            jobs.push(Acknowledged { id, history: STATES.iter().zip(&times).map(entry).collect() });
        }
        // In two POSTs, so that a crash can fall between the events of one job.
        let middle = random.random_range(0..events.len());
        for part in [&events[..middle], &events[middle..]] {
            wait_for("a batch to be acknowledged", 60, || {
                let answer = api.read().unwrap().clone().ingest(part).filter(|answer| answer.status != 503)?;
                assert_eq!((answer.status, &answer.body["rejected"]), (202, &json!([])), "{}", answer.body);
                Some(())
            });
        }
        acknowledged.extend(jobs);
    }
    acknowledged
}
