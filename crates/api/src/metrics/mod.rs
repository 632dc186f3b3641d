//! `GET /metrics`: for Prometheus. What celery-exporter tells, under its names; and how Forebay itself is.
//!
//! # Layout
//! - `names`: every metric
//! - `sink`: where they are told; `text`: as text for Prometheus; [`Family`]: as numbers, for who sends them elsewhere
//!   (`families`)
//! - `tasks`: the family of celery-exporter; `server`: Forebay's own; `process`: what the process takes
//! - [`Requests`], [`Ingested`]: counted as requests are answered (`requests`)
//!
//! Nothing here reads through the jobs: the counters are sums that the views keep, beside those of what the log has
//! forgotten.

mod families;
mod names;
mod process;
mod requests;
mod server;
mod sink;
mod tasks;
mod text;

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use event_log::LogInfo;
use flate2::Compression;
use flate2::write::GzEncoder;
use uuid::Uuid;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use self::families::Families;
use self::sink::Sink;
use self::tasks::Present;
use self::text::{Format, Text};
use crate::app::{App, Parts};
use crate::errors::{ApiError, wrong_method};
use crate::http::Call;
use crate::operation::{Access, Answer, Operation, READ_ERRORS};
use crate::params;
use crate::times::now;

pub use self::families::{Buckets, Family, Pairs, Point, Points};
pub(crate) use self::requests::{Ingested, Requests};
pub use self::sink::Number;

/// Where it is: beside the API, where Prometheus looks for it.
pub(crate) const PATH: &str = "/metrics";
/// Who asks for metrics does not wait for a log that does not answer.
const LOG_TIME: Duration = Duration::from_secs(2);
/// A text of so many bytes is compressed for who takes that.
const COMPRESS_FROM: usize = 16 * 1_024;

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "In the format that Prometheus has always read, or in OpenMetrics where `Accept` names that. While what the \
            log held at the start is not applied yet, there is nothing of jobs in it.",
    answers: &[
        Answer::of::<String>(StatusCode::OK, "The metrics.", Format::Plain.content_type()),
        Answer::of::<String>(StatusCode::OK, "The metrics.", Format::Open.content_type()),
    ],
    errors: READ_ERRORS,
    ..Operation::get(PATH, "getMetrics", "server", "Metrics for Prometheus", Access::Reader)
}];

/// The names of connections; a connection that is gone is told by its id.
pub(crate) struct Names(HashMap<Uuid, String>);

impl Names {
    fn new(parts: &Parts) -> Self {
        Self(parts.connections.list().into_iter().map(|it| (it.id, it.name)).collect())
    }

    fn of(&self, id: Uuid) -> String {
        self.0.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}

pub(crate) async fn get(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    app.auth.require(&call)?;
    params::none(&call.query)?;
    let accepted = |name: header::HeaderName| accepted(&call.headers, &name);
    let format = Format::wanted(&accepted(header::ACCEPT));
    let is_gzipped = takes_gzip(&accepted(header::ACCEPT_ENCODING));
    let written = alone(&app, move |app, info| {
        let mut text = Text::new(format);
        tell(&mut text, app, info)?;
        let text = text.finish().into_bytes();
        let compress = is_gzipped && text.len() >= COMPRESS_FROM;
        Ok(if compress { (gzipped(&text)?, true) } else { (text, false) })
    });
    let (body, is_compressed) = written.await?;
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

impl App {
    /// The metrics as numbers, as a scrape would have them now.
    ///
    /// # Errors
    /// While the log and the views are being opened there are none.
    pub async fn metrics(self: &Arc<Self>) -> Result<Vec<Family>, ApiError> {
        alone(self, |app, info| {
            let mut families = Families::default();
            tell(&mut families, app, info)?;
            Ok(families.0)
        })
        .await
    }
}

/// Does so with what the log says now, on a thread that may block. What is told may be large, and one after the other is
/// soon enough.
async fn alone<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&App, Option<LogInfo>) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let parts = app.parts()?;
    let asking = tokio::time::timeout(LOG_TIME, parts.log.info());
    let info = if parts.log.connected() { asking.await.ok().and_then(Result::ok) } else { None };
    let (alone, app) = (Arc::clone(&app.scrape).lock_owned().await, Arc::clone(app));
    let worked = tokio::task::spawn_blocking(move || {
        // Also when nobody waits for it any more.
        let _alone = alone;
        work(&app, info)
    });
    worked.await.map_err(ApiError::internal)?
}

/// Tells all of them. Blocks.
fn tell(to: &mut dyn Sink, app: &App, info: Option<LogInfo>) -> Result<(), ApiError> {
    let parts = app.parts()?;
    let names = Names::new(parts);
    if app.is_caught_up(parts) {
        let reader = &parts.reader;
        tasks::counters(to, &reader.lifetime(), &names);
        let live = parts.projector.live();
        let (workers, queues) = (live.workers().rows, live.queues().rows);
        let (load, rates) = (reader.load(None), reader.worker_rates(None, now()));
        Present { workers, queues, load, rates, now: now() }.tell(to, &names);
        server::tell_jobs(to, reader, &app.habits.signs(reader)).map_err(ApiError::internal)?;
    }
    server::tell(to, app, parts, info, &names);
    Ok(())
}

/// What a client accepts, in however many headers.
fn accepted(headers: &HeaderMap, name: &header::HeaderName) -> String {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.collect::<Vec<_>>().join(",")
}

fn takes_gzip(accepted: &str) -> bool {
    let names_it = |range: &str| {
        let mut parts = range.split(';').map(str::trim);
        parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip")) && !parts.any(|part| part == "q=0")
    };
    accepted.split(',').any(names_it)
}

fn gzipped(text: &[u8]) -> Result<Vec<u8>, ApiError> {
    // The names repeat so much that more effort saves little.
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text).map_err(ApiError::internal)?;
    encoder.finish().map_err(ApiError::internal)
}
