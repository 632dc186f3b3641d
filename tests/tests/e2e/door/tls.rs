//! TLS in the process itself.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forebay_tests::{Forebay, Options, PASSWORD, wait_for};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustix::process::Signal;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::{raw, status};

const NAME: &str = "jobs.example";

/// Writes a new certificate for that name, and gives it.
fn certify(dir: &Path) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let signing_key: KeyPair = signing_key;
    std::fs::write(dir.join("key.pem"), signing_key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    cert.der().clone()
}

/// What is answered over TLS to who trusts this certificate alone.
fn over_tls(address: &str, trusted: &CertificateDer<'static>, request: &str) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut stream = StreamOwned::new(connection, stream);
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // The server may end the connection without saying so in TLS.
    let _ = stream.read_to_end(&mut answer);
    (!answer.is_empty()).then(|| String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn with_a_certificate_it_speaks_tls_and_shows_another_when_it_changes() {
    let files = tempfile::tempdir().unwrap();
    let first = certify(files.path());
    let (certificate, key) = (files.path().join("cert.pem"), files.path().join("key.pem"));
    let arguments = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let forebay = Forebay::start(Options { arguments: arguments.map(str::to_owned).into(), ..Options::default() });
    // The client of the tests comes by the address that commands use.
    assert_eq!(forebay.api.get("/api/jobs").status, 200);
    let link = String::from_utf8(forebay.command(&["link"]).stdout).unwrap();
    let address = link.strip_prefix("https://").unwrap_or_else(|| panic!("{link}")).split('/').next().unwrap();
    assert_ne!(address, forebay.api.address());
    assert!(forebay.command(&["connection", "list"]).status.success());

    let get = |trusted: &CertificateDer<'static>, path: &str| {
        over_tls(address, trusted, &format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"))
    };
    let answer = get(&first, "/api/health").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security: max-age="), "{answer}");
    assert!(get(&first, "/api/jobs").unwrap().starts_with("HTTP/1.1 401"));
    let body = format!("{{\"password\":\"{PASSWORD}\"}}");
    let login = format!(
        "POST /api/session HTTP/1.1\r\nHost: {NAME}\r\nOrigin: https://{NAME}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let login = over_tls(address, &first, &login).unwrap();
    assert!(login.starts_with("HTTP/1.1 200") && login.contains("; Secure\r\n"), "{login}");
    let plain = raw(address, b"GET /api/health HTTP/1.1\r\nHost: a\r\n\r\n", Duration::from_secs(5));
    assert_eq!(status(&plain), 0, "{plain}");

    let second = certify(files.path());
    assert!(get(&second, "/api/health").is_none() || get(&first, "/api/health").is_none(), "they are two");
    forebay.process().signal(Signal::HUP);
    wait_for("the new certificate to be shown", 20, || get(&second, "/api/health"));
    assert!(get(&first, "/api/health").is_none());
    // One that cannot be read changes nothing.
    std::fs::write(&certificate, "no certificate").unwrap();
    forebay.process().signal(Signal::HUP);
    wait_for("the refusal to be told", 20, || forebay.process().log().contains("cannot use").then_some(()));
    assert!(get(&second, "/api/health").is_some());
}
