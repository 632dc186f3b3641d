//! Metrics as numbers, for who sends them elsewhere: the same that a scrape has, told by the same code.

use super::names::{Kind, Metric};
use super::sink::{Distribution, Labels, Number, Sink};

/// Names and values of labels, in the order of the text.
pub type Pairs = Vec<(&'static str, String)>;

/// A metric with all that a scrape has of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// As the text has it: a counter ends with `_total`.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// `seconds` or `bytes`, where its name says so too.
    pub unit: Option<&'static str>,
    /// Whether a counter or histogram is kept, so that it goes on where it was when the server starts again; others
    /// begin with the process.
    pub is_kept: bool,
    /// Its values.
    pub points: Points,
}

/// The values of a metric, by its type.
#[derive(Clone, Debug, PartialEq)]
pub enum Points {
    /// Sums that only go up.
    Counter(Vec<Point>),
    /// Numbers that go up and down.
    Gauge(Vec<Point>),
    /// How many values lay below which bounds.
    Histogram(Vec<Buckets>),
}

/// A number.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Which one.
    pub labels: Pairs,
    /// Its value now.
    pub value: Number,
}

/// The numbers of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Buckets {
    /// Which one.
    pub labels: Pairs,
    /// Upper bounds, in seconds; a value that equals one is below it.
    pub bounds: Vec<f64>,
    /// How many values lay between a bound and the one before it, and at last above all of them.
    pub counts: Vec<u64>,
    /// The sum of all values, in seconds.
    pub sum: f64,
}

/// The families, as they come.
#[derive(Default)]
pub(super) struct Families(pub(super) Vec<Family>);

impl Sink for Families {
    fn metric(&mut self, metric: &'static Metric) {
        let Metric { name, kind, unit, help, is_kept } = *metric;
        let points = match kind {
            Kind::Counter => Points::Counter(Vec::new()),
            Kind::Gauge => Points::Gauge(Vec::new()),
            Kind::Histogram => Points::Histogram(Vec::new()),
        };
        self.0.push(Family { name, help, unit, is_kept, points });
    }

    fn sample(&mut self, labels: &Labels, value: Number) {
        if let Some(Points::Counter(points) | Points::Gauge(points)) = self.last() {
            points.push(Point { labels: labels.pairs().to_vec(), value });
        }
    }

    fn histogram(&mut self, labels: &Labels, values: &Distribution<'_>) {
        if let Some(Points::Histogram(points)) = self.last() {
            let bounds = values.bounds.iter().map(|bound| Distribution::seconds(*bound)).collect();
            let (labels, counts) = (labels.pairs().to_vec(), values.buckets.to_vec());
            points.push(Buckets { labels, bounds, counts, sum: values.sum });
        }
    }
}

impl Families {
    fn last(&mut self) -> Option<&mut Points> {
        self.0.last_mut().map(|family| &mut family.points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names::{HTTP_DURATION, HTTP_REQUESTS, LAG_SECONDS, TASK_SENT};

    #[test]
    fn what_is_told_as_numbers_is_what_is_told_as_text() {
        let mut families = Families::default();
        let sink: &mut dyn Sink = &mut families;
        sink.one(&LAG_SECONDS, 0.25);
        sink.of(&HTTP_REQUESTS).add(&Labels::of(&[("endpoint", "a\"b\\c\nd"), ("status", "200")]), 7_u64);
        sink.of(&TASK_SENT);
        let at = Labels::of(&[("endpoint", "x")]);
        sink.of(&HTTP_DURATION).histogram(&at, &[5, 1_000], &[2, 0, 1], 12.5);
        let [lag, requests, sent, durations] = &*families.0 else { panic!("{:?}", families.0) };
        assert_eq!((lag.name, lag.unit, lag.is_kept), ("forebay_projector_lag_seconds", Some("seconds"), false));
        assert_eq!(lag.points, Points::Gauge(vec![Point { labels: vec![], value: Number::Real(0.25) }]));
        let labels = vec![("endpoint", "a\"b\\c\nd".to_owned()), ("status", "200".to_owned())];
        assert_eq!(requests.points, Points::Counter(vec![Point { labels, value: Number::Whole(7) }]));
        assert_eq!((sent.is_kept, &sent.points), (true, &Points::Counter(vec![])));
        let (labels, bounds) = (vec![("endpoint", "x".to_owned())], vec![0.005, 1.0]);
        let buckets = Buckets { labels, bounds, counts: vec![2, 0, 1], sum: 12.5 };
        assert_eq!(durations.points, Points::Histogram(vec![buckets]));
    }
}
