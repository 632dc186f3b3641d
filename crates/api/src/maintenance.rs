//! `/api/rebuilds`, `/api/verifications`: the views made anew from the log, or compared with it, while they serve.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use event_log::EventLog;
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use projector::{
    DiskStatus, From, Places, Policy, RebuildError, RebuildStatus, Rebuilds, Retention, RetentionStatus, Scrub,
    ScrubStatus, Upgrade, VerificationStatus, Verifications,
};
use proto_events::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;
use views::{Generations, Reader, Writer};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::errors::{ApiError, LOG_FULL, wrong_method};
use crate::http::{Call, json as answer};
use crate::operation::{Access, Answer, Body, Operation, READ_ERRORS};
use crate::params::kinds::Id;
use crate::params::{self, Param};

const ID: Param<Id> = Param::new("id", Id, "The id that its beginning was answered with.");

/// Whatever changes something and has no body.
const CHANGE_ERRORS: &[StatusCode] = &[
    StatusCode::BAD_REQUEST,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::CONFLICT,
    StatusCode::SERVICE_UNAVAILABLE,
];
const FIND_ERRORS: &[StatusCode] = &[StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND, StatusCode::SERVICE_UNAVAILABLE];

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        answers: &[Answer::json::<RebuildList>(StatusCode::OK, "The rebuilds, the latest first.")],
        errors: READ_ERRORS,
        ..Operation::get("/api/rebuilds", "listRebuilds", "views", "The latest rebuilds", Access::Reader)
    },
    Operation {
        method: "POST",
        about: "They take over when they are made and compared; until then the old ones answer.",
        body: Some(Body::json::<Wanted>(false)),
        answers: &[Answer::json::<RebuildStatus>(StatusCode::ACCEPTED, "It is begun.")],
        errors: &[
            StatusCode::BAD_REQUEST,
            StatusCode::FORBIDDEN,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::CONFLICT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::INSUFFICIENT_STORAGE,
        ],
        ..Operation::get(
            "/api/rebuilds",
            "beginRebuild",
            "views",
            "Makes the views anew from the log",
            Access::Operator,
        )
    },
    Operation {
        in_path: &[&ID],
        answers: &[Answer::json::<RebuildStatus>(StatusCode::OK, "The rebuild.")],
        errors: FIND_ERRORS,
        ..Operation::get("/api/rebuilds/{id}", "getRebuild", "views", "How far a rebuild is", Access::Reader)
    },
    Operation {
        method: "DELETE",
        in_path: &[&ID],
        answers: &[Answer::json::<RebuildStatus>(StatusCode::OK, "The rebuild, which has stopped.")],
        errors: CHANGE_ERRORS,
        ..Operation::get("/api/rebuilds/{id}", "abortRebuild", "views", "Stops a rebuild", Access::Operator)
    },
    Operation {
        method: "POST",
        about: "Of a rebuild that waits for a person, as its `reason` says.",
        in_path: &[&ID],
        answers: &[Answer::json::<RebuildStatus>(StatusCode::OK, "The rebuild, which serves.")],
        errors: CHANGE_ERRORS,
        ..Operation::get(
            "/api/rebuilds/{id}/promote",
            "promoteRebuild",
            "views",
            "Lets the views of a rebuild serve",
            Access::Operator,
        )
    },
    Operation {
        method: "DELETE",
        about: "They are kept for a day otherwise.",
        answers: &[Answer::json::<Removed>(StatusCode::OK, "They are gone.")],
        errors: CHANGE_ERRORS,
        ..Operation::get(
            "/api/rebuilds/previous",
            "discardPreviousViews",
            "views",
            "Deletes the views that served before",
            Access::Operator,
        )
    },
    Operation {
        method: "POST",
        answers: &[Answer::json::<VerificationStatus>(StatusCode::ACCEPTED, "It is begun, or under way already.")],
        errors: &[StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN, StatusCode::SERVICE_UNAVAILABLE],
        ..Operation::get(
            "/api/verifications",
            "beginVerification",
            "views",
            "Compares the views with a fresh replay of the log",
            Access::Operator,
        )
    },
    Operation {
        in_path: &[&ID],
        answers: &[Answer::json::<VerificationStatus>(StatusCode::OK, "The verification.")],
        errors: FIND_ERRORS,
        ..Operation::get(
            "/api/verifications/{id}",
            "getVerification",
            "views",
            "How far a verification is, and what came of it",
            Access::Reader,
        )
    },
    Operation {
        method: "DELETE",
        in_path: &[&ID],
        answers: &[Answer::json::<VerificationStatus>(StatusCode::OK, "The verification, which stops.")],
        errors: CHANGE_ERRORS,
        ..Operation::get(
            "/api/verifications/{id}",
            "abortVerification",
            "views",
            "Stops a verification",
            Access::Operator,
        )
    },
];

/// Rebuilds.
#[derive(Serialize, JsonSchema)]
struct RebuildList {
    data: Vec<RebuildStatus>,
}

/// What became of the views that served before.
#[derive(Serialize, JsonSchema)]
struct Removed {
    /// Whether there were any.
    removed: bool,
}

/// Rebuilds and verifications of the views.
pub struct Maintenance {
    rebuilds: Rebuilds,
    verifications: Verifications,
    scrub: Scrub,
    retention: Retention,
    /// What goes on by itself.
    tasks: JoinSet<()>,
    /// And what can be told to go on otherwise.
    scrubbing: Mutex<JoinSet<()>>,
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
        Self { rebuilds, verifications, scrub, retention, tasks, scrubbing: Mutex::default() }
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

    /// Compares the views with a fresh replay from now on, slowly and at most once in this time, or not at all any more.
    /// Within a tokio runtime.
    pub fn scrub_every(&self, every: Option<Duration>) {
        let mut scrubbing = self.scrubbing.lock();
        scrubbing.abort_all();
        self.scrub.rest();
        if let Some(every) = every {
            let scrub = self.scrub.clone();
            scrubbing.spawn(async move { scrub.run(every).await });
        }
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

    /// Keeps what this policy says from now on.
    pub fn change_policy(&self, policy: Policy) {
        self.retention.change(policy);
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
    pub(crate) fn rebuilds(&self) -> Vec<RebuildStatus> {
        self.rebuilds.all()
    }

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
    params::none(&call.query)?;
    match call.method {
        Method::GET => Ok(answer(StatusCode::OK, &RebuildList { data: app.parts()?.maintenance.rebuilds.all() })),
        Method::POST => {
            let wanted: Wanted = match call.body(BODY_BYTES).await? {
                nothing if nothing.is_empty() => Wanted::default(),
                body => serde_json::from_slice(&body).map_err(|_| ApiError::Validation {
                    message: "The body must be empty or an object with the flag \"rollback\", as JSON.".to_owned(),
                    details: None,
                })?,
            };
            let from = if wanted.rollback { From::Previous } else { From::Log };
            let begun = app.readable()?.maintenance.rebuilds.begin(from, now()).await?;
            app.told(&call, "rebuild.begin", json!({ "id": begun.id, "rollback": wanted.rollback })).await;
            Ok(answer(StatusCode::ACCEPTED, &begun))
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST")),
    }
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewRebuild")]
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
    params::none(&call.query)?;
    let rebuilds = &app.parts()?.maintenance.rebuilds;
    if path == "previous" {
        if call.method != Method::DELETE {
            return Err(wrong_method(&call.method, "DELETE"));
        }
        let removed = rebuilds.discard_previous()?;
        app.told(&call, "rebuild.discard", json!({ "removed": removed })).await;
        return Ok(answer(StatusCode::OK, &Removed { removed }));
    }
    let (id, action) = path.split_once('/').unwrap_or((&path, ""));
    let id = parsed(id).ok_or(RebuildError::NotFound)?;
    match (action, &call.method) {
        ("", &Method::GET) => Ok(answer(StatusCode::OK, &rebuilds.status(id)?)),
        ("", &Method::DELETE) => {
            let status = rebuilds.abort(id).await?;
            app.told(&call, "rebuild.abort", json!({ "id": id })).await;
            Ok(answer(StatusCode::OK, &status))
        }
        ("promote", &Method::POST) => {
            let status = rebuilds.promote(id).await?;
            app.told(&call, "rebuild.promote", json!({ "id": id })).await;
            Ok(answer(StatusCode::OK, &status))
        }
        ("", method) => Err(wrong_method(method, "GET, HEAD, DELETE")),
        ("promote", method) => Err(wrong_method(method, "POST")),
        _ => Err(ApiError::NoSuchPath),
    }
}

/// `POST /api/verifications`.
pub(crate) async fn verifications(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    app.auth.require(&call)?;
    call.drain().await;
    params::none(&call.query)?;
    if call.method != Method::POST {
        return Err(wrong_method(&call.method, "POST"));
    }
    Ok(answer(StatusCode::ACCEPTED, &app.readable()?.maintenance.verifications.begin()))
}

/// `GET` and `DELETE /api/verifications/{id}`.
pub(crate) fn verification(id: &str, app: &App, call: &Call) -> Result<Response, ApiError> {
    app.auth.require(call)?;
    params::none(&call.query)?;
    let not_found = ApiError::NotFound("Verification not found.");
    let verifications = &app.parts()?.maintenance.verifications;
    let id = parsed(id).ok_or(not_found.clone())?;
    match call.method {
        Method::GET => {}
        Method::DELETE => {
            verifications.abort(id);
        }
        _ => return Err(wrong_method(&call.method, "GET, HEAD, DELETE")),
    }
    Ok(answer(StatusCode::OK, &verifications.status(id).ok_or(not_found)?))
}

/// An id as it stands in the path: maybe encoded.
fn parsed(id: &str) -> Option<Uuid> {
    percent_decode_str(id).decode_utf8().ok()?.parse().ok()
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_micros() as i64)
}
