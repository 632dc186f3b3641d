//! Servers that somebody else runs: every way to say who we are, and every refusal in one line.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use event_log::testing::{TestServer, nats_server};
use event_log::{EventLog, OpenError, ServerConfig};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::support::{CONNECTION, fill, payload, read_to, within};

#[derive(Default)]
struct Login<'a> {
    user: Option<&'a str>,
    password: Option<&'a str>,
    token: Option<&'a str>,
    creds: Option<PathBuf>,
    ca: Option<PathBuf>,
}

fn config(url: &str, login: Login<'_>) -> ServerConfig {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let Login { user, password, token, creds, ca } = login;
    let (user, password, token) = (owned(user), owned(password), owned(token));
    ServerConfig::External { url: url.to_owned(), user, password, token, creds, ca, replicas: 1 }
}

/// It must open, append and read: the reader has a connection of its own, with the same credentials.
async fn works(url: &str, login: Login<'_>) {
    let log = within("the log to open", EventLog::open(config(url, login))).await.unwrap();
    let last = log.info().await.unwrap().last_sequence;
    fill(&log, last + 1..=last + 3).await;
    assert_eq!(read_to(&mut log.reader(last), last + 3).await.messages[0].payload, payload(last + 1));
    assert_eq!(log.message(last + 1).await.unwrap().unwrap().connection, CONNECTION);
    log.close().await;
}

async fn refused(url: &str, login: Login<'_>) -> OpenError {
    let error = within("the refusal", EventLog::open(config(url, login))).await.err().expect("it must not open");
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains("s3cret"), "one line, without secrets: {text}");
    error
}

#[tokio::test]
async fn user_and_password_beside_the_url_or_in_it() {
    let server = TestServer::with(nats_server(), "authorization { user: forebay, password: \"s3cret@1\" }");
    let address = server.address();
    let url = format!("nats://{address}");
    let login = |password| Login { user: Some("forebay"), password: Some(password), ..Login::default() };
    works(&url, login("s3cret@1")).await;
    works(&format!("nats://forebay:s3cret%401@{address}"), Login::default()).await;
    for error in [
        refused(&url, login("s3cret")).await,
        refused(&url, Login::default()).await,
        refused(&format!("nats://forebay:s3cret@{address}"), Login::default()).await,
    ] {
        assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_token() {
    let server = TestServer::with(nats_server(), "authorization { token: s3cret }");
    let url = format!("nats://{}", server.address());
    works(&url, Login { token: Some("s3cret"), ..Login::default() }).await;
    works(&format!("nats://s3cret@{}", server.address()), Login::default()).await;
    let error = refused(&url, Login { token: Some("s3cret2"), ..Login::default() }).await;
    assert!(matches!(error, OpenError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn tls_with_a_certificate_authority_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let ca = write_certificates(dir.path());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let tls = format!("tls {{ cert_file: \"{}\", key_file: \"{}\" }}", at("server.pem"), at("server.key"));
    let server = TestServer::with(nats_server(), &tls);
    let with_ca = || Login { ca: Some(ca.clone()), ..Login::default() };
    works(&format!("tls://{}", server.address()), with_ca()).await;
    works(&format!("nats://{}", server.address()), with_ca()).await;
    let error = refused(&format!("tls://{}", server.address()), Login::default()).await;
    assert!(matches!(error, OpenError::Tls { .. }), "an unknown authority: {error}");
    let missing = Login { ca: Some(dir.path().join("missing.pem")), ..Login::default() };
    let error = refused(&format!("tls://{}", server.address()), missing).await;
    assert!(error.to_string().contains("missing.pem"), "{error}");
    let plain = TestServer::start();
    let error = refused(&format!("tls://{}", plain.address()), with_ca()).await;
    assert!(matches!(error, OpenError::Tls { .. }), "never without TLS when it was asked for: {error}");
}

/// An authority and a certificate for 127.0.0.1 signed by it; gives the path of the authority's.
fn write_certificates(dir: &Path) -> PathBuf {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join("ca.pem"), authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    fs::write(dir.join("server.pem"), server.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(dir.join("server.key"), key.serialize_pem()).unwrap();
    dir.join("ca.pem")
}

#[tokio::test]
async fn a_creds_file() {
    let dir = tempfile::tempdir().unwrap();
    let (operator, account, user) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_user());
    let system = KeyPair::new_account();
    let own = |keys: &KeyPair, kind: &str, facts: Value| jwt(&operator, &keys.public_key(), kind, facts);
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1});
    let bare = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1});
    let extra = format!(
        "operator: {}\nsystem_account: {system}\nresolver: MEMORY\nresolver_preload {{ {account}: {}, {system}: {} }}",
        own(&operator, "operator", json!({})),
        own(&account, "account", json!({ "limits": unlimited })),
        own(&system, "account", json!({ "limits": bare })),
        account = account.public_key(),
        system = system.public_key(),
    );
    let server = TestServer::with(nats_server(), &extra);
    let creds = |name: &str, user: &KeyPair, seed: &KeyPair| {
        let user = jwt(&account, &user.public_key(), "user", json!({"subs": -1, "data": -1, "payload": -1}));
        let path = dir.path().join(name);
        let seed = seed.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{user}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        fs::write(&path, text).unwrap();
        Login { creds: Some(path), ..Login::default() }
    };
    let url = format!("nats://{}", server.address());
    works(&url, creds("good.creds", &user, &user)).await;
    let error = refused(&url, creds("forged.creds", &user, &KeyPair::new_user())).await;
    assert!(matches!(error, OpenError::Refused { .. }), "{error}");
    fs::write(dir.path().join("torn.creds"), "-----BEGIN").unwrap();
    for name in ["torn.creds", "missing.creds"] {
        let error = refused(&url, Login { creds: Some(dir.path().join(name)), ..Login::default() }).await;
        assert!(matches!(&error, OpenError::Config { reason } if reason.contains(name)), "{error}");
    }
}

/// A signed statement of `issuer` about `subject`, as NATS has them.
fn jwt(issuer: &KeyPair, subject: &str, kind: &str, mut facts: Value) -> String {
    facts["type"] = kind.into();
    facts["version"] = 2.into();
    let claims = json!({"jti": "test", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": kind, "sub": subject,
        "nats": facts});
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test]
async fn an_account_without_jetstream_or_permission_is_told_so() {
    let accounts = "accounts { \
        A { jetstream: enabled, users: [ { user: weak, password: p, permissions: { publish: [\"x\"] } } ] }, \
        B { users: [ { user: bare, password: p } ] } }";
    let server = TestServer::with(nats_server(), accounts);
    let url = format!("nats://{}", server.address());
    let login = |user| Login { user: Some(user), password: Some("p"), ..Login::default() };
    let error = refused(&url, login("weak")).await;
    assert!(matches!(&error, OpenError::NoPermission { reason, .. } if reason.contains("$JS.API")), "{error}");
    let error = refused(&url, login("bare")).await;
    assert!(matches!(error, OpenError::NoJetStream { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_too_old_or_without_jetstream_is_told_so() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let error = refused(&format!("nats://{address}"), Login::default()).await;
    assert!(matches!(&error, OpenError::Unreachable { url, .. } if url.contains(&address.to_string())), "{error}");
    let error = refused(&pretend("2.9.10", true).await, Login::default()).await;
    assert!(matches!(&error, OpenError::ServerTooOld { found, .. } if found == "2.9.10"), "{error}");
    let error = refused(&pretend("2.15.1", false).await, Login::default()).await;
    assert!(matches!(error, OpenError::NoJetStream { .. }), "{error}");
}

/// Something that greets as a nats-server does.
async fn pretend(version: &str, jetstream: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let info = json!({"server_id": "x", "server_name": "x", "version": version, "proto": 1, "go": "go", "host": "127.0.0.1",
        "port": 1, "headers": true, "max_payload": 1_048_576, "client_id": 1, "jetstream": jetstream});
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let (read, mut write) = client.split();
        write.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line == "PING" {
                write.write_all(b"PONG\r\n").await.unwrap();
            }
        }
    });
    url
}
