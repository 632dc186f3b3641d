//! Many jobs' events as Celery workers would publish them: a twentieth of the jobs is retried up to three times, a
//! twentieth fails, and a few hundred run side by side, so that their events come interleaved.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde_json::json;
use uuid::Uuid;

/// Jobs that run side by side.
const SIDE_BY_SIDE: usize = 256;
/// Of a hundred jobs, how many fail, and how many are retried.
const FAILING: f64 = 0.05;
const RETRIED: f64 = 0.05;
/// Workers that run them.
const WORKERS: usize = 8;

/// A generator of jobs: what it makes depends on its seed and its start alone.
#[derive(Debug)]
pub struct Flood {
    random: StdRng,
    start: f64,
    /// Seconds between two jobs.
    apart: f64,
    /// Characters of the arguments of each call, which nothing can make smaller; none for arguments of few words.
    noise: usize,
    jobs: usize,
    attempts: u64,
    clock: u64,
}

/// A job of the flood.
#[derive(Clone, Debug)]
pub struct FloodJob {
    /// Celery's id.
    pub id: String,
    /// The state in which it must end.
    pub state: &'static str,
}

/// An event, but for the number that it gets in the order of time: all of its JSON after that.
struct Told {
    at: f64,
    kind: &'static str,
    rest: String,
}

impl Flood {
    /// A generator whose first event happens at this time (epoch seconds).
    pub fn new(seed: u64, start: f64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), start, apart: 0.001, noise: 0, jobs: 0, attempts: 0, clock: 0 }
    }

    /// With so many seconds between two jobs, and not a thousandth.
    #[must_use]
    pub fn apart(mut self, seconds: f64) -> Self {
        self.apart = seconds;
        self
    }

    /// With so many random letters for the arguments of each call.
    #[must_use]
    pub fn noisy(mut self, letters: usize) -> Self {
        self.noise = letters;
        self
    }

    /// How many jobs it has made.
    pub fn jobs(&self) -> usize {
        self.jobs
    }

    /// How many times these were sent, taken and begun, over all their attempts.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// How many events it has made.
    pub fn events(&self) -> u64 {
        self.clock
    }

    /// The events of so many more jobs in `task.multi` messages of so many events each, and what must become of the
    /// jobs.
    pub fn messages(&mut self, jobs: usize, events_each: usize) -> (Vec<Vec<u8>>, Vec<FloodJob>) {
        let (arrays, made) = self.arrays(jobs, events_each);
        (arrays.iter().map(|array| message(array)).collect(), made)
    }

    /// The same without kombu's envelope, as they are on RabbitMQ.
    pub fn arrays(&mut self, jobs: usize, events_each: usize) -> (Vec<String>, Vec<FloodJob>) {
        let mut events = Vec::new();
        let mut made = Vec::with_capacity(jobs);
        while made.len() < jobs {
            let mut window = Vec::new();
            for _ in 0..SIDE_BY_SIDE.min(jobs - made.len()) {
                made.push(self.job(&mut window));
            }
            window.sort_by(|one, other| one.at.total_cmp(&other.at));
            events.extend(window.into_iter().map(|told| self.stamped(&told)));
        }
        (events.chunks(events_each).map(array).collect(), made)
    }

    /// The heartbeats of all its workers at this time, a message for each.
    pub fn heartbeats(&self, at: f64) -> Vec<Vec<u8>> {
        let beat = |number| {
            let (clock, worker) = (self.clock, worker(number));
            message(&format!(
                r#"{{"type":"worker-heartbeat","timestamp":{at},"clock":{clock},{worker},"freq":2.0,"active":4,"processed":{},"loadavg":[1.0,1.0,1.0],"sw_ident":"py-celery","sw_ver":"5.6.0","sw_sys":"Linux"}}"#,
                self.jobs / WORKERS,
            ))
        };
        (0..WORKERS).map(beat).collect()
    }

    fn job(&mut self, events: &mut Vec<Told>) -> FloodJob {
        let number = self.jobs;
        self.jobs += 1;
        let id = Uuid::from_u128(self.random.random()).to_string();
        let name = format!("app.tasks.task_{}", number % 20);
        let queue = format!("q{}", number % 5);
        let worker = worker(number % WORKERS);
        let client = format!(r#""hostname":"gen{0}@web","utcoffset":0,"pid":{0}"#, 4_000 + number % 4);
        let mut now = self.start + number as f64 * self.apart;
        let attempts = if self.random.random_bool(RETRIED) { self.random.random_range(2..=4) } else { 1 };
        let fails = self.random.random_bool(FAILING);
        self.attempts += attempts;
        let mut noise = vec![0; self.noise * 3 / 4];
        self.random.fill_bytes(&mut noise);
        let args = if noise.is_empty() { "(1, 2)".to_owned() } else { format!("('{}',)", STANDARD.encode(noise)) };
        for attempt in 0..attempts {
            let parent = if attempt == 0 { "null".to_owned() } else { format!("\"{id}\"") };
            let called = format!(
                r#""uuid":"{id}","name":"{name}","args":"{args}","kwargs":"{{}}","retries":{attempt},"eta":null,"expires":null,"root_id":"{id}","parent_id":{parent}"#
            );
            let mut tell = |at, kind, rest| events.push(Told { at, kind, rest });
            let sent = format!(r#"{client},{called},"queue":"{queue}","exchange":"","routing_key":"{queue}""#);
            tell(now, "task-sent", sent);
            now += self.random.random_range(0.0005..0.02);
            tell(now, "task-received", format!("{worker},{called}"));
            now += self.random.random_range(0.0005..0.05);
            tell(now, "task-started", format!(r#"{worker},"uuid":"{id}""#));
            let runtime = self.runtime();
            now += runtime;
            let (kind, outcome) = match (attempt + 1 < attempts, fails) {
                (true, _) => (
                    "task-retried",
                    format!(
                        r#""exception":"RuntimeError('attempt {attempt}')","traceback":"Traceback (most recent call last):\nRuntimeError""#
                    ),
                ),
                (false, true) => (
                    "task-failed",
                    r#""exception":"ConnectionRefusedError(111, 'refused')","traceback":"Traceback (most recent call last):\nConnectionRefusedError""#.to_owned(),
                ),
                (false, false) => ("task-succeeded", format!(r#""result":"3","runtime":{runtime}"#)),
            };
            tell(now, kind, format!(r#"{worker},"uuid":"{id}",{outcome}"#));
            now += self.random.random_range(0.001..0.1);
        }
        FloodJob { id, state: if fails { "failed" } else { "completed" } }
    }

    /// Seconds, log-normal: most take some hundredths, few take seconds.
    fn runtime(&mut self) -> f64 {
        let (one, other): (f64, f64) = (self.random.random_range(f64::EPSILON..1.0), self.random.random());
        let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
        (normal - 3.5).exp()
    }

    fn stamped(&mut self, told: &Told) -> String {
        self.clock += 1;
        let Told { at, kind, rest } = told;
        format!(r#"{{"type":"{kind}","timestamp":{at},"clock":{},{rest}}}"#, self.clock)
    }
}

/// Who says it.
fn worker(number: usize) -> String {
    format!(r#""hostname":"celery@worker-{number}","utcoffset":0,"pid":{}"#, 100 + number)
}

fn array(events: &[String]) -> String {
    let mut array = String::from("[");
    for event in events {
        // Writing to a string cannot fail.
        let _ = write!(array, "{}{event}", if array.len() == 1 { "" } else { ", " });
    }
    array.push(']');
    array
}

/// The envelope that kombu puts around an event or an array of them.
fn message(array: &str) -> Vec<u8> {
    let envelope = json!({
        "body": STANDARD.encode(array), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": { "hostname": "celery@worker-0" },
        "properties": {
            "delivery_mode": 1, "delivery_info": { "exchange": "celeryev", "routing_key": "task.multi" },
            "priority": 0, "body_encoding": "base64", "delivery_tag": "0",
        },
    });
    serde_json::to_vec(&envelope).unwrap()
}
