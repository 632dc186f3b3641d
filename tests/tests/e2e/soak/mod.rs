//! Half an hour as in production: a steady stream of Celery's events, everybody who reads, and a log that forgets its
//! beginning. What the process takes must not grow with time, and all that was published must be in the record.
//!
//! `SOAK_MINUTES` and `SOAK_RATE` (events a second) make it shorter or lighter. What is kept is a sixth of the time, so
//! that from there on as much is forgotten as comes in: only then can anything be expected to stay as it is.
//!
//! # Layout
//! - [`samples`]: what is looked at each second, and what of it may grow how much
//! - [`readers`]: who reads meanwhile

mod readers;
mod samples;

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use forebay_tests::{Flood, FloodJob, Forebay, Options, Redis, setting, wait_or_show};

use crate::crashes::{verify, wait_until_whole};
use readers::Readers;
use samples::{Sample, growing, table};

/// Events in one message, as a worker sends them, and events of a job of the flood, on average.
const EACH: usize = 20;
const EVENTS_OF_JOB: f64 = 4.4;
/// How often the flood's next part is published, and the workers' heartbeats.
const PART: Duration = Duration::from_millis(100);
const BEAT: Duration = Duration::from_secs(2);
/// The flood's jobs begin so many seconds before they are published, since nobody tells of the future.
const AGO: f64 = 60.0;
/// Jobs that readers look for.
const RECENT: usize = 5_000;

fn epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Jobs with the moment at which they were published, the latest last.
type Recent = Mutex<VecDeque<(Instant, FloodJob)>>;

/// What was published.
#[derive(Debug, Default)]
struct Published {
    completed: u64,
    failed: u64,
    attempts: u64,
    events: u64,
    beats: u64,
}

/// Publishes so many events a second until it is over. It catches up when it was held up.
fn flood(redis: &Redis, rate: f64, recent: &Recent, over: &AtomicBool) -> Published {
    let mut flood = Flood::new(11, epoch() - AGO).apart(EVENTS_OF_JOB / rate);
    let (begin, mut beaten) = (Instant::now(), None::<Instant>);
    let mut sum = Published::default();
    let publish = |channel: &str, messages: &[Vec<u8>]| {
        let heard = redis.publisher().try_publish(channel, messages).expect("Redis is there");
        assert!(heard.iter().all(|&heard| heard > 0), "somebody listens all the time");
    };
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(PART);
        if beaten.is_none_or(|beaten| beaten.elapsed() >= BEAT) {
            let beats = flood.heartbeats(epoch());
            publish("/0.celeryev/worker.heartbeat", &beats);
            sum.beats += beats.len() as u64;
            beaten = Some(Instant::now());
        }
        let due = begin.elapsed().as_secs_f64() * rate - flood.events() as f64;
        let (messages, jobs) = flood.messages((due.max(0.0) / EVENTS_OF_JOB) as usize, EACH);
        publish("/0.celeryev/task.multi", &messages);
        for job in &jobs {
            *if job.state == "failed" { &mut sum.failed } else { &mut sum.completed } += 1;
        }
        let now = Instant::now();
        let mut recent = recent.lock().unwrap();
        recent.extend(jobs.into_iter().map(|job| (now, job)));
        let old = recent.len().saturating_sub(RECENT);
        recent.drain(..old);
    }
    (sum.attempts, sum.events) = (flood.attempts(), flood.events());
    sum
}

/// Tells all to end, also when a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "takes half an hour: `make soak` runs it"]
fn half_an_hour_of_events_and_readers_makes_nothing_grow_and_loses_nothing() {
    let (minutes, rate): (f64, f64) = (setting("SOAK_MINUTES", 30.0), setting("SOAK_RATE", 3_000.0));
    let redis = Redis::start();
    let mut options = Options::celery(&[redis.url(0)]);
    options.arguments.extend(["--retention".to_owned(), format!("{:.0}s", (minutes * 10.0).max(20.0))]);
    let mut forebay = Forebay::start(options);
    let (over, recent) = (AtomicBool::new(false), Recent::default());
    let mut taken = Vec::new();
    let (published, read) = std::thread::scope(|scope| {
        let stop = Stop(&over);
        let flood = scope.spawn(|| flood(&redis, rate, &recent, &over));
        let readers = Readers::begin(scope, &forebay, &recent, &over);
        let begin = Instant::now();
        for second in 1.. {
            let at = begin.elapsed().as_secs_f64();
            if at > minutes * 60.0 {
                break;
            }
            assert!(!flood.is_finished() && !readers.have_ended(), "somebody gave up");
            taken.push(Sample::take(&forebay, at));
            std::thread::sleep(Duration::from_secs(second).saturating_sub(begin.elapsed()));
        }
        drop(stop);
        (flood.join().unwrap(), readers.join())
    });
    println!("{}", table(&taken));
    println!("{published:?}\n{read:?}");
    check(&forebay, &published);
    read.check(published.completed + published.failed);
    let growing = growing(&taken);
    assert!(growing.is_empty(), "{}", growing.join("\n"));
    verify(&mut forebay);
    forebay.stop();
}

/// All that was published was heard, applied and counted, and nothing went wrong with any of it.
fn check(forebay: &Forebay, published: &Published) {
    let heard = published.events + published.beats;
    wait_or_show("all to be heard", 60, || {
        let source = forebay.health()["sources"][0].clone();
        if source["events"] == heard && source["queueBytes"] == 0 { Ok(()) } else { Err(source) }
    });
    wait_until_whole(forebay);
    for (name, expected) in [
        ("forebay_source_events_total", heard),
        ("forebay_source_worker_events_total", published.beats),
        ("forebay_source_decode_errors_total", 0),
        ("forebay_source_dropped_messages_total", 0),
        ("forebay_source_reconnects_total", 0),
        ("forebay_spool_dropped_events_total", 0),
        ("forebay_quarantined_events", 0),
        // What the log has forgotten counts, too.
        ("celery_task_sent_total", published.attempts),
        ("celery_task_received_total", published.attempts),
        ("celery_task_started_total", published.attempts),
        ("celery_task_succeeded_total", published.completed),
        ("celery_task_failed_total", published.failed),
    ] {
        assert_eq!(forebay.metric(name) as u64, expected, "{name}");
    }
    let health = forebay.health();
    assert_eq!(health["status"], "ok", "{health:#}");
    assert!(health["retention"]["lastTrim"].is_object(), "nothing was forgotten: {health:#}");
}
