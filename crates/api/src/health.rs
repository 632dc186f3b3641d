//! `GET /api/health`: how everything is, without a session and without secrets. `GET /api/health/live`: the process.

use std::sync::Arc;
use std::time::Duration;

use event_log::LogInfo;
use projector::{
    DiskStatus, Fenced, Phase, RebuildState, RebuildStatus, RetentionState, RetentionStatus, ScrubResult, ScrubStatus,
    Status, Upgrade,
};
use schemars::JsonSchema;
use serde::Serialize;
use sources::backend::BackendStatus;
use sources::{ListedSource, SourceState, SpoolStatus};
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::coverage;
use crate::errors::{ApiError, RETRY_AFTER_SECONDS, wrong_method};
use crate::http::{Call, json as answer};
use crate::operation::{Access, Answer, Operation, RETRY_AFTER};

/// Who asks for health does not wait for a log that does not answer.
const LOG_TIME: Duration = Duration::from_secs(2);

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        about: "Not well is `degraded` while reads and ingest go on, and `unavailable` with 503 where they do not; \
                `reason` and `message` say why.",
        answers: &[
            Answer::json::<Health>(StatusCode::OK, "It serves."),
            Answer::json::<Health>(StatusCode::SERVICE_UNAVAILABLE, "It does not serve.").with(&[&RETRY_AFTER]),
        ],
        ..Operation::get("/api/health", "getHealth", "server", "How everything is", Access::Anybody)
    },
    Operation {
        answers: &[Answer::json::<Live>(StatusCode::OK, "The process answers.")],
        ..Operation::get("/api/health/live", "getLiveness", "server", "Whether the process answers", Access::Anybody)
    },
];

/// That the process answers.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Liveness")]
struct Live {
    status: &'static str,
    /// Of Forebay.
    version: &'static str,
}

/// How everything is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: Overall,
    /// Why it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Of Forebay.
    version: &'static str,
    /// These are null while the server starts.
    log: Option<Log>,
    projector: Option<Projector>,
    views: Option<Views>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade: Option<Upgrading>,
    scrub: Option<ScrubStatus>,
    retention: Option<RetentionStatus>,
    disk: Option<DiskStatus>,
    sources: Vec<ListedSource>,
    /// What sources have heard and the log does not have yet, in all; null where there is no spool.
    spool: Option<SpoolStatus>,
    /// Celery's result backends that are asked for ends that no event told.
    backends: Vec<BackendStatus>,
    /// What is missing in what is heard, which is no reason not to be well.
    warnings: Vec<String>,
}

/// How it is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "HealthStatus")]
enum Overall {
    Ok,
    Degraded,
    Unavailable,
}

/// Why it is not well, for programs.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schemars(rename = "HealthReason")]
enum Reason {
    Starting,
    LogUnreachable,
    CatchingUp,
    ProjectorFailed,
    LogChanged,
    Upgrading,
    LogTrimmed,
    ViewsDiffer,
    LogFull,
    RetentionBlocked,
    RetentionShortened,
    SourceDown,
    Spooled,
    BackendDown,
}

/// Whether the log is the one that the views were made from.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LogIdentity")]
enum Identity {
    Same,
    /// It is, but somebody dropped messages that the views lack, or hold alone.
    Trimmed,
    Recreated,
    RolledBack,
    Missing,
}

impl Identity {
    fn of(status: &Status) -> Option<Self> {
        Some(match status.phase {
            Phase::Fenced(Fenced::Recreated) => Self::Recreated,
            Phase::Fenced(Fenced::RolledBack { .. }) => Self::RolledBack,
            Phase::Fenced(Fenced::Missing) => Self::Missing,
            Phase::Upgrading { .. } => return None,
            _ if !status.knows_the_log() => return None,
            _ if status.trimmed.or(status.lost).is_some() => Self::Trimmed,
            _ => Self::Same,
        })
    }
}

/// How the log is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "LogHealth")]
struct Log {
    connected: bool,
    /// What it is to the views; null until they were compared.
    identity: Option<Identity>,
    server_version: String,
    first_sequence: Option<u64>,
    last_sequence: Option<u64>,
    messages: Option<u64>,
    bytes: Option<u64>,
}

/// How what brings the log into the views is.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ProjectorHealth")]
struct Projector {
    phase: &'static str,
    /// The log up to this position is in the views.
    applied: u64,
    lag_events: u64,
    lag_seconds: f64,
    /// Events that cannot be used.
    quarantined: u64,
    /// Messages before this one were dropped by somebody else, and the views lack them or hold them alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    trimmed_to: Option<u64>,
}

/// The views as they were last written: equal digests mean equal records.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ViewsHealth")]
struct Views {
    sequence: u64,
    digest: String,
    /// The version of the fold that made them.
    fold_version: u32,
}

/// How far the views are that will take the place of those of another version of the fold, or of empty ones.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "UpgradeHealth")]
struct Upgrading {
    /// Left out where the views are empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<u32>,
    to: u32,
    #[serde(flatten)]
    rebuild: Option<RebuildStatus>,
    /// Why none can be made; it is tried again.
    blocked: Option<String>,
}

pub(crate) async fn health(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    let health = match app.parts() {
        Ok(parts) => of_parts(&app, parts).await,
        Err(_) => Health::starting(&app),
    };
    if health.status != Overall::Unavailable {
        return Ok(answer(StatusCode::OK, &health));
    }
    let mut response = answer(StatusCode::SERVICE_UNAVAILABLE, &health);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    Ok(response)
}

pub(crate) fn live(app: &App, call: &Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    Ok(answer(StatusCode::OK, &Live { status: "ok", version: app.version }))
}

async fn of_parts(app: &App, parts: &Parts) -> Health {
    let connected = parts.log.connected();
    let info = if connected { tokio::time::timeout(LOG_TIME, parts.log.info()).await.ok() } else { None };
    let info = info.and_then(Result::ok);
    let projector = parts.projector.status();
    let sources = app.fleet().map(|fleet| fleet.list()).unwrap_or_default();
    let (spool, backends) = (app.fleet().and_then(|fleet| fleet.spool()), (parts.backends)());
    let upgrade = parts.maintenance.upgrade();
    let scrub = parts.maintenance.scrub();
    let retention = parts.maintenance.retention();
    let views = views_trouble(&projector, &scrub, &retention);
    let trouble = trouble(info.is_some(), &projector, app.is_caught_up(parts), upgrade.as_ref(), views);
    let trouble = trouble.or_else(|| sources_trouble(&sources, spool.as_ref(), &backends));
    let (status, reason, message) = match trouble {
        Some((status, reason, message)) => (status, Some(reason), Some(message)),
        None => (Overall::Ok, None, None),
    };
    Health {
        status,
        reason,
        message,
        version: app.version,
        log: Some(Log::new(connected && info.is_some(), Identity::of(&projector), parts.log.server_version(), info)),
        projector: Some(Projector::new(&projector, info, parts.reader.quarantine_len() as u64)),
        views: Some(Views::new(parts)),
        upgrade: upgrade.map(|Upgrade { from, to, rebuild, blocked }| Upgrading { from, to, rebuild, blocked }),
        scrub: Some(scrub),
        retention: Some(retention),
        disk: parts.maintenance.disk(),
        sources,
        spool,
        backends,
        warnings: if app.is_caught_up(parts) { coverage::warnings(app, parts).await } else { Vec::new() },
    }
}

/// The worst that is the matter, with a sentence for people.
fn trouble(
    log_answers: bool,
    projector: &Status,
    caught_up: bool,
    upgrade: Option<&Upgrade>,
    views: Option<(Overall, Reason, String)>,
) -> Option<(Overall, Reason, String)> {
    let unavailable = |reason, message: String| Some((Overall::Unavailable, reason, message));
    match &projector.phase {
        Phase::Failed(reason) => return unavailable(Reason::ProjectorFailed, reason.to_string()),
        Phase::Fenced(fenced) => return unavailable(Reason::LogChanged, fenced.to_string()),
        Phase::CatchingUp | Phase::Following | Phase::Upgrading { .. } => {}
    }
    if !log_answers {
        return unavailable(Reason::LogUnreachable, "the log does not answer".to_owned());
    }
    if let Some(upgrade) = upgrade {
        let message = upgrade_in_words(upgrade);
        return Some(match upgrade.from {
            Some(_) => (Overall::Degraded, Reason::Upgrading, message),
            None => (Overall::Unavailable, Reason::CatchingUp, message),
        });
    }
    if !caught_up {
        let message = format!("the log is being read: {} of {}", projector.applied, projector.target);
        return unavailable(Reason::CatchingUp, message);
    }
    views
}

/// What is not heard, or cannot be asked, or is late.
fn sources_trouble(
    sources: &[ListedSource],
    spool: Option<&SpoolStatus>,
    backends: &[BackendStatus],
) -> Option<(Overall, Reason, String)> {
    let is_down = |state: SourceState| matches!(state, SourceState::Down | SourceState::Refused);
    let sources = sources.iter().map(|source| &source.status).filter(|status| is_down(status.state));
    let sources: Vec<_> = sources.map(|status| status.name.as_str()).collect();
    if !sources.is_empty() {
        let message = format!("not connected to its broker: {}", sources.join(", "));
        return Some((Overall::Degraded, Reason::SourceDown, message));
    }
    let backends = backends.iter().filter(|backend| is_down(backend.state));
    let backends: Vec<_> = backends.map(|backend| backend.name.as_str()).collect();
    if !backends.is_empty() {
        let message = format!("the result backend cannot be asked how jobs ended: {}", backends.join(", "));
        return Some((Overall::Degraded, Reason::BackendDown, message));
    }
    let waiting = spool.filter(|spool| spool.events > 0)?;
    let message = format!("{} events that the log did not take are on disk, and are being published", waiting.events);
    Some((Overall::Degraded, Reason::Spooled, message))
}

/// What is the matter with the views, and with what they and the log are to keep.
fn views_trouble(
    projector: &Status,
    scrub: &ScrubStatus,
    retention: &RetentionStatus,
) -> Option<(Overall, Reason, String)> {
    if let Some(first) = projector.trimmed {
        let message = format!(
            "the log dropped messages before they were applied (it began at {first} when that was noticed): nothing \
             can bring them back; `forebay rebuild` makes views of what it holds, and then all is well again"
        );
        return Some((Overall::Degraded, Reason::LogTrimmed, message));
    }
    if let Some(first) = projector.lost {
        let message = format!(
            "somebody dropped the messages before {first} from the log, and the views still hold what they said: \
             `forebay rebuild` makes views of what the log holds, and keeps these for a day"
        );
        return Some((Overall::Degraded, Reason::LogTrimmed, message));
    }
    if let Some(message) = differing(scrub) {
        return Some((Overall::Degraded, Reason::ViewsDiffer, message));
    }
    let reason = match retention.state {
        RetentionState::Off | RetentionState::Keeping => return None,
        RetentionState::Full => Reason::LogFull,
        RetentionState::Blocked => Reason::RetentionBlocked,
        RetentionState::Shortened => Reason::RetentionShortened,
    };
    Some((Overall::Degraded, reason, retention.reason.clone().unwrap_or_default()))
}

fn upgrade_in_words(upgrade: &Upgrade) -> String {
    let Upgrade { from, to, rebuild, blocked } = upgrade;
    let progress = match (rebuild, blocked) {
        (Some(rebuild), _) if rebuild.state == RebuildState::Running => {
            let percent = (rebuild.events_done * 100).checked_div(rebuild.events_total).unwrap_or(0).min(100);
            let left = rebuild.eta_seconds.map_or_else(String::new, |seconds| format!(", about {seconds:.0} s left"));
            format!("are being made, {percent} %{left}")
        }
        (Some(RebuildStatus { state: RebuildState::Verifying, reason: Some(reason), .. }), _) => {
            format!("are made, but {reason}")
        }
        (Some(_), _) => "are made and about to take over".to_owned(),
        (None, Some(blocked)) => format!("cannot be made: {blocked}"),
        (None, None) => "are not being made: `forebay rebuild` makes them".to_owned(),
    };
    match from {
        Some(from) => {
            format!("the views of version {from} of the fold answer, frozen; those of version {to} {progress}")
        }
        None => format!("the views {progress}"),
    }
}

/// What is wrong with the views, as far as they were compared.
fn differing(scrub: &ScrubStatus) -> Option<String> {
    let (ScrubResult::Differs, id, differing, sequence) =
        (scrub.last_result?, scrub.id?, scrub.differing?, scrub.sequence?)
    else {
        return None;
    };
    Some(format!(
        "{differing} jobs differ from a fresh replay of the log up to {sequence}: GET /api/verifications/{id} lists \
         them, `forebay rebuild` puts them right"
    ))
}

impl Health {
    fn starting(app: &App) -> Self {
        let (reason, message) = match app.waiting() {
            Some(why) => (Reason::LogUnreachable, why),
            None => (Reason::Starting, "the log and the views are being opened".to_owned()),
        };
        Self {
            status: Overall::Unavailable,
            reason: Some(reason),
            message: Some(message),
            version: app.version,
            log: None,
            projector: None,
            views: None,
            upgrade: None,
            scrub: None,
            retention: None,
            disk: None,
            sources: app.fleet().map(|fleet| fleet.list()).unwrap_or_default(),
            spool: app.fleet().and_then(|fleet| fleet.spool()),
            backends: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Log {
    fn new(connected: bool, identity: Option<Identity>, server_version: String, info: Option<LogInfo>) -> Self {
        Self {
            connected,
            identity,
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
        Self { sequence, digest: digest.to_string(), fold_version: parts.reader.fold_version() }
    }
}

impl Projector {
    fn new(status: &Status, info: Option<LogInfo>, quarantined: u64) -> Self {
        let phase = match status.phase {
            Phase::CatchingUp => "catching-up",
            Phase::Following => "following",
            Phase::Upgrading { .. } => "upgrading",
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
            // Only so many are listed, and only since the start are all counted.
            quarantined: status.quarantined.max(quarantined),
            trimmed_to: status.trimmed.or(status.lost),
        }
    }
}
