//! Which path leads where. A handler always answers, whatever the method.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use warp::Filter;
use warp::http::Method;
use warp::path::{FullPath, Tail, end, full, path, tail};
use warp::reply::Response;

use crate::app::App;
use crate::auth::refuse_foreign;
use crate::door::Credential;
use crate::errors::{self, ApiError};
use crate::http::{Call, answer, call};
use crate::{
    alerts, audit, backup, coverage, failures, first_run, flower, health, ingest, jobs, maintenance, manage, metrics,
    oidc, openapi, overview, page, quarantine, queues, session, sources, stream, tasks, workers,
};

type Answered = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;

/// A path below `/api`.
struct Route {
    path: &'static str,
    /// What requests for it are counted as.
    endpoint: &'static str,
    handler: Handler,
}

/// What answers there.
enum Handler {
    /// The path itself.
    At(fn(Arc<App>, Call) -> Answered),
    /// All that is below it, with the rest of the path as it stands in the request: encoded, and perhaps with slashes.
    Below(fn(String, Arc<App>, Call) -> Answered),
}

/// A path as it is below `/api`, and as requests for it are counted.
macro_rules! at {
    ($path:literal, $handler:expr) => {
        Route { path: $path, endpoint: concat!("/api/", $path), handler: Handler::At($handler) }
    };
}

macro_rules! below {
    ($path:literal, $handler:expr) => {
        Route { path: $path, endpoint: concat!("/api/", $path, "/*"), handler: Handler::Below($handler) }
    };
}

const ROUTES: &[Route] = &[
    at!("ingest", |app, call| Box::pin(ingest::ingest(app, call))),
    at!("jobs", |app, call| Box::pin(jobs::list(app, call))),
    at!("events/stream", |app, call| Box::pin(ready(stream::stream(&app, call)))),
    at!("tasks", |app, call| Box::pin(tasks::list(app, call))),
    below!("tasks", |name, app, call| Box::pin(tasks::get(name, app, call))),
    at!("overview", |app, call| Box::pin(overview::get(app, call))),
    at!("workers", |app, call| Box::pin(workers::list(app, call))),
    at!("coverage", |app, call| Box::pin(coverage::get(app, call))),
    at!("queues", |app, call| Box::pin(queues::list(app, call))),
    at!("failures", |app, call| Box::pin(failures::list(app, call))),
    below!("jobs", |path, app, call| Box::pin(jobs::get(path, app, call))),
    at!("session", |app, call| Box::pin(session::session(app, call))),
    at!("session/once", |app, call| Box::pin(ready(session::once(&app, &call)))),
    at!("session/oidc", |app, call| Box::pin(oidc::begin(app, call))),
    at!("session/oidc/callback", |app, call| Box::pin(oidc::complete(app, call))),
    at!("sessions", |app, call| Box::pin(session::all(app, call))),
    at!("audit", |app, call| Box::pin(audit::list(app, call))),
    at!("first-run", |app, call| Box::pin(ready(first_run::get(&app, &call)))),
    at!("connections", |app, call| Box::pin(manage::connections(app, call))),
    below!("connections", |path, app, call| Box::pin(manage::connection(path, app, call))),
    at!("keys", |app, call| Box::pin(manage::keys(app, call))),
    below!("keys", |path, app, call| Box::pin(manage::key(path, app, call))),
    at!("sources", |app, call| Box::pin(sources::sources(app, call))),
    below!("sources", |path, app, call| Box::pin(sources::source(path, app, call))),
    at!("alerts", |app, call| Box::pin(ready(alerts::get(&app, &call)))),
    below!("alerts", |path, app, call| Box::pin(alerts::test(path, app, call))),
    at!("export", |app, call| Box::pin(backup::export(app, call))),
    at!("import", |app, call| Box::pin(backup::import(app, call))),
    at!("rebuilds", |app, call| Box::pin(maintenance::rebuilds(app, call))),
    below!("rebuilds", |path, app, call| Box::pin(maintenance::rebuild(path, app, call))),
    at!("verifications", |app, call| Box::pin(maintenance::verifications(app, call))),
    below!("verifications", |path, app, call| Box::pin(ready(maintenance::verification(&path, &app, &call)))),
    at!("quarantine", |app, call| Box::pin(quarantine::quarantine(app, call))),
    at!("health", |app, call| Box::pin(health::health(app, call))),
    at!("health/live", |app, call| Box::pin(ready(health::live(&app, &call)))),
    at!("openapi.json", |app, call| Box::pin(ready(openapi::get(&app, &call)))),
];

/// The whole API, and the page that shows it.
pub(crate) fn routes(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    let with_app = warp::any().map(move || Arc::clone(&app));
    let api = path("api").and(tail()).and(with_app.clone()).and(call()).then(respond);
    let metrics = path("metrics")
        .and(end())
        .and(with_app.clone())
        .and(call())
        .then(|app, call| async move { guarded(app, call, true, metrics::get).await });
    let flower =
        path("flower").and(tail()).and(with_app.clone()).and(call()).then(
            |path: Tail, app: Arc<App>, call: Call| async move { flower::respond(path.as_str(), app, call).await },
        );
    let page = full().and(with_app).and(call()).then(|path: FullPath, app: Arc<App>, call: Call| async move {
        // What may be seen by all is limited all the same.
        let admitted = app.guard.admit(call.peer, None);
        answer(admitted.and_then(|()| page::get(path.as_str(), &app, &call)))
    });
    api.or(metrics).unify().or(flower).unify().or(page).unify().recover(errors::recover).unify()
}

async fn respond(path: Tail, app: Arc<App>, call: Call) -> Response {
    // Ingest is for who shows a key, which no browser adds by itself.
    let is_for_browsers = path.as_str() != "ingest";
    guarded(app, call, is_for_browsers, |app, call| async move {
        match find(path.as_str()) {
            Some((Route { handler: Handler::At(handler), .. }, _)) => handler(app, call).await,
            Some((Route { handler: Handler::Below(handler), .. }, rest)) => handler(rest.to_owned(), app, call).await,
            None => Err(ApiError::NoSuchPath),
        }
    })
    .await
}

/// Answers within the limits, and pages of other sites not where they would change something: whichever handler it is.
pub(crate) async fn guarded<F>(
    app: Arc<App>,
    mut call: Call,
    is_for_browsers: bool,
    handle: impl FnOnce(Arc<App>, Call) -> F,
) -> Response
where
    F: Future<Output = Result<Response, ApiError>>,
{
    // Who can read the data directory has no need to guess, and is not to be kept out by others who do.
    let is_limited = !app.auth.has_token(&call.headers);
    let (peer, credential) = (call.peer, Credential::of(&call.headers));
    let mut admitted = if is_limited { app.guard.admit(peer, credential) } else { Ok(()) };
    if is_for_browsers && call.method != Method::GET && call.method != Method::OPTIONS {
        admitted = admitted.and_then(|()| refuse_foreign(&call.headers));
    }
    if let Err(error) = admitted {
        // A body that is still on its way when the answer is there would cost the connection.
        call.drain().await;
        return error.response();
    }
    let response = answer(handle(Arc::clone(&app), call).await);
    if is_limited {
        app.guard.note(peer, credential, response.status());
    }
    response
}

/// What a path of a request is counted as: one of a few words, whatever is asked for.
pub(crate) fn endpoint(path: &str) -> &'static str {
    if path == metrics::PATH {
        return metrics::PATH;
    }
    if path.starts_with("/flower/") {
        return "/flower";
    }
    let Some(below) = path.strip_prefix("/api/") else { return "page" };
    match find(below) {
        Some((route, _)) => route.endpoint,
        None => "unknown",
    }
}

/// The route of a path below `/api`, and what is left of the path.
fn find(path: &str) -> Option<(&'static Route, &str)> {
    let whole = path.strip_suffix('/').unwrap_or(path);
    let at = |route: &&Route| matches!(route.handler, Handler::At(_)) && route.path == whole;
    if let Some(route) = ROUTES.iter().find(at) {
        return Some((route, ""));
    }
    let (name, rest) = path.split_once('/')?;
    let below = |route: &&Route| matches!(route.handler, Handler::Below(_)) && route.path == name;
    ROUTES.iter().find(below).map(|route| (route, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a path of the document leads.
    fn leads(path: &str) -> &'static str {
        // Beside the API.
        if path == metrics::PATH {
            return &metrics::PATH[1..];
        }
        let below = path.strip_prefix("/api/").unwrap_or_else(|| panic!("{path} is not below /api"));
        let (route, _) = find(below).unwrap_or_else(|| panic!("{path} is described and leads nowhere"));
        route.path
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        for route in ROUTES {
            let is_below = matches!(route.handler, Handler::Below(_));
            let described = openapi::all().any(|operation| {
                let has_rest = operation.path.len() > "/api/".len() + route.path.len();
                leads(operation.path) == route.path && has_rest == is_below
            });
            assert!(described, "/api/{} is not described", route.path);
        }
        for operation in openapi::all() {
            assert!(operation.path.contains(leads(operation.path)));
        }
    }

    #[test]
    fn a_slash_at_the_end_of_a_path_means_nothing_but_of_an_id_it_is_a_part() {
        let found = |path: &str| find(path).map(|(route, rest)| (route.path, rest.to_owned()));
        assert_eq!(found("jobs"), found("jobs/"));
        assert_eq!(found("health/live/"), Some(("health/live", String::new())));
        assert_eq!(found("jobs/a/b/"), Some(("jobs", "a/b/".to_owned())));
        assert_eq!(found("jobs//"), Some(("jobs", "/".to_owned())));
        for nothing in ["", "/", "/jobs", "job", "health/x", "ingest/x"] {
            assert_eq!(found(nothing), None, "{nothing}");
        }
    }
}
