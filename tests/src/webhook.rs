//! A receiver of notices: it checks their signatures, remembers them, and answers what it is told to.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use hmac::{Hmac, Mac as _};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use sha2::Sha256;

/// What notices are signed with.
pub const WEBHOOK_SECRET: &str = "the secret of the webhook";

/// A receiver. It listens until it is dropped.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    scheme: &'static str,
}

/// A notice that came.
#[derive(Clone, Debug)]
pub struct Received {
    /// The path that it was sent to.
    pub path: String,
    /// What it calls itself.
    pub delivery: String,
    /// The body.
    pub body: Value,
    /// Whether its signature is right; `None` where it has none.
    pub signed: Option<bool>,
    /// What it was answered.
    pub status: u16,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    answers: Mutex<VecDeque<u16>>,
    received: Mutex<Vec<Received>>,
}

impl Webhook {
    /// One on any free port.
    pub fn start() -> Self {
        Self::start_at(0)
    }

    /// One on this port.
    pub fn start_at(port: u16) -> Self {
        Self::listen(port, None)
    }

    /// One that speaks TLS with this certificate and this key, both in PEM.
    pub fn start_tls(certificate: &str, key: &str) -> Self {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        Self::listen(0, Some(Arc::new(config)))
    }

    fn listen(port: u16, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (address, shared) = (listener.local_addr().unwrap(), Arc::<Shared>::default());
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stop.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                // Whoever breaks off is no receiver's trouble.
                let _ = match tls.clone().map(|tls| ServerConnection::new(tls).unwrap()) {
                    Some(connection) => serving.serve(StreamOwned::new(connection, stream)),
                    None => serving.serve(stream),
                };
            }
        });
        Self { address, shared, thread: Some(thread), scheme }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where notices are to be sent, with a secret part.
    pub fn url(&self) -> String {
        format!("{}://{}/services/T0KEN", self.scheme, self.address)
    }

    /// What it answers next, one after the other; then 200.
    pub fn answer_with(&self, statuses: &[u16]) {
        *self.shared.answers.lock().unwrap() = statuses.iter().copied().collect();
    }

    /// All that came.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // It waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self, stream: impl Read + Write) -> io::Result<()> {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_lowercase(), value.to_owned()));
        }
        let header = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let length = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let status = self.answers.lock().unwrap().pop_front().unwrap_or(200);
        let time = header("forebay-timestamp").unwrap_or_default();
        self.received.lock().unwrap().push(Received {
            path,
            delivery: header("forebay-delivery").unwrap_or_default().to_owned(),
            signed: header("forebay-signature").map(|signature| signature == signed(time, &body)),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            status,
        });
        write!(reader.get_mut(), "HTTP/1.1 {status} so\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        reader.get_mut().flush()
    }
}

/// What a signature must be, as the README says.
fn signed(time: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(WEBHOOK_SECRET.as_bytes()).unwrap();
    mac.update(format!("{time}.").as_bytes());
    mac.update(body);
    mac.finalize().into_bytes().iter().fold("v1=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
