//! A span for each request, where somebody takes spans. In the log alone they would cost every request something, and say
//! what its lines say already.

use tracing::field::Empty;
use tracing::{Span, info_span};
use warp::http::{HeaderMap, Method, Request, StatusCode};

use crate::app::App;
use crate::routes::endpoint;

/// Puts the span of a request below that which its headers name.
pub type Adopt = Box<dyn Fn(&Span, &HeaderMap) + Send + Sync>;

/// What a span keeps of a path, in characters: it waits in memory until it is sent.
const PATH: usize = 256;

impl App {
    /// From now on each request is a span; a second call changes nothing. Its names are those of the semantic conventions
    /// of OpenTelemetry for HTTP servers.
    pub fn trace_requests(&self, adopt: Adopt) {
        let _ = self.adopt.set(adopt);
    }
}

/// The span of a request, or none.
pub(crate) fn request<B>(app: &App, request: &Request<B>) -> Span {
    let Some(adopt) = app.adopt.get() else { return Span::none() };
    let path = request.uri().path();
    let (method, route) = (known(request.method()), endpoint(path));
    let end = path.char_indices().nth(PATH).map_or(path.len(), |(end, _)| end);
    let span = info_span!(
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = &path[..end],
        forebay.events = Empty,
        forebay.position = Empty,
    );
    adopt(&span, request.headers());
    span
}

/// How the request of the span was answered.
pub(crate) fn answered(status: StatusCode) {
    let span = Span::current();
    // Signed, here and below: OpenTelemetry knows no other whole numbers.
    span.record("http.response.status_code", i64::from(status.as_u16()));
    if status.is_server_error() {
        span.record("otel.status_code", "error");
    }
}

/// What the request of the span put into the log: so many events, the last of them at this position.
pub(crate) fn stored(events: usize, position: Option<u64>) {
    let span = Span::current();
    span.record("forebay.events", events as i64);
    if let Some(position) = position {
        span.record("forebay.position", position as i64);
    }
}

/// Anybody can make up methods.
fn known(method: &Method) -> &'static str {
    let methods =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let names = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    methods.iter().position(|known| known == method).map_or("_OTHER", |place| names[place])
}
