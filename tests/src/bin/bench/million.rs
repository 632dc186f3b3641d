//! A million jobs in the views: what they take, how soon they are there again, and what goes on beside them.

use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use forebay_tests::memory;
use forebay_tests::{Flood, Forebay, Options, Redis, job_id, wait_for};
use serde::Serialize;

use crate::beside::{self, Following, Rebuild};
use crate::dashboard::{self, Dashboard};
use crate::drain::drain;
use crate::measures::now;
use crate::raw::{Raw, request};

pub(crate) const CHANNEL: &str = "/0.celeryev/task.multi";
/// Events in one message, as a worker sends them.
const EACH: usize = 20;
/// Jobs made at a time, and events that may be on their way meanwhile.
const STEP: usize = 5_000;
const UNDER_WAY: u64 = 100_000;
/// One job in so many is asked for later.
const ASKED_FOR: usize = 97;

#[derive(Clone, Serialize)]
pub(crate) struct Million {
    pub(crate) jobs: usize,
    pub(crate) events: u64,
    pub(crate) fill_events_per_second: f64,
    pub(crate) following: Vec<Following>,
    pub(crate) dashboard: Dashboard,
    pub(crate) rebuild: Rebuild,
    pub(crate) drain_events_per_second: f64,
    pub(crate) rebuild_to_drain: f64,
    pub(crate) restarts: Vec<Restart>,
    pub(crate) sizes: Vec<Size>,
}

#[derive(Clone, Serialize)]
pub(crate) struct Restart {
    pub(crate) after: &'static str,
    pub(crate) first_answer_seconds: f64,
}

#[derive(Clone, Serialize)]
pub(crate) struct Size {
    pub(crate) when: &'static str,
    pub(crate) resident_mb: f64,
    pub(crate) views_mb: f64,
    /// As bytes of keys and values, of views that were rebuilt.
    pub(crate) live_data_mb: Option<f64>,
    pub(crate) log_mb: f64,
}

pub(crate) fn measure(redis: &Redis, jobs: usize, time: Duration) -> Million {
    let mut forebay = Forebay::start(Options::celery(&[redis.url(0)]));
    let mut flood = Flood::new(1, now());
    let begin = Instant::now();
    let ids = fill(&forebay, redis, &mut flood, jobs);
    let events = flood.events();
    let fill_events_per_second = events as f64 / begin.elapsed().as_secs_f64();
    let mut sizes = vec![size("followed", &forebay, None)];
    // A worker's own messages, and the worst case: each event alone.
    let following = [(EACH, 50_000.0), (1, 10_000.0)]
        .map(|(each, rate)| told("following", &beside::follow(&forebay, redis, &mut flood, &ids, each, rate, time)));
    settle(&forebay, redis, &mut flood);
    let dashboard = dashboard::measure(&forebay, redis, &mut flood, &ids, None, time / 2);
    settle(&forebay, redis, &mut flood);
    // sled goes through all that it wrote since it was opened: after a kill at the end of a long life that is most.
    forebay.kill();
    let mut restarts = vec![told("restart", &restart("kill -9", &mut forebay, &ids[0]))];
    sizes.push(size("restarted", &forebay, None));
    let rebuild = told("rebuild", &beside::rebuild(&forebay, &ids, time));
    sizes.push(size("rebuilt", &forebay, Some(rebuild.live_data_mb)));
    forebay.stop();
    restarts.push(told("restart", &restart("a clean stop", &mut forebay, &ids[0])));
    sizes.push(size("rebuilt and restarted", &forebay, None));
    forebay.stop();
    let drain_events_per_second = drain(forebay.dir());
    let rebuild_to_drain = rebuild.events_per_second / drain_events_per_second;
    Million {
        jobs,
        events,
        fill_events_per_second,
        following: following.into(),
        dashboard,
        rebuild,
        drain_events_per_second,
        rebuild_to_drain,
        restarts,
        sizes,
    }
}

/// A long run says where it is.
fn told<T: Serialize + Clone>(what: &str, figure: &T) -> T {
    eprintln!("  {what}: {}", serde_json::to_string(figure).unwrap());
    figure.clone()
}

/// Fills the views through the source, as fast as it goes; gives the ids of some of the jobs.
fn fill(forebay: &Forebay, redis: &Redis, flood: &mut Flood, jobs: usize) -> Vec<String> {
    let heard = || forebay.health()["sources"][0]["events"].as_u64().unwrap();
    let (mut ids, mut told) = (Vec::new(), 0);
    while flood.jobs() < jobs {
        let (messages, made) = flood.messages(STEP.min(jobs - flood.jobs()), EACH);
        ids.extend(made.iter().step_by(ASKED_FOR).map(|job| job_id(&job.id)));
        redis.publish(CHANNEL, &messages);
        // Redis drops whoever listens too slowly.
        wait_for("what is under way to be heard", 600, || (flood.events() < heard() + UNDER_WAY).then_some(()));
        if flood.jobs() / 100_000 > told {
            told = flood.jobs() / 100_000;
            eprintln!("  {} jobs, {} events, {:.0} MB", flood.jobs(), flood.events(), resident(forebay));
        }
    }
    settle(forebay, redis, flood);
    ids
}

/// Sends one more job and waits until it and all before it can be read.
pub(crate) fn settle(forebay: &Forebay, redis: &Redis, flood: &mut Flood) {
    let (messages, made) = flood.messages(1, EACH);
    redis.publish(CHANNEL, &messages);
    wait_for("all that was sent to be recorded", 600, || {
        let job = forebay.api.job(&job_id(&made[0].id))?;
        (job["state"] == made[0].state).then_some(())
    });
}

/// From the start of the process until it answers for a job.
fn restart(after: &'static str, forebay: &mut Forebay, id: &str) -> Restart {
    let begin = Instant::now();
    forebay.launch();
    let api = wait_for("the server to say where it is", 60, || forebay.answering());
    let get = request("GET", &format!("/api/jobs/{id}"), api.token(), "");
    let mut client = Raw::connect(api.address());
    while client.call(&get) != 200 {
        std::thread::sleep(Duration::from_millis(2));
    }
    let first_answer_seconds = begin.elapsed().as_secs_f64();
    forebay.wait_until_well();
    Restart { after, first_answer_seconds }
}

fn size(when: &'static str, forebay: &Forebay, live_data_mb: Option<f64>) -> Size {
    // What was freed is given back to the system after a while.
    std::thread::sleep(Duration::from_secs(3));
    let views = forebay.dir().join("views");
    let current = std::fs::read_to_string(views.join("CURRENT")).unwrap();
    let size = Size {
        when,
        resident_mb: resident(forebay),
        views_mb: bytes(&views.join(current.trim())) / 1e6,
        live_data_mb,
        log_mb: bytes(&forebay.dir().join("nats")) / 1e6,
    };
    told("size", &size)
}

fn bytes(path: &Path) -> f64 {
    // Files come and go under sled's hands.
    let Ok(metadata) = std::fs::metadata(path) else { return 0.0 };
    if !metadata.is_dir() {
        return metadata.len() as f64;
    }
    std::fs::read_dir(path).unwrap().flatten().map(|entry| bytes(&entry.path())).sum()
}

fn resident(forebay: &Forebay) -> f64 {
    memory(forebay.process().pid(), "VmRSS:")
}
