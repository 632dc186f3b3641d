//! The HTTP server around warp's service.
//!
//! warp's own server has no limit on how long a client may take to send its headers, none on connections, and stops
//! without a deadline; so the accept loop is ours.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower_service::Service as _;
use tracing::Instrument as _;
use warp::Filter;
use warp::http::{HeaderValue, Method, Request, header};
use warp::reply::Response;

use crate::app::App;
use crate::door::{Connections, HEAD_TIME, Pace, Tls, Way, Wire};
use crate::errors::ApiError;
use crate::http::Hangup;
use crate::metrics::Requests;
use crate::routes::endpoint;
use crate::trace;

/// For an idle connection, until its next request.
const IDLE_TIME: Duration = Duration::from_secs(75);
/// What a connection may keep of what its client sends, and so what the head of a request may have; where the last piece
/// of it is large, up to twice as much.
const BUFFER_BYTES: usize = 64 * 1_024;
/// For requests under way when the server stops.
const STOP_TIME: Duration = Duration::from_secs(5);
/// After a failed accept (out of file descriptors, most likely).
const ACCEPT_PAUSE: Duration = Duration::from_millis(250);
/// Browsers come by TLS alone from then on, for a year.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Serves the API until `shutdown` resolves and the requests under way are answered, for at most 5 seconds more. With TLS
/// it is served over that alone.
pub async fn serve(listener: TcpListener, tls: Option<Arc<Tls>>, app: Arc<App>, shutdown: impl Future<Output = ()>) {
    let routes = crate::routes::routes(Arc::clone(&app)).boxed();
    let slots = Arc::new(Semaphore::new(app.door.limits.connections));
    let open = Connections::default();
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
            let most = app.door.limits.connections_per_address;
            // A proxy brings many.
            let most = most.filter(|_| !app.door.proxies.trust(peer.ip())).unwrap_or(usize::MAX);
            let Some(one_of_its) = open.open(peer.ip(), most) else {
                tracing::debug!(%peer, "a connection too many of its address was refused");
                continue;
            };
            let connection = Connection { app: Arc::clone(&app), routes: routes.clone(), peer };
            let (tls, watcher) = (tls.clone(), graceful.watcher());
            tokio::spawn(async move {
                connection.run(stream, tls, watcher).await;
                drop((one_of_its, slot));
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

/// A connection that was accepted.
struct Connection {
    app: Arc<App>,
    routes: Routes,
    peer: SocketAddr,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: Option<Arc<Tls>>, watcher: Watcher) {
        // An answer is one write; waiting for more would only delay it.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return self.serve(stream, false, watcher).await };
        let peer = self.peer;
        match tokio::time::timeout(HEAD_TIME, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, true, watcher).await,
            Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS was not agreed on"),
            Err(_) => tracing::debug!(%peer, "TLS was not agreed on in time"),
        }
    }

    async fn serve<S>(self, stream: S, tls: bool, watcher: Watcher)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let Self { app, routes, peer } = self;
        let (hangup, pace) = (Hangup::default(), Pace::new());
        let service = warp::service(routes);
        let stream = Wire::new(stream, pace.clone());
        let handler = hyper::service::service_fn({
            let (hangup, pace) = (hangup.clone(), pace.clone());
            move |mut request: Request<Incoming>| {
                pace.serving();
                let (mut service, pace, app) = (service.clone(), pace.clone(), Arc::clone(&app));
                let way = admit(&app, &mut request, peer, tls);
                request.extensions_mut().insert(hangup.clone());
                let span = trace::request(&app, &request);
                let answering = async move {
                    let response = respond(request, way, &app.requests, |request| service.call(request)).await;
                    pace.answered();
                    Ok::<_, Infallible>(response)
                };
                answering.instrument(span)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIME)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), handler);
        tokio::select! {
            ended = watcher.watch(connection) => if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            },
            () = hangup.wanted() => tracing::debug!(%peer, "a connection was cut off"),
            () = pace.too_slow() => tracing::debug!(%peer, "a request took too long to come"),
        }
    }
}

/// Finds out by which way a request came, and takes away what it must not say and what only that way is about.
fn admit<B>(app: &App, request: &mut Request<B>, peer: SocketAddr, tls: bool) -> Way {
    let user = app.door.users.as_ref().map(|users| &users.header);
    let way = app.door.proxies.way(request.headers_mut(), peer, tls, user);
    if let Some(uri) = app.door.base_path.strip(request.uri()) {
        *request.uri_mut() = uri;
    }
    request.extensions_mut().insert(way);
    way
}

async fn respond<B, F>(
    mut request: Request<B>,
    way: Way,
    requests: &Requests,
    serve: impl FnOnce(Request<B>) -> F,
) -> Response
where
    F: Future<Output = Result<Response, Infallible>>,
{
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Somebody between us and the client may be of another opinion about where such a request ends, and what follows it on
    // the connection be a part of it then: it is not to be taken for a request of somebody else. Where a length was
    // announced as well, it may be gone by now.
    let is_ambiguous = request.headers().contains_key(header::TRANSFER_ENCODING);
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
    requests.note(endpoint(&path), response.status(), began.elapsed());
    trace::answered(response.status());
    tracing::debug!(%method, path, status = response.status().as_u16(), took = ?began.elapsed(), "request");
    let headers = response.headers_mut();
    // The page's files say for themselves how long they are good, and what they may load.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(NOTHING);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if way.secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    if is_ambiguous {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer of the API is no page: nothing of it is to be run, loaded or shown in a frame.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    #[tokio::test]
    async fn a_panic_is_an_internal_error_in_the_envelope() {
        let way = Way { client: IpAddr::V4(Ipv4Addr::LOCALHOST), secure: false };
        let response = respond(Request::new(()), way, &Requests::default(), |_| async { panic!("a bug") }).await;
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
}
