//! `GET /api/events/stream`: what happens, as it happens, as server-sent events.
//!
//! Every frame has an id. A client that comes back with the last one it saw (`Last-Event-ID`, or `lastEventId` in the
//! query, of which the header wins) goes on after it, as long as the ring holds what followed. Where it does not, the
//! stream says `resync` and goes on from now: what the client knows has to be read anew. A client that is so slow that
//! the ring overtakes it gets `overflow` as its last event. An id with nothing beside it comes first and every 15
//! seconds with the `heartbeat`, so that a client whose filters let nothing through goes on from there too.

mod feed;
mod text;
mod watched;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use projector::Frames;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reply::{Reply as _, Response};

use self::feed::Feed;
use self::text::{Texts, event_id, opening, resync};
use self::watched::Params;
use crate::app::App;
use crate::errors::{ApiError, wrong_method};
use crate::http::Call;
use crate::operation::{Access, Answer, Operation, READ_ERRORS};

/// Streams that are open at once. They are connections like any other, and some of those are to be left.
const STREAMS: usize = 1_000;
/// Characters of a foreign id that are repeated to whoever sent it.
const SHOWN: usize = 64;

const TOO_MANY: ApiError = ApiError::Unavailable("Too many event streams are open.");

/// What the open streams share.
pub(crate) struct Streams {
    slots: Arc<Semaphore>,
    closing: watch::Sender<bool>,
    texts: Arc<Texts>,
}

impl Default for Streams {
    fn default() -> Self {
        let slots = Arc::new(Semaphore::new(STREAMS));
        Self { slots, closing: watch::Sender::new(false), texts: Arc::default() }
    }
}

impl Streams {
    /// Ends all streams, and every one that is opened from now on.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        STREAMS - self.slots.available_permits()
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| TOO_MANY)
    }
}

pub(crate) const OPERATIONS: &[Operation] = &[Operation {
    about: "Server-sent events: `job:state_change`, `worker:heartbeat`, `worker:state_change`, `queue:snapshot`, and \
            `heartbeat` every 15 seconds; open until the client leaves, or what it was let in by is good no more. Each has an `id:`, and the last 100,000 can be gone \
            on from; `resync` says that what followed the given id is not known any more, and `overflow`, as the last \
            event, that the client was too slow.",
    query: watched::PARAMS,
    answers: &[Answer::of::<String>(StatusCode::OK, "The events.", "text/event-stream")],
    errors: READ_ERRORS,
    ..Operation::get("/api/events/stream", "streamEvents", "events", "What happens, as it happens", Access::Reader)
}];

pub(crate) fn stream(app: &App, call: Call) -> Result<Response, ApiError> {
    if call.method != Method::GET {
        return Err(wrong_method(&call.method, "GET, HEAD"));
    }
    app.auth.require(&call)?;
    let parts = app.readable()?;
    let params = Params::parse(&call.query, &parts.connections.ids())?;
    let slot = app.streams.slot()?;
    let frames = Arc::clone(parts.projector.frames());
    let start = Start::new(&frames, last_event_id(&call.headers, params.last_event_id));
    let first = start.text(&frames);
    let (auth, headers) = (Arc::clone(&app.auth), call.headers.clone());
    let is_allowed = move || auth.may_read(&headers);
    let feed = Feed::new(frames, Arc::clone(&app.streams.texts), params.watched, start.next, Box::new(is_allowed));
    // One piece waits for the client; the next one is made when there is room again.
    let (pieces, mut waiting) = mpsc::channel::<Bytes>(1);
    let (closing, hangup) = (app.streams.closing.subscribe(), call.hangup);
    tokio::spawn(async move {
        feed.run(first, pieces, closing, hangup).await;
        drop(slot);
    });
    let body = futures_util::stream::poll_fn(move |context| {
        waiting.poll_recv(context).map(|piece| piece.map(Ok::<_, Infallible>))
    });
    let mut response = warp::reply::stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // Proxies are not to collect it.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    // Where a stream is cut off, nothing else is cut off with it.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(response)
}

/// The id after which the client wants to go on. The header is what a client that was cut off sends by itself, so it
/// knows better than the address, which stays the same.
fn last_event_id(headers: &HeaderMap, from_query: Option<String>) -> Option<String> {
    let from_header = headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    from_header.filter(|id| !id.is_empty()).or(from_query)
}

/// Where a stream begins.
struct Start {
    /// The number of its first frame.
    next: u64,
    /// Why it does not go on where the client stopped, and where that was.
    resync: Option<(&'static str, String)>,
}

impl Start {
    fn new(frames: &Frames, last_event_id: Option<String>) -> Self {
        let end = frames.end();
        let Some(id) = last_event_id else { return Self { next: end, resync: None } };
        let after = event_id::parse(&id).filter(|(epoch, number)| *epoch == frames.epoch() && *number < end);
        let reason = match after {
            Some((_, number)) if number + 1 >= frames.begin() => return Self { next: number + 1, resync: None },
            Some(_) => "too-old",
            None => "unknown-id",
        };
        Self { next: end, resync: Some((reason, id.chars().take(SHOWN).collect())) }
    }

    fn text(&self, frames: &Frames) -> Bytes {
        let id = event_id::of(frames.epoch(), self.next - 1);
        let mut text = opening(&id);
        if let Some((reason, last_event_id)) = &self.resync {
            text.push_str(&resync(&id, reason, Some(last_event_id)));
        }
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use projector::{FRAMES_KEPT, Happening};

    fn start(frames: &Frames, id: &str) -> (u64, Option<&'static str>) {
        let start = Start::new(frames, Some(id.to_owned()));
        (start.next, start.resync.map(|(reason, _)| reason))
    }

    #[test]
    fn a_stream_goes_on_after_a_frame_whose_successors_are_kept_and_from_now_on_otherwise() {
        let frames = Frames::default();
        let id = |number: u64| event_id::of(frames.epoch(), number);
        assert_eq!(start(&frames, &id(0)), (1, None));
        assert_eq!(start(&frames, &id(1)), (1, Some("unknown-id")), "it is still to come");
        frames.push(vec![Happening::Replaced; 3]);
        assert_eq!([0, 2, 3].map(|number| start(&frames, &id(number))), [(1, None), (3, None), (4, None)]);
        let foreign = event_id::of(frames.epoch() ^ 1, 2);
        let upper = id(2).to_uppercase();
        for unknown in [&*foreign, "", "2", "-2", "x-2", &id(4), &format!("{}0", id(2)), &format!(" {}", id(2))] {
            assert_eq!(start(&frames, unknown), (4, Some("unknown-id")), "{unknown}");
        }
        assert!(upper == id(2) || start(&frames, &upper) == (4, Some("unknown-id")));
        frames.push(vec![Happening::Replaced; FRAMES_KEPT]);
        let (begin, end) = (frames.begin(), frames.end());
        assert!(begin > 2, "the first are gone");
        assert_eq!(start(&frames, &id(begin - 2)), (end, Some("too-old")));
        assert_eq!(start(&frames, &id(begin - 1)), (begin, None));
    }
}
