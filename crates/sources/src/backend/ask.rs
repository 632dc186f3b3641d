//! The questions to the backend: blocking, and with commands that only read.

use std::time::Duration;

use ::redis::{Connection, RedisResult, cmd};

use super::Unended;
use crate::redis::RedisUrl;

/// What stands before the id of a task.
const KEY: &str = "celery-task-meta-";
/// Keys of one question.
const AT_ONCE: usize = 20;
/// Bytes that the answers to one question take, if they are as large as the largest before. Results may be large.
const ROOM: usize = 16 << 20;

pub(super) struct Asker {
    url: RedisUrl,
    patience: Duration,
    connection: Option<Connection>,
    prefix: String,
    at_once: usize,
}

impl Asker {
    pub(super) fn new(url: RedisUrl, patience: Duration) -> Self {
        let prefix = key_prefix(url.key_prefix());
        Self { url, patience, connection: None, prefix, at_once: AT_ONCE }
    }

    /// Of how many jobs it may be asked now, by the size of the answers before.
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }

    /// What is stored of each of these jobs, which are [`Self::at_once`] at most. After an error the next call connects
    /// anew.
    pub(super) fn answers(&mut self, jobs: &[Unended]) -> RedisResult<Vec<Option<Vec<u8>>>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.url.connect(self.patience)?,
        };
        let mut answers: Vec<Option<Vec<u8>>> = Vec::new();
        if !jobs.is_empty() {
            let mut question = cmd("MGET");
            for job in jobs {
                question.arg(format!("{}{}", self.prefix, job.external_id));
            }
            answers = question.query(&mut connection)?;
            self.at_once = at_once(&answers);
        }
        self.connection = Some(connection);
        Ok(answers)
    }
}

/// How many may be asked for after these answers.
fn at_once(answers: &[Option<Vec<u8>>]) -> usize {
    let largest = answers.iter().flatten().map(Vec::len).max().unwrap_or_default();
    (ROOM / largest.max(1)).clamp(1, AT_ONCE)
}

/// Celery puts an underscore behind a prefix of the backend that does not end in something of that kind.
fn key_prefix(global: &str) -> String {
    let separator = if global.is_empty() || global.ends_with([':', '_', '-', '.']) { "" } else { "_" };
    format!("{global}{separator}{KEY}")
}

/// What the user of the URL must be allowed.
pub(super) fn advice(url: &RedisUrl) -> String {
    let (user, keys) = (url.user(), crate::redis::escape(&key_prefix(url.key_prefix())));
    let select = if url.database() == 0 { "" } else { " +select" };
    format!("allow it with  ACL SETUSER {user} ~{keys}* +mget{select}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_large_answers_fewer_are_asked_for() {
        let after = |sizes: &[usize]| at_once(&sizes.iter().map(|size| Some(vec![0; *size])).collect::<Vec<_>>());
        assert_eq!((after(&[]), at_once(&[None])), (AT_ONCE, AT_ONCE));
        assert_eq!(after(&[100, 2_000]), AT_ONCE);
        assert_eq!(after(&[100, ROOM / 4]), 4);
        assert_eq!(after(&[ROOM * 2]), 1);
    }

    #[test]
    fn keys_are_those_of_celery() {
        for (global, expected) in [
            ("", "celery-task-meta-"),
            ("shop", "shop_celery-task-meta-"),
            ("shop_", "shop_celery-task-meta-"),
            ("shop.", "shop.celery-task-meta-"),
        ] {
            assert_eq!(key_prefix(global), expected);
        }
    }
}
