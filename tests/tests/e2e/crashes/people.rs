//! Who writes and who reads while things break.

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay_tests::{Answer, Api, job_id};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use super::ledger::{Ledger, Planned};

/// How long a batch may take to be acknowledged, whatever happens.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two attempts, and between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// What writers and readers know of the world.
#[derive(Debug)]
pub(super) struct People {
    /// What they wrote.
    pub(super) ledger: Ledger,
    api: RwLock<Api>,
    /// Odd while the process is up and every read must be answered.
    era: AtomicU64,
    stop: AtomicBool,
    paused: AtomicBool,
    busy: AtomicUsize,
    reads: AtomicU64,
    /// Positions of another log mean nothing in this one.
    applied: AtomicU64,
}

/// Stops them when it is dropped, also by a panic, or the test would wait for them for ever.
pub(super) struct Shift<'a>(&'a People);

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
    }
}

impl People {
    pub(super) fn new(api: &Api) -> Self {
        Self {
            ledger: Ledger::default(),
            api: RwLock::new(api.clone()),
            era: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            applied: AtomicU64::new(0),
        }
    }

    /// Lets them work until what is given is dropped.
    pub(super) fn begin(&self) -> Shift<'_> {
        self.stop.store(false, Ordering::SeqCst);
        Shift(self)
    }

    /// From now on reads may go unanswered.
    pub(super) fn down(&self) {
        let era = self.era.load(Ordering::SeqCst);
        self.era.store(era + era % 2, Ordering::SeqCst);
    }

    /// From now on every read must be answered, here.
    pub(super) fn up(&self, api: &Api) {
        *self.api.write().unwrap() = api.clone();
        self.era.fetch_or(1, Ordering::SeqCst);
    }

    /// Of the log that there is now nothing was read yet.
    pub(super) fn new_log(&self) {
        self.applied.store(0, Ordering::SeqCst);
    }

    /// How many reads were answered.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    /// Lets no writer begin a batch, and waits until each has finished its own.
    pub(super) fn pause(&self) {
        self.paused.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + PATIENCE;
        while self.busy.load(Ordering::SeqCst) > 0 {
            assert!(Instant::now() < deadline, "a writer does not come to its end");
            std::thread::sleep(PAUSE);
        }
    }

    /// Lets the writers go on.
    pub(super) fn resume(&self) {
        self.paused.store(false, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn api(&self) -> Api {
        self.api.read().unwrap().clone()
    }

    /// Posts batch after batch; one that is not acknowledged is posted again, as any client would.
    pub(super) fn write(&self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.stopped() {
            self.busy.fetch_add(1, Ordering::SeqCst);
            if self.paused.load(Ordering::SeqCst) {
                self.busy.fetch_sub(1, Ordering::SeqCst);
                std::thread::sleep(PAUSE);
                continue;
            }
            let count = random.random_range(1..6);
            let events = self.ledger.plan(&mut random, count);
            // In two POSTs, so that a crash can fall between the events of one job.
            let (one, other) = events.split_at(random.random_range(0..events.len()));
            for part in [one, other].into_iter().filter(|part| !part.is_empty()) {
                self.post(part, random.random_bool(0.1));
            }
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn post(&self, part: &[Planned], read_it: bool) {
        let events: Vec<_> = part.iter().map(|planned| planned.event.clone()).collect();
        let deadline = Instant::now() + PATIENCE;
        let answer = loop {
            match self.api().ingest(&events) {
                Some(answer) if answer.status == 202 => break answer,
                Some(answer) => assert_eq!(answer.status, 503, "{}", answer.body),
                None => {}
            }
            assert!(Instant::now() < deadline, "a batch is not acknowledged");
            std::thread::sleep(PAUSE);
        };
        assert_eq!(answer.body["rejected"], json!([]), "{}", answer.body);
        self.ledger.acknowledge(part);
        if read_it {
            self.read_own(part, &answer);
        }
    }

    /// Reads what was just acknowledged, which may be refused for a while and may not be older.
    fn read_own(&self, part: &[Planned], answer: &Answer) {
        let number = part[part.len() - 1].number();
        let job = self.ledger.job(number);
        let path = format!("/api/jobs/{}?atLeast={}", job_id(&job.id), answer.body["sequence"]);
        if let Some(answer) = self.api().try_get(&path).filter(|answer| answer.status != 503)
            && !answer.headers.contains_key("forebay-stale")
        {
            Ledger::complete(&job, &answer);
        }
    }

    /// Reads job after job: while the process is up each read is answered, none is wrong, and nothing goes back.
    pub(super) fn read(&self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while !self.stopped() {
            let Some(number) = self.ledger.pick(&mut random) else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let (era, applied) = (self.era.load(Ordering::SeqCst), self.applied.load(Ordering::SeqCst));
            let job = self.ledger.job(number);
            let answer = self.api().try_get(&format!("/api/jobs/{}", job_id(&job.id)));
            if let Some(answer) = answer.as_ref().filter(|answer| matches!(answer.status, 200 | 404)) {
                self.reads.fetch_add(1, Ordering::SeqCst);
                // It may have been told meanwhile that this one is lost.
                if !self.ledger.job(number).lost() {
                    self.ledger.judge(number, &job, answer);
                }
                self.note_applied(applied, answer);
                continue;
            }
            let must = era % 2 == 1 && era == self.era.load(Ordering::SeqCst);
            assert!(!must, "a read was not answered while the process was up: {answer:?}");
            std::thread::sleep(PAUSE);
        }
    }

    fn note_applied(&self, before: u64, answer: &Answer) {
        if answer.headers.contains_key("forebay-stale") {
            return;
        }
        let applied = answer.headers["forebay-applied"].to_str().unwrap().parse().unwrap();
        // Zero where it was told meanwhile that the log is another one.
        if self.applied.load(Ordering::SeqCst) >= before {
            assert!(applied >= before, "the views went back from {before} to {applied}");
            self.applied.fetch_max(applied, Ordering::SeqCst);
        }
    }
}
