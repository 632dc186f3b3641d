//! The questions to the backend: blocking, and with commands that only read.

use std::time::Duration;

use ::redis::{Connection, RedisResult, cmd};

use super::Unended;
use crate::redis::RedisUrl;

/// What stands before the id of a task.
const KEY: &str = "celery-task-meta-";
/// Keys of one question: results may be large.
const AT_ONCE: usize = 20;

pub(super) struct Asker {
    url: RedisUrl,
    patience: Duration,
    connection: Option<Connection>,
    prefix: String,
}

impl Asker {
    pub(super) fn new(url: RedisUrl, patience: Duration) -> Self {
        let prefix = key_prefix(url.key_prefix());
        Self { url, patience, connection: None, prefix }
    }

    /// What is stored of each of these jobs. After an error the next call connects anew.
    pub(super) fn answers(&mut self, jobs: &[Unended]) -> RedisResult<Vec<Option<Vec<u8>>>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.url.connect(self.patience)?,
        };
        let mut answers = Vec::with_capacity(jobs.len());
        for jobs in jobs.chunks(AT_ONCE) {
            let mut question = cmd("MGET");
            for job in jobs {
                question.arg(format!("{}{}", self.prefix, job.external_id));
            }
            answers.extend(question.query::<Vec<Option<Vec<u8>>>>(&mut connection)?);
        }
        self.connection = Some(connection);
        Ok(answers)
    }
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
