//! How anything is sent: one request after the other, on a thread that may block. What becomes of it is told once, not
//! each time, and never with what the receiver is told to know us by. Of what it says only the reason is told for which
//! it refuses a part, the beginning of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use ureq::Agent;
use ureq::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use ureq::http::{HeaderMap, StatusCode};
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::milliseconds;
use crate::config::variable;

/// For all of one attempt, unless `OTEL_EXPORTER_OTLP_TIMEOUT` says otherwise.
const TIME: Duration = Duration::from_secs(10);
/// Of what a receiver answers.
const ANSWER_BYTES: u64 = 64 * 1_024;
/// Of what it says of that which it refuses, in characters.
const SAID: usize = 200;
/// Answers after which the exporter tries again by itself.
const LATER: [StatusCode; 4] = [
    StatusCode::TOO_MANY_REQUESTS,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    /// As people call it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }

    /// The value of a standard variable, of this signal or of all.
    fn variable(self, what: &str) -> String {
        let own = format!("OTEL_EXPORTER_OTLP_{}_{what}", self.as_str().to_uppercase());
        if std::env::var_os(&own).is_some_and(|value| !value.is_empty()) {
            own
        } else {
            format!("OTEL_EXPORTER_OTLP_{what}")
        }
    }
}

/// Sends what is of one signal.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    signal: Signal,
    endpoint: String,
    /// Whether it was told that the receiver takes nothing, and that it refuses a part.
    is_away: AtomicBool,
    is_refusing: AtomicBool,
    /// Answers in a row that it takes nothing now.
    put_off: AtomicU32,
}

impl Client {
    pub(super) fn new(signal: Signal, endpoint: &str) -> anyhow::Result<Self> {
        let name = signal.variable("PROTOCOL");
        if let Some(protocol) = variable(&name)?.filter(|protocol| protocol.trim() != "http/protobuf") {
            bail!("{name} is {protocol:?}, and OTLP is sent as http/protobuf alone: leave the variable out");
        }
        let config = Agent::config_builder()
            .timeout_global(Some(milliseconds(&signal.variable("TIMEOUT"))?.unwrap_or(TIME)))
            .http_status_as_error(false)
            .max_redirects(0)
            .tls_config(tls(&signal.variable("CERTIFICATE"))?)
            .build();
        Ok(Self {
            agent: config.into(),
            signal,
            endpoint: endpoint.to_owned(),
            is_away: AtomicBool::default(),
            is_refusing: AtomicBool::default(),
            put_off: AtomicU32::default(),
        })
    }

    /// One attempt. Blocks.
    pub(super) fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let headers = parts.headers.clone();
        let sent = self.agent.run(Request::from_parts(parts, &body[..])).map_err(|error| in_words(&error));
        let answer = sent.and_then(|answer| {
            let (parts, mut body) = answer.into_parts();
            let said = body.with_config().limit(ANSWER_BYTES).read_to_vec().map_err(|error| in_words(&error))?;
            Ok(Response::from_parts(parts, Bytes::from(said)))
        });
        match &answer {
            Ok(answer) if answer.status().is_success() => self.taken(answer.body(), &headers),
            // What the next attempt mends, in a moment, is not told.
            Ok(answer) if LATER.contains(&answer.status()) && self.put_off.fetch_add(1, Ordering::Relaxed) == 0 => {}
            Ok(answer) => self.not_taken(&format!("it answered {}", answer.status())),
            Err(why) => self.not_taken(why),
        }
        answer.map_err(HttpError::from)
    }

    fn taken(&self, answer: &[u8], headers: &HeaderMap) {
        self.put_off.store(0, Ordering::Relaxed);
        let (endpoint, signal) = (&*self.endpoint, self.signal.as_str());
        if self.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!(endpoint, "the receiver of {signal} takes them again");
        }
        // The answer to metrics has the same fields under the same numbers.
        let refused = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
        if let Some(refused) = refused.filter(|refused| refused.rejected_spans > 0)
            && !self.is_refusing.swap(true, Ordering::Relaxed)
        {
            let why: String = masked(refused.error_message, headers).chars().take(SAID).collect();
            tracing::warn!(
                endpoint,
                count = refused.rejected_spans,
                why,
                "the receiver refuses a part of the {signal}"
            );
        }
    }

    fn not_taken(&self, why: &str) {
        let (endpoint, signal) = (&*self.endpoint, self.signal.as_str());
        if !self.is_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                endpoint,
                why,
                "the receiver does not take {signal}: they are dropped until it does, and nothing else suffers; \
                 OTEL_{}_EXPORTER=none sends it none",
                signal.to_uppercase()
            );
        }
    }
}

/// What a receiver says, which may repeat what it knows us by: each value of our headers, and each word of it, since the
/// secret comes after how it is to be understood.
fn masked(said: String, headers: &HeaderMap) -> String {
    let is_theirs = |name| ![CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT].contains(name);
    let values =
        headers.iter().filter(|(name, _)| is_theirs(name)).map(|(_, value)| String::from_utf8_lossy(value.as_bytes()));
    let mut secrets: Vec<String> = values
        .flat_map(|value| value.split_whitespace().chain([&*value]).map(str::to_owned).collect::<Vec<_>>())
        .filter(|secret| !secret.is_empty())
        .collect();
    // One may be a part of another.
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.iter().fold(said, |said, secret| said.replace(secret, "***"))
}

/// Whatever calls it has a thread of its own for it: that of the spans' queue, or one for what blocks.
#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.send(request)
    }
}

/// The authorities in the file that a variable names, else those of the system.
fn tls(name: &str) -> anyhow::Result<TlsConfig> {
    let roots = match variable(name)? {
        None => rustls_native_certs::load_native_certs().certs,
        Some(file) => {
            let read = CertificateDer::pem_file_iter(&file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let read = read.with_context(|| format!("{name}: cannot use {file}"))?;
            if read.is_empty() {
                bail!("{name}: there is no certificate in {file}");
            }
            read
        }
    };
    let roots: Vec<Certificate<'static>> = roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// What went wrong, by its kind.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "it does not answer in time".to_owned(),
        ureq::Error::HostNotFound => "its host is not known".to_owned(),
        ureq::Error::ConnectionFailed => "it cannot be reached".to_owned(),
        // What is wrong with its certificate comes as an error of reading.
        ureq::Error::Io(error) => match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
            Some(cause) => format!("no TLS with it: {cause}"),
            None => format!("it cannot be reached: {}", error.kind()),
        },
        ureq::Error::Tls(reason) => format!("no TLS with it: {reason}"),
        ureq::Error::Rustls(error) => format!("no TLS with it: {error}"),
        _ => "the request failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ureq::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn what_a_receiver_repeats_of_our_headers_is_masked() {
        let headers = [
            ("authorization", "Bearer s3cret-of-ours"),
            ("x-key", "s3cret"),
            ("x-empty", ""),
            ("content-type", "application/x-protobuf"),
        ];
        let headers: HeaderMap = headers
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        for (said, shown) in [
            ("too many", "too many"),
            ("no application/x-protobuf", "no application/x-protobuf"),
            ("authorization: Bearer s3cret-of-ours is over its limit", "authorization: *** is over its limit"),
            ("s3cret-of-ours, s3cret", "***, ***"),
        ] {
            assert_eq!(masked(said.to_owned(), &headers), shown);
        }
    }
}
