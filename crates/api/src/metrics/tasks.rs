//! The family of celery-exporter: how often tasks ran, how long they took, workers and queues.

use std::collections::{BTreeMap, HashMap, HashSet};

use projector::{LiveQueue, LiveState, LiveWorker};
use proto_events::{Framework, Timestamp};
use uuid::Uuid;
use views::{ANY_SENDER, FailureTotal, Lifetime, Load, RUNTIME_BOUNDS, Total, TotalOf, WAIT_BOUNDS, WorkerRate};

use super::Names;
use super::names::{
    ACTIVE_CONSUMERS, ACTIVE_PROCESSES, ACTIVE_WORKERS, Metric, QUEUE_LENGTH, TASK_FAILED, TASK_RECEIVED,
    TASK_REJECTED, TASK_RETRIED, TASK_REVOKED, TASK_RUNTIME, TASK_SENT, TASK_STARTED, TASK_SUCCEEDED, TASK_WAIT,
    WORKER_TASKS_ACTIVE, WORKER_UP,
};
use super::sink::{Labels, Sink};
use crate::figures::OTHERS;

/// A host is told for so many microseconds after the last of its workers went.
const GONE: i64 = 600_000_000;

impl Names {
    fn labels(&self, of: &TotalOf) -> Labels {
        let connection = self.of(of.connection);
        let (name, queue, host) = match &of.names {
            Some([name, queue, host]) => (&**name, &**queue, &**host),
            None => (OTHERS, OTHERS, ""),
        };
        let labels = Labels::of(&[("name", name), ("queue_name", queue), ("connection", &connection)]);
        // An empty label is none to Prometheus.
        if host.is_empty() { labels } else { labels.and("hostname", host) }
    }
}

/// Counters and histograms.
pub(super) fn counters(to: &mut dyn Sink, lifetime: &Lifetime, names: &Names) {
    let totals: Vec<(Labels, &Total)> = lifetime.totals.iter().map(|total| (names.labels(&total.of), total)).collect();
    let mut counter = |metric: &'static Metric, of: fn(&Total) -> u64, is_told: &dyn Fn(&Total) -> bool| {
        let mut samples = to.of(metric);
        totals.iter().filter(|(_, total)| is_told(total)).for_each(|(labels, total)| samples.add(labels, of(total)));
    };
    // Of who only sends there is nothing else to tell.
    let from_the_start = |total: &Total| total.of.names.as_ref().is_none_or(|[_, _, host]| &**host != ANY_SENDER);
    counter(&TASK_SENT, |total| total.sent, &|total| total.sent > 0);
    counter(&TASK_RECEIVED, |total| total.received, &from_the_start);
    counter(&TASK_STARTED, |total| total.started, &from_the_start);
    counter(&TASK_SUCCEEDED, |total| total.succeeded, &from_the_start);
    counter(&TASK_REJECTED, |total| total.rejected, &from_the_start);
    counter(&TASK_REVOKED, |total| total.revoked, &from_the_start);
    counter(&TASK_RETRIED, |total| total.retried, &from_the_start);
    let mut failed = to.of(&TASK_FAILED);
    // So that the first failure is an increase, there is a series before it, as in celery-exporter.
    for (labels, _) in totals.iter().filter(|(_, total)| from_the_start(total)) {
        failed.add(&labels.and("exception", ""), 0_u64);
    }
    for FailureTotal { of, exception, count } in &lifetime.failures {
        let exception = if of.names.is_some() { &**exception } else { OTHERS };
        failed.add(&names.labels(of).and("exception", exception), *count);
    }
    let mut runtime = to.of(&TASK_RUNTIME);
    for (labels, total) in totals.iter().filter(|(_, total)| total.succeeded > 0) {
        runtime.histogram(labels, &RUNTIME_BOUNDS, &total.runtime.buckets, total.runtime.sum_ms as f64 / 1e3);
    }
    let mut wait = to.of(&TASK_WAIT);
    for (labels, total) in totals.iter().filter(|(_, total)| total.wait.buckets.iter().any(|count| *count > 0)) {
        wait.histogram(labels, &WAIT_BOUNDS, &total.wait.buckets, total.wait.sum_ms as f64 / 1e3);
    }
}

/// What is known of the present.
pub(super) struct Present {
    pub(super) workers: Vec<LiveWorker>,
    pub(super) queues: Vec<LiveQueue>,
    pub(super) load: Load,
    pub(super) rates: Vec<WorkerRate>,
    pub(super) now: Timestamp,
}

/// The workers of one host.
#[derive(Default)]
struct Host {
    up: bool,
    active: u64,
}

/// What is known of one queue.
#[derive(Default)]
struct Queue {
    length: u64,
    consumers: Option<u64>,
    workers: u64,
    /// `None` where one of its workers does not say how many it has.
    processes: Option<u64>,
}

impl Present {
    pub(super) fn tell(mut self, to: &mut dyn Sink, names: &Names) {
        self.workers.retain(|worker| worker.framework == Framework::Celery);
        self.hosts(to, names);
        self.queues(to, names);
    }

    fn hosts(&self, to: &mut dyn Sink, names: &Names) {
        let active: HashMap<(Uuid, &str), u64> =
            self.load.active.iter().map(|((id, worker), active)| ((*id, &**worker), *active)).collect();
        let mut hosts: BTreeMap<(Uuid, &str), Host> = BTreeMap::new();
        for worker in &self.workers {
            let is_up = worker.state != LiveState::Offline;
            let last = worker.last_heartbeat.max(worker.last_online).max(worker.last_offline);
            if !is_up && last.is_none_or(|last| self.now.micros() - last.micros() > GONE) {
                continue;
            }
            let name = worker.external_id.as_str();
            let host =
                hosts.entry((worker.connection, name.split_once('@').map_or(name, |(_, host)| host))).or_default();
            host.up |= is_up;
            if is_up {
                let known = active.get(&(worker.connection, name)).copied().unwrap_or_default();
                // Who sends it may say anything.
                host.active = host.active.saturating_add(worker.active_jobs.unwrap_or(known));
            }
        }
        let hosts: Vec<(Labels, Host)> = hosts
            .into_iter()
            .map(|((id, name), host)| (Labels::of(&[("hostname", name), ("connection", &names.of(id))]), host))
            .collect();
        to.of(&WORKER_UP).all(hosts.iter().map(|(labels, host)| (labels, host.up)));
        to.of(&WORKER_TASKS_ACTIVE).all(hosts.iter().map(|(labels, host)| (labels, host.active)));
    }

    fn queues(&self, to: &mut dyn Sink, names: &Names) {
        let mut queues: BTreeMap<(Uuid, &str), Queue> = BTreeMap::new();
        for ((id, name), _) in self.load.frameworks.iter().filter(|(_, it)| **it == Framework::Celery) {
            let waiting = self.load.waiting.get(&(*id, name.clone())).cloned().unwrap_or_default();
            let length = waiting.queued + waiting.scheduled;
            queues.insert((*id, name), Queue { length, processes: Some(0), ..Queue::default() });
        }
        for queue in self.queues.iter().filter(|queue| queue.framework == Framework::Celery) {
            let new = || Queue { processes: Some(0), ..Queue::default() };
            let known = queues.entry((queue.connection, &queue.name)).or_insert_with(new);
            known.length = queue.depth.unwrap_or(known.length);
            known.consumers = queue.consumers;
        }
        let there: HashMap<(Uuid, &str), Option<u64>> = self
            .workers
            .iter()
            .filter(|worker| worker.state != LiveState::Offline)
            .map(|worker| ((worker.connection, worker.external_id.as_str()), worker.concurrency))
            .collect();
        for rate in &self.rates {
            let Some(concurrency) = rate.worker.as_deref().and_then(|worker| there.get(&(rate.connection, worker)))
            else {
                continue;
            };
            // A worker may be in the rates once for each connection, and in each queue once.
            let served: HashSet<&str> = rate.queues.iter().map(|queue| &**queue).collect();
            for name in served {
                if let Some(queue) = queues.get_mut(&(rate.connection, name)) {
                    queue.workers += 1;
                    queue.processes = queue.processes.zip(*concurrency).map(|(sum, more)| sum.saturating_add(more));
                }
            }
        }
        let queues: Vec<(Labels, Queue)> = queues
            .into_iter()
            .map(|((id, name), queue)| (Labels::of(&[("queue_name", name), ("connection", &names.of(id))]), queue))
            .collect();
        let mut gauge = |metric: &'static Metric, of: fn(&Queue) -> Option<u64>| {
            let mut samples = to.of(metric);
            for (labels, queue) in &queues {
                if let Some(value) = of(queue) {
                    samples.add(labels, value);
                }
            }
        };
        gauge(&QUEUE_LENGTH, |queue| Some(queue.length));
        gauge(&ACTIVE_CONSUMERS, |queue| queue.consumers);
        gauge(&ACTIVE_WORKERS, |queue| Some(queue.workers));
        gauge(&ACTIVE_PROCESSES, |queue| queue.processes.filter(|_| queue.workers > 0));
    }
}
