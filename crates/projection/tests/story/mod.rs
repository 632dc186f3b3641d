//! True stories of Celery jobs, told as the events that real workers would send, with the record that is true of them.

use proptest::prelude::*;
use proto_events::{CeleryFacts, CeleryKind, Event, Framework, Job, JobState, Producer, Timestamp};

/// 2026-11-23T12:00:00Z.
pub(crate) const NOON: i64 = 1_795_435_200_000_000;
const SECOND: i64 = 1_000_000;

/// How one try ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeds,
    Fails,
    /// Announced twice.
    HardLimit,
    /// Revoked while it runs; with gevent a success without a runtime follows.
    Terminated {
        gevent: bool,
    },
    /// `Ignore()`: no event ever.
    Silent,
}

/// What happens to one try before it ends.
#[derive(Clone, Debug)]
pub(crate) struct Try {
    pub(crate) worker: usize,
    pub(crate) eta: bool,
    /// Given back so often before it is run to its end.
    pub(crate) requeued: usize,
    /// The worker's process is killed in mid-run so often, and the message delivered again to its successor.
    pub(crate) killed: usize,
    /// The retry itself is never announced (only for tries that are retried).
    pub(crate) retry_unseen: bool,
    pub(crate) millis: i64,
}

/// One job's life.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) tries: Vec<Try>,
    pub(crate) ending: Ending,
    /// The message is sent a second time under the same id, to the same worker, after the end.
    pub(crate) again: bool,
    /// Revoked while it waits: no try at all.
    pub(crate) revoked_waiting: bool,
    pub(crate) sent_events: bool,
    /// Microseconds by which each host's clock is wrong: the client's, then three workers'.
    pub(crate) skew: [i64; 4],
}

/// What must be read from the record of a story.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Truth {
    pub(crate) history: Vec<JobState>,
    pub(crate) attempt: u32,
    pub(crate) outcomes: Vec<Option<&'static str>>,
    pub(crate) deliveries: u32,
}

pub(crate) fn stories(skewed: bool) -> impl Strategy<Value = Story> {
    let one_try = (0_usize..3, any::<bool>(), 0_usize..3, 0_usize..2, proptest::bool::weighted(0.2), 1_i64..20_000)
        .prop_map(|(worker, eta, requeued, killed, retry_unseen, millis)| Try {
            worker,
            eta,
            requeued,
            killed,
            retry_unseen,
            millis,
        });
    let ending = prop_oneof![
        3 => Just(Ending::Succeeds),
        2 => Just(Ending::Fails),
        1 => Just(Ending::HardLimit),
        1 => any::<bool>().prop_map(|gevent| Ending::Terminated { gevent }),
        1 => Just(Ending::Silent),
    ];
    let minutes = if skewed { 10 } else { 0 };
    let skew = proptest::array::uniform4(-minutes * 60 * SECOND..=minutes * 60 * SECOND);
    let weights = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.1), proptest::bool::weighted(0.8));
    (proptest::collection::vec(one_try, 1..5), ending, weights, skew).prop_map(
        |(tries, ending, (again, revoked_waiting, sent_events), skew)| Story {
            again: again && ending != Ending::Silent && tries.len() == 1,
            tries,
            ending,
            revoked_waiting,
            sent_events,
            skew,
        },
    )
}

/// Tells the story: the events in the order in which they truly happened, and what is true.
pub(crate) fn tell(story: &Story) -> (Vec<Event>, Truth) {
    let mut teller = Teller {
        story,
        now: NOON,
        pids: [100, 200, 300],
        clocks: [10, 10, 10],
        events: Vec::new(),
        truth: Truth::default(),
    };
    if story.revoked_waiting {
        teller.revoked_while_waiting();
    } else {
        teller.life(story.ending);
        if story.again {
            teller.now += 60 * SECOND;
            teller.truth.attempt = 1;
            teller.life(Ending::Succeeds);
        }
    }
    (teller.events, teller.truth)
}

struct Teller<'a> {
    story: &'a Story,
    now: i64,
    pids: [i64; 3],
    clocks: [i64; 3],
    events: Vec<Event>,
    truth: Truth,
}

impl Teller<'_> {
    fn revoked_while_waiting(&mut self) {
        let one = self.story.tries[0].clone();
        self.wait(&one, 0);
        self.now += 3_000;
        self.worker_event(one.worker, JobState::Cancelled, |celery| {
            celery.event = CeleryKind::Revoked;
            celery.terminated = Some(false);
            celery.expired = Some(false);
        });
        self.enter(JobState::Cancelled);
    }

    fn life(&mut self, ending: Ending) {
        let tries = self.story.tries.clone();
        for (number, one) in tries.iter().enumerate() {
            let is_last = number + 1 == tries.len();
            if number == 0 {
                self.wait(one, 0);
            }
            self.truth.attempt = number as u32 + 1;
            for _ in 0..one.requeued {
                self.start(one);
                self.worker_event(one.worker, JobState::Queued, |celery| {
                    celery.event = CeleryKind::Rejected;
                    celery.requeue = Some(true);
                });
                self.truth.outcomes.push(Some("rejected"));
                self.enter(JobState::Queued);
                self.received(one, number as u32);
            }
            for _ in 0..one.killed {
                self.start(one);
                self.truth.outcomes.push(Some("lost"));
                self.now += 5 * SECOND;
                self.pids[one.worker] += 1;
                self.clocks[one.worker] = 1;
                self.received(one, number as u32);
                // Whatever is delivered again was due before.
                self.enter(JobState::Queued);
            }
            let started = self.start(one);
            self.now += one.millis * 1_000;
            if is_last {
                self.end(one, ending, started);
            } else {
                self.retry(one, &tries[number + 1], number as u32 + 1);
            }
        }
    }

    /// A message is sent by the client and received by a worker.
    fn wait(&mut self, one: &Try, retries: u32) {
        let eta = one.eta.then(|| self.now + 3_600 * SECOND);
        self.sent("gen1@client", 1, self.story.skew[0], retries, eta);
        self.enter(if one.eta { JobState::Scheduled } else { JobState::Queued });
        self.now += 2_000;
        self.receive(one, retries, eta);
        if let Some(eta) = eta {
            self.now = eta + 12 * 60 * SECOND;
        }
    }

    /// The child sends the next try's message; its worker may announce the receipt before the retry.
    fn retry(&mut self, one: &Try, next: &Try, retries: u32) {
        let eta = next.eta.then(|| self.now + 3_600 * SECOND);
        self.sent("gen7@worker", 7, self.story.skew[one.worker + 1], retries, eta);
        self.now += 1_000;
        self.receive(next, retries, eta);
        self.now += 10_000;
        if !one.retry_unseen {
            self.worker_event(one.worker, JobState::Retrying, |celery| celery.event = CeleryKind::Retried);
        }
        self.truth.outcomes.push(Some("retrying"));
        self.enter(JobState::Retrying);
        self.enter(if next.eta { JobState::Scheduled } else { JobState::Queued });
        if let Some(eta) = eta {
            self.now = eta + 12 * 60 * SECOND;
        }
    }

    fn sent(&mut self, host: &str, pid: i64, skew: i64, retries: u32, eta: Option<i64>) {
        if self.story.sent_events {
            let mut job = called(JobState::Queued, CeleryKind::Sent, retries, eta);
            job.queue = Some("mail".to_owned());
            self.push(host, pid, self.now % 1_000_003, skew, job);
        }
    }

    fn received(&mut self, one: &Try, retries: u32) {
        self.now += 40_000;
        self.receive(one, retries, None);
    }

    fn receive(&mut self, one: &Try, retries: u32, eta: Option<i64>) {
        let job = called(JobState::Queued, CeleryKind::Received, retries, eta);
        self.push_worker(one.worker, job);
        self.truth.deliveries += 1;
    }

    fn start(&mut self, one: &Try) -> i64 {
        self.now += 3_000;
        self.worker_event(one.worker, JobState::Active, |celery| celery.event = CeleryKind::Started);
        self.enter(JobState::Active);
        self.now += 1_000;
        self.now - 1_000
    }

    fn end(&mut self, one: &Try, ending: Ending, started: i64) {
        let runtime = (self.now - started) as f64 / 1e6;
        let (state, outcome) = match ending {
            Ending::Succeeds => {
                self.worker_event(one.worker, JobState::Completed, |celery| {
                    celery.event = CeleryKind::Succeeded;
                    celery.runtime = Some(runtime);
                });
                (JobState::Completed, "completed")
            }
            Ending::Fails | Ending::HardLimit => {
                self.worker_event(one.worker, JobState::Failed, |celery| celery.event = CeleryKind::Failed);
                if ending == Ending::HardLimit {
                    self.now += 2_000;
                    self.worker_event(one.worker, JobState::Failed, |celery| celery.event = CeleryKind::Failed);
                }
                (JobState::Failed, "failed")
            }
            Ending::Terminated { gevent } => {
                self.worker_event(one.worker, JobState::Cancelled, |celery| {
                    celery.event = CeleryKind::Revoked;
                    celery.terminated = Some(true);
                });
                if gevent {
                    self.now += 1_000;
                    self.worker_event(one.worker, JobState::Completed, |celery| celery.event = CeleryKind::Succeeded);
                }
                (JobState::Cancelled, "cancelled")
            }
            Ending::Silent => {
                self.truth.outcomes.push(None);
                return;
            }
        };
        self.truth.outcomes.push(Some(outcome));
        self.enter(state);
    }

    fn enter(&mut self, state: JobState) {
        if self.truth.history.last() != Some(&state) {
            self.truth.history.push(state);
        }
    }

    fn worker_event(&mut self, worker: usize, state: JobState, facts: impl Fn(&mut CeleryFacts)) {
        let mut celery = CeleryFacts::new(CeleryKind::Custom);
        facts(&mut celery);
        let mut job = Job::new("story", state);
        job.celery = Some(celery);
        self.push_worker(worker, job);
    }

    fn push_worker(&mut self, worker: usize, mut job: Job) {
        let host = format!("celery@worker-{worker}");
        job.worker_id = Some(host.clone());
        self.clocks[worker] += 1;
        self.push(&host, self.pids[worker], self.clocks[worker], self.story.skew[worker + 1], job);
    }

    fn push(&mut self, host: &str, pid: i64, clock: i64, skew: i64, job: Job) {
        let mut event = Event::job(Timestamp(self.now + skew), Framework::Celery, job);
        event.producer = Some(Producer { hostname: host.to_owned(), pid: Some(pid), clock: Some(clock) });
        self.events.push(event);
    }
}

fn called(state: JobState, kind: CeleryKind, retries: u32, eta: Option<i64>) -> Job {
    let mut job = Job::new("story", state);
    job.celery = Some(CeleryFacts { retries: Some(retries), ..CeleryFacts::new(kind) });
    job.name = Some("app.story".to_owned());
    job.scheduled_for = eta.map(Timestamp);
    job
}
