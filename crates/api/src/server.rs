//! The HTTP server around warp's service.
//!
//! warp's own server has no limit on how long a client may take to send its headers, none on connections, and stops
//! without a deadline; so the accept loop is ours.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_service::Service as _;
use warp::Filter;
use warp::http::{HeaderValue, Method, Request, header};
use warp::reply::Response;

use crate::app::App;
use crate::errors::ApiError;
use crate::http::{Hangup, Peer};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4_096;
/// For the headers of one request, and so for an idle connection too.
const HEADER_TIME: Duration = Duration::from_secs(75);
/// For requests under way when the server stops.
const STOP_TIME: Duration = Duration::from_secs(5);
/// After a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);

/// Serves the API until `shutdown` resolves and the requests under way are answered, for at most 5 seconds more.
pub async fn serve(listener: TcpListener, app: Arc<App>, shutdown: impl Future<Output = ()>) {
    let routes = crate::routes::routes(Arc::clone(&app)).boxed();
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let accepting = async {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let hangup = Hangup::default();
            let connection = graceful.watch(connection(stream, Peer(peer), hangup.clone(), routes.clone()));
            tokio::spawn(async move {
                tokio::select! {
                    ended = connection => if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended badly");
                    },
                    () = hangup.wanted() => tracing::debug!(%peer, "a connection was cut off"),
                }
                drop(slot);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    drop(listener);
    // They would never end by themselves.
    app.streams.close();
    if tokio::time::timeout(STOP_TIME, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were still under way when the server stopped");
    }
}

type Routes = warp::filters::BoxedFilter<(Response,)>;

fn connection(
    stream: TcpStream,
    peer: Peer,
    hangup: Hangup,
    routes: Routes,
) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> {
    // An answer is one write; waiting for more would only delay it.
    let _ = stream.set_nodelay(true);
    let service = warp::service(routes);
    let handler = hyper::service::service_fn(move |request: Request<Incoming>| {
        let mut service = service.clone();
        let hangup = hangup.clone();
        async move { Ok::<_, Infallible>(respond(request, peer, hangup, |request| service.call(request)).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), handler)
}

async fn respond<B, F>(
    mut request: Request<B>,
    peer: Peer,
    hangup: Hangup,
    serve: impl FnOnce(Request<B>) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Infallible>>,
{
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(peer);
    request.extensions_mut().insert(hangup);
    // The answer to HEAD is that to GET; hyper leaves the body out.
    if method == Method::HEAD {
        *request.method_mut() = Method::GET;
    }
    // A bug in one handler must not cost the connection, whose other requests have nothing to do with it. The handlers
    // share only what is safe to share between threads and is left whole by a panic.
    let served = AssertUnwindSafe(async { serve(request).await }).catch_unwind().await;
    let mut response = match served {
        Ok(Ok(response)) => response,
        Err(_) => ApiError::internal("a handler panicked").response(),
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), took = ?began.elapsed(), "request");
    let headers = response.headers_mut();
    // The page's files say for themselves how long they are good.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};

    #[tokio::test]
    async fn a_panic_is_an_internal_error_in_the_envelope() {
        let peer = Peer(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        let response = respond(Request::new(()), peer, Hangup::default(), |_| async { panic!("a bug") }).await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
}
