//! What the statistics' answers have in common: ranges, buckets, percentiles, pages.

use proto_events::Timestamp;
use serde::Serialize;

use crate::times::Millis;

/// Percentiles of times in milliseconds; null where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    /// How many values there are.
    pub(crate) count: u64,
    pub(crate) p50: Option<u64>,
    pub(crate) p95: Option<u64>,
    pub(crate) p99: Option<u64>,
    pub(crate) max: Option<u64>,
}

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Span {
    /// Its first moment.
    pub(crate) start: Millis,
    /// The first moment after it.
    pub(crate) end: Millis,
}

impl Span {
    pub(crate) fn of(start: Timestamp, end: Timestamp) -> Self {
        Self { start: Millis(start), end: Millis(end) }
    }
}

/// Where a page is among all pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Paging {
    /// From 1.
    pub(crate) page: usize,
    /// Items on a page.
    pub(crate) limit: usize,
    /// Items on all pages.
    pub(crate) total: usize,
    pub(crate) total_pages: usize,
}

/// One page of a list that is known whole.
#[derive(Debug, Serialize)]
pub(crate) struct Paged<T> {
    pub(crate) data: Vec<T>,
    pub(crate) pagination: Paging,
}

impl<T> Paged<T> {
    /// The page of this number.
    pub(crate) fn of(all: Vec<T>, page: usize, limit: usize) -> Self {
        let total = all.len();
        let data = all.into_iter().skip(page.saturating_sub(1).saturating_mul(limit)).take(limit).collect();
        Self { data, pagination: Paging { page, limit, total, total_pages: total.div_ceil(limit.max(1)) } }
    }
}
