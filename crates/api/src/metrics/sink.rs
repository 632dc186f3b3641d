//! Where metrics are told: what tells them need not know who asks, Prometheus for a text or an exporter for numbers.

use super::names::Metric;

/// Takes what is told.
pub(super) trait Sink {
    /// A metric, of which all samples follow.
    fn metric(&mut self, metric: &'static Metric);
    /// A sample of the metric before.
    fn sample(&mut self, labels: &Labels, value: Number);
    /// Values of the metric before, which is a histogram.
    fn histogram(&mut self, labels: &Labels, values: &Distribution<'_>);
}

/// A number as it is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole one.
    Whole(u64),
    /// Any other.
    Real(f64),
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Number {
    fn from(is_so: bool) -> Self {
        Self::Whole(is_so.into())
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

/// How many values lay between one bound and the one before it, and above all of them.
pub(super) struct Distribution<'a> {
    /// In milliseconds.
    pub(super) bounds: &'a [u64],
    /// One more than there are bounds.
    pub(super) buckets: &'a [u64],
    /// Of the values, in seconds.
    pub(super) sum: f64,
}

impl Distribution<'_> {
    /// A bound in seconds, which is how it is told.
    pub(super) fn seconds(bound: u64) -> f64 {
        bound as f64 / 1e3
    }
}

/// The labels of a sample: as they are, and as they are written, since the same ones are written many times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    pairs: Vec<(&'static str, String)>,
    written: String,
}

impl Labels {
    pub(super) fn of(labels: &[(&'static str, &str)]) -> Self {
        let mut all = Self::default();
        for (name, value) in labels {
            all.add(name, value);
        }
        all
    }

    /// One more.
    pub(super) fn and(&self, name: &'static str, value: &str) -> Self {
        let mut all = self.clone();
        all.add(name, value);
        all
    }

    /// Names and values.
    pub(super) fn pairs(&self) -> &[(&'static str, String)] {
        &self.pairs
    }

    /// As both formats of text have them.
    pub(super) fn written(&self) -> &str {
        &self.written
    }

    fn add(&mut self, name: &'static str, value: &str) {
        self.pairs.push((name, value.to_owned()));
        let text = &mut self.written;
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
}

impl dyn Sink + '_ {
    /// Declares a metric, of which all samples follow.
    pub(super) fn of(&mut self, metric: &'static Metric) -> Samples<'_> {
        self.metric(metric);
        Samples(self)
    }

    /// A metric with one sample.
    pub(super) fn one(&mut self, metric: &'static Metric, value: impl Into<Number>) {
        self.of(metric).add(&Labels::default(), value);
    }
}

/// The samples of one metric.
pub(super) struct Samples<'a>(&'a mut (dyn Sink + 'a));

impl Samples<'_> {
    pub(super) fn add(&mut self, labels: &Labels, value: impl Into<Number>) {
        self.0.sample(labels, value.into());
    }

    pub(super) fn all<'a, N: Into<Number>>(&mut self, samples: impl Iterator<Item = (&'a Labels, N)>) {
        for (labels, value) in samples {
            self.add(labels, value);
        }
    }

    /// A histogram: bounds in milliseconds, how many values lay between one and the one before it and above all of them,
    /// and the sum of the values in seconds.
    pub(super) fn histogram(&mut self, labels: &Labels, bounds: &[u64], buckets: &[u64], sum: f64) {
        self.0.histogram(labels, &Distribution { bounds, buckets, sum });
    }
}
