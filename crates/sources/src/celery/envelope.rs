//! The envelope that kombu puts around a message on Redis: JSON, with the body inside as base64 text.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

use crate::json::{repaired, shown};

/// Why a message of the event channels could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// It is not what kombu writes.
    #[error("not a kombu message: {0}")]
    NotAnEnvelope(String),
    /// Another serialiser than JSON.
    #[error("the events are serialised as {0}, and only JSON is read: set event_serializer = \"json\" in Celery")]
    Serialiser(String),
    /// A compressed body.
    #[error("the events are compressed ({0}), and only plain ones are read: turn compression of events off in Celery")]
    Compressed(String),
    /// The body says that it is base64, and is not.
    #[error("the body is not {0}, as the message says it is")]
    Encoding(String),
    /// The body is not JSON, although the message says so.
    #[error("the body is not JSON: {0}")]
    Body(String),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    body: Cow<'a, str>,
    #[serde(borrow, rename = "content-type", default)]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    headers: Option<Headers<'a>>,
    #[serde(borrow, default)]
    properties: Option<Properties<'a>>,
}

#[derive(Deserialize)]
struct Headers<'a> {
    #[serde(borrow, default)]
    compression: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Properties<'a> {
    #[serde(borrow, default)]
    body_encoding: Option<Cow<'a, str>>,
}

/// The raw events inside a kombu message: the one that it carries, or all of a `task.multi` array.
pub fn unwrap_envelope(payload: &[u8]) -> Result<Vec<Value>, EnvelopeError> {
    let body = open(payload)?;
    let value = serde_json::from_str(&body)
        .or_else(|_| serde_json::from_str(&repaired(&body)))
        .map_err(|error| EnvelopeError::Body(error.to_string()))?;
    Ok(match value {
        Value::Array(events) => events,
        event => vec![event],
    })
}

/// The body of a kombu message as JSON text.
pub(super) fn open(payload: &[u8]) -> Result<Cow<'_, str>, EnvelopeError> {
    let envelope: Envelope<'_> =
        serde_json::from_slice(payload).map_err(|error| EnvelopeError::NotAnEnvelope(error.to_string()))?;
    if let Some(compression) = envelope.headers.and_then(|headers| headers.compression) {
        return Err(EnvelopeError::Compressed(shown(&compression)));
    }
    // Without a content type it is what Celery's own default is.
    if let Some(other) = envelope.content_type.filter(|kind| kind != "application/json") {
        return Err(EnvelopeError::Serialiser(shown(&other)));
    }
    match envelope.properties.and_then(|properties| properties.body_encoding).as_deref() {
        None => Ok(envelope.body),
        Some("base64") => {
            let bytes =
                STANDARD.decode(envelope.body.as_bytes()).map_err(|_| EnvelopeError::Encoding("base64".to_owned()))?;
            String::from_utf8(bytes).map(Cow::Owned).map_err(|_| EnvelopeError::Encoding("UTF-8".to_owned()))
        }
        Some(other) => Err(EnvelopeError::Encoding(shown(other))),
    }
}
