//! What lists of things that are known whole may be asked: pages, ranges of time, an order.

use std::cmp::Ordering;

use views::{Range, SortOrder};

use super::kinds::{Choice, Integer};
use super::{Defaulted, Param};

/// Beyond this there is no page of anything.
const PAGES: u64 = 1_000_000;

pub(crate) const PAGE: Defaulted<Integer> =
    Param::new("page", Integer::between(1, PAGES), "Which page; the first one is 1.").or(1);
pub(crate) const LIMIT: Defaulted<Integer> =
    Param::new("limit", Integer::between(1, 100), "How many on a page at most.").or(50);
pub(crate) const TIME_RANGE: Defaulted<Choice<Range>> = Param::new(
    "timeRange",
    Choice(&[("1h", Range::Hour), ("6h", Range::SixHours), ("24h", Range::Day), ("7d", Range::Week)]),
    "Of which time: so many whole buckets (60 of a minute, 72 of five, 24 or 168 of an hour), of which the last one is \
     under way.",
)
.or(Range::Day);
/// Of lists that go up where nothing else is asked for.
pub(crate) const SORT_ORDER: Defaulted<Choice<SortOrder>> = Param::new(
    "sortOrder",
    Choice(&[("asc", SortOrder::Ascending), ("desc", SortOrder::Descending)]),
    "Which way: the smallest first, or the largest. What has no value comes last, whatever the order.",
)
.or(SortOrder::Ascending);

/// Compares two values in an order; what has none comes last.
pub(crate) fn ordered<T: PartialOrd>(a: Option<T>, b: Option<T>, order: SortOrder) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => {
            let compared = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
            if order == SortOrder::Descending { compared.reverse() } else { compared }
        }
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}
