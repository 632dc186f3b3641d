//! `/flower`: what scripts read of Flower 2's API, under its paths, parameters and fields, so that they need another base
//! URL and nothing else. It is answered from the same views as everything else.
//!
//! Flower remembers tasks in memory and by their latest event; here a task is its record. So it differs on purpose:
//! - `state` is that of the record: one that Celery calls REJECTED, or a task calls by a name of its own, is not told.
//! - Times without a zone are UTC. `received_start` and `received_end` are about when a task was first heard of.
//! - Without `sort_by` those that were created last come first. What has no value comes last, whatever the order.
//! - `search` knows a text in the name, a task's id, `name:`, `state:` and `worker:`. The rest is refused, not ignored.
//! - `result` is the text that Celery's event has of it; where the result backend was asked, what that has.
//! - A worker tells here what its events tell: no configuration, no registered tasks, nothing that is asked of it.
//! - Errors are the envelope of this API.
//!
//! # Layout
//! - `tasks`: lists, one task, its result, names of tasks; `info`: the object of one task; `awaited`: who waits for its end
//! - `params`: what the list may be asked; `search`: its query language
//! - `workers`: workers, and how full queues are

mod awaited;
mod info;
mod params;
mod search;
mod tasks;
mod workers;

use std::pin::Pin;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::Response;

use crate::app::App;
use crate::errors::{ApiError, wrong_method};
use crate::http::Call;
use crate::routes::guarded;

pub(crate) use self::awaited::Awaited;

/// What Flower can be told to do. Here nothing can.
const COMMANDS: [&str; 8] = [
    "worker/",
    "task/apply/",
    "task/async-apply/",
    "task/send-task/",
    "task/abort/",
    "task/timeout/",
    "task/rate-limit/",
    "task/revoke/",
];

type Answered = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;

/// Whatever is below `/flower`, by the rest of its path.
pub(crate) async fn respond(path: &str, app: Arc<App>, mut call: Call) -> Response {
    translate(&mut call.headers);
    let path = path.to_owned();
    let mut response = guarded(app, call, true, |app, call| answer(&path, app, call)).await;
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"Forebay\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Flower's scripts show a user and a password. The user may be any, and the password is a read key or the admin token: as
/// if it had come as such, so that whoever guesses is stopped as everywhere.
fn translate(headers: &mut HeaderMap) {
    let basic = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
        let (scheme, credential) = value.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("basic").then(|| credential.trim())
    });
    let Some(basic) = basic else { return };
    let password = STANDARD.decode(basic).ok().and_then(|pair| String::from_utf8(pair).ok());
    // What cannot be read is wrong, and stays what it is.
    let password = password.as_deref().and_then(|pair| pair.split_once(':')).map(|(_, password)| password);
    if let Some(mut value) = password.and_then(|key| HeaderValue::try_from(format!("Bearer {key}")).ok()) {
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
}

fn answer(path: &str, app: Arc<App>, call: Call) -> Answered {
    let Some(path) = path.strip_prefix("api/") else { return Box::pin(async { Err(ApiError::NoSuchPath) }) };
    if COMMANDS.iter().any(|command| path.starts_with(command)) {
        return Box::pin(std::future::ready(refused(&app, &call)));
    }
    let (path, rest) = match ["task/info/", "task/result/"].iter().find_map(|one| Some((*one, path.strip_prefix(one)?)))
    {
        Some((one, rest)) => (one, rest.to_owned()),
        None => (path.strip_suffix('/').unwrap_or(path), String::new()),
    };
    match path {
        "tasks" => Box::pin(tasks::list(app, call)),
        "task/types" => Box::pin(tasks::types(app, call)),
        "task/info/" => Box::pin(tasks::info(rest, app, call)),
        "task/result/" => Box::pin(tasks::result(rest, app, call)),
        "workers" => Box::pin(workers::list(app, call)),
        "queues/length" => Box::pin(workers::queues(app, call)),
        _ => Box::pin(async { Err(ApiError::NoSuchPath) }),
    }
}

/// Who may not ask at all is told that first.
fn refused(app: &App, call: &Call) -> Result<Response, ApiError> {
    app.auth.caller(&call.headers)?;
    if call.method != Method::POST {
        return Err(wrong_method(&call.method, "POST"));
    }
    Err(ApiError::RecordsOnly)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_whichever_user_is_the_key() {
        let translated = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            translate(&mut headers);
            headers[header::AUTHORIZATION].to_str().unwrap().to_owned()
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        assert_eq!(translated(&basic("admin:rk_live_1")), "Bearer rk_live_1");
        assert_eq!(translated(&basic(":a:b").replace("Basic", "bAsIc")), "Bearer a:b");
        assert_eq!(translated("Bearer x"), "Bearer x");
        for unreadable in [basic("no colon"), "Basic ???".to_owned(), basic("a:b\nc"), "Basic".to_owned()] {
            assert_eq!(translated(&unreadable), unreadable);
        }
    }
}
