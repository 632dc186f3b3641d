//! The certificate, read anew when it changes: what renews it need not know of us.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Between two looks at the files.
const LOOK: Duration = Duration::from_secs(5);

/// TLS with the certificate of two files.
pub struct Tls {
    files: Files,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
}

/// The certificate that is shown now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

impl Tls {
    /// Reads both files, in PEM: the certificate with those between it and its authority, and its key.
    pub fn load(certificate: &Path, key: &Path) -> io::Result<Arc<Self>> {
        let provider = Arc::new(ring::default_provider());
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned(), provider: Arc::clone(&provider) };
        let current = Arc::new(Current(RwLock::new(files.read()?)));
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config =
            config.map_err(io::Error::other)?.with_no_client_auth().with_cert_resolver(Arc::<Current>::clone(&current));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(Self { files, current, acceptor: TlsAcceptor::from(Arc::new(config)) }))
    }

    /// Reads them anew. Where they cannot be used, what was shown before is shown on.
    pub fn reload(&self) -> io::Result<()> {
        let read = self.files.read()?;
        *self.current.0.write() = read;
        Ok(())
    }

    /// Reads them anew when they change, and when told to, for ever.
    pub async fn watch(&self, told: &Notify) {
        let mut seen = self.files.stamp();
        loop {
            let was_told = tokio::select! {
                () = told.notified() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = self.files.stamp();
            if !was_told && now == seen {
                continue;
            }
            match self.reload() {
                Ok(()) => {
                    seen = now;
                    tracing::info!(certificate = %self.files.certificate.display(), "the certificate was read anew");
                }
                // One of two files may be there before the other: it is tried again.
                Err(error) => tracing::warn!(%error, "the certificate stays the one that was read before"),
            }
        }
    }

    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.acceptor.accept(stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificate", &self.files.certificate).finish_non_exhaustive()
    }
}

impl Files {
    fn read(&self) -> io::Result<Arc<CertifiedKey>> {
        let chain = CertificateDer::pem_file_iter(&self.certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let chain = chain.map_err(|error| unusable(&self.certificate, &error))?;
        if chain.is_empty() {
            return Err(unusable(&self.certificate, &"there is no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| unusable(&self.key, &error))?;
        let pair = CertifiedKey::from_der(chain, key, &self.provider).map_err(|error| match error {
            Error::InconsistentKeys(_) => unusable(&self.key, &"it is not the key of the certificate"),
            error => unusable(&self.certificate, &error),
        })?;
        Ok(Arc::new(pair))
    }

    /// When they changed last, and how long they are.
    fn stamp(&self) -> [Option<(SystemTime, u64)>; 2] {
        [&self.certificate, &self.key].map(|path| {
            let about = std::fs::metadata(path).ok()?;
            Some((about.modified().ok()?, about.len()))
        })
    }
}

fn unusable(path: &Path, error: &dyn fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("cannot use {}: {error}", path.display()))
}
