//! `GET`, `POST` and `DELETE /api/session`, `POST /api/session/once`, `DELETE /api/sessions`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::App;
use crate::auth::{Login, Person, Role, once};
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
        answers: &[Answer::json::<Session>(StatusCode::OK, "Who is logged in.")],
        errors: &[StatusCode::BAD_REQUEST],
        ..Operation::get("/api/session", "getSession", "session", "Who is logged in, if somebody is", Access::Anybody)
    },
    Operation {
        method: "POST",
        about: "Five wrong passwords in a minute close the door for a while. A one-time token does as well.",
        body: Some(Body::json::<Credentials>(true)),
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
        about: "A copy of the cookie is good for nothing from then on.",
        answers: &[Answer::json::<Session>(StatusCode::OK, "The cookie is taken away.").with(&[&SET_COOKIE])],
        errors: &[StatusCode::BAD_REQUEST, StatusCode::FORBIDDEN],
        ..Operation::get("/api/session", "logOut", "session", "Logs out", Access::Anybody)
    },
    Operation {
        method: "DELETE",
        about: "Whoever is logged in, in whatever browser, is not any more. Who comes by a proxy that names them stays.",
        answers: &[Answer::json::<Session>(StatusCode::OK, "All sessions are ended.")],
        errors: &[StatusCode::BAD_REQUEST],
        ..Operation::get("/api/sessions", "logAllOut", "session", "Logs everybody out", Access::Operator)
    },
];

/// One of the two.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Login")]
enum Credentials {
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

/// Who is logged in.
#[derive(Serialize, JsonSchema)]
struct Session {
    /// Whether somebody is.
    authenticated: bool,
    /// Who, if somebody is.
    name: Option<String>,
    /// What they may do: a reader sees all and changes nothing.
    role: Option<Role>,
    /// How they showed who they are.
    login: Option<Login>,
    /// Whether one can log in with a provider of OpenID Connect, at `/api/session/oidc`.
    oidc: bool,
}

impl Session {
    fn of(app: &App, person: Option<Person>) -> Self {
        let oidc = app.auth.oidc().is_some();
        match person {
            Some(Person { name, role, login }) => {
                Self { authenticated: true, name: Some(name), role: Some(role), login: Some(login), oidc }
            }
            None => Self { authenticated: false, name: None, role: None, login: None, oidc },
        }
    }
}

pub(crate) async fn session(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::GET => {
            params::none(&call.query)?;
            Ok(answer(StatusCode::OK, &Session::of(&app, app.auth.person(&call.headers))))
        }
        Method::POST => {
            params::none(&call.query)?;
            let login: Credentials =
                call.json(BODY_BYTES, "an object with the text \"password\", or \"once\" of a one-time link").await?;
            let person = match login {
                Credentials::WithPassword { password } => app.auth.log_in(call.peer, password.into()).await,
                Credentials::Once { once } => app.auth.log_in_once(&once),
            };
            match person {
                Ok(person) => {
                    app.told_login(&call, &person).await;
                    let cookie = app.auth.cookie(&person, &app.door.base_path, call.secure);
                    with_cookie(&cookie, &Session::of(&app, Some(person)))
                }
                Err(error) => {
                    if error != ApiError::Internal {
                        app.told_refusal(&call, &error.to_string()).await;
                    }
                    Err(error)
                }
            }
        }
        Method::DELETE => {
            params::none(&call.query)?;
            if app.auth.person(&call.headers).is_some() {
                app.told(&call, "logout", json!({})).await;
            }
            let (auth, door, secure) = (Arc::clone(&app.auth), app.door.clone(), call.secure);
            let headers = std::mem::take(&mut call.headers);
            // What is ended is kept on disk.
            let ended = tokio::task::spawn_blocking(move || auth.log_out(&headers, &door.base_path, secure)).await;
            with_cookie(&ended.map_err(ApiError::internal)??, &Session::of(&app, None))
        }
        _ => Err(wrong_method(&call.method, "GET, HEAD, POST, DELETE")),
    }
}

/// `DELETE /api/sessions`.
pub(crate) async fn all(app: Arc<App>, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::DELETE {
        return Err(wrong_method(&call.method, "DELETE"));
    }
    app.auth.require(&call)?;
    params::none(&call.query)?;
    app.told(&call, "logout.all", json!({})).await;
    let auth = Arc::clone(&app.auth);
    tokio::task::spawn_blocking(move || auth.log_all_out()).await.map_err(ApiError::internal)??;
    Ok(answer(StatusCode::OK, &Session::of(&app, None)))
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

fn with_cookie(cookie: &str, session: &Session) -> Result<Response, ApiError> {
    let mut response = answer(StatusCode::OK, session);
    let cookie = HeaderValue::from_str(cookie).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}
