//! `GET /api/session/oidc` and `GET /api/session/oidc/callback`: to the provider of OpenID Connect, and back.

use std::sync::Arc;

use serde_json::json as schema;
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::App;
use crate::auth::oidc::{Back, COOKIE, Refusal, set_cookie};
use crate::errors::{ApiError, wrong_method};
use crate::http::Call;
use crate::operation::{Access, Answer, Header, Operation};
use crate::params::kinds::Text;
use crate::params::{Asked, Param, Params};

const NOT_SET_UP: ApiError = ApiError::NotFound("Logging in with OpenID Connect is not set up.");

const NEXT: Param<Text> = Param::new("next", Text::of(1, 300), "The page to go on at afterwards.");
const BEGIN: Params = &[&NEXT];
/// Providers add others, which are left alone.
const CODE: Param<Text> = Param::new("code", Text::of(0, 4_096), "What the provider gives.");
const STATE: Param<Text> = Param::new("state", Text::of(0, 4_096), "What the browser left with.");
const ERROR: Param<Text> = Param::new("error", Text::of(0, 4_096), "Why the provider let nobody in.");
const COMPLETE: Params = &[&CODE, &STATE, &ERROR];

const LOCATION: Header = Header {
    name: "Location",
    about: "Where the browser goes on.",
    always: true,
    schema: || schema!({ "type": "string" }),
};
const SET_COOKIE: Header = Header {
    name: "Set-Cookie",
    about: "What the browser leaves with, or the session that it comes back to.",
    always: false,
    schema: || schema!({ "type": "string" }),
};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        about: "For browsers: the authorization code flow with PKCE.",
        query: BEGIN,
        answers: &[Answer {
            status: StatusCode::SEE_OTHER,
            about: "To the provider; or to the page for logging in, where the provider does not answer.",
            content: None,
            or: &[],
            headers: &[&LOCATION, &SET_COOKIE],
        }],
        errors: &[StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND],
        ..Operation::get(
            "/api/session/oidc",
            "beginOidc",
            "session",
            "Begins to log in with a provider of OpenID Connect",
            Access::Anybody,
        )
    },
    Operation {
        about: "Where the provider sends browsers back to.",
        query: COMPLETE,
        answers: &[Answer {
            status: StatusCode::SEE_OTHER,
            about: "To the dashboard, with a session; or to the page for logging in, which says why not.",
            content: None,
            or: &[],
            headers: &[&LOCATION, &SET_COOKIE],
        }],
        errors: &[StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND],
        ..Operation::get(
            "/api/session/oidc/callback",
            "completeOidc",
            "session",
            "Logs in whom the provider knows",
            Access::Anybody,
        )
    },
];

pub(crate) async fn begin(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    let asked = Asked::of(BEGIN, &call.query)?;
    let next = asked.get(&NEXT).unwrap_or_default();
    match app.auth.begin_oidc(&next).await.ok_or(NOT_SET_UP)? {
        Ok((url, cookie)) => to(&url, &[set_cookie(Some(&cookie), &app.door.base_path, call.secure)]),
        Err(refusal) => refused(&app, &call, &refusal).await,
    }
}

pub(crate) async fn complete(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    let back = Back::parse(&call.query);
    let (base, secure) = (&app.door.base_path, call.secure);
    match app.auth.complete_oidc(&call.headers, COOKIE, &back).await.ok_or(NOT_SET_UP)? {
        Ok((person, next)) => {
            app.told_login(&call, &person).await;
            let cookies = [app.auth.cookie(&person, base, secure), set_cookie(None, base, secure)];
            to(&format!("{base}{next}"), &cookies)
        }
        Err(refusal) => refused(&app, &call, &refusal).await,
    }
}

async fn refused(app: &App, call: &Call, refusal: &Refusal) -> Result<Response, ApiError> {
    tracing::warn!(%refusal, peer = %call.peer, "nobody was logged in");
    app.told_refusal(call, &refusal.to_string()).await;
    let base = &app.door.base_path;
    to(&format!("{base}/login#refused={}", refusal.code()), &[set_cookie(None, base, call.secure)])
}

fn to(address: &str, cookies: &[String]) -> Result<Response, ApiError> {
    let mut response = Response::new(Vec::new().into());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_str(address).map_err(ApiError::internal)?);
    for cookie in cookies {
        headers.append(header::SET_COOKIE, HeaderValue::from_str(cookie).map_err(ApiError::internal)?);
    }
    Ok(response)
}
