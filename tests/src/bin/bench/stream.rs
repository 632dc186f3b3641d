//! A flood of Celery's events, the same to Forebay and to Flower, one after the other.

use std::time::{Duration, Instant};

use forebay_tests::{Flood, Flower, Forebay, Options, RabbitMq, Redis, wait_for};
use rustix::process::Pid;
use serde::Serialize;

use crate::measures::now;
use crate::million::{CHANNEL, memory};

const EVENTS_PER_MESSAGE: usize = 20;
const MESSAGES_PER_STEP: usize = 50;
/// Who uses less processor time than this in so long has nothing more to do.
const REST: (f64, Duration) = (0.1, Duration::from_secs(3));

/// The same jobs' events to both.
#[derive(Serialize)]
pub(crate) struct Stream {
    pub(crate) broker: &'static str,
    pub(crate) asked_per_second: Option<usize>,
    pub(crate) jobs: u64,
    pub(crate) events: u64,
    pub(crate) forebay: Followed,
    pub(crate) flower: Followed,
    pub(crate) flower_to_forebay: Ratios,
}

/// What one of them made of it, and what that took. The processor time is that of the events that arrived.
#[derive(Serialize)]
pub(crate) struct Followed {
    /// At which they were published: the broker or the publisher may not be as fast as asked.
    pub(crate) published_per_second: f64,
    pub(crate) arrived: u64,
    /// Percent of the events.
    pub(crate) lost_percent: f64,
    /// The jobs of which it knows how they ended.
    pub(crate) jobs_ended: u64,
    /// From the first publish until it has done with them, to some tenths.
    pub(crate) seconds: f64,
    pub(crate) us_per_event: f64,
    /// The same with the servers that it runs.
    pub(crate) us_per_event_in_all: f64,
    pub(crate) resident_before_mb: f64,
    pub(crate) resident_mb: f64,
    /// At most, since its start.
    pub(crate) peak_resident_mb: f64,
    /// What it has grown by, for each job that it knows the end of.
    pub(crate) kb_per_job: f64,
}

/// Flower's figure as a multiple of Forebay's.
#[derive(Serialize)]
pub(crate) struct Ratios {
    pub(crate) us_per_event: f64,
    /// Of Forebay with its nats-server.
    pub(crate) us_per_event_in_all: f64,
    pub(crate) kb_per_job: f64,
}

/// Who listens to the events.
pub(crate) trait Monitor {
    /// Its own process, and those of the servers that it runs.
    fn processes(&self) -> Vec<Pid>;
    /// Events that it has heard.
    fn arrived(&self) -> u64;
    /// Jobs of which it knows how they ended.
    fn ended(&self) -> u64;
}

impl Monitor for Forebay {
    fn processes(&self) -> Vec<Pid> {
        vec![self.process().pid(), self.nats()]
    }

    fn arrived(&self) -> u64 {
        self.health()["sources"][0]["events"].as_u64().unwrap()
    }

    fn ended(&self) -> u64 {
        let total = |state: &str| {
            self.api.get(&format!("/api/jobs?limit=1&state={state}")).body["pagination"]["total"].as_u64().unwrap()
        };
        total("completed") + total("failed")
    }
}

impl Monitor for Flower {
    fn processes(&self) -> Vec<Pid> {
        vec![self.pid()]
    }

    fn arrived(&self) -> u64 {
        self.events()
    }

    fn ended(&self) -> u64 {
        self.tasks("SUCCESS") + self.tasks("FAILURE")
    }
}

/// Where the events are published, as Celery does it there.
pub(crate) trait Broker {
    const NAME: &'static str;
    fn broker_url(&self) -> String;
    fn messages(&self, flood: &mut Flood, jobs: usize) -> Vec<Vec<u8>>;
    fn publish_events(&self, messages: &[Vec<u8>]);
}

impl Broker for Redis {
    const NAME: &'static str = "Redis";

    fn broker_url(&self) -> String {
        self.url(0)
    }

    fn messages(&self, flood: &mut Flood, jobs: usize) -> Vec<Vec<u8>> {
        flood.messages(jobs, EVENTS_PER_MESSAGE).0
    }

    fn publish_events(&self, messages: &[Vec<u8>]) {
        self.publish(CHANNEL, messages);
    }
}

impl Broker for RabbitMq {
    const NAME: &'static str = "RabbitMQ";

    fn broker_url(&self) -> String {
        self.url()
    }

    fn messages(&self, flood: &mut Flood, jobs: usize) -> Vec<Vec<u8>> {
        flood.arrays(jobs, EVENTS_PER_MESSAGE).0.into_iter().map(String::into_bytes).collect()
    }

    fn publish_events(&self, messages: &[Vec<u8>]) {
        Self::publish(&self.url(), "celeryev", "task.multi", messages);
    }
}

/// One after the other, so that neither takes the processor from the other, each on a fresh broker: Forebay's queue on
/// RabbitMQ outlives it.
pub(crate) fn stream<B: Broker>(start: impl Fn() -> B, jobs: usize, rate: Option<usize>) -> Stream {
    let asked = rate.map_or("as fast as it goes".to_owned(), |rate| format!("{rate} events/s"));
    let told = |who: &str| eprintln!("measuring: Celery's stream over {}, {asked}, to {who}", B::NAME);
    told("Forebay");
    let broker = start();
    let forebay = Forebay::start(Options::celery(&[broker.broker_url()]));
    let (events, forebay) = follow(&forebay, &broker, jobs, rate);
    told("Flower");
    let broker = start();
    let (_, flower) = follow(&Flower::start(&broker.broker_url()), &broker, jobs, rate);
    for (who, figures) in [("Forebay", &forebay), ("Flower", &flower)] {
        eprintln!("  {who}: {}", serde_json::to_string(figures).unwrap());
    }
    let flower_to_forebay = Ratios {
        us_per_event: flower.us_per_event / forebay.us_per_event,
        us_per_event_in_all: flower.us_per_event_in_all / forebay.us_per_event_in_all,
        kb_per_job: flower.kb_per_job / forebay.kb_per_job,
    };
    Stream { broker: B::NAME, asked_per_second: rate, jobs: jobs as u64, events, forebay, flower, flower_to_forebay }
}

/// How many events there were, and what it made of them.
fn follow(monitor: &impl Monitor, broker: &impl Broker, jobs: usize, rate: Option<usize>) -> (u64, Followed) {
    // The same jobs for both.
    let mut flood = Flood::new(rate.unwrap_or(0) as u64, now());
    // It need not listen yet, although it answers.
    wait_for("the first event to be heard", 60, || {
        broker.publish_events(&broker.messages(&mut flood, 1));
        std::thread::sleep(Duration::from_secs(1));
        (monitor.arrived() > 0).then_some(())
    });
    let mut flood = Flood::new(rate.unwrap_or(0) as u64 + 1, now());
    let messages = broker.messages(&mut flood, jobs);
    let processes = monitor.processes();
    rest(&processes);
    let (arrived, ended) = (monitor.arrived(), monitor.ended());
    let resident_before_mb = memory(processes[0], "VmRSS:");
    let before: Vec<f64> = processes.iter().map(|process| cpu_seconds(*process)).collect();

    let begin = Instant::now();
    publish(broker, &messages, rate);
    let published = begin.elapsed().as_secs_f64();
    let end = rest(&processes);
    let cpu: Vec<f64> = processes.iter().zip(before).map(|(process, before)| cpu_seconds(*process) - before).collect();
    let (resident_mb, peak_resident_mb) = (memory(processes[0], "VmRSS:"), memory(processes[0], "VmHWM:"));
    // Only now, for each answer costs it something.
    let (arrived, jobs_ended) = (monitor.arrived() - arrived, monitor.ended() - ended);
    let events = flood.events();
    let followed = Followed {
        published_per_second: events as f64 / published,
        arrived,
        lost_percent: (1.0 - arrived as f64 / events as f64).max(0.0) * 100.0,
        jobs_ended,
        seconds: (end - begin).as_secs_f64(),
        us_per_event: cpu[0] * 1e6 / arrived as f64,
        us_per_event_in_all: cpu.iter().sum::<f64>() * 1e6 / arrived as f64,
        resident_before_mb,
        resident_mb,
        peak_resident_mb,
        kb_per_job: (resident_mb - resident_before_mb) * 1e3 / jobs_ended as f64,
    };
    (events, followed)
}

fn publish(broker: &impl Broker, messages: &[Vec<u8>], rate: Option<usize>) {
    let begin = Instant::now();
    for (step, chunk) in messages.chunks(MESSAGES_PER_STEP).enumerate() {
        broker.publish_events(chunk);
        if let Some(rate) = rate {
            let events = (step + 1) * MESSAGES_PER_STEP * EVENTS_PER_MESSAGE;
            let due = Duration::from_secs_f64(events as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
    }
}

/// Waits until they have nothing more to do: since when. Being asked would cost them processor time; this does not.
fn rest(processes: &[Pid]) -> Instant {
    let used = || processes.iter().map(|process| cpu_seconds(*process)).sum::<f64>();
    let (mut last, mut since) = (used(), Instant::now());
    wait_for("all that was published to be handled", 600, || {
        let now = used();
        if now - last > REST.0 {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > REST.1).then_some(since)
    })
}

/// Processor time of a process so far.
pub(crate) fn cpu_seconds(pid: Pid) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}
