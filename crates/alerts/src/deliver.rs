//! How a webhook gets a notice. Blocks; whoever calls it has a thread to spare.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::book::Notice;
use crate::message::{body, signature};
use crate::plan::Webhook;

/// For all of one attempt.
const TIME: Duration = Duration::from_secs(10);
/// Of what a receiver answers, so that a connection can be used again.
const ANSWER_BYTES: u64 = 64 * 1_024;

/// Sends notices.
pub(crate) struct Client(Agent);

impl Client {
    pub(crate) fn new() -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIME))
            .http_status_as_error(false)
            // A notice goes where the operator sends it, and nowhere that somebody else names.
            .max_redirects(0)
            .user_agent(concat!("Forebay/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls())
            .build();
        Self(config.into())
    }

    /// One attempt. The error is for people, and never names the address.
    pub(crate) fn send(&self, webhook: &Webhook, notice: &Notice) -> Result<(), String> {
        let body = body(notice, webhook.format);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let mut request = self
            .0
            .post(&webhook.url)
            .header("content-type", "application/json")
            .header("forebay-delivery", notice.id.to_string())
            .header("forebay-timestamp", seconds.to_string());
        if let Some(secret) = &webhook.secret {
            request = request.header("forebay-signature", signature(secret, seconds, &body));
        }
        let mut response = request.send(&body).map_err(|error| in_words(&error))?;
        let status = response.status();
        // Read to its end the connection is good for the next one.
        let _ = response.body_mut().with_config().limit(ANSWER_BYTES).read_to_vec();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    }
}

/// The system's own certificates, and where they are elsewhere those that `SSL_CERT_FILE` names.
fn tls() -> TlsConfig {
    let roots = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<Certificate<'static>> = roots.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build()
}

/// What went wrong, by its kind: an error's own text may repeat the address.
fn in_words(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("no answer within {} s", TIME.as_secs()),
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
