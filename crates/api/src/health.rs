//! `GET /api/health`: how everything is, without a session and without secrets. `GET /api/health/live`: the process.

use std::sync::Arc;
use std::time::Duration;

use event_log::LogInfo;
use projector::{Phase, Status};
use serde::Serialize;
use serde_json::json;
use sources::{SourceState, SourceStatus};
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::errors::{ApiError, RETRY_AFTER_SECONDS, wrong_method};
use crate::http::{Call, json as answer};

/// Who asks for health does not wait for a log that does not answer.
const LOG_TIME: Duration = Duration::from_secs(2);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: Overall,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    version: &'static str,
    log: Option<Log>,
    projector: Option<Projector>,
    views: Option<Views>,
    sources: Vec<SourceStatus>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Overall {
    Ok,
    Degraded,
    Unavailable,
}

/// Why it is not well, for programs.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Reason {
    Starting,
    LogUnreachable,
    CatchingUp,
    ProjectorFailed,
    LogChanged,
    SourceDown,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Log {
    connected: bool,
    server_version: String,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    messages: Option<u64>,
    bytes: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Projector {
    phase: &'static str,
    applied: u64,
    lag_events: u64,
    lag_seconds: f64,
    quarantined: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    trimmed_to: Option<u64>,
}

/// The views as they were last written: equal digests mean equal records.
#[derive(Serialize)]
struct Views {
    sequence: u64,
    digest: String,
}

pub(crate) async fn health(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    let health = match app.parts() {
        Ok(parts) => of_parts(&app, parts).await,
        Err(_) => Health::starting(app.version),
    };
    if health.status != Overall::Unavailable {
        return Ok(answer(StatusCode::OK, &health));
    }
    let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, &health);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    Ok(response)
}

pub(crate) async fn live(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    Ok(answer(StatusCode::OK, &json!({ "status": "ok", "version": app.version })))
}

async fn of_parts(app: &App, parts: &Parts) -> Health {
    let connected = parts.log.connected();
    let info = if connected { tokio::time::timeout(LOG_TIME, parts.log.info()).await.ok() } else { None };
    let info = info.and_then(Result::ok);
    let projector = parts.projector.status();
    let sources = (parts.sources)();
    let trouble = trouble(info.is_some(), &projector, app.is_caught_up(parts), &sources);
    let (status, reason, message) = match trouble {
        Some((status, reason, message)) => (status, Some(reason), Some(message)),
        None => (Overall::Ok, None, None),
    };
    Health {
        status,
        reason,
        message,
        version: app.version,
        log: Some(Log::new(connected && info.is_some(), parts.log.server_version(), info)),
        projector: Some(Projector::new(&projector, info)),
        views: Some(Views::new(parts)),
        sources,
    }
}

/// The worst that is the matter, with a sentence for people.
fn trouble(
    log_answers: bool,
    projector: &Status,
    caught_up: bool,
    sources: &[SourceStatus],
) -> Option<(Overall, Reason, String)> {
    let unavailable = |reason, message: String| Some((Overall::Unavailable, reason, message));
    match &projector.phase {
        Phase::Failed(reason) => return unavailable(Reason::ProjectorFailed, reason.to_string()),
        Phase::Fenced(fenced) => return unavailable(Reason::LogChanged, fenced.to_string()),
        Phase::CatchingUp | Phase::Following => {}
    }
    if !log_answers {
        return unavailable(Reason::LogUnreachable, "the log does not answer".to_owned());
    }
    if !caught_up {
        let message = format!("the log is being read: {} of {}", projector.applied, projector.target);
        return unavailable(Reason::CatchingUp, message);
    }
    let down: Vec<_> = sources
        .iter()
        .filter(|source| matches!(source.state, SourceState::Down | SourceState::Refused))
        .map(|source| source.name.as_str())
        .collect();
    if down.is_empty() {
        return None;
    }
    let message = format!("not connected to its broker: {}", down.join(", "));
    Some((Overall::Degraded, Reason::SourceDown, message))
}

impl Health {
    fn starting(version: &'static str) -> Self {
        Self {
            status: Overall::Unavailable,
            reason: Some(Reason::Starting),
            message: Some("the log and the views are being opened".to_owned()),
            version,
            log: None,
            projector: None,
            views: None,
            sources: Vec::new(),
        }
    }
}

impl Log {
    fn new(connected: bool, server_version: String, info: Option<LogInfo>) -> Self {
        Self {
            connected,
            server_version,
            first_sequence: info.map(|info| info.first_sequence),
            last_sequence: info.map(|info| info.last_sequence),
            messages: info.map(|info| info.messages),
            bytes: info.map(|info| info.bytes),
        }
    }
}

impl Views {
    fn new(parts: &Parts) -> Self {
        let checkpoint = parts.reader.checkpoint();
        let (sequence, digest) = checkpoint.map(|it| (it.sequence, it.digest)).unwrap_or_default();
        Self { sequence, digest: digest.to_string() }
    }
}

impl Projector {
    fn new(status: &Status, info: Option<LogInfo>) -> Self {
        let phase = match status.phase {
            Phase::CatchingUp => "catching-up",
            Phase::Following => "following",
            Phase::Fenced(_) => "fenced",
            Phase::Failed(_) => "failed",
        };
        // What the log says now is newer than what the projector has heard of it.
        let last = info.map_or(status.log_last, |info| info.last_sequence.max(status.log_last));
        Self {
            phase,
            applied: status.applied,
            lag_events: last.saturating_sub(status.applied),
            lag_seconds: status.lag_seconds,
            quarantined: status.quarantined,
            trimmed_to: status.trimmed,
        }
    }
}
