//! What a read may ask of the views, and what each answer says about them.
//!
//! Every answer to a read carries `Forebay-Applied`: all of the log up to this position is in it; and
//! `Forebay-Staleness-Ms`: all that the log held so long ago is in it (left out until the log was asked once). The
//! second is an upper bound, and a quarter of a second of it may be the time since the log was last asked. While the
//! log is not the one that the views were made from, `Forebay-Stale` says why; it says `upgrading` while the views are
//! those of another version of Forebay, which go no further until new ones take their place.
//!
//! `atLeast=POSITION` waits up to 5 seconds until that much is applied. `maxStaleness=MS` asks the log for its end where
//! the age is not known exactly enough, and waits for half a second at most. What cannot be had is 503 `UNAVAILABLE`,
//! never older data.

use std::time::{Duration, Instant};

use projector::{Fenced, Phase, Status};
use warp::http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::reply::Response;

use crate::app::Parts;
use crate::errors::ApiError;
use crate::http::json_bytes;

/// How long a read waits for the position that it asks for.
const POSITION_TIME: Duration = Duration::from_secs(5);
/// How long a read waits for data as young as it asks for: for an answer of the log and what is about to be applied.
const FRESH_TIME: Duration = Duration::from_millis(500);

const NOT_APPLIED: ApiError = ApiError::Unavailable("The log position asked for is not applied yet.");
const TOO_OLD: ApiError = ApiError::Unavailable("What is known is older than asked for.");
const UPGRADING: ApiError = ApiError::Unavailable(
    "The views of another version answer until new ones are made, and the log position asked for is not in them.",
);
const OTHER_LOG: ApiError =
    ApiError::Unavailable("The log is not the one that was read, so its positions mean nothing here.");

/// What a read asks of the views.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    /// That this message of the log is applied.
    pub(crate) at_least: Option<u64>,
    /// That they are not older than this.
    pub(crate) max_staleness: Option<Duration>,
}

impl Wanted {
    /// Waits until the views are as asked for.
    async fn wait(self, parts: &Parts) -> Result<(), ApiError> {
        if let Some(sequence) = self.at_least {
            // In another log the same number is another message.
            if fenced(parts).is_some() {
                return Err(OTHER_LOG);
            }
            applied(parts, sequence).await?;
        }
        let moment = self.max_staleness.and_then(|age| Instant::now().checked_sub(age));
        match moment {
            Some(moment) if !parts.projector.wait_complete(moment, FRESH_TIME).await => Err(TOO_OLD),
            _ => Ok(()),
        }
    }
}

/// Waits until this message of the log is applied; not where none is applied any more.
pub(crate) async fn applied(parts: &Parts, sequence: u64) -> Result<(), ApiError> {
    let status = parts.projector.status();
    if matches!(status.phase, Phase::Upgrading { .. }) && status.applied < sequence {
        return Err(UPGRADING);
    }
    let applied = parts.projector.wait_applied(sequence, POSITION_TIME).await;
    if applied || fenced(parts).is_some() { Ok(()) } else { Err(NOT_APPLIED) }
}

/// Waits until all that the log held at this moment is applied; not where nothing is applied any more.
pub(crate) async fn complete(parts: &Parts) -> Result<(), ApiError> {
    if stale(parts).is_some() || parts.projector.wait_complete(Instant::now(), POSITION_TIME).await {
        return Ok(());
    }
    // It may just have turned out that it is another log.
    if stale(parts).is_some() { Ok(()) } else { Err(TOO_OLD) }
}

/// Answers a read with the JSON that it makes, once the views are as asked for.
pub(crate) async fn answer(
    parts: &Parts,
    headers: &HeaderMap,
    wanted: Wanted,
    read: impl Future<Output = Result<Vec<u8>, ApiError>>,
) -> Response {
    respond(parts, wanted, async { Ok(conditional(read.await?, headers)) }).await
}

/// Answers a read with what it makes, once the views are as asked for.
pub(crate) async fn respond(
    parts: &Parts,
    wanted: Wanted,
    read: impl Future<Output = Result<Response, ApiError>>,
) -> Response {
    let ready = wanted.wait(parts).await;
    // Before the read, so that it holds at least this.
    let seen = Seen::now(parts);
    let answer = match ready {
        Ok(()) => read.await,
        Err(error) => Err(error),
    };
    let mut response = answer.unwrap_or_else(|error| error.response());
    seen.mark(response.headers_mut());
    response
}

/// What the views hold.
struct Seen {
    applied: u64,
    staleness: Option<Duration>,
    stale: Option<&'static str>,
}

impl Seen {
    fn now(parts: &Parts) -> Self {
        let Status { staleness, phase, .. } = parts.projector.status();
        Self { applied: parts.reader.applied(), staleness, stale: is_stale(&phase) }
    }

    fn mark(&self, headers: &mut HeaderMap) {
        headers.insert("forebay-applied", self.applied.into());
        if let Some(staleness) = self.staleness {
            let millis = u64::try_from(staleness.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
            headers.insert("forebay-staleness-ms", millis.into());
        }
        if let Some(reason) = self.stale {
            headers.insert("forebay-stale", HeaderValue::from_static(reason));
        }
    }
}

/// Why the log is not the one that the views were made from, in a word.
fn fenced(parts: &Parts) -> Option<&'static str> {
    is_fenced(&parts.projector.status().phase)
}

fn is_fenced(phase: &Phase) -> Option<&'static str> {
    match phase {
        Phase::Fenced(Fenced::Recreated) => Some("log-recreated"),
        Phase::Fenced(Fenced::RolledBack { .. }) => Some("log-rolled-back"),
        Phase::Fenced(Fenced::Missing) => Some("log-missing"),
        Phase::CatchingUp | Phase::Following | Phase::Upgrading { .. } | Phase::Failed(_) => None,
    }
}

/// Why nothing is applied to the views, in a word.
fn stale(parts: &Parts) -> Option<&'static str> {
    is_stale(&parts.projector.status().phase)
}

fn is_stale(phase: &Phase) -> Option<&'static str> {
    match phase {
        Phase::Upgrading { .. } => Some("upgrading"),
        _ => is_fenced(phase),
    }
}

/// The body with its tag; without the body where the client has it.
pub(crate) fn conditional(body: Vec<u8>, headers: &HeaderMap) -> Response {
    let hash = blake3::hash(&body).to_hex();
    // 128 bits are plenty to tell answers apart.
    let tag = format!("\"{}\"", &hash[..32]);
    let mut response = if has_tag(headers, &tag) {
        let mut response = Response::new(Vec::new().into());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        json_bytes(StatusCode::OK, body)
    };
    if let Ok(tag) = HeaderValue::try_from(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Whether the client says that it has the answer of this tag. A tag of somebody else may hold a comma, but then its
/// pieces are not whole tags.
pub(crate) fn has_tag(headers: &HeaderMap, tag: &str) -> bool {
    headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        let is_ours = |piece: &str| piece.strip_prefix("W/").unwrap_or(piece) == tag;
        value.trim() == "*" || value.split(',').map(str::trim).any(is_ours)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_name_what_it_has_in_every_way_of_the_standard() {
        let tag = "\"0123\"";
        let named = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::IF_NONE_MATCH, value.parse().unwrap());
            }
            has_tag(&headers, tag)
        };
        let yes: [&[&str]; 6] = [
            &["\"0123\""],
            &["W/\"0123\""],
            &["*"],
            &["\"a\", W/\"b,c\",\"0123\" "],
            &["\"a\"", "\"0123\""],
            &["\"é\"", " * "],
        ];
        let no: [&[&str]; 7] =
            [&[], &[""], &["0123"], &["\"01234\""], &["w/\"0123\""], &["\"a, *, b\""], &["\"a\", \"b\""]];
        for values in yes {
            assert!(named(values), "{values:?}");
        }
        for values in no {
            assert!(!named(values), "{values:?}");
        }
    }
}
