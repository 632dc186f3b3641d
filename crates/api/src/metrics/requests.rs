//! What was asked of this server since it began: counted where requests are answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use warp::http::StatusCode;

use super::names::{HTTP_DURATION, HTTP_REQUESTS, INGEST_EVENTS, INGEST_REQUESTS};
use super::sink::{Labels, Sink};

/// The upper bounds of the buckets for how long answers took, in milliseconds: those of Prometheus' own client library.
const BOUNDS: [u64; 14] = [5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000];

/// Requests by endpoint. There are as many endpoints as there are in the code.
#[derive(Default)]
pub(crate) struct Requests(Mutex<BTreeMap<&'static str, Endpoint>>);

#[derive(Clone, Default)]
struct Endpoint {
    statuses: BTreeMap<u16, u64>,
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Requests {
    /// A request was answered.
    pub(crate) fn note(&self, endpoint: &'static str, status: StatusCode, took: Duration) {
        let bucket = BOUNDS.iter().position(|bound| took <= Duration::from_millis(*bound)).unwrap_or(BOUNDS.len());
        let mut endpoints = self.0.lock();
        let known = endpoints.entry(endpoint).or_default();
        *known.statuses.entry(status.as_u16()).or_default() += 1;
        known.buckets[bucket] += 1;
        known.sum += took;
    }

    pub(super) fn tell(&self, to: &mut dyn Sink) {
        let endpoints = self.0.lock().clone();
        let mut counts = to.of(&HTTP_REQUESTS);
        for (endpoint, known) in &endpoints {
            for (status, count) in &known.statuses {
                counts.add(&Labels::of(&[("endpoint", endpoint), ("status", &status.to_string())]), *count);
            }
        }
        let mut durations = to.of(&HTTP_DURATION);
        for (endpoint, known) in &endpoints {
            let labels = Labels::of(&[("endpoint", endpoint)]);
            durations.histogram(&labels, &BOUNDS, &known.buckets, known.sum.as_secs_f64());
        }
    }
}

/// What was sent to ingest and stored.
#[derive(Default)]
pub(crate) struct Ingested {
    requests: AtomicU64,
    accepted: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
}

impl Ingested {
    /// A batch was stored: of its events so many were new, so many the log had already, and so many were left out.
    pub(crate) fn note(&self, accepted: usize, duplicates: usize, refused: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.accepted.fetch_add(accepted as u64, Ordering::Relaxed);
        self.duplicates.fetch_add(duplicates as u64, Ordering::Relaxed);
        self.refused.fetch_add(refused as u64, Ordering::Relaxed);
    }

    pub(super) fn tell(&self, to: &mut dyn Sink) {
        to.one(&INGEST_REQUESTS, self.requests.load(Ordering::Relaxed));
        let mut events = to.of(&INGEST_EVENTS);
        let all = [("accepted", &self.accepted), ("duplicate", &self.duplicates), ("refused", &self.refused)];
        for (result, count) in all {
            events.add(&Labels::of(&[("result", result)]), count.load(Ordering::Relaxed));
        }
    }
}
