//! `POST` and `DELETE /api/session`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::App;
use crate::auth::{Auth, over_tls, refuse_foreign};
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
        method: "POST",
        about: "Five wrong passwords in a minute close the door for a while.",
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
        method: "DELETE",
        answers: &[Answer::json::<Session>(StatusCode::OK, "The cookie is taken away.").with(&[&SET_COOKIE])],
        errors: &[StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN],
        ..Operation::get("/api/session", "logOut", "session", "Logs out", Access::Anybody)
    },
];

#[derive(Deserialize, JsonSchema)]
struct Login {
    /// The admin password.
    password: String,
}

#[derive(Serialize, JsonSchema)]
struct Session {
    /// Whether there is a session now.
    authenticated: bool,
}

pub(crate) async fn session(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::POST => {
            params::none(&call.query)?;
            refuse_foreign(&call.headers)?;
            let login: Login = call.json(BODY_BYTES, "an object with the text \"password\"").await?;
            let cookie = app.auth.log_in(call.peer, login.password, over_tls(&call.headers)).await?;
            with_cookie(&cookie, true)
        }
        Method::DELETE => {
            params::none(&call.query)?;
            refuse_foreign(&call.headers)?;
            with_cookie(&Auth::log_out(over_tls(&call.headers)), false)
        }
        _ => Err(wrong_method(&call.method, "POST, DELETE")),
    }
}

fn with_cookie(cookie: &str, authenticated: bool) -> Result<Response, ApiError> {
    let mut response = answer(StatusCode::OK, &Session { authenticated });
    let cookie = HeaderValue::from_str(cookie).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}
