//! `GET /api/quarantine`: what of the log is not in the views.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::consistency;
use crate::errors::{ApiError, wrong_method};
use crate::http::Call;
use crate::operation::{Access, Answer, NOT_MODIFIED, Operation, READ_ERRORS, READ_HEADERS};
use crate::params::{self, read_params};

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    query: params::READ,
    answers: &[Answer::json::<Quarantine<'static>>(StatusCode::OK, "The events.").with(READ_HEADERS), NOT_MODIFIED],
    errors: READ_ERRORS,
    ..Operation::get(
        "/api/quarantine",
        "listQuarantine",
        "views",
        "Events of the log that cannot be used, and why",
        Access::Reader,
    )
}];

/// Events that cannot be used.
#[derive(Serialize, JsonSchema)]
struct Quarantine<'a> {
    data: Vec<Quarantined<'a>>,
    /// How many are listed.
    total: usize,
}

/// An event that cannot be used.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Quarantined<'a> {
    /// Where it stands in the log.
    position: String,
    /// The connection that it came over, where that is known.
    connection_id: Option<Uuid>,
    /// Of its job, where that could be read.
    external_id: Option<&'a str>,
    /// Why it cannot be used.
    cause: &'a str,
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
        let data = quarantined.iter().map(|event| Quarantined {
            position: event.position.to_string(),
            connection_id: Some(event.connection).filter(|connection| !connection.is_nil()),
            external_id: event.external_id.as_deref(),
            cause: &event.cause,
        });
        let body = Quarantine { data: data.collect(), total: quarantined.len() };
        serde_json::to_vec(&body).map_err(ApiError::internal)
    };
    Ok(consistency::answer(parts, &call.headers, wanted, read).await)
}
