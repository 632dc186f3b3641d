//! Which path leads where. Only paths are left to warp's rejections; a handler always answers.

use std::convert::Infallible;
use std::sync::Arc;

use warp::Filter;
use warp::path::{Tail, end, path, tail};
use warp::reply::Response;

use crate::app::App;
use crate::http::{answer, call};
use crate::{backup, errors, health, ingest, jobs, maintenance, manage, queues, session, workers};

/// The whole API.
pub(crate) fn routes(app: Arc<App>) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone {
    let with_app = warp::any().map(move || Arc::clone(&app));
    let request = with_app.and(call());
    let at = |name: &'static str| warp::path("api").and(path(name));
    let rest = || tail().map(|tail: Tail| tail.as_str().to_owned());

    let ingest = at("ingest").and(end()).and(request.clone()).then(ingest::ingest).map(answer);
    let jobs = at("jobs").and(end()).and(request.clone()).then(jobs::list).map(answer);
    let job = at("jobs").and(rest()).and(request.clone()).then(jobs::get).map(answer);
    let workers = at("workers").and(end()).and(request.clone()).then(workers::list).map(answer);
    let queues = at("queues").and(end()).and(request.clone()).then(queues::list).map(answer);
    let session = at("session").and(end()).and(request.clone()).then(session::session).map(answer);
    let connections = at("connections").and(end()).and(request.clone()).then(manage::connections).map(answer);
    let connection = at("connections").and(rest()).and(request.clone()).then(manage::connection).map(answer);
    let export = at("export").and(end()).and(request.clone()).then(backup::export).map(answer);
    let import = at("import").and(end()).and(request.clone()).then(backup::import).map(answer);
    let rebuilds = at("rebuilds").and(end()).and(request.clone()).then(maintenance::rebuilds).map(answer);
    let rebuild = at("rebuilds").and(rest()).and(request.clone()).then(maintenance::rebuild).map(answer);
    let verifications =
        at("verifications").and(end()).and(request.clone()).then(maintenance::verifications).map(answer);
    let verification = at("verifications").and(rest()).and(request.clone()).then(maintenance::verification).map(answer);
    let quarantine = at("quarantine").and(end()).and(request.clone()).then(maintenance::quarantine).map(answer);
    let maintenance =
        rebuilds.or(rebuild).unify().or(verifications).unify().or(verification).unify().or(quarantine).unify();
    let health = at("health").and(end()).and(request.clone()).then(health::health).map(answer);
    let live = at("health").and(path("live")).and(end()).and(request).then(health::live).map(answer);

    ingest
        .or(jobs)
        .unify()
        .or(job)
        .unify()
        .or(workers)
        .unify()
        .or(queues)
        .unify()
        .or(session)
        .unify()
        .or(connections)
        .unify()
        .or(connection)
        .unify()
        .or(export)
        .unify()
        .or(import)
        .unify()
        .or(maintenance)
        .unify()
        .or(health)
        .unify()
        .or(live)
        .unify()
        .recover(errors::recover)
        .unify()
}
