//! What the answers from statistics have in common: percentiles, spans of time, pages.

use schemars::JsonSchema;
use serde::Serialize;
use views::{Bucket, Range, Span, Spread, Totals};

use crate::times::Millis;

/// The name that stands for everything beyond the limit of how much is told by name.
pub(crate) const OTHERS: &str = "(other)";

/// Percentiles of times in milliseconds: too large by at most a sixteenth, never too small. Null where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Percentiles {
    /// Of how many runs it is known.
    count: u64,
    p50: Option<u64>,
    p95: Option<u64>,
    p99: Option<u64>,
    max: Option<u64>,
}

impl From<Spread> for Percentiles {
    fn from(spread: Spread) -> Self {
        let Spread { count, p50, p95, p99, max } = spread;
        Self { count, p50, p95, p99, max }
    }
}

/// What ran in a range of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Work {
    /// Jobs that ended well.
    completed: u64,
    /// Jobs that failed.
    failed: u64,
    /// Jobs that were cancelled.
    cancelled: u64,
    /// Runs that began; a job that is retried or delivered again runs several times.
    started: u64,
    /// Runs that failed and were to be tried again.
    retried: u64,
    /// Runs whose message was given back or refused.
    rejected: u64,
    /// Runs whose process was gone.
    lost: u64,
    /// Jobs that failed, of those that completed or failed: 0 to 1. Null where none did.
    failure_rate: Option<f64>,
    /// Runs that were retried, of those that ended: 0 to 1. Null where none did.
    retry_rate: Option<f64>,
    /// Jobs that completed or failed, per second.
    throughput: f64,
    /// How long runs took that ended.
    runtime_ms: Percentiles,
    /// How long runs had waited that began: since they were sent, or since their ETA.
    wait_ms: Percentiles,
}

impl From<&Totals> for Work {
    fn from(totals: &Totals) -> Self {
        Self {
            completed: totals.completed,
            failed: totals.failed,
            cancelled: totals.cancelled,
            started: totals.started,
            retried: totals.retried,
            rejected: totals.rejected,
            lost: totals.lost,
            failure_rate: totals.failure_rate(),
            retry_rate: totals.retry_rate(),
            throughput: totals.throughput(),
            runtime_ms: totals.runtime.into(),
            wait_ms: totals.wait.into(),
        }
    }
}

/// What ran in a part of a range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WorkBucket {
    /// Its first moment.
    start: Millis,
    /// The first moment after it.
    end: Millis,
    completed: u64,
    failed: u64,
    cancelled: u64,
    started: u64,
    retried: u64,
    #[serde(rename = "runtimeP50Ms")]
    runtime_p50: Option<u64>,
    #[serde(rename = "runtimeP95Ms")]
    runtime_p95: Option<u64>,
    #[serde(rename = "waitP95Ms")]
    wait_p95: Option<u64>,
}

impl From<&Bucket> for WorkBucket {
    fn from(bucket: &Bucket) -> Self {
        let totals = &bucket.totals;
        let (start, end) = ends(bucket.span);
        Self {
            start,
            end,
            completed: totals.completed,
            failed: totals.failed,
            cancelled: totals.cancelled,
            started: totals.started,
            retried: totals.retried,
            runtime_p50: totals.runtime.p50,
            runtime_p95: totals.runtime.p95,
            wait_p95: totals.wait.p95,
        }
    }
}

/// The first moment of a span, and the first one after it.
pub(crate) fn ends(span: Span) -> (Millis, Millis) {
    (Millis(span.start()), Millis(span.end()))
}

/// A range of time, by its name.
pub(crate) fn range_name(range: Range) -> &'static str {
    range.as_str()
}

/// Where a page is among all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PagePagination")]
pub(crate) struct Paging {
    /// From 1.
    page: usize,
    /// How many a page has at most.
    limit: usize,
    /// How many there are on all pages.
    total: usize,
    /// How many pages there are.
    total_pages: usize,
}

/// The page of this number of what is known whole.
pub(crate) fn page_of<T>(all: Vec<T>, page: u64, limit: u64) -> (Vec<T>, Paging) {
    let (page, limit, total) = (page as usize, limit as usize, all.len());
    let data = all.into_iter().skip(page.saturating_sub(1).saturating_mul(limit)).take(limit).collect();
    (data, Paging { page, limit, total, total_pages: total.div_ceil(limit.max(1)) })
}
