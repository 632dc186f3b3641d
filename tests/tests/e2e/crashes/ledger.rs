//! What was written, what was acknowledged of it, and so what must be read.

use std::ops::Range;
use std::sync::Mutex;

use chrono::{DateTime, SecondsFormat};
use forebay_tests::{Answer, Api, job_id};
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

const STATES: [&str; 3] = ["queued", "active", "completed"];

/// A job that was written.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Its id in the framework.
    pub(super) id: String,
    /// The whole of its story.
    history: Vec<Value>,
    /// So many events of it are acknowledged, from the first on.
    acknowledged: usize,
    /// So many were shown to a reader already.
    shown: usize,
    /// The log that held it was put back to before it.
    lost: bool,
}

/// An event that is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    job: usize,
    step: usize,
    /// As it is sent.
    pub(super) event: Value,
}

/// All jobs that were written. Events of one job are sent in their order, each once the one before is acknowledged or
/// together with it, so that what is recorded of a job is a beginning of its story.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    jobs: Mutex<Vec<Job>>,
}

impl Ledger {
    /// Makes up some jobs. Nothing of them is acknowledged yet.
    pub(super) fn plan(&self, random: &mut StdRng, count: usize) -> Vec<Planned> {
        let mut planned = Vec::new();
        let mut jobs = self.jobs.lock().unwrap();
        for _ in 0..count {
            let (number, id) = (jobs.len(), format!("job-{}", jobs.len()));
            let start = 1_772_000_000_000 + random.random_range(0..86_400_000);
            let times = [start, start + 15, start + 1_500].map(|millis| {
                DateTime::from_timestamp_millis(millis).unwrap().to_rfc3339_opts(SecondsFormat::Millis, true)
            });
            let mut history = Vec::new();
            for (step, (state, time)) in STATES.iter().zip(&times).enumerate() {
                let event = json!({
                    "type": "job.state_change", "timestamp": time, "framework": "celery",
                    "connectionId": forebay_tests::CONNECTION.to_string(),
                    "job": { "externalId": id, "name": format!("shop.crash_{}", number % 7), "state": state },
                });
                planned.push(Planned { job: number, step, event });
                history.push(json!({ "state": state, "timestamp": time }));
            }
            jobs.push(Job { id, history, acknowledged: 0, shown: 0, lost: false });
        }
        planned
    }

    /// Notes that these were acknowledged.
    pub(super) fn acknowledge(&self, events: &[Planned]) {
        let mut jobs = self.jobs.lock().unwrap();
        for event in events {
            let job = &mut jobs[event.job];
            assert_eq!(job.acknowledged, event.step, "the writer sends the events of a job in their order");
            job.acknowledged += 1;
        }
    }

    /// How many jobs were made up.
    pub(super) fn len(&self) -> usize {
        self.jobs.lock().unwrap().len()
    }

    /// How many jobs there must be at least and may be at most.
    pub(super) fn count(&self) -> (u64, u64) {
        let jobs = self.jobs.lock().unwrap();
        let there = |job: &&Job| !job.lost;
        let certain = jobs.iter().filter(there).filter(|job| job.acknowledged > 0).count();
        (certain as u64, jobs.iter().filter(there).count() as u64)
    }

    /// Any job of which something is acknowledged.
    pub(super) fn pick(&self, random: &mut StdRng) -> Option<usize> {
        let jobs = self.jobs.lock().unwrap();
        // Mostly one of the latest, with which something is going on.
        let from = if random.random_bool(0.7) { jobs.len().saturating_sub(50) } else { 0 };
        let number = if jobs.is_empty() { return None } else { random.random_range(from..jobs.len()) };
        (jobs[number].acknowledged > 0 && !jobs[number].lost).then_some(number)
    }

    /// A job as it is now.
    pub(super) fn job(&self, number: usize) -> Job {
        self.jobs.lock().unwrap()[number].clone()
    }

    /// The numbers of the jobs whose log was put back to before them: they are not to be expected any more.
    pub(super) fn lose(&self, numbers: Range<usize>) {
        self.jobs.lock().unwrap()[numbers].iter_mut().for_each(|job| job.lost = true);
    }

    /// Holds an answer to `GET` of a job against what is known: never a wrong one, and never less than `before`, the
    /// job as it was when the question was asked.
    pub(super) fn judge(&self, number: usize, before: &Job, answer: &Answer) {
        let shown = before.judge(answer, before.shown);
        let mut jobs = self.jobs.lock().unwrap();
        jobs[number].shown = jobs[number].shown.max(shown);
    }

    /// Makes sure that all that is acknowledged of these jobs is recorded.
    pub(super) fn check(&self, api: &Api, numbers: Range<usize>) {
        for number in numbers {
            let job = self.job(number);
            if job.lost {
                continue;
            }
            let answer = api.get(&format!("/api/jobs/{}", job_id(&job.id)));
            job.judge(&answer, job.acknowledged.max(job.shown));
        }
    }

    /// Makes sure that all that is acknowledged of a job was shown in this answer.
    pub(super) fn complete(before: &Job, answer: &Answer) {
        before.judge(answer, before.acknowledged);
    }
}

impl Planned {
    /// The number of its job.
    pub(super) fn number(&self) -> usize {
        self.job
    }
}

impl Job {
    /// Whether the log that held it was put back to before it.
    pub(super) fn lost(&self) -> bool {
        self.lost
    }

    /// How much of the story an answer shows, which must be a beginning of it and not shorter than this.
    fn judge(&self, answer: &Answer, at_least: usize) -> usize {
        let nothing = Vec::new();
        let shown = match answer.status {
            200 => answer.body["stateHistory"].as_array().expect("a record has a history"),
            404 => &nothing,
            status => panic!("GET of {} answered {status}: {}", self.id, answer.body),
        };
        assert!(
            shown.len() >= at_least && self.history.starts_with(shown),
            "{} must show at least {at_least} of {:?}, and shows {shown:?}",
            self.id,
            self.history
        );
        shown.len()
    }
}
