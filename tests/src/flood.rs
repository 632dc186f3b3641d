//! Many jobs' events as a Celery worker would publish them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use uuid::Uuid;

/// Jobs that run side by side, so that their events come interleaved.
const SIDE_BY_SIDE: usize = 64;

/// A generator of jobs: what it makes depends on its seed and its start alone.
#[derive(Debug)]
pub struct Flood {
    random: StdRng,
    clock: u64,
    now: f64,
}

/// A job of the flood.
#[derive(Clone, Debug)]
pub struct FloodJob {
    /// Celery's id.
    pub id: String,
    /// The state in which it must end.
    pub state: &'static str,
}

impl Flood {
    /// A generator whose first event happens at this time (epoch seconds).
    pub fn new(seed: u64, start: f64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), clock: 0, now: start }
    }

    /// The events of so many jobs in `task.multi` messages of so many events each, and what must become of the jobs.
    pub fn messages(&mut self, jobs: usize, events_each: usize) -> (Vec<Vec<u8>>, Vec<FloodJob>) {
        let mut events = Vec::new();
        let mut made = Vec::with_capacity(jobs);
        while made.len() < jobs {
            let mut window = Vec::new();
            for _ in 0..SIDE_BY_SIDE.min(jobs - made.len()) {
                made.push(self.job(&mut window));
            }
            window.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            events.extend(window.into_iter().map(|(time, event)| self.stamped(time, event)));
        }
        (events.chunks(events_each).map(message).collect(), made)
    }

    fn job(&mut self, events: &mut Vec<(f64, Value)>) -> FloodJob {
        let id = Uuid::from_u128(self.random.random()).to_string();
        let name = format!("shop.tasks.task_{}", self.random.random_range(0..20));
        let queue = format!("q{}", self.random.random_range(0..5));
        let worker = self.random.random_range(0..8);
        let called = json!({
            "uuid": id, "name": name, "args": "(1, 2)", "kwargs": "{}", "retries": 0, "eta": null, "expires": null,
            "root_id": id, "parent_id": null,
        });
        let mut sent = called.clone();
        merge(&mut sent, json!({ "queue": queue, "exchange": "", "routing_key": queue }));
        merge(&mut sent, json!({ "hostname": format!("gen{}@web", 4000 + worker % 4), "pid": 4000 + worker % 4 }));
        let runtime = self.random.random_range(0.01..0.5);
        let fails = self.random.random_bool(0.05);
        let (kind, outcome) = if fails {
            (
                "task-failed",
                json!({ "exception": "ConnectionError('no')", "traceback": "Traceback\nConnectionError: no" }),
            )
        } else {
            ("task-succeeded", json!({ "result": "3", "runtime": runtime }))
        };
        self.now += 0.001;
        let received = self.now + self.random.random_range(0.001..0.02);
        let started = received + self.random.random_range(0.001..0.02);
        let by_worker = [
            ("task-received", received, called),
            ("task-started", started, json!({})),
            (kind, started + runtime, outcome),
        ];
        merge(&mut sent, json!({ "type": "task-sent" }));
        events.push((self.now, sent));
        for (kind, time, mut event) in by_worker {
            merge(&mut event, json!({ "type": kind, "uuid": id }));
            merge(&mut event, json!({ "hostname": format!("celery@worker-{worker}"), "pid": 100 + worker }));
            events.push((time, event));
        }
        FloodJob { id, state: if fails { "failed" } else { "completed" } }
    }

    fn stamped(&mut self, time: f64, mut event: Value) -> Value {
        self.clock += 1;
        merge(&mut event, json!({ "timestamp": time, "clock": self.clock, "utcoffset": 0 }));
        event
    }
}

fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// The envelope that kombu puts around an array of events.
fn message(events: &[Value]) -> Vec<u8> {
    let body = STANDARD.encode(serde_json::to_vec(events).unwrap());
    let envelope = json!({
        "body": body, "content-encoding": "utf-8", "content-type": "application/json",
        "headers": { "hostname": "celery@worker-0" },
        "properties": {
            "delivery_mode": 1, "delivery_info": { "exchange": "celeryev", "routing_key": "task.multi" },
            "priority": 0, "body_encoding": "base64", "delivery_tag": "0",
        },
    });
    serde_json::to_vec(&envelope).unwrap()
}
