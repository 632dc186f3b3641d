//! The process dies at each step of a trim, and whoever starts next finishes it.

use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use chrono::{DateTime, SecondsFormat};
use failpoints::Point;
use forebay_tests::{CONNECTION, Forebay, Options, job_id, wait_for};
use serde_json::{Value, json};

use super::failpoints::{PATIENCE, PAUSE, arm, assert_died, options};
use super::world::{verify, wait_until_whole};

/// Buckets of a second, the shortest there are. What goes for want of room goes long before its time.
const RETENTION: [&str; 4] = ["--retention", "47s", "--max-log-size", "8MB"];
/// While the log holds more than this nothing is added to it.
const ENOUGH_BYTES: u64 = 6_800_000;
const STATES: [&str; 2] = ["queued", "active"];
/// Jobs that are begun at once.
const JOBS: usize = 12;
/// More than one event can name.
const MANY_JOBS: usize = 3_100;
/// So many of them are looked at one by one.
const OF_MANY: usize = 30;
/// Between the two events of these.
const ROUNDS_BETWEEN: usize = 5;
/// Messages that the next trim takes for sure, or nearly so: those of a round, and one more.
const OLDEST: u64 = 4;
/// Jobs of one large event, and how large it is: enough for a trim every few rounds.
const FILLERS: usize = 28;
const FILLER_BYTES: usize = 20_000;

/// Dies at all these places, in one log.
pub(super) fn die_at_each(points: &[(Point, u64, u64)]) {
    if points.is_empty() {
        return;
    }
    let mut trims = Trims::new();
    for (point, count, seconds) in points {
        let began = Instant::now();
        trims.die_at(*point, *count, *seconds);
        eprintln!("{} by trimming: {:.1} s", point.name(), began.elapsed().as_secs_f64());
    }
    let rebuilt = trims.forebay.command(&["rebuild", "--json"]);
    let status: Value = serde_json::from_slice(&rebuilt.stdout).unwrap_or_else(|_| panic!("{rebuilt:?}"));
    assert_eq!((&status["state"], &status["sameAsBefore"]), (&json!("completed"), &json!(true)), "{status:#}");
    trims.forebay.stop();
}

/// A job that was told of.
struct Job {
    number: usize,
    /// Where its events are, in their order, as far as they were acknowledged.
    positions: Vec<u64>,
    /// An event of it was sent and not acknowledged.
    is_uncertain: bool,
}

impl Job {
    fn id(&self) -> String {
        format!("job-{}", self.number)
    }
}

struct Trims {
    forebay: Forebay,
    armed: PathBuf,
    _files: tempfile::TempDir,
    /// Those of which something may be in the log.
    jobs: Vec<Job>,
    /// How many jobs there were, and fillers.
    begun: usize,
    filled: usize,
    /// Of these, half get their second event in the next round.
    due: Range<usize>,
    /// Second events, those that began a job: how many were acknowledged, and how many were not.
    started: (u64, u64),
    /// How many there were by the last scrape.
    scraped: u64,
}

impl Trims {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let armed = files.path().join("armed");
        let arguments = RETENTION.map(str::to_owned).to_vec();
        let forebay = Forebay::start(Options { arguments, ..options(&armed) });
        Self {
            forebay,
            armed,
            _files: files,
            jobs: Vec::new(),
            begun: 0,
            filled: 0,
            due: 0..0,
            started: (0, 0),
            scraped: 0,
        }
    }

    fn die_at(&mut self, point: Point, count: u64, seconds: u64) {
        let first = if point == Point::TrimUnnamed { self.tell_while_it_trims() } else { self.first() };
        if point == Point::PurgeAfter {
            // What earlier trims left there, if there were any, would hide that this one leaves nothing.
            let _ = fs::remove_file(self.forebay.dir().join("views/retention.json"));
        }
        arm(&self.armed, &format!("{} {count} {seconds}", point.name()));
        if point == Point::TrimNamed {
            self.begin_many();
        }
        self.wait_until_dead(point);
        fs::remove_file(&self.armed).unwrap();
        self.forebay.launch();
        self.forebay.wait_until("answer", |health| health["status"] != "unavailable");
        wait_for("the trim to be finished", 30, || (self.first() > first).then_some(()));
        if point == Point::PurgeAfter {
            let state = || self.forebay.health()["retention"]["state"].as_str().map(str::to_owned);
            let state = wait_for("retention to be at work", 30, || state().filter(|state| state != "off"));
            assert_eq!(state, "shortened", "less is kept than asked for");
        }
        self.check();
    }

    /// Posts until the process has died at this place.
    fn wait_until_dead(&mut self, point: Point) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.forebay.ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "the step {} was never reached", point.name());
            self.round();
        };
        assert_died(status, point);
    }

    /// Begins some jobs, goes on with half of those of the round before, and fills the log; does nothing while there is no
    /// room for that.
    fn round(&mut self) -> bool {
        let health = self.forebay.api.try_get("/api/health");
        let bytes = health.as_ref().and_then(|health| health.body["log"]["bytes"].as_u64());
        if bytes.is_none_or(|bytes| bytes > ENOUGH_BYTES) {
            std::thread::sleep(PAUSE);
            return false;
        }
        let due = std::mem::replace(&mut self.due, self.begun..self.begun + JOBS);
        let due = |job: &Job| due.contains(&job.number) && job.number % 2 == 1 && job.positions.len() == 1;
        let due: Vec<usize> = (0..self.jobs.len()).filter(|place| due(&self.jobs[*place])).collect();
        self.tell(&due);
        self.begin(JOBS);
        self.fill();
        true
    }

    /// Tells the first event of so many new jobs.
    fn begin(&mut self, count: usize) {
        let new = self.begun..self.begun + count;
        self.begun += count;
        let from = self.jobs.len();
        self.jobs.extend(new.map(|number| Job { number, positions: Vec::new(), is_uncertain: false }));
        self.tell(&(from..self.jobs.len()).collect::<Vec<_>>());
    }

    /// Tells the next event of each of these, in one message; gives where.
    fn tell(&mut self, places: &[usize]) -> Option<u64> {
        if places.is_empty() {
            return None;
        }
        let events: Vec<Value> = places.iter().map(|place| event(&self.jobs[*place])).collect();
        let answer = self.forebay.api.ingest(&events).filter(|answer| answer.status == 202);
        let position = answer.and_then(|answer| answer.body["sequence"].as_u64());
        for place in places {
            let job = &mut self.jobs[*place];
            let of = if position.is_some() { &mut self.started.0 } else { &mut self.started.1 };
            *of += u64::from(job.positions.len() == 1);
            job.positions.extend(position);
            job.is_uncertain |= position.is_none();
        }
        position
    }

    fn fill(&mut self) {
        let from = self.filled;
        self.filled += FILLERS;
        let filler = |number| {
            let mut event = story(&format!("filler-{number}"), number, 0);
            event["job"]["args"] = json!(["x".repeat(FILLER_BYTES)]);
            event
        };
        // It may be about to die.
        let _ = self.forebay.api.ingest(&(from..self.filled).map(filler).collect::<Vec<_>>());
    }

    /// A trim is to cut more jobs than one event can name.
    fn begin_many(&mut self) {
        let from = self.jobs.len();
        self.begin(MANY_JOBS);
        let many: Vec<usize> = (from..from + MANY_JOBS).collect();
        // The log may have no room for so many now, and then takes none of them.
        if self.jobs[from].positions.is_empty() {
            wait_for("room for many", 30, || self.tell(&many));
        }
        for _ in 0..ROUNDS_BETWEEN {
            wait_for("room in the log", 30, || self.round().then_some(()));
        }
        wait_for("room for many again", 30, || self.tell(&many));
        // The others are looked at all together.
        self.jobs.drain(from + OF_MANY..from + MANY_JOBS);
    }

    /// What a trim takes is known already when jobs get an event behind it that had none. Gives where the log began then.
    fn tell_while_it_trims(&mut self) -> u64 {
        let reached = self.armed.with_extension("reached");
        // A small trim may take none of them.
        loop {
            arm(&self.armed, &format!("{} wait", Point::TrimFound.name()));
            let deadline = Instant::now() + PATIENCE;
            while !reached.exists() {
                assert!(Instant::now() < deadline, "no trim came");
                self.round();
            }
            fs::remove_file(&reached).unwrap();
            let first = self.first();
            let begun = |job: &Job| matches!(*job.positions, [only] if (first..first + OLDEST).contains(&only));
            let begun: Vec<usize> = (0..self.jobs.len()).filter(|place| begun(&self.jobs[*place])).collect();
            let told = self.tell(&begun).unwrap_or_default();
            self.forebay.api.get(&format!("/api/jobs?limit=1&atLeast={told}"));
            arm(&self.armed, &format!("{} 1 0", Point::TrimUnnamed.name()));
            let dead = wait_for("the trim to go on", 30, || match self.forebay.ended() {
                Some(_) => Some(true),
                None => self.try_first().filter(|now| *now > first).map(|_| false),
            });
            if dead {
                return first;
            }
        }
    }

    /// All that is in the log is in the views, and nothing else; jobs that lost a part say so.
    fn check(&mut self) {
        wait_until_whole(&self.forebay);
        verify(&mut self.forebay);
        self.scrape();
        let mut wrong = String::new();
        let deadline = Instant::now() + PATIENCE;
        // The next trim may be under way.
        while let Err(found) = self.compare() {
            assert!(Instant::now() < deadline, "{found}; first {wrong}");
            wrong = if wrong.is_empty() { found } else { wrong };
        }
    }

    /// Whatever is forgotten, and whoever died of it, all that ever began is counted, once.
    fn scrape(&mut self) {
        let told = self.forebay.metrics();
        let counts = told.lines().filter(|line| line.starts_with("celery_task_started_total{"));
        let count: u64 = counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum();
        let (known, unsure) = self.started;
        assert!(
            (known..=known + unsure).contains(&count),
            "{count} are counted, and {known} to {} began",
            known + unsure
        );
        assert!(count >= self.scraped, "{count} after {}", self.scraped);
        self.scraped = count;
    }

    /// Lets go of the jobs that are gone for good.
    fn compare(&mut self) -> Result<(), String> {
        let first = self.first();
        let mut gone = HashSet::new();
        for job in &self.jobs {
            let kept = job.positions.iter().filter(|position| **position >= first).count();
            let answer = self.forebay.api.get(&format!("/api/jobs/{}", job_id(&job.id())));
            assert!(matches!(answer.status, 200 | 404), "{}", answer.body);
            let shown = answer.body["stateHistory"].as_array().map_or(0, Vec::len);
            let lost = kept > 0 && kept < job.positions.len();
            if !job.is_uncertain && (shown, lost) != (kept, answer.body["truncated"] == true) {
                let told = &job.positions;
                return Err(format!("of {told:?} the log has those from {first} on, and the views {}", answer.body));
            }
            gone.extend(Some(job.number).filter(|_| kept == 0));
        }
        if self.first() != first {
            return Err(format!("the log begins at {first} no more"));
        }
        self.jobs.retain(|job| !gone.contains(&job.number));
        Ok(())
    }

    /// Where the log begins.
    fn first(&self) -> u64 {
        self.try_first().expect("an answer that says where the log begins")
    }

    fn try_first(&self) -> Option<u64> {
        self.forebay.api.try_get("/api/health")?.body["log"]["firstSequence"].as_u64()
    }
}

/// The next event of a job.
fn event(job: &Job) -> Value {
    story(&job.id(), job.number, job.positions.len())
}

fn story(id: &str, number: usize, step: usize) -> Value {
    let millis = 1_772_000_000_000 + (number * 1_000 + step * 10) as i64;
    let time = DateTime::from_timestamp_millis(millis).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true);
    json!({
        "type": "job.state_change", "timestamp": time, "framework": "celery", "connectionId": CONNECTION.to_string(),
        "job": { "externalId": id, "name": format!("shop.trim_{}", number % 5), "state": STATES[step] },
    })
}
