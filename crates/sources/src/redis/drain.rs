//! The thread that only drains the socket: connects, subscribes, and moves messages into the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ::redis::{Connection, ErrorKind, PubSub, RedisError, ServerError, Value, cmd};
use proto_events::{Event, SourceState, Timestamp};

use super::queue::Queue;
use super::sides::{Side, Sides};
use super::url::RedisUrl;
use crate::enabling::Enabling;
use crate::source::change;
use crate::status::{Figures, Lost, now};

/// How long a read waits at most, and so how soon a stop is noticed.
const TURN: Duration = Duration::from_millis(500);
/// The waits between attempts to connect. They stay short, since what is published meanwhile is missed; only where
/// somebody must change something first there is no hurry.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const LONGEST_WAIT_REFUSED: Duration = Duration::from_secs(30);
/// A connection that held for so long was a good one: the waits begin anew.
const GOOD: Duration = Duration::from_secs(10);

pub(super) struct Drain {
    pub(super) name: String,
    pub(super) url: RedisUrl,
    /// What it listens to, and where that is not allowed, what it may listen to instead.
    pub(super) channels: String,
    pub(super) instead: Option<String>,
    pub(super) side: Side,
    pub(super) sides: Arc<Sides>,
    /// After so long without a word Redis is asked whether it is there, and has as long to answer.
    pub(super) patience: Duration,
    pub(super) queue: Arc<Queue>,
    pub(super) figures: Arc<Figures>,
    pub(super) enabling: Option<Arc<Enabling>>,
    pub(super) stop: Arc<AtomicBool>,
}

/// Why a connection ended, or did not begin.
struct Failure {
    reason: String,
    /// Somebody must change something before it can work.
    refused: bool,
    /// When the broker was certainly heard last.
    heard: Instant,
}

impl Drain {
    /// Until it is told to stop.
    pub(super) fn run(&self) {
        let mut wait = FIRST_WAIT;
        while !self.stopped() {
            let began = Instant::now();
            let Err(failure) = self.session() else { return };
            self.lost(&failure);
            if began.elapsed() >= GOOD {
                wait = FIRST_WAIT;
            }
            // Jitter, so that many readers do not come back to a restarted broker in step.
            self.pause(wait.mul_f64(rand::random_range(0.5..=1.0)));
            wait = (wait * 2).min(if failure.refused { LONGEST_WAIT_REFUSED } else { LONGEST_WAIT });
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pause(&self, length: Duration) {
        let end = Instant::now() + length;
        while !self.stopped()
            && let Some(left) = end.checked_duration_since(Instant::now())
        {
            std::thread::park_timeout(left);
        }
    }

    /// One connection, from its making to its end. `Ok` when it was told to stop.
    fn session(&self) -> Result<(), Failure> {
        let failed = |error: RedisError| self.failure(&error, Instant::now());
        let unusable = |error: RedisError| Failure {
            reason: format!("the broker URL cannot be used: {error}"),
            refused: true,
            heard: Instant::now(),
        };
        let client = self
            .url
            .client(self.patience)
            .map_err(|error| if self.url.has_sentinels() { failed(error) } else { unusable(error) })?;
        let mut connection = client.get_connection_with_timeout(self.patience).map_err(failed)?;
        let channels = self.subscribe_to_either(&mut connection)?;
        tracing::info!(source = self.name, broker = %self.url, channels, "listening to Celery's events");
        let is_whole = *channels != self.channels;
        if self.sides.up(self.side, is_whole) {
            self.figures.connected();
            self.queue.push_change(self.change(SourceState::Connected, now(), None));
            if let Some(enabling) = &self.enabling {
                enabling.connected();
            }
        }
        self.listen(&mut connection.as_pubsub())
    }

    /// Gives the channels that it came to listen to.
    fn subscribe_to_either(&self, connection: &mut Connection) -> Result<&String, Failure> {
        match (self.subscribe(connection, &self.channels), &self.instead) {
            (Ok(()), _) => Ok(&self.channels),
            // Who may listen to all of it need not be allowed each part by name, and Redis compares the names.
            (Err(refused), Some(instead)) if refused.refused => {
                self.subscribe(connection, instead).map(|()| instead).map_err(|_| refused)
            }
            (Err(failure), _) => Err(failure),
        }
    }

    /// Subscribes, and reads the answer itself: [`PubSub::psubscribe`] does not look at it, so that a user without the
    /// permission would listen to nothing for ever.
    fn subscribe(&self, connection: &mut Connection, channels: &str) -> Result<(), Failure> {
        let answer = (|| {
            connection.set_read_timeout(Some(self.patience))?;
            connection.set_write_timeout(Some(self.patience))?;
            connection.send_packed_command(&cmd("PSUBSCRIBE").arg(channels).get_packed_command())?;
            connection.recv_response()
        })();
        match answer {
            Ok(Value::Array(_)) => Ok(()),
            Ok(Value::ServerError(error)) => Err(self.refusal(&error)),
            Ok(_) => {
                Err(Failure { reason: "this is no Redis server".to_owned(), refused: true, heard: Instant::now() })
            }
            Err(error) => Err(self.failure(&error, Instant::now())),
        }
    }

    fn listen(&self, messages: &mut PubSub<'_>) -> Result<(), Failure> {
        let mut heard = Instant::now();
        let turn = TURN.min(self.patience);
        let patience = |messages: &PubSub<'_>, length| {
            messages.set_read_timeout(Some(length)).map_err(|error| self.failure(&error, Instant::now()))
        };
        patience(messages, turn)?;
        while !self.stopped() {
            match messages.get_message() {
                Ok(message) => {
                    heard = Instant::now();
                    let about_workers = is_about_workers(message.get_channel_name());
                    self.queue.push_message(message.get_payload_bytes().to_vec(), about_workers);
                }
                Err(error) if error.is_timeout() && heard.elapsed() < self.patience => {}
                Err(error) if error.is_timeout() => {
                    patience(messages, self.patience)?;
                    self.ping(messages, heard)?;
                    heard = Instant::now();
                    patience(messages, turn)?;
                }
                Err(error) => return Err(self.failure(&error, Instant::now())),
            }
        }
        Ok(())
    }

    /// Nothing was heard for a while: either nothing was said, or the peer is gone and nobody told us.
    fn ping(&self, messages: &mut PubSub<'_>, heard: Instant) -> Result<(), Failure> {
        match messages.ping::<Value>() {
            Err(error) if error.is_timeout() => {
                let reason = format!("Redis has not answered for {:.0?}", heard.elapsed());
                Err(Failure { reason, refused: false, heard })
            }
            Err(error) if error.is_io_error() => Err(self.failure(&error, Instant::now())),
            // Even a refusal is an answer.
            _ => Ok(()),
        }
    }

    fn lost(&self, failure: &Failure) {
        let Failure { reason, refused, heard } = failure;
        if !self.sides.down(self.side) {
            return;
        }
        let Lost { was_connected, news } = self.figures.lost(*heard, *refused, reason);
        if was_connected {
            let ago = i64::try_from(heard.elapsed().as_micros()).unwrap_or(0);
            let at = Timestamp(now().micros() - ago);
            self.queue.push_change(self.change(SourceState::Disconnected, at, Some(reason.clone())));
        }
        if was_connected || news {
            tracing::warn!(
                source = self.name, broker = %self.url, reason,
                "not listening to Celery's events; what is published meanwhile is missed"
            );
        }
    }

    /// What Redis must allow, as its access list has it.
    fn allowance(&self) -> String {
        match (self.side, &self.url.event_channels().apart) {
            (Side::Tasks | Side::Workers, Some((tasks, workers))) => format!("&{tasks} &{workers}"),
            _ => format!("&{}", self.channels),
        }
    }

    fn change(&self, state: SourceState, at: Timestamp, reason: Option<String>) -> Event {
        change(&self.name, state, at, reason)
    }

    fn failure(&self, error: &RedisError, heard: Instant) -> Failure {
        let (refused, reason) = match error.kind() {
            ErrorKind::AuthenticationFailed => {
                (true, format!("Redis refused the user ({}) or password: correct the broker URL", self.url.user()))
            }
            _ if error.is_timeout() => (false, "Redis does not answer".to_owned()),
            _ if error.is_connection_refusal() => (false, "no Redis listens there".to_owned()),
            _ if error.is_connection_dropped() => (false, "Redis closed the connection".to_owned()),
            _ => {
                let reason = error.to_string();
                if reason.contains("certificate") {
                    (true, format!("{reason}: for a private authority add ?ssl_ca_certs=FILE to the broker URL"))
                } else {
                    (false, reason)
                }
            }
        };
        Failure { reason, refused, heard }
    }

    /// What Redis says when it does not let us listen, and what to do about it.
    fn refusal(&self, error: &ServerError) -> Failure {
        let (user, channels) = (self.url.user(), self.allowance());
        let (refused, reason) = match error.code() {
            "NOAUTH" => (true, "Redis wants a password: write redis://[USER]:PASSWORD@HOST/DB".to_owned()),
            "NOPERM" => (
                true,
                format!(
                    "the Redis user {user} may not listen to Celery's events: \
                     allow it with  ACL SETUSER {user} +psubscribe +ping {channels}"
                ),
            ),
            code => (code == "DENIED", format!("{code} {}", error.details().unwrap_or_default())),
        };
        Failure { reason, refused, heard: Instant::now() }
    }
}

/// By the routing key at the end of the channel, `/0.celeryev/worker.heartbeat`.
fn is_about_workers(channel: &str) -> bool {
    channel.rsplit('/').next().is_some_and(|key| key.starts_with("worker."))
}
