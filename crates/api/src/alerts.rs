//! `/api/alerts`: the rules of the configuration, what is measured of each, incidents, and what became of notices.

use std::sync::Arc;

use alerts::{Alerts, AlertsStatus, Sight, Tested, UnknownName};
use schemars::JsonSchema;
use serde::Serialize;
use views::Reader;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use crate::app::App;
use crate::auth::refuse_foreign;
use crate::errors::{ApiError, STARTING, wrong_method};
use crate::http::{Call, json as answer};
use crate::manage::{LIST_ERRORS, decoded, nothing};
use crate::operation::{Access, Answer, Operation};
use crate::params::kinds::Text;
use crate::params::{self, Param};

const NAME: Param<Text> = Param::new("name", Text::of(1, 63), "The name of a rule, or of a webhook.");

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        about: "It answers while the log is away, too.",
        answers: &[Answer::json::<AlertsStatus>(StatusCode::OK, "Rules, incidents and notices.")],
        errors: LIST_ERRORS,
        ..Operation::get("/api/alerts", "getAlerts", "alerts", "Rules, incidents and notices", Access::Reader)
    },
    Operation {
        method: "POST",
        about: "It is sent once, and what came of it is the answer.",
        in_path: &[&NAME],
        answers: &[Answer::json::<TestedAll>(StatusCode::OK, "What came of it.")],
        errors: &[
            StatusCode::BAD_REQUEST,
            StatusCode::NOT_FOUND,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::SERVICE_UNAVAILABLE,
        ],
        ..Operation::get(
            "/api/alerts/{name}/test",
            "testAlert",
            "alerts",
            "Sends a notice that says that it is a test",
            Access::Operator,
        )
    },
];

/// What came of a test.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "AlertTests")]
struct TestedAll {
    /// By webhook; none where the rule tells nobody.
    data: Vec<Tested>,
}

impl From<UnknownName> for ApiError {
    fn from(_: UnknownName) -> Self {
        Self::NotFound("There is no alert rule and no webhook of this name.")
    }
}

impl App {
    /// Lets the API tell of these alerts; a second call changes nothing.
    pub fn know_alerts(&self, alerts: Alerts) {
        let _ = self.alerts.set(alerts);
    }

    /// What alerts are measured by; `None` before the parts are attached, and without sources.
    pub fn sight(self: &Arc<Self>) -> Option<Sight> {
        let (parts, fleet) = (self.parts().ok()?, self.fleet()?);
        let (habits, connections, log) = (Arc::clone(&self.habits), Arc::clone(&parts.connections), parts.log.clone());
        let app = Arc::clone(self);
        Some(Sight {
            reader: parts.reader.clone(),
            projector: parts.projector.clone(),
            fleet: Arc::clone(fleet),
            signs: Arc::new(move |reader: &Reader| habits.signs(reader)),
            disk: Arc::new(move || app.parts().ok()?.maintenance.disk()),
            log_answers: Arc::new(move || log.connected()),
            connections: Arc::new(move || connections.list().into_iter().map(|it| (it.id, it.name)).collect()),
        })
    }

    /// A command that works without a server has none.
    fn alerts(&self) -> Result<&Alerts, ApiError> {
        self.alerts.get().ok_or(STARTING)
    }
}

/// `GET /api/alerts`.
pub(crate) fn get(app: &App, call: &Call) -> Result<Response, ApiError> {
    app.auth.require(call)?;
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    params::none(&call.query)?;
    Ok(answer(StatusCode::OK, &app.alerts()?.status()))
}

/// `POST /api/alerts/{name}/test`.
pub(crate) async fn test(path: String, app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    let allowed = app.auth.require(&call).and_then(|_| refuse_foreign(&call.headers));
    let name = path.strip_suffix("/test").and_then(decoded).ok_or(ApiError::NoSuchPath);
    let method = if call.method == Method::POST { Ok(()) } else { Err(wrong_method(&call.method, "POST")) };
    let refused = allowed.and(name.clone().map(drop)).and(method).and_then(|()| params::none(&call.query));
    if let Err(error) = refused {
        call.drain().await;
        return Err(error);
    }
    nothing(&mut call).await?;
    Ok(answer(StatusCode::OK, &TestedAll { data: app.alerts()?.test(&name?).await? }))
}
