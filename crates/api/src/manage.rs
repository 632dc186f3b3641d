//! `/api/connections`: what the operator does with connections.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use proto_events::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::auth::refuse_foreign;
use crate::connections::{Connection, ConnectionError};
use crate::errors::{ApiError, LOG_AWAY, wrong_method};
use crate::http::{Call, json as answer};
use crate::operation::{Access, Answer, Body, Operation};
use crate::params::kinds::Text;
use crate::params::{self, Param};

const BODY_BYTES: usize = 16 * 1_024;

const NAME_OR_ID: Param<Text> = Param::new("name", Text::of(1, 255), "The name of the connection, or its id.");

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        answers: &[Answer::json::<Listed<'static>>(StatusCode::OK, "The connections, the oldest first.")],
        errors: &[StatusCode::BAD_REQUEST, StatusCode::SERVICE_UNAVAILABLE],
        ..Operation::get("/api/connections", "listConnections", "connections", "All connections", Access::Reader)
    },
    Operation {
        method: "POST",
        about: "The answer is the only place where its API key is ever shown.",
        body: Some(Body::json::<New>(true)),
        answers: &[Answer::json::<Shown<'static>>(StatusCode::CREATED, "The connection and its key.")],
        errors: &[
            StatusCode::BAD_REQUEST,
            StatusCode::FORBIDDEN,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::CONFLICT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::SERVICE_UNAVAILABLE,
        ],
        ..Operation::get("/api/connections", "createConnection", "connections", "Makes a connection", Access::Operator)
    },
    Operation {
        method: "DELETE",
        about: "Its key is good for nothing from then on. Its jobs stay.",
        in_path: &[&NAME_OR_ID],
        answers: &[Answer::json::<Shown<'static>>(StatusCode::OK, "The connection that is gone.")],
        errors: &[
            StatusCode::BAD_REQUEST,
            StatusCode::FORBIDDEN,
            StatusCode::NOT_FOUND,
            StatusCode::CONFLICT,
            StatusCode::SERVICE_UNAVAILABLE,
        ],
        ..Operation::get(
            "/api/connections/{name}",
            "deleteConnection",
            "connections",
            "Deletes a connection",
            Access::Operator,
        )
    },
];

/// Connections.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConnectionList")]
struct Listed<'a> {
    data: Vec<Shown<'a>>,
}

/// A connection, as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Connection")]
struct Shown<'a> {
    id: Uuid,
    /// For people; unique.
    name: &'a str,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    /// Whether it has an API key.
    has_key: bool,
    /// Only in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn new(connection: &'a Connection, api_key: Option<&'a str>) -> Self {
        let created_at = Timestamp::to_millis_text(connection.created_at);
        let has_key = connection.has_key();
        Self { id: connection.id, name: &connection.name, created_at, has_key, api_key }
    }
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewConnection")]
struct New {
    /// 1 to 255 printable characters, and no UUID.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$")
    )]
    name: String,
}

impl From<ConnectionError> for ApiError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Taken(_) | ConnectionError::IsDefault => Self::Conflict(error.to_string()),
            ConnectionError::BadName => {
                Self::Validation { message: error.to_string(), details: Some(json!({ "name": error.to_string() })) }
            }
            ConnectionError::Unknown => Self::ConnectionNotFound,
            ConnectionError::Damaged { .. } => Self::internal(error),
            ConnectionError::Store(error) => {
                tracing::warn!(%error, "the connections could not be changed");
                LOG_AWAY
            }
        }
    }
}

pub(crate) async fn connections(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => {
            app.auth.require(&call.headers)?;
            params::none(&call.query)?;
            let all = app.parts()?.connections.list();
            let data = all.iter().map(|connection| Shown::new(connection, None)).collect();
            Ok(answer(StatusCode::OK, &Listed { data }))
        }
        Method::POST => {
            app.auth.require(&call.headers)?;
            refuse_foreign(&call.headers)?;
            params::none(&call.query)?;
            let new: New = call.json(BODY_BYTES, "an object with the text \"name\"").await?;
            let (connection, key) = writable(&app)?.connections.create(&new.name).await?;
            tracing::info!(id = %connection.id, name = connection.name, "connection made");
            Ok(answer(StatusCode::CREATED, &Shown::new(&connection, Some(&key))))
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST")),
    }
}

/// `name_or_id` is as it stands in the path: encoded.
pub(crate) async fn connection(name_or_id: String, app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::DELETE {
        return Err(wrong_method(&call.method, "DELETE"));
    }
    app.auth.require(&call.headers)?;
    refuse_foreign(&call.headers)?;
    params::none(&call.query)?;
    let name_or_id = percent_decode_str(&name_or_id).decode_utf8().map_err(|_| ApiError::ConnectionNotFound)?;
    let connection = writable(&app)?.connections.delete(&name_or_id).await?;
    tracing::info!(id = %connection.id, name = connection.name, "connection deleted");
    Ok(answer(StatusCode::OK, &Shown::new(&connection, None)))
}

fn writable(app: &App) -> Result<&Parts, ApiError> {
    app.parts().and_then(|parts| if parts.log.connected() { Ok(parts) } else { Err(LOG_AWAY) })
}
