//! How full the queues are: asked of Redis now and then, over a connection of its own, with commands that only read.
//!
//! The queues are those that Celery has bound to its exchanges. A queue's messages lie in a list of its name and, those
//! of other priorities, in lists beside it. What workers hold unacknowledged lies in one hash for all queues together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Connection, FromRedisValue, Pipeline, RedisError, RedisResult, cmd, pipe};
use proto_events::limits::QUEUE;
use tokio::time::MissedTickBehavior;

use super::url::{RedisUrl, escape};
use crate::depths::{Depth, Teller};
use crate::status::Figures;

/// After a refusal so many rounds are left out.
const ROUNDS_OFF: u32 = 12;

/// Queues of one broker; what may lie beyond is nobody's that we know.
const MOST: usize = 5_000;
/// The keys of a database are looked through in steps of so many, and for so long in each round: where results are kept
/// in it too, there may be millions.
const STEP: usize = 1_000;
const LOOK: Duration = Duration::from_millis(100);
/// Questions that are sent at once.
const AT_ONCE: usize = 500;

const BINDINGS: &str = "_kombu.binding.";
const UNACKED: &str = "unacked";
/// What kombu puts between the parts of a binding, and between a queue and a priority; the second is what Celery's manual
/// gives as another choice.
const SEPARATORS: [&str; 2] = ["\x06\x16", ":"];
/// Priorities are 0 to 9, and which of them are used is up to the configuration. Those of 0 have the bare name.
const PRIORITIES: std::ops::RangeInclusive<u32> = 1..=9;

/// What asks, and tells the log.
pub(super) struct Depths {
    pub(super) name: String,
    pub(super) every: Duration,
    pub(super) figures: Arc<Figures>,
    pub(super) teller: Teller,
    pub(super) asker: Asker,
}

/// What one round brought.
#[derive(Default)]
struct Round {
    depths: BTreeMap<String, u64>,
    unacked: Option<u64>,
    /// Whether Redis forbids us any of it.
    is_refused: bool,
}

impl Depths {
    /// For ever.
    pub(super) async fn run(mut self) {
        let mut rounds = tokio::time::interval(self.every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut off = 0_u32;
        loop {
            rounds.tick().await;
            // Why there is no connection is said by who listens.
            if off > 0 || !self.figures.is_connected() {
                off = off.saturating_sub(1);
                continue;
            }
            let mut asker = self.asker;
            let blocking = tokio::task::spawn_blocking(move || {
                let round = asker.round();
                (asker, round)
            });
            let Ok((asker, round)) = blocking.await else {
                tracing::error!(source = self.name, "asking for the depth of queues has failed and ends");
                return;
            };
            self.asker = asker;
            match round {
                Ok(round) => {
                    off = if round.is_refused { ROUNDS_OFF } else { 0 };
                    self.hint(round.is_refused);
                    let depths = round.depths.iter().map(|(name, depth)| (name.as_str(), Depth::of(*depth)));
                    self.teller.tell(depths, round.unacked).await;
                }
                Err(error) => {
                    tracing::debug!(source = self.name, %error, "the depth of queues is not known");
                    if is_refusal(&error) {
                        off = ROUNDS_OFF;
                        self.hint(true);
                    }
                }
            }
        }
    }

    /// Says once what is missing, and takes it back when it is there.
    fn hint(&self, is_refused: bool) {
        let hint = is_refused.then(|| self.asker.advice());
        let mut known = self.figures.depth_hint.lock();
        if let Some(hint) = hint.as_ref().filter(|_| known.is_none()) {
            tracing::warn!(source = self.name, "{hint}");
        }
        *known = hint;
    }
}

/// The blocking half.
pub(super) struct Asker {
    url: RedisUrl,
    patience: Duration,
    connection: Option<Connection>,
    /// Where the look through the keys goes on.
    cursor: u64,
    /// Keys of bindings that this look has found, and those of the last whole one.
    found: BTreeSet<Vec<u8>>,
    known: BTreeSet<Vec<u8>>,
}

/// A queue, and what separates its name from a priority.
type Bound = (String, &'static str);

impl Asker {
    pub(super) fn new(url: RedisUrl, patience: Duration) -> Self {
        let (found, known) = (BTreeSet::new(), BTreeSet::new());
        Self { url, patience, connection: None, cursor: 0, found, known }
    }

    /// One round, on the connection that there is, or a new one. After an error the next round makes a new one.
    fn round(&mut self) -> RedisResult<Round> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.url.connect(self.patience)?,
        };
        let round = self.ask(&mut connection)?;
        self.connection = Some(connection);
        Ok(round)
    }

    fn ask(&mut self, connection: &mut Connection) -> RedisResult<Round> {
        self.look(connection)?;
        let mut round = Round::default();
        let queues = self.queues(connection, &mut round)?;
        self.lengths(connection, &queues, &mut round)?;
        match cmd("HLEN").arg(self.key(UNACKED)).query(connection) {
            Ok(unacked) => round.unacked = Some(unacked),
            Err(error) => round.refused(error)?,
        }
        Ok(round)
    }

    /// Goes on looking for bindings.
    fn look(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let began = Instant::now();
        let pattern = format!("{}*", escape(&self.key(BINDINGS)));
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(self.cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP);
            let (cursor, keys): (u64, Vec<Vec<u8>>) = scan.query(connection)?;
            self.cursor = cursor;
            let prefix = self.key(BINDINGS);
            self.found.extend(keys.into_iter().filter(|key| is_of_jobs(key, &prefix)));
            while self.found.len() > MOST {
                self.found.pop_last();
            }
            if cursor == 0 {
                self.known = std::mem::take(&mut self.found);
                return Ok(());
            }
            if began.elapsed() >= LOOK {
                return Ok(());
            }
        }
    }

    /// The queues of the bindings that are known.
    fn queues(&self, connection: &mut Connection, round: &mut Round) -> RedisResult<BTreeSet<Bound>> {
        let keys: Vec<&[u8]> = self.known.union(&self.found).map(Vec::as_slice).collect();
        let mut queues = BTreeSet::new();
        for keys in keys.chunks(AT_ONCE) {
            let mut cursors: Vec<(&[u8], u64)> = keys.iter().map(|key| (*key, 0)).collect();
            // A set of thousands of bindings comes in several pages.
            while !cursors.is_empty() && queues.len() < MOST {
                let mut scans = pipe();
                for (key, cursor) in &cursors {
                    scans.cmd("SSCAN").arg(*key).arg(*cursor).arg("COUNT").arg(STEP);
                }
                let mut left = Vec::new();
                for ((key, _), page) in cursors.into_iter().zip(all::<(u64, Vec<Vec<u8>>)>(&mut scans, connection)?) {
                    match page {
                        Ok((cursor, members)) => {
                            queues.extend(members.iter().filter_map(|member| queue_of(member)));
                            left.extend((cursor != 0).then_some((key, cursor)));
                        }
                        Err(error) => round.refused(error)?,
                    }
                }
                cursors = left;
            }
        }
        Ok(queues.into_iter().take(MOST).collect())
    }

    fn lengths(&self, connection: &mut Connection, queues: &BTreeSet<Bound>, round: &mut Round) -> RedisResult<()> {
        let lists = queues.iter().flat_map(|(queue, separator)| {
            let prioritised = PRIORITIES.map(move |priority| format!("{queue}{separator}{priority}"));
            std::iter::once(queue.clone()).chain(prioritised).map(move |list| (queue, list))
        });
        let lists: Vec<(&String, String)> = lists.collect();
        let mut unknown = BTreeSet::new();
        for lists in lists.chunks(AT_ONCE) {
            let mut questions = pipe();
            for (_, list) in lists {
                questions.cmd("LLEN").arg(self.key(list));
            }
            for ((queue, _), length) in lists.iter().zip(all::<u64>(&mut questions, connection)?) {
                match length {
                    Ok(length) => {
                        let depth = round.depths.entry((*queue).clone()).or_default();
                        *depth = depth.saturating_add(length);
                    }
                    Err(error) => {
                        round.refused(error)?;
                        unknown.insert(*queue);
                    }
                }
            }
        }
        // A part of a depth is none.
        round.depths.retain(|queue, _| !unknown.contains(queue));
        Ok(())
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.url.key_prefix())
    }

    fn advice(&self) -> String {
        let (user, keys) = (self.url.user(), escape(self.url.key_prefix()));
        let select = if self.url.database() == 0 { "" } else { " +select" };
        format!(
            "the depth of queues is not known, because the Redis user {user} may not read it: \
             allow it with  ACL SETUSER {user} ~{keys}* +scan +sscan +llen +hlen{select}"
        )
    }
}

impl Round {
    /// Takes a refusal of one question; `Err` where the connection itself is no good any more.
    fn refused(&mut self, error: RedisError) -> RedisResult<()> {
        if error.is_io_error() {
            return Err(error);
        }
        self.is_refused |= is_refusal(&error);
        Ok(())
    }
}

fn is_refusal(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
}

/// The answers to all questions, each on its own.
fn all<T: FromRedisValue>(questions: &mut Pipeline, connection: &mut Connection) -> RedisResult<Vec<RedisResult<T>>> {
    questions.ignore_errors().query(connection)
}

/// Whether these bindings may be of queues of jobs: workers have others for being asked and for telling.
fn is_of_jobs(key: &[u8], prefix: &str) -> bool {
    let exchange = key.strip_prefix(prefix.as_bytes()).unwrap_or(key);
    exchange != b"celeryev" && !exchange.ends_with(b".pidbox")
}

fn fits(queue: &str) -> bool {
    queue.chars().nth(QUEUE).is_none()
}

/// The queue of a binding: routing key, pattern, queue.
fn queue_of(member: &[u8]) -> Option<Bound> {
    let member = std::str::from_utf8(member).ok()?;
    SEPARATORS.into_iter().find_map(|separator| {
        let mut parts = member.split(separator).skip(2);
        let queue = parts.next().filter(|queue| !queue.is_empty() && parts.next().is_none())?;
        // A longer name no event can tell, and one that never gets through would hold up all others.
        let is_of_jobs = !queue.ends_with(".pidbox") && !queue.starts_with("celeryev.") && fits(queue);
        is_of_jobs.then(|| (queue.to_owned(), separator))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Anything, or what a binding may consist of, in any order.
    fn member() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            Just("\x06\x16".as_bytes().to_vec()),
            Just(b":".to_vec()),
            Just(b".pidbox".to_vec()),
            Just(b"celeryev.".to_vec()),
            "\\PC{0,20}".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    #[test]
    fn a_binding_tells_its_queue_and_how_its_lists_are_named() {
        let queue = |member: &str| queue_of(member.as_bytes());
        let kombu = SEPARATORS[0];
        assert_eq!(queue("celery\x06\x16\x06\x16celery"), Some(("celery".to_owned(), kombu)));
        assert_eq!(queue("a.#\x06\x16a.*:b\x06\x16with:colon"), Some(("with:colon".to_owned(), kombu)));
        assert_eq!(queue("\x06\x16\x06\x16fanned"), Some(("fanned".to_owned(), kombu)));
        assert_eq!(queue("celery::celery"), Some(("celery".to_owned(), ":")));
        for none in [
            "",
            "celery",
            "a:b",
            "a:b:c:d",
            "a\x06\x16b",
            "\x06\x16\x06\x16",
            "\x06\x16\x06\x16celery@w.celery.pidbox",
            "worker.#\x06\x16\x06\x16celeryev.0b2d",
        ] {
            assert_eq!(queue(none), None, "{none:?}");
        }
        assert_eq!(queue_of(b"a\x06\x16\x06\x16\xff"), None);
        assert!(queue(&format!("::{}", "ä".repeat(QUEUE))).is_some());
        assert_eq!(queue(&format!("::{}", "ä".repeat(QUEUE + 1))), None);
    }

    proptest! {
        #[test]
        fn whatever_is_bound_it_names_a_queue_of_jobs_or_nothing(
            member in member(),
            key in member(),
            prefix in "\\PC{0,5}",
            (route, pattern, queue) in ("[^\x06\x16]{0,20}", "[^\x06\x16]{0,20}", "[^\x06\x16]{1,20}"),
        ) {
            if let Some((queue, separator)) = queue_of(&member) {
                let end = format!("{separator}{queue}");
                prop_assert!(!queue.is_empty() && fits(&queue) && member.ends_with(end.as_bytes()), "{member:?}: {queue:?}");
                prop_assert!(!queue.contains(separator) && !queue.ends_with(".pidbox") && !queue.starts_with("celeryev."));
            }
            is_of_jobs(&key, &prefix);
            // Whatever is beside it, a good one is read.
            let good = [&*route, &pattern, &queue].join(SEPARATORS[0]);
            let is_of_jobs = !queue.ends_with(".pidbox") && !queue.starts_with("celeryev.");
            prop_assert_eq!(queue_of(good.as_bytes()), is_of_jobs.then_some((queue, SEPARATORS[0])));
        }
    }
}
