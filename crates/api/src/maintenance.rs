//! `/api/rebuilds`, `/api/verifications`, `/api/quarantine`: the views made anew from the log, or compared with it,
//! while they serve; and what of the log is not in them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use event_log::EventLog;
use percent_encoding::percent_decode_str;
use projector::{
    DiskStatus, From, Places, Policy, RebuildError, Rebuilds, Retention, RetentionStatus, Scrub, ScrubStatus, Upgrade,
    Verifications,
};
use proto_events::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;
use views::{Generations, Reader, Writer};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::auth::refuse_foreign;
use crate::consistency;
use crate::errors::{ApiError, LOG_FULL, wrong_method};
use crate::http::{Call, json as answer};
use crate::params::read_params;

/// Rebuilds and verifications of the views.
pub struct Maintenance {
    rebuilds: Rebuilds,
    verifications: Verifications,
    scrub: Scrub,
    retention: Retention,
    /// What goes on by itself.
    tasks: JoinSet<()>,
}

impl Maintenance {
    /// Of the views that this reader reads and this projector keeps up to date. Within a tokio runtime.
    pub fn new(log: &EventLog, projector: &projector::Handle, reader: &Reader, generations: &Generations) -> Self {
        let rebuilds = Rebuilds::new(log.clone(), projector.clone(), reader.clone(), generations.clone());
        let verifications = Verifications::new(log.clone(), projector.clone(), reader.clone(), generations.clone());
        let scrub = Scrub::new(
            log.clone(),
            projector.clone(),
            reader.clone(),
            generations.clone(),
            rebuilds.clone(),
            verifications.clone(),
        );
        let retention = Retention::new(log.clone(), projector.clone(), generations.clone());
        let (mut tasks, tidying) = (JoinSet::new(), rebuilds.clone());
        // Replaced views go when their day is over.
        tasks.spawn(async move { tidying.tidy().await });
        Self { rebuilds, verifications, scrub, retention, tasks }
    }

    /// Makes new views by itself if those that answer are of another version of the fold, and lets them take over.
    pub fn upgrade_by_itself(&mut self) {
        let rebuilds = self.rebuilds.clone();
        self.tasks.spawn(async move { rebuilds.upgrade_by_itself().await });
    }

    /// Begins again the rebuilds that were under way when an earlier process ended. Within a tokio runtime.
    pub fn resume_rebuilds(&self) {
        self.rebuilds.resume();
    }

    /// Compares the views with a fresh replay from now on, slowly and at most once in this time. Within a tokio runtime.
    pub fn scrub_every(&mut self, every: Duration) {
        let scrub = self.scrub.clone();
        self.tasks.spawn(async move { scrub.run(every).await });
    }

    /// How that is.
    pub(crate) fn scrub(&self) -> ScrubStatus {
        self.scrub.status()
    }

    /// Lets the log and the views forget what this policy does not keep, from now on. Trims are told on the subject of this
    /// connection. Within a tokio runtime.
    pub fn retain(&mut self, policy: Policy, places: Places, connection: Uuid) {
        let retention = self.retention.clone();
        self.tasks.spawn(async move { retention.run(policy, places, connection).await });
    }

    /// How that is.
    pub(crate) fn retention(&self) -> RetentionStatus {
        self.retention.status()
    }

    /// How the disk is; `None` until it was looked at.
    pub(crate) fn disk(&self) -> Option<DiskStatus> {
        self.retention.disk()
    }

    /// Fails where the log has no room for more.
    pub(crate) fn require_room(&self) -> Result<(), ApiError> {
        if self.retention.is_full() { Err(LOG_FULL) } else { Ok(()) }
    }

    /// Takes room for so many bytes of the log.
    pub(crate) fn take_room(&self, bytes: usize) -> Result<(), ApiError> {
        if self.retention.take(bytes) { Ok(()) } else { Err(LOG_FULL) }
    }

    /// Fills empty views, whose writer this is, by a pass over the whole log.
    pub fn fill(&mut self, writer: Writer) {
        let rebuilds = self.rebuilds.clone();
        self.tasks.spawn(async move { rebuilds.fill(writer).await });
    }

    /// The upgrade or filling under way, if there is one.
    pub(crate) fn upgrade(&self) -> Option<Upgrade> {
        self.rebuilds.upgrade()
    }
}

impl std::convert::From<RebuildError> for ApiError {
    fn from(error: RebuildError) -> Self {
        match error {
            RebuildError::NotFound => Self::NotFound("Rebuild not found."),
            RebuildError::UnderWay
            | RebuildError::NotWaiting
            | RebuildError::NothingBefore
            | RebuildError::OtherFold { .. } => Self::Conflict(sentence(&error)),
            RebuildError::Disk { .. } => Self::InsufficientStorage(sentence(&error)),
            error => {
                tracing::warn!(%error, "a rebuild cannot begin");
                Self::Unavailable("The log or the disk does not answer.")
            }
        }
    }
}

/// An error's text as the API writes its messages.
fn sentence(error: &RebuildError) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text + "."
}

/// `GET` and `POST /api/rebuilds`.
pub(crate) async fn rebuilds(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    app.auth.require(&call)?;
    match call.method {
        Method::GET => Ok(answer(StatusCode::OK, &json!({ "data": app.parts()?.maintenance.rebuilds.all() }))),
        Method::POST => {
            refuse_foreign(&call.headers)?;
            let wanted: Wanted = match call.body(BODY_BYTES).await? {
                nothing if nothing.is_empty() => Wanted::default(),
                body => serde_json::from_slice(&body).map_err(|_| ApiError::Validation {
                    message: "The body must be empty or an object with the flag \"rollback\", as JSON.".to_owned(),
                    details: None,
                })?,
            };
            let from = if wanted.rollback { From::Previous } else { From::Log };
            let begun = app.readable()?.maintenance.rebuilds.begin(from, now()).await?;
            Ok(answer(StatusCode::ACCEPTED, &begun))
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST")),
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Go back to the generation that served before.
    #[serde(default)]
    rollback: bool,
}

const BODY_BYTES: usize = 1_024;

/// `GET` and `DELETE /api/rebuilds/{id}`, `POST /api/rebuilds/{id}/promote`, `DELETE /api/rebuilds/previous`.
pub(crate) async fn rebuild(path: String, app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    app.auth.require(&call)?;
    // A body that is still on its way when the answer is there would cost the connection.
    call.drain().await;
    let rebuilds = &app.parts()?.maintenance.rebuilds;
    if path == "previous" {
        if call.method != Method::DELETE {
            return Err(wrong_method(&call.method, "DELETE"));
        }
        refuse_foreign(&call.headers)?;
        return Ok(answer(StatusCode::OK, &json!({ "removed": rebuilds.discard_previous()? })));
    }
    let (id, action) = path.split_once('/').unwrap_or((&path, ""));
    let id = parsed(id).ok_or(RebuildError::NotFound)?;
    if call.method != Method::GET {
        refuse_foreign(&call.headers)?;
    }
    match (action, &call.method) {
        ("", &Method::GET) => Ok(answer(StatusCode::OK, &rebuilds.status(id)?)),
        ("", &Method::DELETE) => Ok(answer(StatusCode::OK, &rebuilds.abort(id).await?)),
        ("promote", &Method::POST) => Ok(answer(StatusCode::OK, &rebuilds.promote(id).await?)),
        ("", method) => Err(wrong_method(method, "GET, HEAD, DELETE")),
        ("promote", method) => Err(wrong_method(method, "POST")),
        _ => Err(ApiError::NoSuchPath),
    }
}

/// `POST /api/verifications`.
pub(crate) async fn verifications(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    app.auth.require(&call)?;
    call.drain().await;
    if call.method != Method::POST {
        return Err(wrong_method(&call.method, "POST"));
    }
    refuse_foreign(&call.headers)?;
    Ok(answer(StatusCode::ACCEPTED, &app.readable()?.maintenance.verifications.begin()))
}

/// `GET` and `DELETE /api/verifications/{id}`.
pub(crate) async fn verification(id: String, app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    app.auth.require(&call)?;
    let not_found = ApiError::NotFound("Verification not found.");
    let verifications = &app.parts()?.maintenance.verifications;
    let id = parsed(&id).ok_or(not_found.clone())?;
    match call.method {
        Method::GET => {}
        Method::DELETE => {
            refuse_foreign(&call.headers)?;
            verifications.abort(id);
        }
        _ => return Err(wrong_method(&call.method, "GET, HEAD, DELETE")),
    }
    Ok(answer(StatusCode::OK, &verifications.status(id).ok_or(not_found)?))
}

/// `GET /api/quarantine`: the events of the log that could not be used.
pub(crate) async fn quarantine(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    app.auth.require(&call)?;
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    let parts = app.readable()?;
    let wanted = read_params(&call.query)?;
    let read = async {
        let quarantined = parts.reader.quarantined();
        let shown = quarantined.iter().map(|event| {
            json!({
                "position": event.position.to_string(),
                "connectionId": Some(event.connection).filter(|connection| !connection.is_nil()),
                "externalId": event.external_id,
                "cause": event.cause,
            })
        });
        let body = json!({ "data": shown.collect::<Vec<_>>(), "total": quarantined.len() });
        serde_json::to_vec(&body).map_err(ApiError::internal)
    };
    Ok(consistency::answer(parts, &call.headers, wanted, read).await)
}

/// An id as it stands in the path: maybe encoded.
fn parsed(id: &str) -> Option<Uuid> {
    percent_decode_str(id).decode_utf8().ok()?.parse().ok()
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_micros() as i64)
}
