//! Twenty million jobs of a week, asked for those of the last day.
//!
//! They come into the log as one event each, which tells the whole of a job, beside the server: their way through a broker
//! is measured with fewer. The server then fills its empty views by a pass over that log.

use std::path::Path;
use std::time::{Duration, Instant};

use forebay_tests::{CONNECTION, Flood, Forebay, Options, Redis, job_id};
use proto_events::{Event, Framework, Job, JobState, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use uuid::Uuid;

use crate::dashboard::{self, Dashboard};
use crate::drain::open_log;
use crate::measures::now;
use crate::million::memory;

const WEEK: f64 = 7.0 * 86_400.0;
/// One job in so many is asked for later.
const ASKED_FOR: u64 = 1_999;
/// For the views to be filled.
const PATIENCE: u64 = 3_600;

#[derive(Clone, Serialize)]
pub(crate) struct Huge {
    pub(crate) jobs: u64,
    pub(crate) fill_seconds: f64,
    pub(crate) filled_resident_mb: f64,
    pub(crate) restart_seconds: f64,
    pub(crate) dashboard: Dashboard,
}

pub(crate) fn measure(redis: &Redis, jobs: u64, time: Duration) -> Huge {
    let options = Options {
        arguments: ["--celery", &redis.url(0), "--retention", "off", "--scrub", "off"].map(str::to_owned).to_vec(),
        ..Options::default()
    };
    let mut forebay = Forebay::start(options);
    forebay.stop();
    let end = now();
    eprintln!("  {jobs} jobs into the log");
    write(forebay.dir(), jobs, end);
    std::fs::remove_dir_all(forebay.dir().join("views")).unwrap();
    let begin = Instant::now();
    forebay.launch();
    forebay.wait_for_seconds("fill its views", PATIENCE, |health| health["status"] == "ok");
    let fill_seconds = begin.elapsed().as_secs_f64();
    let filled_resident_mb = memory(forebay.process().pid(), "VmRSS:");
    eprintln!("  filled in {fill_seconds:.0} s, {filled_resident_mb:.0} MB; starting again");
    forebay.stop();
    // The filling wrote faster than the disk, which must not be what the reads wait for.
    rustix::fs::sync();
    let begin = Instant::now();
    forebay.launch();
    forebay.wait_for_seconds("be well", PATIENCE, |health| health["status"] == "ok");
    let restart_seconds = begin.elapsed().as_secs_f64();
    let ids: Vec<String> = (0..jobs).step_by(ASKED_FOR as usize).map(|number| job_id(&external_id(number))).collect();
    let day_before = Timestamp(((end - 86_400.0) * 1e6) as i64).to_millis_text();
    let dashboard = dashboard::measure(&forebay, redis, &mut Flood::new(1, end), &ids, Some(&day_before), time);
    Huge { jobs, fill_seconds, filled_resident_mb, restart_seconds, dashboard }
}

fn external_id(number: u64) -> String {
    Uuid::from_u128(u128::from(number) << 80 | 0x4000_8000_0000_0000_0000).to_string()
}

/// Writes the jobs into the log of a server that does not run.
fn write(dir: &Path, jobs: u64, end: f64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = open_log(dir).await;
        let batcher = log.batcher(CONNECTION);
        let mut random = StdRng::seed_from_u64(1);
        for number in 0..jobs {
            let at = end - WEEK + WEEK * number as f64 / jobs as f64;
            batcher.push(event(number, at, &mut random)).await;
            if number.is_multiple_of(2_000_000) {
                eprintln!("  {number}");
            }
        }
        batcher.flush().await;
        log.close().await;
    });
}

fn event(number: u64, at: f64, random: &mut StdRng) -> Event {
    let state = match random.random_range(0..100) {
        0..5 => JobState::Failed,
        5 => JobState::Cancelled,
        6 if number.is_multiple_of(50) => JobState::Active,
        _ => JobState::Completed,
    };
    let time = |seconds: f64| Timestamp((seconds * 1e6) as i64);
    let started = at + random.random_range(0.001..0.2);
    let ended = started + random.random_range(0.005..2.0);
    let mut job = Job::new(external_id(number), state);
    job.name = Some(format!("app.tasks.task_{}", number % 20));
    job.queue = Some(format!("q{}", number % 5));
    job.worker_id = Some(format!("celery@worker-{}", number % 8));
    job.attempt = Some(if number.is_multiple_of(20) { 2 } else { 1 });
    job.created_at = Some(time(at));
    job.started_at = Some(time(started));
    job.completed_at = (state != JobState::Active).then(|| time(ended));
    if state == JobState::Failed {
        job.error = Some(format!("ConnectionRefusedError(111, 'refused by host {}')", number % 1_000));
    }
    Event::job(time(ended), Framework::Celery, job)
}
