//! `POST` and `DELETE /api/session`.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::App;
use crate::auth::{Auth, over_tls, refuse_foreign};
use crate::errors::{ApiError, wrong_method};
use crate::http::{Call, json as answer};

/// A password and its braces fit easily.
const BODY_BYTES: usize = 16 * 1_024;

#[derive(Deserialize)]
struct Login {
    password: String,
}

pub(crate) async fn session(app: Arc<App>, mut call: Call) -> Result<Response, ApiError> {
    match call.method {
        Method::POST => {
            refuse_foreign(&call.headers)?;
            let login: Login = call.json(BODY_BYTES, "an object with the text \"password\"").await?;
            let cookie = app.auth.log_in(call.peer, login.password, over_tls(&call.headers)).await?;
            with_cookie(&cookie, true)
        }
        Method::DELETE => {
            refuse_foreign(&call.headers)?;
            with_cookie(&Auth::log_out(over_tls(&call.headers)), false)
        }
        _ => Err(wrong_method(&call.method, "POST, DELETE")),
    }
}

fn with_cookie(cookie: &str, authenticated: bool) -> Result<Response, ApiError> {
    let mut response = answer(StatusCode::OK, &json!({ "authenticated": authenticated }));
    let cookie = HeaderValue::from_str(cookie).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}
