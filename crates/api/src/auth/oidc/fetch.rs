//! How the provider is asked: one request on a connection of its own, within limits, and never somewhere else than where
//! the provider said, whatever it answers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use openidconnect::{HttpRequest, HttpResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use warp::http::{HeaderValue, Request, Response, Uri, header};

const TIME: Duration = Duration::from_secs(10);
/// Of an answer.
const BYTES: usize = 1_024 * 1_024;

/// Why the provider gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} is no http or https address of a host")]
    Address(String),
    #[error("{host} cannot be reached: {cause}")]
    Network { host: String, cause: io::Error },
    #[error("{host} does not speak HTTP as it should: {cause}")]
    Http { host: String, cause: hyper::Error },
    #[error("{host} did not answer within {} s", TIME.as_secs())]
    Time { host: String },
    #[error("the answer of {host} cannot be read: {cause}")]
    Body { host: String, cause: String },
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Asks with the authorities that are trusted.
#[derive(Clone)]
pub(super) struct Fetcher {
    tls: TlsConnector,
}

impl Fetcher {
    /// Trusts the authorities of this file, in PEM, or else those of the system.
    pub(super) fn new(ca: Option<&std::path::Path>) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = ca {
            let unusable =
                |error: &dyn std::fmt::Display| io::Error::other(format!("cannot use {}: {error}", ca.display()));
            let all = CertificateDer::pem_file_iter(ca).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            for certificate in all.map_err(|error| unusable(&error))? {
                roots.add(certificate).map_err(|error| unusable(&error))?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth())) })
    }

    pub(super) async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, FetchError> {
        let uri = request.uri().clone();
        let Some(host) = uri.host().map(str::to_owned) else { return Err(FetchError::Address(uri.to_string())) };
        let asked = tokio::time::timeout(TIME, self.ask(request, &uri, &host)).await;
        asked.unwrap_or(Err(FetchError::Time { host }))
    }

    async fn ask(&self, request: HttpRequest, uri: &Uri, host: &str) -> Result<HttpResponse, FetchError> {
        let http = |cause| FetchError::Http { host: host.to_owned(), cause };
        let stream = self.connect(uri, host).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let driving = tokio::spawn(connection);
        let answer = sender.send_request(sent(request, uri)).await.map_err(http);
        let answer = match answer {
            Ok(answer) => received(answer, host).await,
            Err(error) => Err(error),
        };
        driving.abort();
        answer
    }

    async fn connect(&self, uri: &Uri, host: &str) -> Result<Box<dyn Duplex>, FetchError> {
        let network = |cause| FetchError::Network { host: host.to_owned(), cause };
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(FetchError::Address(uri.to_string())),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((bare, port)).await.map_err(network)?;
        if !secure {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(|error| network(io::Error::other(error)))?;
        Ok(Box::new(self.tls.connect(name, stream).await.map_err(network)?))
    }
}

/// As HTTP/1.1 has it: the path alone, and the host as a header.
fn sent(request: HttpRequest, uri: &Uri) -> Request<Full<Bytes>> {
    let (mut parts, body) = request.into_parts();
    if let Some(path) = uri.path_and_query() {
        parts.uri = Uri::from(path.clone());
    }
    if let Some(host) = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        parts.headers.insert(header::HOST, host);
    }
    Request::from_parts(parts, Full::new(body.into()))
}

async fn received(answer: Response<hyper::body::Incoming>, host: &str) -> Result<HttpResponse, FetchError> {
    let (parts, body) = answer.into_parts();
    let whole = Limited::new(body, BYTES).collect().await.map_err(|error| {
        let cause = match error.downcast_ref::<LengthLimitError>() {
            Some(_) => format!("it is longer than {BYTES} bytes"),
            None => error.to_string(),
        };
        FetchError::Body { host: host.to_owned(), cause }
    })?;
    Ok(Response::from_parts(parts, whole.to_bytes().to_vec()))
}
