//! Metrics as text, in the two formats that Prometheus reads.
//!
//! Not by a crate: `prometheus-client` writes the newer format alone and `prometheus` the older format alone, and both want to
//! hold what they tell. What is told here is read out of the views, tens of thousands of lines at once, and needs to be
//! written once and in both.

use std::fmt::Write as _;

use super::names::{Kind, Metric};
use super::sink::{Distribution, Labels, Number, Sink};

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

/// The text, as it grows.
pub(super) struct Text {
    written: String,
    format: Format,
    /// The metric of which samples come.
    name: &'static str,
}

impl Text {
    pub(super) fn new(format: Format) -> Self {
        Self { written: String::new(), format, name: "" }
    }

    pub(super) fn finish(mut self) -> String {
        if self.format == Format::Open {
            self.written.push_str("# EOF\n");
        }
        self.written
    }

    fn line(&mut self, suffix: &str, labels: &Labels, bound: Option<f64>, value: Number) {
        let (text, labels) = (&mut self.written, labels.written());
        text.push_str(self.name);
        text.push_str(suffix);
        if !labels.is_empty() || bound.is_some() {
            text.push('{');
            text.push_str(labels);
            if let Some(bound) = bound {
                text.push_str(if labels.is_empty() { "le=\"" } else { ",le=\"" });
                write_real(text, bound);
                text.push('"');
            }
            text.push('}');
        }
        text.push(' ');
        match value {
            Number::Whole(number) => {
                let _ = write!(text, "{number}");
            }
            Number::Real(number) => write_real(text, number),
        }
        text.push('\n');
    }
}

impl Sink for Text {
    fn metric(&mut self, metric: &'static Metric) {
        let Metric { name, kind, unit, help, .. } = *metric;
        self.name = name;
        let (text, name) = (&mut self.written, if self.format == Format::Open { family(name, kind) } else { name });
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        if let Some(unit) = unit.filter(|_| self.format == Format::Open) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
    }

    fn sample(&mut self, labels: &Labels, value: Number) {
        self.line("", labels, None, value);
    }

    fn histogram(&mut self, labels: &Labels, values: &Distribution<'_>) {
        let mut count = 0;
        for (place, bucket) in values.buckets.iter().enumerate() {
            count += bucket;
            let bound = values.bounds.get(place).map_or(f64::INFINITY, |bound| Distribution::seconds(*bound));
            self.line("_bucket", labels, Some(bound), Number::Whole(count));
        }
        self.line("_count", labels, None, Number::Whole(count));
        self.line("_sum", labels, None, Number::Real(values.sum));
    }
}

fn write_real(text: &mut String, number: f64) {
    if number.is_finite() {
        let _ = write!(text, "{number:?}");
    } else {
        text.push_str(if number.is_nan() {
            "NaN"
        } else if number > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        });
    }
}

/// What `OpenMetrics` calls a metric.
fn family(name: &'static str, kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
        Kind::Gauge | Kind::Histogram => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::names::{HTTP_DURATION, HTTP_REQUESTS, LAG_SECONDS};

    fn written(format: Format) -> String {
        let mut text = Text::new(format);
        let sink: &mut dyn Sink = &mut text;
        sink.one(&LAG_SECONDS, 0.25);
        sink.of(&HTTP_REQUESTS).add(&Labels::of(&[("endpoint", "a\"b\\c\nd"), ("status", "200")]), 7_u64);
        let at = Labels::of(&[("endpoint", "x")]);
        sink.of(&HTTP_DURATION).histogram(&at, &[5, 1_000], &[2, 0, 1], 12.5);
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
            write_real(&mut written, number);
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
