//! The metrics of a scrape as messages of OTLP, under their names.
//!
//! Not by the instruments of the SDK. They count what they are given one by one, and there is none for a histogram whose
//! sums somebody keeps already; a second set of counters beside those of the views would begin anew with each start, and
//! sooner or later say something else. So the messages are made here, from what a scrape is made from.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use api::App;
use api::metrics::{Buckets, Family, Number, Pairs, Point, Points};
use flate2::Compression;
use flate2::write::GzEncoder;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, Protocol, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::metrics::data::ResourceMetrics as Nothing;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter as _;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use ureq::http::HeaderValue;

use super::client::{Client, Signal};

const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;

/// Sends metrics.
pub(super) struct Metrics {
    exporter: MetricExporter,
    message: Arc<Mutex<Bytes>>,
    resource: Resource,
    /// When counters began that are not kept, in nanoseconds since the epoch.
    since: u64,
}

impl Metrics {
    pub(super) fn new(endpoint: &str, resource: &opentelemetry_sdk::Resource) -> anyhow::Result<Self> {
        let message = Arc::<Mutex<Bytes>>::default();
        let client = Instead { client: Client::new(Signal::Metrics, endpoint)?, message: Arc::clone(&message) };
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/metrics"))
            .with_http_client(client)
            .build()
            .context("otlp-endpoint")?;
        let attributes = ResourceAttributesWithSchema::from(resource).attributes.0;
        let resource = Resource { attributes, ..Resource::default() };
        Ok(Self { exporter, message, resource, since: nanoseconds(SystemTime::now()) })
    }

    /// Sends them so often, and a last time at the end.
    pub(super) async fn send(self, app: Arc<App>, every: Duration, mut end: oneshot::Receiver<()>) {
        let this = Arc::new(self);
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_last = tokio::select! {
                _ = ticks.tick() => false,
                _ = &mut end => true,
            };
            // While the server starts there are none.
            if let Ok(families) = app.metrics().await {
                let (this, runtime) = (Arc::clone(&this), Handle::current());
                let (sent, is_sent) = oneshot::channel::<()>();
                // On a thread of its own, since the end of the server waits for those of the runtime.
                let sending = move || {
                    this.send_once(families, &runtime);
                    drop(sent);
                };
                if let Err(error) = std::thread::Builder::new().name("otlp-metrics".to_owned()).spawn(sending) {
                    tracing::warn!(%error, "the metrics are not sent this time");
                }
                let _ = is_sent.await;
            }
            if is_last {
                return;
            }
        }
    }

    /// Blocks.
    fn send_once(&self, families: Vec<Family>, runtime: &Handle) {
        *self.message.lock() = self.request(families, nanoseconds(SystemTime::now())).encode_to_vec().into();
        // What becomes of it the client has told.
        let _ = runtime.block_on(self.exporter.export(&Nothing::default()));
        // It may be many megabytes.
        *self.message.lock() = Bytes::new();
    }

    fn request(&self, families: Vec<Family>, now: u64) -> ExportMetricsServiceRequest {
        let metrics = families.into_iter().filter_map(|family| metric(family, self.since, now)).collect();
        let scope = InstrumentationScope {
            name: "forebay".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let metrics = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
        let resource = Some(self.resource.clone());
        let all = ResourceMetrics { resource, scope_metrics: vec![metrics], ..ResourceMetrics::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![all] }
    }
}

/// Sends the message in place of the one that the exporter made. Its metrics are of a type that the SDK's instruments
/// alone can make, so it is given none; all else is its business: address, headers, attempts, as the variables say.
#[derive(Debug)]
struct Instead {
    client: Client,
    message: Arc<Mutex<Bytes>>,
}

#[async_trait::async_trait]
impl HttpClient for Instead {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, _) = request.into_parts();
        let message = self.message.lock().clone();
        let message = match parts.headers.get("content-encoding").map(HeaderValue::as_bytes) {
            Some(b"gzip") => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&message)?;
                encoder.finish()?.into()
            }
            Some(b"zstd") => zstd::encode_all(&*message, zstd::DEFAULT_COMPRESSION_LEVEL)?.into(),
            _ => message,
        };
        self.client.send(Request::from_parts(parts, message))
    }
}

/// A metric without any value has nothing to tell.
fn metric(family: Family, since: u64, now: u64) -> Option<Metric> {
    // That a counter begins later than it was last told of would say that it began anew. When one began that is kept is
    // not known, and zero says so.
    let since = if family.is_kept { 0 } else { since };
    let data = match family.points {
        Points::Counter(points) | Points::Gauge(points) if points.is_empty() => return None,
        Points::Histogram(points) if points.is_empty() => return None,
        Points::Counter(points) => Data::Sum(Sum {
            data_points: points.into_iter().map(|point| number(point, since, now)).collect(),
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }),
        Points::Gauge(points) => {
            Data::Gauge(Gauge { data_points: points.into_iter().map(|point| number(point, 0, now)).collect() })
        }
        Points::Histogram(points) => Data::Histogram(Histogram {
            data_points: points.into_iter().map(|buckets| histogram(buckets, since, now)).collect(),
            aggregation_temporality: CUMULATIVE,
        }),
    };
    // As UCUM writes them.
    let unit = match family.unit {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "",
    };
    Some(Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn number(point: Point, since: u64, now: u64) -> NumberDataPoint {
    let value = match point.value {
        Number::Whole(number) => number_data_point::Value::AsInt(i64::try_from(number).unwrap_or(i64::MAX)),
        Number::Real(number) => number_data_point::Value::AsDouble(number),
    };
    NumberDataPoint {
        attributes: attributes(point.labels),
        start_time_unix_nano: since,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn histogram(buckets: Buckets, since: u64, now: u64) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: attributes(buckets.labels),
        start_time_unix_nano: since,
        time_unix_nano: now,
        count: buckets.counts.iter().sum(),
        sum: Some(buckets.sum),
        bucket_counts: buckets.counts,
        explicit_bounds: buckets.bounds,
        ..HistogramDataPoint::default()
    }
}

fn attributes(labels: Pairs) -> Vec<KeyValue> {
    let attribute = |(name, value): (&str, String)| KeyValue {
        key: name.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
        ..KeyValue::default()
    };
    labels.into_iter().map(attribute).collect()
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}
