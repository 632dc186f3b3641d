//! Metrics as text, in the two formats that Prometheus reads.
//!
//! Not by a crate: `prometheus-client` writes the newer format alone and `prometheus` the older format alone, and both want to
//! hold what they tell. What is told here is read out of the views, tens of thousands of lines at once, and needs to be
//! written once and in both.

use std::fmt::Write as _;

use super::names::{Kind, Metric};

/// Which format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// What Prometheus has always read: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
    Plain,
    /// `OpenMetrics` 1.0.
    Open,
}

impl Format {
    /// What somebody wants who accepts this.
    pub(super) fn wanted(accept: &str) -> Self {
        let is_open = |range: &str| {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let refused =
                parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty()));
            kind.eq_ignore_ascii_case("application/openmetrics-text") && !refused
        };
        if accept.split(',').any(is_open) { Self::Open } else { Self::Plain }
    }

    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Plain => "text/plain; version=0.0.4; charset=utf-8",
            Self::Open => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The labels of a sample, as they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels(String);

impl Labels {
    pub(super) fn of(labels: &[(&str, &str)]) -> Self {
        let mut text = Self::default();
        for (name, value) in labels {
            text.add(name, value);
        }
        text
    }

    /// One more.
    pub(super) fn and(&self, name: &str, value: &str) -> Self {
        let mut text = self.clone();
        text.add(name, value);
        text
    }

    fn add(&mut self, name: &str, value: &str) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }
}

/// A number as it is written.
pub(super) trait Number: Copy {
    fn write(self, text: &mut String);
}

impl Number for u64 {
    fn write(self, text: &mut String) {
        let _ = write!(text, "{self}");
    }
}

impl Number for usize {
    fn write(self, text: &mut String) {
        let _ = write!(text, "{self}");
    }
}

impl Number for bool {
    fn write(self, text: &mut String) {
        text.push(if self { '1' } else { '0' });
    }
}

impl Number for f64 {
    fn write(self, text: &mut String) {
        if self.is_finite() {
            let _ = write!(text, "{self:?}");
        } else {
            text.push_str(if self.is_nan() {
                "NaN"
            } else if self > 0.0 {
                "+Inf"
            } else {
                "-Inf"
            });
        }
    }
}

/// The text, as it grows.
pub(super) struct Text {
    text: String,
    format: Format,
}

impl Text {
    pub(super) fn new(format: Format) -> Self {
        Self { text: String::new(), format }
    }

    /// Declares a metric, of which all samples follow.
    pub(super) fn metric(&mut self, metric: &'static Metric) -> Samples<'_> {
        let Metric { name, kind, unit, help } = *metric;
        let (text, name) = (&mut self.text, if self.format == Format::Open { family(name, kind) } else { name });
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        if let Some(unit) = unit.filter(|_| self.format == Format::Open) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
        Samples { text, metric }
    }

    /// A metric with one sample.
    pub(super) fn one(&mut self, metric: &'static Metric, value: impl Number) {
        self.metric(metric).add(&Labels::default(), value);
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::Open {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// What `OpenMetrics` calls a metric.
fn family(name: &'static str, kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
        Kind::Gauge | Kind::Histogram => name,
    }
}

/// The samples of one metric.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    metric: &'static Metric,
}

impl Samples<'_> {
    pub(super) fn add(&mut self, labels: &Labels, value: impl Number) {
        self.sample("", labels, None, value);
    }

    pub(super) fn all<'a, N: Number>(&mut self, samples: impl Iterator<Item = (&'a Labels, N)>) {
        for (labels, value) in samples {
            self.add(labels, value);
        }
    }

    /// A histogram: bounds in milliseconds, how many values lay between one and the one before it and above all of them,
    /// and the sum of the values in seconds.
    pub(super) fn histogram(&mut self, labels: &Labels, bounds: &[u64], buckets: &[u64], sum: f64) {
        let mut count = 0;
        for (place, bucket) in buckets.iter().enumerate() {
            count += bucket;
            let bound = bounds.get(place).map_or(f64::INFINITY, |ms| *ms as f64 / 1e3);
            self.sample("_bucket", labels, Some(bound), count);
        }
        self.sample("_count", labels, None, count);
        self.sample("_sum", labels, None, sum);
    }

    fn sample(&mut self, suffix: &str, Labels(labels): &Labels, bound: Option<f64>, value: impl Number) {
        let text = &mut *self.text;
        text.push_str(self.metric.name);
        text.push_str(suffix);
        if !labels.is_empty() || bound.is_some() {
            text.push('{');
            text.push_str(labels);
            if let Some(bound) = bound {
                text.push_str(if labels.is_empty() { "le=\"" } else { ",le=\"" });
                bound.write(text);
                text.push('"');
            }
            text.push('}');
        }
        text.push(' ');
        value.write(text);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names::{HTTP_DURATION, HTTP_REQUESTS, LAG_SECONDS};

    fn written(format: Format) -> String {
        let mut text = Text::new(format);
        text.one(&LAG_SECONDS, 0.25);
        text.metric(&HTTP_REQUESTS).add(&Labels::of(&[("endpoint", "a\"b\\c\nd"), ("status", "200")]), 7_u64);
        let at = Labels::of(&[("endpoint", "x")]);
        text.metric(&HTTP_DURATION).histogram(&at, &[5, 1_000], &[2, 0, 1], 12.5);
        text.finish()
    }

    #[test]
    fn both_formats_are_written_as_they_are_specified() {
        let plain = "\
# HELP forebay_projector_lag_seconds Age of the oldest of them.
# TYPE forebay_projector_lag_seconds gauge
forebay_projector_lag_seconds 0.25
# HELP forebay_http_requests_total Requests that were answered.
# TYPE forebay_http_requests_total counter
forebay_http_requests_total{endpoint=\"a\\\"b\\\\c\\nd\",status=\"200\"} 7
# HELP forebay_http_request_duration_seconds How long it took to answer them, without sending the answer.
# TYPE forebay_http_request_duration_seconds histogram
forebay_http_request_duration_seconds_bucket{endpoint=\"x\",le=\"0.005\"} 2
forebay_http_request_duration_seconds_bucket{endpoint=\"x\",le=\"1.0\"} 2
forebay_http_request_duration_seconds_bucket{endpoint=\"x\",le=\"+Inf\"} 3
forebay_http_request_duration_seconds_count{endpoint=\"x\"} 3
forebay_http_request_duration_seconds_sum{endpoint=\"x\"} 12.5
";
        assert_eq!(written(Format::Plain), plain);
        let open = written(Format::Open);
        assert!(open.contains("# TYPE forebay_http_requests counter\nforebay_http_requests_total{"), "{open}");
        assert!(open.contains("# UNIT forebay_projector_lag_seconds seconds\n"), "{open}");
        assert!(open.ends_with("12.5\n# EOF\n"), "{open}");
        for (number, text) in [(f64::NAN, "NaN"), (f64::INFINITY, "+Inf"), (f64::NEG_INFINITY, "-Inf"), (3.0, "3.0")] {
            let mut written = String::new();
            number.write(&mut written);
            assert_eq!(written, text);
        }
    }

    #[test]
    fn who_accepts_openmetrics_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::wanted(prometheus), Format::Open);
        for other in ["", "*/*", "text/plain", "application/json, text/*", "application/openmetrics-text;q=0"] {
            assert_eq!(Format::wanted(other), Format::Plain, "{other}");
        }
    }
}
