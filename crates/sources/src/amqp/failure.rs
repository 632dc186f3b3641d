//! Why we do not hear RabbitMQ, in one line that says what to do.

use std::io;
use std::time::Instant;

use lapin::{Error, ErrorKind};

use super::url::AmqpUrl;

const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;
const PRECONDITION_FAILED: u16 = 406;

/// Why a connection ended, or did not begin.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    /// Somebody must change something before it can work.
    pub(super) refused: bool,
    /// When the broker was certainly heard last.
    pub(super) heard: Instant,
}

/// What was being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connect,
    Exchange,
    Declare,
    Bind,
    Consume,
    Listen,
}

impl Failure {
    pub(super) fn new(reason: impl Into<String>, refused: bool) -> Self {
        Self { reason: reason.into(), refused, heard: Instant::now() }
    }

    pub(super) fn at(step: Step, url: &AmqpUrl, error: &Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(said) => {
                let (id, message) = (said.get_id(), said.get_message().as_str());
                protocol(step, url, id, message)
            }
            ErrorKind::IOError(error) => input_output(error),
            ErrorKind::MissingHeartbeatError => Self::new("RabbitMQ does not answer", false),
            _ => Self::new(one_line(&error.to_string()), false),
        }
    }
}

/// The reply code with which RabbitMQ refused.
pub(super) fn id_of(error: &Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(said) => Some(said.get_id()),
        _ => None,
    }
}

/// Whether RabbitMQ says that we may not.
pub(super) fn is_refusal(error: &Error) -> bool {
    id_of(error) == Some(ACCESS_REFUSED)
}

fn protocol(step: Step, url: &AmqpUrl, id: u16, message: &str) -> Failure {
    let (user, vhost, exchange) = (url.user(), url.virtual_host(), url.exchange());
    let message = one_line(message);
    let lacks = |permission: &str, on: &str| {
        format!(
            "the RabbitMQ user {user} lacks the permission to {permission} {on} in the virtual host {vhost}; Forebay needs \
             configure ^forebay\\., write ^forebay\\., read ^(forebay\\.|{exchange}$) \
             (rabbitmqctl set_permissions; RabbitMQ says: {message})"
        )
    };
    match (id, step) {
        (ACCESS_REFUSED, Step::Connect) => Failure::new(
            format!("RabbitMQ refused the user ({user}) or password: correct the broker URL (it says: {message})"),
            true,
        ),
        (NOT_ALLOWED, Step::Connect) => Failure::new(
            format!(
                "the RabbitMQ user {user} may not use the virtual host {vhost}, or there is none of that name: correct the \
                 broker URL, or allow it with rabbitmqctl set_permissions (RabbitMQ says: {message})"
            ),
            true,
        ),
        (ACCESS_REFUSED, Step::Exchange) => Failure::new(
            format!(
                "the exchange {exchange} is not there yet, and the RabbitMQ user {user} lacks the permission to configure it: \
                 start a worker with -E, which makes it, or allow it (RabbitMQ says: {message})"
            ),
            true,
        ),
        (ACCESS_REFUSED, Step::Declare) => Failure::new(lacks("configure", "^forebay\\."), true),
        // RabbitMQ says which of the two it is.
        (ACCESS_REFUSED, Step::Bind) if message.contains("exchange") => Failure::new(lacks("read", exchange), true),
        (ACCESS_REFUSED, Step::Bind) => Failure::new(lacks("write", "^forebay\\."), true),
        (ACCESS_REFUSED, Step::Consume) => Failure::new(lacks("read", "^forebay\\."), true),
        (ACCESS_REFUSED | NOT_ALLOWED, _) => Failure::new(message, true),
        (PRECONDITION_FAILED, Step::Exchange | Step::Declare | Step::Bind | Step::Consume) => {
            Failure::new(format!("RabbitMQ does not take what Forebay asks for: {message}"), true)
        }
        _ => Failure::new(format!("RabbitMQ closed the connection: {message}"), false),
    }
}

fn input_output(error: &io::Error) -> Failure {
    let text = one_line(&error.to_string());
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::new("no RabbitMQ listens there", false),
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Failure::new("RabbitMQ closed the connection", false),
        _ if text.contains("certificate") => {
            Failure::new(format!("{text}: for a private authority add ?ssl_ca_certs=FILE to the broker URL"), true)
        }
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Failure::new(text, true),
        _ => Failure::new(text, false),
    }
}

fn one_line(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    crate::json::shown_up_to(&line.join(" "), 300)
}
