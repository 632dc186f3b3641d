//! `/api/connections`: what the operator does with connections.

use std::sync::Arc;

use percent_encoding::percent_decode_str;
use proto_events::Timestamp;
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

const BODY_BYTES: usize = 16 * 1_024;

/// A connection, as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: Uuid,
    name: &'a str,
    created_at: String,
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

#[derive(Deserialize)]
struct New {
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
            let all = app.parts()?.connections.list();
            let data: Vec<_> = all.iter().map(|connection| Shown::new(connection, None)).collect();
            Ok(answer(StatusCode::OK, &json!({ "data": data })))
        }
        Method::POST => {
            app.auth.require(&call.headers)?;
            refuse_foreign(&call.headers)?;
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
    let name_or_id = percent_decode_str(&name_or_id).decode_utf8().map_err(|_| ApiError::ConnectionNotFound)?;
    let connection = writable(&app)?.connections.delete(&name_or_id).await?;
    tracing::info!(id = %connection.id, name = connection.name, "connection deleted");
    Ok(answer(StatusCode::OK, &Shown::new(&connection, None)))
}

fn writable(app: &App) -> Result<&Parts, ApiError> {
    app.parts().and_then(|parts| if parts.log.connected() { Ok(parts) } else { Err(LOG_AWAY) })
}
