//! What every handler gets and gives: a request taken apart, a JSON answer, a body read within limits.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use warp::Filter;
use warp::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use warp::reject::Rejection;
use warp::reply::Response;

use crate::door::Way;
use crate::errors::ApiError;

/// A sender that is silent for so long in the middle of its body is given up.
const BODY_SILENCE: Duration = Duration::from_secs(20);
/// All of a body has so long to come, and a second more for so many bytes of it.
const BODY_TIME: Duration = Duration::from_secs(30);
const BODY_BYTES_PER_SECOND: u64 = 16 * 1_024;
/// A refused body is still read up to so much and so long: a client in the middle of sending would otherwise see a
/// reset connection instead of our answer.
const REFUSED_BODY_BYTES: usize = 64 * 1_024 * 1_024;
const REFUSED_BODY_TIME: Duration = Duration::from_secs(10);

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send>>;

/// Ends the connection that a request came by without waiting for what is still to be sent; the server puts it into each
/// request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hangup(Arc<Notify>);

impl Hangup {
    /// Ends it.
    pub(crate) fn now(&self) {
        self.0.notify_one();
    }

    /// Waits until it is to be ended.
    pub(crate) async fn wanted(&self) {
        self.0.notified().await;
    }
}

/// A request, taken apart.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) headers: HeaderMap,
    /// Without the question mark; empty where there is none.
    pub(crate) query: String,
    /// Who asks, as far as can be told.
    pub(crate) peer: IpAddr,
    /// Whether it came over TLS.
    pub(crate) secure: bool,
    pub(crate) hangup: Hangup,
    /// Only whoever has the whole call reads it; the lock lets others look at the rest of it meanwhile.
    body: Mutex<Body>,
    /// Bytes of the body that came, and how long they were waited for.
    received: u64,
    waited: Duration,
}

/// Takes any request apart, whatever its method.
pub(crate) fn call() -> impl Filter<Extract = (Call,), Error = Rejection> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::filters::method::method()
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::optional::<Way>())
        .and(warp::ext::optional::<Hangup>())
        .and(warp::body::stream())
        .map(|method, headers, query, way: Option<Way>, hangup: Option<Hangup>, body| {
            let nowhere = Way { client: IpAddr::V4(Ipv4Addr::UNSPECIFIED), secure: false };
            let Way { client: peer, secure } = way.unwrap_or(nowhere);
            let (hangup, body) = (hangup.unwrap_or_default(), Mutex::new(boxed(body)));
            Call { method, headers, query, peer, secure, hangup, body, received: 0, waited: Duration::ZERO }
        })
}

fn boxed<B: bytes::Buf>(body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static) -> Body {
    Box::pin(body.map(|chunk| chunk.map(|mut buffer| buffer.copy_to_bytes(buffer.remaining()))))
}

impl Call {
    /// The length of the body, where it is announced.
    pub(crate) fn announced(&self) -> Option<usize> {
        let length: u64 = self.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()?;
        Some(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The whole body, which may come with or without its length announced.
    pub(crate) async fn body(&mut self, limit: usize) -> Result<Bytes, ApiError> {
        if self.announced().is_some_and(|length| length > limit) {
            self.drain().await;
            return Err(ApiError::PayloadTooLarge { limit });
        }
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                self.drain().await;
                return Err(ApiError::PayloadTooLarge { limit });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The body as JSON of one shape.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self, limit: usize, shape: &str) -> Result<T, ApiError> {
        let body = self.body(limit).await?;
        serde_json::from_slice(&body)
            .map_err(|_| ApiError::Validation { message: format!("The body must be {shape}, as JSON."), details: None })
    }

    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        let allowed = BODY_TIME + Duration::from_secs(self.received / BODY_BYTES_PER_SECOND);
        let patience = BODY_SILENCE.min(allowed.saturating_sub(self.waited));
        let began = Instant::now();
        let chunk = tokio::time::timeout(patience, self.body.get_mut().next()).await;
        self.waited += began.elapsed();
        match chunk {
            Err(_) => Err(ApiError::RequestTimeout),
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => {
                self.received += chunk.len() as u64;
                Ok(Some(chunk))
            }
            Ok(Some(Err(error))) => {
                tracing::debug!(%error, "a request body broke off");
                Err(ApiError::Validation { message: "The request body broke off.".to_owned(), details: None })
            }
        }
    }

    /// Reads on without keeping anything, so that the refusal is heard.
    pub(crate) async fn drain(&mut self) {
        // Who asks first whether to send at all has not begun, and asking for the body would be the consent.
        if self.headers.contains_key(header::EXPECT) {
            return;
        }
        let mut seen = 0;
        let reading = async {
            while let Some(Ok(chunk)) = self.body.get_mut().next().await {
                seen += chunk.len();
                if seen > REFUSED_BODY_BYTES {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(REFUSED_BODY_TIME, reading).await;
    }
}

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => json_bytes(status, bytes),
        // The bodies of errors are plain texts, so this goes one step deep at most.
        Err(error) => ApiError::internal(error).response(),
    }
}

/// An answer whose JSON is made already.
pub(crate) fn json_bytes(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whatever a handler came to, as an answer.
pub(crate) fn answer(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(|error| error.response())
}
