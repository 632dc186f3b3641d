//! `/api/sources`: the brokers that are listened to, those that were added while the server runs included.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sources::{Fleet, FleetError, ListedSource};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::errors::{ApiError, STARTING, wrong_method};
use crate::http::{Call, json as answer};
use crate::manage::{BODY_BYTES, CHANGE_ERRORS, LIST_ERRORS, changeable, decoded, nothing};
use crate::operation::{Access, Answer, Body, Operation};
use crate::params::kinds::Text;
use crate::params::{self, Param};

const NOT_FOUND: ApiError = ApiError::NotFound("Source not found.");

const NAME: Param<Text> = Param::new("name", Text::of(1, 63), "The name of the source.");

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        about: "It answers while the log is away, too.",
        answers: &[Answer::json::<Listed>(StatusCode::OK, "The sources, in the order in which they were started.")],
        errors: LIST_ERRORS,
        ..Operation::get("/api/sources", "listSources", "sources", "All brokers that are listened to", Access::Reader)
    },
    Operation {
        method: "POST",
        about: "It listens from then on, and after a restart too. The URL is Celery's own, with its password, which is \
                never answered: it is kept in the server's data directory, which only its user can read.",
        body: Some(Body::json::<Wanted>(true)),
        answers: &[Answer::json::<ListedSource>(StatusCode::CREATED, "The source.")],
        errors: CHANGE_ERRORS,
        ..Operation::get("/api/sources", "addSource", "sources", "Listens to another broker", Access::Operator)
    },
    Operation {
        method: "DELETE",
        about: "Nothing of it is left behind at the broker; its jobs stay. What the configuration declares is refused \
                with 409.",
        in_path: &[&NAME],
        answers: &[Answer::json::<ListedSource>(StatusCode::OK, "The source that is gone, as it last was.")],
        errors: CHANGE_ERRORS,
        ..Operation::get(
            "/api/sources/{name}",
            "removeSource",
            "sources",
            "Stops listening to a broker that was added",
            Access::Operator,
        )
    },
];

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SourceList")]
struct Listed {
    data: Vec<ListedSource>,
}

/// A source that is to be added.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewSource")]
struct Wanted {
    /// 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or digit; unique.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    name: String,
    /// Where the broker is, as Celery's `broker_url` says it.
    url: String,
    /// The name of the connection that its jobs belong to, which is made if need be; without it, that of the source.
    #[serde(default)]
    connection: Option<String>,
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let wrong = |field: &str, error: FleetError| {
            let message = error.to_string();
            Self::Validation { details: Some(json!({ field: message })), message }
        };
        match error {
            FleetError::Name => wrong("name", error),
            FleetError::Url(_) => wrong("url", error),
            FleetError::Taken(_) | FleetError::Same(_) | FleetError::TooMany | FleetError::Configured(_) => {
                Self::Conflict(error.to_string())
            }
            FleetError::Unknown => NOT_FOUND,
            error => Self::internal(error),
        }
    }
}

/// `GET` and `POST /api/sources`.
pub(crate) async fn sources(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => {
            app.auth.require(&call)?;
            params::none(&call.query)?;
            Ok(answer(StatusCode::OK, &Listed { data: fleet(&app)?.list() }))
        }
        Method::POST => {
            let parts = changeable(&app, &mut call).await?;
            let shape = "an object with the texts \"name\", \"url\" and, if need be, \"connection\", and nothing else";
            let Wanted { name, url, connection } = call.json(BODY_BYTES, shape).await?;
            let fleet = fleet(&app)?;
            // Before a connection is made for nothing.
            fleet.check(&name, &url)?;
            let connection = parts.connections.ensure(connection.as_deref().unwrap_or(&name)).await?;
            parts.projector.live().expect_source(connection.id, &name);
            let added = fleet.add(&name, &url, connection.id, &connection.name).await;
            if added.is_err() {
                parts.projector.live().forget_source(connection.id, &name);
            }
            let added = added?;
            tracing::info!(source = name, broker = added.status.url_masked, connection = %connection.id, "source added");
            let about = json!({ "name": name, "broker": added.status.url_masked, "connection": connection.name });
            app.told(&call, "source.add", about).await;
            Ok(answer(StatusCode::CREATED, &added))
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST")),
    }
}

/// `DELETE /api/sources/{name}`.
pub(crate) async fn source(path: String, app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    if call.method != Method::DELETE {
        return Err(wrong_method(&call.method, "DELETE"));
    }
    if let Err(error) = app.auth.require(&call).and_then(|_| params::none(&call.query)) {
        call.drain().await;
        return Err(error);
    }
    nothing(&mut call).await?;
    let gone = fleet(&app)?.remove(&decoded(&path).ok_or(NOT_FOUND)?).await?;
    if let Ok(parts) = app.parts() {
        parts.projector.live().forget_source(gone.connection_id, &gone.status.name);
    }
    tracing::info!(source = gone.status.name, broker = gone.status.url_masked, "source removed");
    app.told(&call, "source.remove", json!({ "name": gone.status.name, "broker": gone.status.url_masked })).await;
    Ok(answer(StatusCode::OK, &gone))
}

/// A command that works without a server has none.
fn fleet(app: &App) -> Result<&Arc<Fleet>, ApiError> {
    app.fleet().ok_or(STARTING)
}
