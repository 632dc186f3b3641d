//! `GET`, `POST` and `DELETE /api/session`, `POST /api/session/once`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::App;
use crate::auth::{Auth, once, over_tls, refuse_foreign};
use crate::errors::{ApiError, wrong_method};
use crate::http::{Call, json as answer};
use crate::operation::{Access, Answer, Body, Header, Operation};
use crate::params;

/// A password and its braces fit easily.
const BODY_BYTES: usize = 16 * 1_024;

const SET_COOKIE: Header = Header {
    name: "Set-Cookie",
    about: "The session, or an empty one that takes it away.",
    always: true,
    schema: || serde_json::json!({ "type": "string" }),
};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation {
        answers: &[Answer::json::<Session>(StatusCode::OK, "Whether the cookie is good.")],
        errors: &[StatusCode::BAD_REQUEST],
        ..Operation::get("/api/session", "getSession", "session", "Whether there is a session", Access::Anybody)
    },
    Operation {
        method: "POST",
        about: "Five wrong passwords in a minute close the door for a while. A one-time token does as well.",
        body: Some(Body::json::<Login>(true)),
        answers: &[Answer::json::<Session>(StatusCode::OK, "The session is in the cookie.").with(&[&SET_COOKIE])],
        errors: &[
            StatusCode::BAD_REQUEST,
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::TOO_MANY_REQUESTS,
        ],
        ..Operation::get("/api/session", "logIn", "session", "Logs in with the admin password", Access::Anybody)
    },
    Operation {
        method: "POST",
        about: "Who opens `/login#once=TOKEN` in a browser is logged in. Good for one log-in.",
        answers: &[Answer::json::<OneTime>(StatusCode::CREATED, "The token.")],
        errors: &[StatusCode::BAD_REQUEST],
        ..Operation::get(
            "/api/session/once",
            "makeOneTimeToken",
            "session",
            "Makes a token for a one-time link",
            Access::Admin,
        )
    },
    Operation {
        method: "DELETE",
        answers: &[Answer::json::<Session>(StatusCode::OK, "The cookie is taken away.").with(&[&SET_COOKIE])],
        errors: &[StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN],
        ..Operation::get("/api/session", "logOut", "session", "Logs out", Access::Anybody)
    },
];

/// One of the two.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum Login {
    WithPassword {
        /// The admin password.
        password: String,
    },
    Once {
        /// The token of a one-time link.
        once: String,
    },
}

/// For one log-in.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OneTimeToken")]
struct OneTime {
    token: String,
    /// For how long it is good.
    expires_in_seconds: u64,
}

#[derive(Serialize, JsonSchema)]
struct Session {
    /// Whether there is a session now.
    authenticated: bool,
}

pub(crate) async fn session(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => {
            params::none(&call.query)?;
            Ok(answer(StatusCode::OK, &Session { authenticated: app.auth.has_session(&call.headers) }))
        }
        Method::POST => {
            params::none(&call.query)?;
            refuse_foreign(&call.headers)?;
            let login: Login =
                call.json(BODY_BYTES, "an object with the text \"password\", or \"once\" of a one-time link").await?;
            let secure = over_tls(&call.headers);
            let cookie = match login {
                Login::WithPassword { password } => app.auth.log_in(call.peer, password, secure).await?,
                Login::Once { once } => app.auth.log_in_once(&once, secure)?,
            };
            with_cookie(&cookie, true)
        }
        Method::DELETE => {
            params::none(&call.query)?;
            refuse_foreign(&call.headers)?;
            with_cookie(&Auth::log_out(over_tls(&call.headers)), false)
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST, DELETE")),
    }
}

/// `POST /api/session/once`.
pub(crate) fn once(app: &App, call: &Call) -> Result<Response, ApiError> {
    if call.method != Method::POST {
        return Err(wrong_method(&call.method, "POST"));
    }
    app.auth.require_token(call)?;
    params::none(&call.query)?;
    let made = OneTime { token: app.auth.one_time_token(), expires_in_seconds: once::LIFETIME.as_secs() };
    Ok(answer(StatusCode::CREATED, &made))
}

fn with_cookie(cookie: &str, authenticated: bool) -> Result<Response, ApiError> {
    let mut response = answer(StatusCode::OK, &Session { authenticated });
    let cookie = HeaderValue::from_str(cookie).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}
