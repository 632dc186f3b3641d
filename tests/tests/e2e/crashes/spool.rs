//! The log is away while a broker tells of jobs, and Forebay dies meanwhile.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use event_log::EventLog;
use event_log::testing::{SmallDisk, TestServer};
use failpoints::Point;
use forebay_tests::{Flood, FloodJob, Forebay, Options, Redis, job_id, memory, setting, wait_for};
use serde_json::Value;
use tempfile::TempDir;

use super::failpoints::{arm, assert_died, options};
use super::world::{reason, verify, wait_until_whole};

/// In one message.
const EVENTS_EACH: usize = 9;

/// A Forebay whose log and broker are somebody else's.
struct World {
    forebay: Forebay,
    nats: TestServer,
    redis: Redis,
    flood: Flood,
    jobs: Vec<FloodJob>,
    /// Messages that were published.
    messages: u64,
}

impl World {
    fn new(options: Options, more: &[&str]) -> Self {
        Self::new_in(tempfile::tempdir().unwrap(), options, more)
    }

    fn new_in(dir: TempDir, mut options: Options, more: &[&str]) -> Self {
        let (redis, nats) = (Redis::start(), TestServer::start());
        options.arguments.extend(["--celery".to_owned(), redis.url(0)]);
        options.arguments.extend(["--nats-url".to_owned(), format!("nats://{}", nats.address())]);
        options.arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        let forebay = Forebay::start_in(dir, options);
        Self { forebay, nats, redis, flood: Flood::new(1, epoch()), jobs: Vec::new(), messages: 0 }
    }

    /// Publishes the events of so many more jobs; tells how many events they are.
    fn publish(&mut self, jobs: usize) -> u64 {
        let before = self.flood.events();
        let (messages, jobs) = self.flood.messages(jobs, EVENTS_EACH);
        self.redis.publish("/0.celeryev/task.multi", &messages);
        self.jobs.extend(jobs);
        self.messages += messages.len() as u64;
        self.flood.events() - before
    }

    /// What it says of its only source.
    fn source(&self) -> Value {
        self.forebay.health()["sources"][0].clone()
    }

    /// Waits until so many events more are written to the spool, beside those about the source itself.
    fn wait_until_spooled(&mut self, events: u64) {
        self.forebay.wait_until("spool what it heard", |health| {
            let source = &health["sources"][0];
            source["queueBytes"] == 0 && number(&source["spool"]["events"]) >= events
        });
    }

    fn wait_until_listening(&mut self) {
        self.forebay.wait_until("listen without its log", |health| {
            health["sources"][0]["state"] == "connected" && reason(health) == "LOG_UNREACHABLE"
        });
    }

    /// The log is back, and all is well: all of the jobs are as they must be, and nobody else is there.
    fn check(&mut self, jobs: std::ops::Range<usize>) {
        self.forebay.wait_until_well();
        wait_until_whole(&self.forebay);
        for job in &self.jobs[jobs] {
            let record = self.forebay.api.job(&job_id(&job.id)).unwrap_or_else(|| panic!("{} is missing", job.id));
            assert_eq!(record["state"], job.state, "{record:#}");
        }
        verify(&mut self.forebay);
    }

    fn total(&self) -> usize {
        let answer = self.forebay.api.get("/api/jobs?limit=1");
        number(&answer.body["pagination"]["total"]) as usize
    }
}

fn epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[test]
fn what_is_heard_while_the_log_is_away_is_in_the_record_whatever_is_killed() {
    let mut world = World::new(Options::default(), &[]);
    world.publish(200);
    world.forebay.wait_until("record", |health| number(&health["sources"][0]["events"]) > 800);
    wait_until_whole(&world.forebay);

    world.nats.kill();
    world.forebay.wait_until("miss its log", |health| health["log"]["connected"] == false);
    let first = world.publish(2_000);
    world.wait_until_spooled(first);
    world.forebay.kill();
    // Nobody reaches the log, and nevertheless somebody listens.
    world.forebay.launch();
    world.wait_until_listening();
    let second = world.publish(1_000);
    world.wait_until_spooled(first + second);
    assert_eq!(world.forebay.answering().unwrap().get("/api/jobs").status, 503, "without its log it knows nothing");
    // A clean stop loses nothing either.
    world.forebay.stop();
    world.forebay.launch();
    world.wait_until_listening();
    let third = world.publish(500);
    world.wait_until_spooled(first + second + third);
    world.nats.restart();
    world.forebay.wait_until("drain", |health| health["log"]["connected"] == true);
    world.forebay.kill();
    world.forebay.launch();
    world.check(0..world.jobs.len());
    assert_eq!(world.total(), world.jobs.len());
    let spool = &world.forebay.health()["spool"];
    assert_eq!((number(&spool["events"]), number(&spool["droppedTaskEvents"])), (0, 0), "{spool:#}");

    // What is new goes on as ever.
    world.publish(50);
    let all = world.jobs.len();
    wait_for("the new jobs to be recorded", 60, || (world.total() == all).then_some(()));
}

#[test]
fn a_spool_that_is_too_small_says_how_many_events_of_tasks_it_dropped() {
    let mut world = World::new(Options::default(), &["--spool-size", "1MB"]);
    world.nats.kill();
    world.forebay.wait_until("miss its log", |health| health["log"]["connected"] == false);
    let mut heard = 0;
    let mut dropped = 0;
    while dropped == 0 {
        heard += world.publish(5_000);
        world.forebay.wait_until("hear all of it", |health| {
            let source = &health["sources"][0];
            let spool = &source["spool"];
            let (waiting, lost) = (number(&spool["events"]), number(&spool["droppedTaskEvents"]));
            source["queueBytes"] == 0 && waiting + lost >= heard
        });
        dropped = number(&world.forebay.health()["spool"]["droppedTaskEvents"]);
    }
    world.forebay.kill();
    world.nats.restart();
    world.forebay.launch();
    world.forebay.wait_until_well();
    // That it listens again is an event too, and may have made room for itself.
    let spool = world.forebay.health()["spool"].clone();
    assert!(number(&spool["droppedTaskEvents"]) >= dropped, "restarts count on: {spool:#}");
    let dropped = number(&spool["droppedTaskEvents"]);
    assert_eq!(heard - dropped, events_of_jobs(&world.nats), "what is not in the log was dropped, and counted");
    verify(&mut world.forebay);
}

/// How many distinct events of jobs the log holds.
fn events_of_jobs(nats: &TestServer) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = EventLog::attach(nats.config()).await.unwrap();
        let last = log.info().await.unwrap().last_sequence;
        let (mut reader, mut at, mut events) = (log.reader(0), 0, std::collections::HashSet::new());
        while at < last {
            for message in reader.next().await.unwrap().messages {
                at = message.sequence;
                let decoded = proto_events::decode(&message.payload).unwrap().into_iter().map(Result::unwrap);
                events.extend(decoded.filter(|event| event.job.is_some()).map(|event| proto_events::encode(&[event])));
            }
        }
        events.len() as u64
    })
}

/// What a full disk does not take waits in memory within bounds, and what is beyond those is counted. Nothing that was
/// written before is lost, and it goes on when there is room.
#[test]
#[ignore = "half a minute: `make soak` runs it"]
fn a_full_disk_under_the_spool_costs_what_is_counted_and_nothing_that_was_written() {
    let name = "crashes::spool::a_full_disk_under_the_spool_costs_what_is_counted_and_nothing_that_was_written";
    let Some(disk) = SmallDisk::mount(256, name) else { return };
    let mut world = World::new_in(tempfile::tempdir_in(disk.path()).unwrap(), Options::default(), &[]);
    world.nats.kill();
    world.forebay.wait_until("miss its log", |health| health["log"]["connected"] == false);
    let written = world.publish(500);
    world.wait_until_spooled(written);
    let safe = world.jobs.len();

    let began = Instant::now();
    world.flood = Flood::new(2, epoch()).noisy(8_000);
    while number(&world.source()["dropped"]) == 0 {
        // What is given back is taken at once.
        disk.fill(0);
        world.publish(300);
    }
    eprintln!("full after {} messages, {:.1} s", world.messages, began.elapsed().as_secs_f64());
    let full = world.forebay.health();
    assert!(number(&full["spool"]["events"]) >= written, "{full:#}");
    assert!(world.forebay.metric("forebay_source_dropped_messages_total") > 0.0);
    disk.relieve();
    world.forebay.wait_until("write what waited in memory", |health| health["sources"][0]["queueBytes"] == 0);
    world.nats.restart();
    world.check(0..safe);

    eprintln!("well after {:.1} s", began.elapsed().as_secs_f64());
    // Each message was heard, or dropped and counted; and all that was heard is in the log.
    let source = world.source();
    let (heard, dropped) = (number(&source["batches"]), number(&source["dropped"]));
    assert_eq!(heard + dropped, world.messages, "{source:#}");
    assert_eq!(events_of_jobs(&world.nats), number(&source["events"]), "{source:#}");
    assert_eq!(number(&world.forebay.health()["spool"]["droppedTaskEvents"]), 0);
    let new = world.jobs.len();
    world.publish(50);
    wait_for("the last of the new jobs", 60, || world.forebay.api.job(&job_id(&world.jobs.last()?.id)));
    world.check(new..world.jobs.len());
}

/// A spool of `SPOOL_BYTES`.
#[test]
#[ignore = "fills a gigabyte: `make soak` runs it"]
fn a_large_spool_outlives_a_kill_and_is_drained_in_bounded_memory() {
    /// Of the process, with a fold of all that comes out of it; in MB.
    const MEMORY: f64 = 700.0;
    let size: u64 = setting("SPOOL_BYTES", 1_000_000_000);
    let mut world = World::new(Options::default(), &["--spool-size", &format!("{}MB", size / 500_000 + 1)]);
    world.flood = Flood::new(3, epoch()).noisy(1_000);
    world.nats.kill();
    world.forebay.wait_until("miss its log", |health| health["log"]["connected"] == false);
    let most = |world: &World| memory(world.forebay.process().pid(), "VmHWM:");

    let began = Instant::now();
    let mut events = 0;
    while number(&world.source()["spool"]["bytes"]) < size {
        events += world.publish(2_000);
        world.wait_until_spooled(events);
    }
    eprintln!("{events} events in {:.1} s, at most {:.0} MB", began.elapsed().as_secs_f64(), most(&world));
    assert!(most(&world) < MEMORY);

    world.forebay.kill();
    let began = Instant::now();
    world.forebay.launch();
    world.wait_until_listening();
    eprintln!("listening {:.1} s after kill -9, at most {:.0} MB", began.elapsed().as_secs_f64(), most(&world));
    world.wait_until_spooled(events);
    let began = Instant::now();
    world.nats.restart();
    world.forebay.wait_for_seconds("drain", 1_800, |health| {
        health["log"]["connected"] == true && number(&health["spool"]["events"]) == 0
    });
    let seconds = began.elapsed().as_secs_f64();
    eprintln!("drained in {seconds:.1} s, {:.0} events/s, at most {:.0} MB", events as f64 / seconds, most(&world));
    assert!(most(&world) < MEMORY);
    // Each of the first by itself, all of them by what is counted.
    world.check(0..world.jobs.len().min(10_000));
    assert_eq!(world.total(), world.jobs.len());
    let (all, attempts) = (world.jobs.len() as u64, world.flood.attempts());
    let failed = world.jobs.iter().filter(|job| job.state == "failed").count() as u64;
    for (name, expected) in [
        ("celery_task_sent_total", attempts),
        ("celery_task_received_total", attempts),
        ("celery_task_started_total", attempts),
        ("celery_task_succeeded_total", all - failed),
        ("celery_task_failed_total", failed),
    ] {
        assert_eq!(world.forebay.metric(name) as u64, expected, "{name}");
    }
    assert_eq!(number(&world.forebay.health()["spool"]["droppedTaskEvents"]), 0);
}

/// The process dies at a step of the spool. What it had reported written before is in the record.
pub(super) fn die_at(point: Point, count: u64) {
    let files = tempfile::tempdir().unwrap();
    let armed = files.path().join("armed");
    let mut world = World::new(options(&armed), &[]);
    world.nats.kill();
    world.forebay.wait_until("miss its log", |health| health["log"]["connected"] == false);
    let written = world.publish(300);
    world.wait_until_spooled(written);
    let reported = world.jobs.len();
    arm(&armed, &format!("{} {count} 0", point.name()));
    if point == Point::SpoolPublished {
        world.nats.restart();
        wait_until_dead(&mut world, point);
    } else {
        // Some of it is not written when the end comes.
        while world.forebay.ended().is_none() {
            world.publish(20);
        }
        wait_until_dead(&mut world, point);
        fs::remove_file(&armed).unwrap();
        world.forebay.launch();
        world.wait_until_listening();
        world.nats.restart();
        return world.check(0..reported);
    }
    disarm(&armed);
    world.forebay.launch();
    world.check(0..reported);
    assert_eq!(world.total(), reported);
}

fn disarm(armed: &Path) {
    fs::remove_file(armed).unwrap();
}

fn wait_until_dead(world: &mut World, point: Point) {
    let status = wait_for(&format!("it to die at {}", point.name()), 30, || world.forebay.ended());
    assert_died(status, point);
}
