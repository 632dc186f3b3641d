//! What a result backend tells of itself.

use ::redis::{ErrorKind, RedisError};
use parking_lot::Mutex;
use proto_events::{Event, Timestamp};
use serde::Serialize;

use super::ask::advice;
use crate::redis::RedisUrl;
use crate::status::{SourceState, now};

/// How a result backend is that is asked.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackendStatus {
    /// Its name: that of the connection whose jobs are asked for.
    pub name: String,
    /// What it is, `celery-redis`.
    pub kind: &'static str,
    /// Where, without the password.
    pub url_masked: String,
    /// Whether it answers.
    pub state: SourceState,
    /// When it last answered.
    pub last_answer_at: Option<Timestamp>,
    /// How often it was asked for a job.
    pub asked: u64,
    /// Ends and retries that it told, and that went into the log.
    pub told: u64,
    /// When it last told one.
    pub last_told_at: Option<Timestamp>,
    /// Stored results that could not be read.
    pub unreadable: u64,
    /// Why the last of them could not.
    pub last_unreadable: Option<String>,
    /// Why it does not answer, and what to do.
    pub reason: Option<String>,
}

#[derive(Debug)]
pub(super) struct Figures(Mutex<BackendStatus>);

impl Default for Figures {
    fn default() -> Self {
        Self(Mutex::new(BackendStatus {
            name: String::new(),
            kind: "celery-redis",
            url_masked: String::new(),
            state: SourceState::Connecting,
            last_answer_at: None,
            asked: 0,
            told: 0,
            last_told_at: None,
            unreadable: 0,
            last_unreadable: None,
            reason: None,
        }))
    }
}

impl Figures {
    pub(super) fn asked(&self, jobs: usize) {
        let mut status = self.0.lock();
        status.state = SourceState::Connected;
        status.reason = None;
        if jobs > 0 {
            status.last_answer_at = Some(now());
        }
        status.asked += jobs as u64;
    }

    /// Tells whether this is news.
    pub(super) fn failed(&self, error: &RedisError, url: &RedisUrl) -> bool {
        let is_refused = error.kind() == ErrorKind::AuthenticationFailed
            || matches!(error.code(), Some("NOPERM" | "NOAUTH" | "WRONGPASS"));
        let reason = match error.code() {
            Some("NOPERM") => format!("{error}: {}", advice(url)),
            _ if error.kind() == ErrorKind::AuthenticationFailed => {
                format!("Redis refused the user ({}) or password: correct the backend's URL", url.user())
            }
            _ => error.to_string(),
        };
        let mut status = self.0.lock();
        status.state = if is_refused { SourceState::Refused } else { SourceState::Down };
        let is_news = status.reason.as_ref() != Some(&reason);
        status.reason = Some(reason);
        is_news
    }

    pub(super) fn answered(&self, event: &Event) {
        tracing::debug!(job = event.job.as_ref().map(|job| job.external_id.as_str()), "told by the result backend");
        let mut status = self.0.lock();
        status.told += 1;
        status.last_told_at = Some(now());
    }

    /// Tells whether this is the first.
    pub(super) fn unreadable(&self, reason: String) -> bool {
        let mut status = self.0.lock();
        status.unreadable += 1;
        status.last_unreadable = Some(reason);
        status.unreadable == 1
    }

    pub(super) fn status(&self, name: &str, url_masked: &str, has_failed: bool) -> BackendStatus {
        let mut status =
            BackendStatus { name: name.to_owned(), url_masked: url_masked.to_owned(), ..self.0.lock().clone() };
        if has_failed {
            status.state = SourceState::Down;
            status.reason = Some("asking has failed and needs a restart of Forebay; the log says why".to_owned());
        }
        status
    }
}
