//! `GET /api/first-run`: how to connect, for an operator who looks at a server that has heard of no job yet.

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::connections::DEFAULT;
use crate::errors::{ApiError, wrong_method};
use crate::http::{Call, json as answer};
use crate::operation::{Access, Answer, Operation, READ_ERRORS};
use crate::params;

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "Once a job is known, the key is never shown again, whatever becomes of the job.",
    answers: &[Answer::json::<FirstRun>(StatusCode::OK, "How to connect.")],
    errors: READ_ERRORS,
    ..Operation::get("/api/first-run", "getFirstRun", "server", "How to connect a first sender", Access::Operator)
}];

/// How to connect.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct FirstRun {
    /// Whether anything was ever heard of a job, as far as is known.
    has_jobs: bool,
    /// The default connection; null where there is none.
    connection_id: Option<Uuid>,
    /// Its API key: only while no job is known, and only where this server made it up and it is still good.
    api_key: Option<String>,
}

pub(crate) fn get(app: &App, call: &Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    app.auth.require_operator(call)?;
    params::none(&call.query)?;
    let parts = app.readable()?;
    // What the log has forgotten counts as well: who has kept jobs for a week has no need of the key.
    let has_jobs = parts.reader.counts(None).total() > 0 || parts.reader.floor() > 1;
    if has_jobs {
        app.forget_first_key();
    }
    let default = parts.connections.find(DEFAULT).map(|connection| connection.id);
    let api_key = app.first_key().filter(|key| default.is_some() && parts.connections.by_key(key) == default);
    Ok(answer(StatusCode::OK, &FirstRun { has_jobs, connection_id: default, api_key }))
}
