//! `/api/connections` and `/api/keys`: what the operator does with connections and with read keys.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::{App, Parts};
use crate::connections::{Connection, ConnectionError, DEFAULT};
use crate::errors::{ApiError, LOG_AWAY, wrong_method};
use crate::http::{Call, json as answer};
use crate::kept::KeptError;
use crate::keys::{KeyError, ReadKey};
use crate::operation::{Access, Answer, Body, Operation};
use crate::params::kinds::Text;
use crate::params::{self, Param};

pub(crate) const BODY_BYTES: usize = 16 * 1_024;

const KEY_NOT_FOUND: ApiError = ApiError::NotFound("API key not found.");

const NAME_OR_ID: Param<Text> = Param::new("name", Text::of(1, 255), "The name of the connection, or its id.");
const KEY_NAME_OR_ID: Param<Text> = Param::new("name", Text::of(1, 255), "The name of the key, or its id.");

/// What may go wrong with a change that has a body.
pub(crate) const CHANGE_ERRORS: &[StatusCode] = &[
    StatusCode::BAD_REQUEST,
    StatusCode::FORBIDDEN,
    StatusCode::NOT_FOUND,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::CONFLICT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::SERVICE_UNAVAILABLE,
];
pub(crate) const LIST_ERRORS: &[StatusCode] = &[StatusCode::BAD_REQUEST, StatusCode::SERVICE_UNAVAILABLE];

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        answers: &[Answer::json::<Listed<'static>>(StatusCode::OK, "The connections, the oldest first.")],
        errors: LIST_ERRORS,
        ..Operation::get("/api/connections", "listConnections", "connections", "All connections", Access::Reader)
    },
    Operation {
        method: "POST",
        about: "The answer is the only place where its API key is ever shown.",
        body: Some(Body::json::<Named>(true)),
        answers: &[Answer::json::<Shown<'static>>(StatusCode::CREATED, "The connection and its key.")],
        errors: CHANGE_ERRORS,
        ..Operation::get("/api/connections", "createConnection", "connections", "Makes a connection", Access::Operator)
    },
    Operation {
        method: "PATCH",
        in_path: &[&NAME_OR_ID],
        body: Some(Body::json::<Named>(true)),
        about: "Its id, its key and its jobs stay. While a source listens for it, it is refused with 409.",
        answers: &[Answer::json::<Shown<'static>>(StatusCode::OK, "The connection.")],
        errors: CHANGE_ERRORS,
        ..Operation::get(
            "/api/connections/{name}",
            "renameConnection",
            "connections",
            "Gives a connection another name",
            Access::Operator,
        )
    },
    Operation {
        method: "DELETE",
        about: "Its key is good for nothing from then on. Its jobs stay. While a source listens for it, it is refused with \
                409.",
        in_path: &[&NAME_OR_ID],
        answers: &[Answer::json::<Shown<'static>>(StatusCode::OK, "The connection that is gone.")],
        errors: CHANGE_ERRORS,
        ..Operation::get(
            "/api/connections/{name}",
            "deleteConnection",
            "connections",
            "Deletes a connection",
            Access::Operator,
        )
    },
    Operation {
        method: "POST",
        about: "The former key is good for nothing from then on. The answer is the only place where the new one is ever \
                shown.",
        in_path: &[&NAME_OR_ID],
        body: Some(Body::json::<Nothing>(false)),
        answers: &[Answer::json::<Shown<'static>>(StatusCode::OK, "The connection and its new key.")],
        errors: CHANGE_ERRORS,
        ..Operation::get(
            "/api/connections/{name}/rotate",
            "rotateConnection",
            "connections",
            "Gives a connection another key",
            Access::Operator,
        )
    },
    Operation {
        answers: &[Answer::json::<ListedKeys<'static>>(StatusCode::OK, "The keys, the oldest first.")],
        errors: LIST_ERRORS,
        ..Operation::get("/api/keys", "listKeys", "keys", "All read keys", Access::Reader)
    },
    Operation {
        method: "POST",
        about: "Who has it may read all and change nothing. The answer is the only place where it is ever shown.",
        body: Some(Body::json::<Named>(true)),
        answers: &[Answer::json::<ShownKey<'static>>(StatusCode::CREATED, "The key.")],
        errors: CHANGE_ERRORS,
        ..Operation::get("/api/keys", "createKey", "keys", "Makes a read key", Access::Operator)
    },
    Operation {
        method: "DELETE",
        about: "It is good for nothing from then on.",
        in_path: &[&KEY_NAME_OR_ID],
        answers: &[Answer::json::<ShownKey<'static>>(StatusCode::OK, "The key that is gone.")],
        errors: CHANGE_ERRORS,
        ..Operation::get("/api/keys/{name}", "deleteKey", "keys", "Deletes a read key", Access::Operator)
    },
];

/// Connections.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConnectionList")]
struct Listed<'a> {
    data: Vec<Shown<'a>>,
}

/// Read keys.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KeyList")]
struct ListedKeys<'a> {
    data: Vec<ShownKey<'a>>,
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
        let Connection { id, name, created_at, .. } = connection;
        let created_at = created_at.to_millis_text();
        Self { id: *id, name, created_at, has_key: connection.has_key(), api_key }
    }
}

/// A read key, as it is shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ReadKey")]
struct ShownKey<'a> {
    id: Uuid,
    /// For people; unique.
    name: &'a str,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    /// Only in the answer that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    api_key: Option<&'a str>,
}

impl<'a> ShownKey<'a> {
    fn new(key: &'a ReadKey, api_key: Option<&'a str>) -> Self {
        let ReadKey { id, name, created_at, .. } = key;
        Self { id: *id, name, created_at: created_at.to_millis_text(), api_key }
    }
}

/// A name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Named {
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
            ConnectionError::Taken(_) | ConnectionError::IsDefault | ConnectionError::KeyIsConfigured => {
                Self::Conflict(error.to_string())
            }
            ConnectionError::BadName => bad_name(&error),
            ConnectionError::Unknown => Self::ConnectionNotFound,
            ConnectionError::Kept(error) => error.into(),
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Taken(_) => Self::Conflict(error.to_string()),
            KeyError::BadName => bad_name(&error),
            KeyError::Unknown => KEY_NOT_FOUND,
            KeyError::Kept(error) => error.into(),
        }
    }
}

impl From<KeptError> for ApiError {
    fn from(error: KeptError) -> Self {
        match error {
            KeptError::Damaged { .. } => Self::internal(error),
            KeptError::Store(error) => {
                tracing::warn!(%error, "connections and keys could not be read or changed");
                LOG_AWAY
            }
        }
    }
}

fn bad_name(error: &dyn std::fmt::Display) -> ApiError {
    let message = error.to_string();
    ApiError::Validation { details: Some(json!({ "name": message })), message }
}

/// `GET` and `POST /api/connections`.
pub(crate) async fn connections(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => {
            app.auth.require(&call)?;
            params::none(&call.query)?;
            let all = app.parts()?.connections.list();
            let data = all.iter().map(|connection| Shown::new(connection, None)).collect();
            Ok(answer(StatusCode::OK, &Listed { data }))
        }
        Method::POST => {
            let parts = changeable(&app, &mut call).await?;
            let (connection, key) = parts.connections.create(&named(&mut call).await?).await?;
            tracing::info!(id = %connection.id, name = connection.name, "connection made");
            app.told(&call, "connection.create", about(connection.id, &connection.name)).await;
            Ok(answer(StatusCode::CREATED, &Shown::new(&connection, Some(&key))))
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST")),
    }
}

/// `PATCH` and `DELETE /api/connections/{id or name}`, `POST /api/connections/{id or name}/rotate`. The path is as it
/// stands in the request: encoded. Only a name that ends in `/rotate` has to have its slash encoded.
pub(crate) async fn connection(path: String, app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    let rotated = path.strip_suffix("/rotate");
    let not_found = ApiError::ConnectionNotFound;
    match (&call.method, rotated) {
        (&Method::PATCH, None) => {
            let parts = changeable(&app, &mut call).await?;
            let (name, which) = (named(&mut call).await?, decoded(&path).ok_or(not_found)?);
            if let Some(source) = listening(&app, parts, &which) {
                let message = format!(
                    "The source {source} listens for it by its name, and would make another of that name at the next \
                     start: remove the source first and add it again afterwards. Where the settings declare it, stop the \
                     server, rename, and change the name there as well."
                );
                return Err(ApiError::Conflict(message));
            }
            let former = parts.connections.find(&which).map(|connection| connection.name);
            let connection = parts.connections.rename(&which, &name).await?;
            tracing::info!(id = %connection.id, name = connection.name, former, "connection renamed");
            let about = json!({ "id": connection.id, "name": connection.name, "former": former });
            app.told(&call, "connection.rename", about).await;
            Ok(answer(StatusCode::OK, &Shown::new(&connection, None)))
        }
        (&Method::DELETE, None) => {
            let parts = changeable(&app, &mut call).await?;
            nothing(&mut call).await?;
            let which = decoded(&path).ok_or(not_found)?;
            if let Some(source) = listening(&app, parts, &which) {
                let message = format!("The source {source} listens for it: remove the source first.");
                return Err(ApiError::Conflict(message));
            }
            let connection = parts.connections.delete(&which).await?;
            tracing::info!(id = %connection.id, name = connection.name, "connection deleted");
            app.told(&call, "connection.delete", about(connection.id, &connection.name)).await;
            Ok(answer(StatusCode::OK, &Shown::new(&connection, None)))
        }
        (&Method::POST, Some(which)) => {
            let parts = changeable(&app, &mut call).await?;
            nothing(&mut call).await?;
            let (connection, key) = parts.connections.rotate(&decoded(which).ok_or(not_found)?).await?;
            tracing::info!(id = %connection.id, name = connection.name, "connection has a new key");
            app.told(&call, "connection.rotate", about(connection.id, &connection.name)).await;
            Ok(answer(StatusCode::OK, &Shown::new(&connection, Some(&key))))
        }
        (method, Some(_)) => Err(wrong_method(method, "POST")),
        (method, None) => Err(wrong_method(method, "PATCH, DELETE")),
    }
}

/// For who asks later what was done.
fn about(id: Uuid, name: &str) -> Value {
    json!({ "id": id, "name": name })
}

/// The name of a source that listens for a connection: it would go on to write for one that nobody knows, or knows by that
/// name. The default one is neither renamed nor deleted anyway, which is told elsewhere.
fn listening(app: &App, parts: &Parts, which: &str) -> Option<String> {
    let connection = parts.connections.find(which).filter(|connection| connection.name != DEFAULT)?;
    let mut sources = app.fleet()?.list().into_iter();
    sources.find(|source| source.connection_id == connection.id).map(|source| source.status.name)
}

/// `GET` and `POST /api/keys`.
pub(crate) async fn keys(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => {
            app.auth.require(&call)?;
            params::none(&call.query)?;
            let all = app.parts()?.keys.list();
            let data = all.iter().map(|key| ShownKey::new(key, None)).collect();
            Ok(answer(StatusCode::OK, &ListedKeys { data }))
        }
        Method::POST => {
            let parts = changeable(&app, &mut call).await?;
            let (made, key) = parts.keys.create(&named(&mut call).await?).await?;
            tracing::info!(id = %made.id, name = made.name, "read key made");
            app.told(&call, "key.create", about(made.id, &made.name)).await;
            Ok(answer(StatusCode::CREATED, &ShownKey::new(&made, Some(&key))))
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST")),
    }
}

/// `DELETE /api/keys/{id or name}`.
pub(crate) async fn key(path: String, app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    if call.method != Method::DELETE {
        return Err(wrong_method(&call.method, "DELETE"));
    }
    let parts = changeable(&app, &mut call).await?;
    nothing(&mut call).await?;
    let deleted = parts.keys.delete(&decoded(&path).ok_or(KEY_NOT_FOUND)?).await?;
    tracing::info!(id = %deleted.id, name = deleted.name, "read key deleted");
    app.told(&call, "key.delete", about(deleted.id, &deleted.name)).await;
    Ok(answer(StatusCode::OK, &ShownKey::new(&deleted, None)))
}

/// The parts, if whoever asks may change something, and it can be stored.
pub(crate) async fn changeable<'a>(app: &'a App, call: &mut Call) -> Result<&'a Parts, ApiError> {
    let allowed = may_change(app, call);
    if allowed.is_err() {
        // A body that is still on its way when the answer is there would cost the connection.
        call.drain().await;
    }
    allowed
}

fn may_change<'a>(app: &'a App, call: &Call) -> Result<&'a Parts, ApiError> {
    app.auth.require(call)?;
    params::none(&call.query)?;
    app.parts().and_then(|parts| if parts.log.connected() { Ok(parts) } else { Err(LOG_AWAY) })
}

async fn named(call: &mut Call) -> Result<String, ApiError> {
    let Named { name } = call.json(BODY_BYTES, "an object with the text \"name\" and nothing else").await?;
    Ok(name)
}

/// An empty object.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What is asked for has no parameters.
pub(crate) async fn nothing(call: &mut Call) -> Result<(), ApiError> {
    let body = call.body(BODY_BYTES).await?;
    if body.is_empty() || serde_json::from_slice::<Nothing>(&body).is_ok() {
        return Ok(());
    }
    Err(ApiError::Validation { message: "The body must be empty or an empty object.".to_owned(), details: None })
}

/// What stands in a path; nothing has a name that is not UTF-8.
pub(crate) fn decoded(segment: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(segment).decode_utf8().ok()
}
