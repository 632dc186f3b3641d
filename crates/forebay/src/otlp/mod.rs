//! Traces and metrics for a receiver of OpenTelemetry, over OTLP as HTTP with protobuf.
//!
//! # Layout
//! - [`Telemetry`]: what the settings and the standard `OTEL_*` variables say, before there is anything to tell of;
//!   [`Running`]: afterwards
//! - `client`: how anything is sent, and what is said of a receiver that does not take it
//! - `metrics`: the metrics of a scrape as messages of OTLP
//!
//! # Invariants
//! - Nobody waits for the receiver: spans wait in a queue of bounded length, which drops what does not fit; metrics are
//!   sent by a task of their own.
//! - A receiver that is away is told of once, and once more when it is back.

mod client;
mod metrics;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::App;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::FilterFn;
use ureq::http::{HeaderMap, HeaderName};
use uuid::Uuid;

use self::client::{Client, Signal};
use self::metrics::Metrics;
use crate::config::{ServeConfig, variable};
use crate::logging::Traces;

/// Between two looks at the metrics, unless `OTEL_METRIC_EXPORT_INTERVAL` says otherwise.
const METRICS_EVERY: Duration = Duration::from_secs(60);
/// For the last metrics and for the last spans, when the server stops.
const LAST_TIME: Duration = Duration::from_secs(1);
/// As much of a header is taken for what it may be; spans keep it while they wait.
const HEADER_BYTES: usize = 512;
/// Whose spans are sent.
const OURS: [&str; 7] = ["alerts", "api", "event_log", "forebay", "projector", "sources", "views"];

/// What is to be sent where.
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<Metrics>,
    every: Duration,
    /// Whether `OTEL_SDK_DISABLED` forbids it all.
    is_disabled: bool,
}

impl Telemetry {
    /// What the settings ask for.
    pub(crate) fn of(config: &ServeConfig) -> anyhow::Result<Option<Self>> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        if variable("OTEL_SDK_DISABLED")?.is_some_and(|value| value.trim().eq_ignore_ascii_case("true")) {
            return Ok(Some(Self { traces: None, metrics: None, every: METRICS_EVERY, is_disabled: true }));
        }
        let resource = resource(&config.stack.data_dir)?;
        let traces = if is_wanted("OTEL_TRACES_EXPORTER")? { Some(traces(endpoint, &resource)?) } else { None };
        let metrics = if is_wanted("OTEL_METRICS_EXPORTER")? { Some(Metrics::new(endpoint, &resource)?) } else { None };
        let every = milliseconds("OTEL_METRIC_EXPORT_INTERVAL")?.unwrap_or(METRICS_EVERY);
        Ok(Some(Self { traces, metrics, every, is_disabled: false }))
    }

    /// What takes the spans.
    pub(crate) fn layer(&self) -> Option<Traces> {
        let tracer: SdkTracer = self.traces.as_ref()?.tracer("forebay");
        let layer = tracing_opentelemetry::layer().with_tracer(tracer);
        let layer = layer.with_location(false).with_threads(false).with_context_activation(false);
        // Apart from what the log shows: no trace needs `debug`, and none is lost to `warn`.
        Some(layer.with_filter(FilterFn::new(is_traced).with_max_level_hint(LevelFilter::INFO)).boxed())
    }

    /// Begins to tell of this server. Within a tokio runtime.
    pub(crate) fn begin(self, app: &Arc<App>) -> Running {
        if self.is_disabled {
            tracing::info!("OTEL_SDK_DISABLED is true: neither traces nor metrics are sent");
        }
        if self.traces.is_some() {
            let propagator = TraceContextPropagator::new();
            app.trace_requests(Box::new(move |span, headers| adopt(&propagator, span, headers)));
        }
        let (stop, stopped) = oneshot::channel();
        let metrics = self.metrics.map(|metrics| tokio::spawn(metrics.send(Arc::clone(app), self.every, stopped)));
        Running { traces: self.traces, metrics, stop }
    }
}

/// What is being sent.
pub(crate) struct Running {
    traces: Option<SdkTracerProvider>,
    metrics: Option<JoinHandle<()>>,
    stop: oneshot::Sender<()>,
}

/// What is left to be sent when the parts are closed.
pub(crate) struct Last(Option<SdkTracerProvider>);

impl Running {
    /// Sends the last metrics, while the parts are open that they tell of.
    pub(crate) async fn stop(self) -> Last {
        drop(self.stop);
        if let Some(metrics) = self.metrics {
            let _ = tokio::time::timeout(LAST_TIME, metrics).await;
        }
        Last(self.traces)
    }
}

impl Last {
    /// Sends the last spans.
    pub(crate) async fn send(self) {
        if let Some(traces) = self.0 {
            let _ = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(LAST_TIME)).await;
        }
    }
}

fn traces(endpoint: &str, resource: &Resource) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{endpoint}/v1/traces"))
        .with_http_client(Client::new(Signal::Traces, endpoint)?)
        .build()
        .context("otlp-endpoint")?;
    // How many wait, how often they are sent and which are sampled is said by `OTEL_BSP_…` and `OTEL_TRACES_SAMPLER`.
    Ok(SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(exporter).build())
}

/// Who tells. What `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say wins.
fn resource(data_dir: &Path) -> anyhow::Result<Resource> {
    // Of one node the same after each start, or its counters would be those of another; of each node another.
    let place = std::path::absolute(data_dir).context("cannot tell where the data directory is")?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let node = Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("forebay://{host}{}", place.display()).as_bytes());
    let ours = [
        KeyValue::new("service.name", "forebay"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", node.to_string()),
        KeyValue::new("host.name", host),
    ];
    let said = Resource::builder().build();
    let said = said.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    // Where nobody names the service, the SDK makes up a name of its own.
    let said =
        said.filter(|said| said.key.as_str() != "service.name" || !said.value.as_str().starts_with("unknown_service"));
    Ok(Resource::builder_empty().with_attributes(ours).with_attributes(said).build())
}

/// `OTEL_TRACES_EXPORTER` and its like choose one of several ways, of which this is one; `none` is none of them.
fn is_wanted(name: &str) -> anyhow::Result<bool> {
    let chosen = variable(name)?;
    Ok(chosen.is_none_or(|chosen| chosen.split(',').any(|way| way.trim() == "otlp")))
}

fn milliseconds(name: &str) -> anyhow::Result<Option<Duration>> {
    let Some(text) = variable(name)? else { return Ok(None) };
    let number: Option<u64> = text.trim().parse().ok().filter(|number| *number > 0);
    let number = number.with_context(|| format!("{name} must be a number of milliseconds, 1 or more"))?;
    Ok(Some(Duration::from_millis(number)))
}

/// Spans of ours, and what went wrong within them.
fn is_traced(about: &Metadata<'_>) -> bool {
    let part = about.target().split("::").next().unwrap_or_default();
    let least = if about.is_span() { Level::INFO } else { Level::WARN };
    *about.level() <= least && OURS.contains(&part)
}

/// Puts the span of a request below the one that its `traceparent` names.
fn adopt(propagator: &TraceContextPropagator, span: &Span, headers: &HeaderMap) {
    let parent = propagator.extract_with_context(&Context::new(), &Short(headers));
    if parent.span().span_context().is_valid() {
        // Fails where the span is not traced.
        let _ = span.set_parent(parent);
    }
}

/// The headers of a request that are no longer than they need be.
struct Short<'a>(&'a HeaderMap);

impl Extractor for Short<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok()).filter(|value| value.len() <= HEADER_BYTES)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
