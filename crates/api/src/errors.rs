//! The one error of the API, and how it looks on the wire.
//!
//! Handlers return [`ApiError`]; nothing else knows about status codes. What went wrong inside is logged where it
//! happened and never told to the client.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use warp::http::{HeaderValue, Method, StatusCode, header};
use warp::reject::{MethodNotAllowed, Rejection};
use warp::reply::Response;

/// Where a client that cannot yet be served should come back, in seconds. The stock SDK takes a number, and waits
/// exactly that long on its only thread, so it is short.
pub(crate) const RETRY_AFTER_SECONDS: u64 = 2;

/// What is to be stored cannot be.
pub(crate) const LOG_AWAY: ApiError = ApiError::Unavailable("The log is not reachable.");

/// Nothing can be answered yet.
pub(crate) const STARTING: ApiError = ApiError::Unavailable("The server is starting.");

/// What is to be stored has no room.
pub(crate) const LOG_FULL: ApiError =
    ApiError::Unavailable("The log is full: see GET /api/health for what can be done.");

/// A request that cannot be answered as asked, by what the client can do about it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The request is wrong and stays wrong.
    #[error("{message}")]
    Validation {
        /// What is wrong with it.
        message: String,
        /// Which field, where it is one.
        details: Option<Value>,
    },
    /// Ingest without a key that belongs to a connection.
    #[error("Invalid or missing API key.")]
    InvalidKey,
    /// A read without a session.
    #[error("Authentication required.")]
    Unauthenticated,
    /// A key that may only read, for something else.
    #[error("This API key may only read.")]
    ReadOnly,
    /// A reader, for something else.
    #[error("Only an admin may do this.")]
    NotAdmin,
    /// A log-in with the wrong password.
    #[error("Wrong password.")]
    WrongPassword,
    /// A one-time link that is not good.
    #[error("This link was used already, or is too old.")]
    UsedLink,
    /// The request comes from another site's page.
    #[error("Requests from another origin are not allowed.")]
    ForeignOrigin,
    /// No such job.
    #[error("Job not found.")]
    JobNotFound {
        /// What may explain it: since when the log reaches back.
        details: Option<Value>,
    },
    /// No such thing.
    #[error("{0}")]
    NotFound(&'static str),
    /// The disk is too small for it.
    #[error("{0}")]
    InsufficientStorage(String),
    /// No such connection.
    #[error("Connection not found.")]
    ConnectionNotFound,
    /// No such path.
    #[error("No such path.")]
    NoSuchPath,
    /// The path exists, for other methods.
    #[error("Method not allowed.")]
    MethodNotAllowed {
        /// The methods it exists for.
        allow: &'static str,
    },
    /// What is to be created exists already.
    #[error("{0}")]
    Conflict(String),
    /// The body did not arrive in time.
    #[error("The request body did not arrive in time.")]
    RequestTimeout,
    /// The body is over the limit.
    #[error("The request body is larger than {} MB.", .limit / (1024 * 1024))]
    PayloadTooLarge {
        /// In bytes.
        limit: usize,
    },
    /// The body is compressed in a way that we do not read.
    #[error("Content-Encoding must be gzip or identity.")]
    UnsupportedEncoding,
    /// Too many wrong passwords.
    #[error("Too many wrong passwords. Try again later.")]
    RateLimited {
        /// When to come back, in seconds.
        retry_after: u64,
    },
    /// Too many requests, or wrong keys.
    #[error("Too many requests. Try again later.")]
    TooManyRequests {
        /// When to come back, in seconds.
        retry_after: u64,
    },
    /// Not now; the same request will do later.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The views are on their way to the end of the log.
    #[error("The server is reading its log and not ready yet.")]
    NotReady {
        /// How far they are.
        details: Value,
    },
    /// A command of Flower's.
    #[error(
        "Forebay records what Celery does and commands nothing: tasks are sent and revoked, and workers told what to do, by \
         Celery itself."
    )]
    RecordsOnly,
    /// Our fault.
    #[error("Internal error.")]
    Internal,
}

/// What every error looks like.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct Envelope<'a> {
    error: Body<'a>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ErrorBody")]
struct Body<'a> {
    code: Code,
    /// For people.
    message: &'a str,
    /// Where to read on.
    docs_url: String,
    /// What explains it: of a wrong field its name, with what it must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    details: Option<&'a Value>,
}

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schemars(rename = "ErrorCode")]
enum Code {
    ValidationError,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    PayloadTooLarge,
    UnsupportedMediaType,
    RateLimited,
    InternalError,
    Unavailable,
    InsufficientStorage,
    NotImplemented,
}

impl ApiError {
    /// A validation error that names the field.
    pub fn field(field: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        let details = Some(json!({ field: message }));
        Self::Validation { message: format!("Invalid {field}: {message}."), details }
    }

    /// Logs the cause and hides it from the client.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "a request failed inside");
        Self::Internal
    }

    /// The status, the code and the documentation's page.
    fn kind(&self) -> (StatusCode, Code, &'static str) {
        match self {
            Self::Validation { .. } => (StatusCode::BAD_REQUEST, Code::ValidationError, "api-errors"),
            Self::InvalidKey => (StatusCode::UNAUTHORIZED, Code::Unauthorized, "api-key"),
            Self::Unauthenticated | Self::WrongPassword | Self::UsedLink => {
                (StatusCode::UNAUTHORIZED, Code::Unauthorized, "auth")
            }
            Self::ForeignOrigin | Self::ReadOnly | Self::NotAdmin => (StatusCode::FORBIDDEN, Code::Forbidden, "auth"),
            Self::JobNotFound { .. } | Self::NotFound(_) | Self::ConnectionNotFound | Self::NoSuchPath => {
                (StatusCode::NOT_FOUND, Code::NotFound, "api-errors")
            }
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed, "api-errors"),
            Self::InsufficientStorage(_) => (StatusCode::INSUFFICIENT_STORAGE, Code::InsufficientStorage, "api-errors"),
            Self::Conflict(_) => (StatusCode::CONFLICT, Code::Conflict, "api-errors"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, Code::RequestTimeout, "api-errors"),
            Self::PayloadTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::PayloadTooLarge, "api-errors"),
            Self::UnsupportedEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedMediaType, "api-errors"),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::RateLimited, "auth"),
            Self::TooManyRequests { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::RateLimited, "api-errors"),
            Self::Unavailable(_) | Self::NotReady { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "api-errors")
            }
            Self::RecordsOnly => (StatusCode::NOT_IMPLEMENTED, Code::NotImplemented, "api-errors"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::InternalError, "api-errors"),
        }
    }

    fn details(&self) -> Option<&Value> {
        match self {
            Self::Validation { details, .. } | Self::JobNotFound { details } => details.as_ref(),
            Self::NotReady { details } => Some(details),
            _ => None,
        }
    }

    /// The answer.
    pub fn response(&self) -> Response {
        let (status, code, page) = self.kind();
        let message = self.to_string();
        let docs_url = format!("https://docs.sluice.sh/troubleshooting/{page}");
        let body = Body { code, message: &message, docs_url, details: self.details() };
        let mut response = crate::http::json(status, &Envelope { error: body });
        let headers = response.headers_mut();
        match self {
            Self::RateLimited { retry_after } | Self::TooManyRequests { retry_after } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(*retry_after));
            }
            Self::Unavailable(_) | Self::NotReady { .. } => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Self::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            _ => {}
        }
        response
    }
}

/// When an error of this status comes, for the API's document.
pub(crate) fn about(status: StatusCode) -> &'static str {
    match status {
        StatusCode::BAD_REQUEST => "The request is wrong and stays wrong; `details` names the field, where it is one.",
        StatusCode::UNAUTHORIZED => "What shows who asks is missing or wrong.",
        StatusCode::FORBIDDEN => "Who asks may only read, or the request comes from another site's page.",
        StatusCode::NOT_FOUND => "There is no such thing.",
        StatusCode::REQUEST_TIMEOUT => "The body did not arrive in time.",
        StatusCode::CONFLICT => "It cannot be done as things are.",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is over the limit.",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "The body is compressed in a way that is not read.",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests, or tries of passwords and keys; later ones will do.",
        StatusCode::SERVICE_UNAVAILABLE => "Not now; the same request will do later.",
        StatusCode::INSUFFICIENT_STORAGE => "The disk is too small for it.",
        _ => "The server's fault; its log says more.",
    }
}

/// Turns what warp itself refuses into the same envelope.
pub(crate) async fn recover(rejection: Rejection) -> Result<Response, std::convert::Infallible> {
    // Paths and methods are the only things left to warp's own filters; whatever else one of them may come to refuse
    // is the request's fault.
    let error = if rejection.is_not_found() {
        ApiError::NoSuchPath
    } else if rejection.find::<MethodNotAllowed>().is_some() {
        ApiError::MethodNotAllowed { allow: "" }
    } else {
        tracing::debug!(?rejection, "request refused by a filter");
        ApiError::Validation { message: "The request could not be read.".to_owned(), details: None }
    };
    Ok(error.response())
}

/// The refusal of a method that the path does not have.
pub(crate) fn wrong_method(method: &Method, allow: &'static str) -> ApiError {
    tracing::debug!(%method, allow, "method not allowed");
    ApiError::MethodNotAllowed { allow }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn parts(error: ApiError) -> (u16, Option<String>, Value) {
        let response = error.response();
        let status = response.status().as_u16();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let retry = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn documented_errors_are_word_for_word() {
        let docs = |page: &str| format!("https://docs.sluice.sh/troubleshooting/{page}");
        let cases = [
            (ApiError::InvalidKey, 401, "UNAUTHORIZED", "Invalid or missing API key.", "api-key"),
            (ApiError::Unauthenticated, 401, "UNAUTHORIZED", "Authentication required.", "auth"),
            (ApiError::JobNotFound { details: None }, 404, "NOT_FOUND", "Job not found.", "api-errors"),
        ];
        for (error, status, code, message, page) in cases {
            let expected = json!({ "error": { "code": code, "message": message, "docs_url": docs(page) } });
            assert_eq!(parts(error).await, (status, None, expected));
        }
    }

    #[tokio::test]
    async fn a_wrong_field_is_named_and_a_wait_is_given_in_seconds() {
        let (status, _, body) = parts(ApiError::field("limit", "must be 1 to 100")).await;
        assert_eq!(status, 400);
        assert_eq!(body["error"]["code"], "VALIDATION_ERROR");
        assert_eq!(body["error"]["details"]["limit"], "must be 1 to 100");
        let (status, retry, body) = parts(ApiError::Unavailable("Not yet.")).await;
        assert_eq!((status, retry.as_deref(), &body["error"]["code"]), (503, Some("2"), &json!("UNAVAILABLE")));
        let (status, retry, _) = parts(ApiError::RateLimited { retry_after: 17 }).await;
        assert_eq!((status, retry.as_deref()), (429, Some("17")));
    }
}
