//! Spans of time that can be asked for, and the buckets that they are told in.

use std::fmt;
use std::str::FromStr;

use proto_events::Timestamp;

use super::cells::{HOUR, MINUTE};

/// The last hour, six hours, day or week: so many whole buckets, of which the last one is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Range {
    /// 60 minutes.
    Hour,
    /// 72 times five minutes.
    SixHours,
    /// 24 hours.
    #[default]
    Day,
    /// 168 hours.
    Week,
}

/// There are the ranges 1h, 6h, 24h and 7d.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of 1h, 6h, 24h, 7d")]
pub struct UnknownRange;

impl Range {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Hour, Self::SixHours, Self::Day, Self::Week];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "1h",
            Self::SixHours => "6h",
            Self::Day => "24h",
            Self::Week => "7d",
        }
    }

    /// How many buckets it has, and how many milliseconds each takes.
    pub(super) const fn buckets(self) -> (i64, i64) {
        match self {
            Self::Hour => (60, MINUTE),
            Self::SixHours => (72, 5 * MINUTE),
            Self::Day => (24, HOUR),
            Self::Week => (168, HOUR),
        }
    }

    /// Seconds in all.
    pub(super) fn seconds(self) -> f64 {
        let (count, width) = self.buckets();
        (count * width / 1_000) as f64
    }

    /// The buckets at this time, the oldest first.
    pub(super) fn spans(self, now: Timestamp) -> impl DoubleEndedIterator<Item = Span> + Clone {
        let (count, width) = self.buckets();
        let last = now.millis().div_euclid(width);
        (last - count + 1..=last).map(move |number| Span { start: number * width, end: (number + 1) * width })
    }

    /// The same in parts of several buckets, for many small plots.
    pub(super) fn parts(self, now: Timestamp) -> impl Iterator<Item = Span> + Clone {
        let together = match self {
            Self::Hour => 5,
            Self::SixHours => 3,
            Self::Day => 1,
            Self::Week => 6,
        };
        let Span { start, end } = self.span(now);
        let (_, width) = self.buckets();
        let part = width * together;
        (0..(end - start) / part)
            .map(move |number| Span { start: start + number * part, end: start + (number + 1) * part })
    }

    /// The whole of it.
    pub fn span(self, now: Timestamp) -> Span {
        let (count, width) = self.buckets();
        let end = (now.millis().div_euclid(width) + 1) * width;
        Span { start: end - count * width, end }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Range {
    type Err = UnknownRange;

    fn from_str(text: &str) -> Result<Self, UnknownRange> {
        Self::ALL.into_iter().find(|range| range.as_str() == text).ok_or(UnknownRange)
    }
}

/// A span of time in milliseconds since the epoch, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Span {
    /// Its first moment.
    pub fn start(self) -> Timestamp {
        Timestamp(self.start * 1_000)
    }

    /// The first moment after it.
    pub fn end(self) -> Timestamp {
        Timestamp(self.end * 1_000)
    }
}
