//! Retention: a running server lets its log forget what is older than asked for, or what the disk has no room for.
//!
//! One half looks at log and disk and says whether there is room for more; the other trims, one bucket after the other.
//! They are apart because a trim waits where views are made anew, and the disk fills meanwhile.

mod disk;
mod policy;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use event_log::{EventLog, LogError, LogInfo};
use parking_lot::Mutex;
use proto_events::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;
use views::Generations;

use crate::handle::Handle;
use crate::status::{Phase, now};
use crate::trim::{TrimError, Trimmed};
pub use disk::{DiskStatus, Places};
use policy::{Excess, Room};
pub use policy::{Most, Policy};

/// The note beside the views.
const NOTE: &str = "retention.json";
/// Between two looks at the disk, at most; more often where it fills fast.
const LOOK: Duration = Duration::from_secs(2);
const SHORTEST_LOOK: Duration = Duration::from_millis(200);
/// The next look is before so many hundredths more of what the log may take could be filled.
const SMALL: u64 = 2;
/// The files are counted so seldom.
const COUNT: Duration = Duration::from_secs(60);

/// What retention does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RetentionState {
    /// It is not at work: no server runs, or it only just starts.
    #[default]
    Off,
    /// All that was asked for is kept.
    Keeping,
    /// Less is kept than was asked for, for want of room.
    Shortened,
    /// The log takes what it may, and nothing of it is old enough to go: nothing is taken in over HTTP.
    Full,
    /// What should go cannot.
    Blocked,
}

/// Retention, as it is told.
#[derive(Clone, Debug, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RetentionStatus {
    /// What it does.
    pub state: RetentionState,
    /// For how many seconds events are kept; null is for ever.
    pub keep_seconds: Option<u64>,
    /// What the log takes, in bytes before they are compressed.
    pub log_bytes: u64,
    /// What it may take at most, as the disk is now, counted in the same way; null where nobody can tell.
    pub allowed_bytes: Option<u64>,
    /// When the log took the oldest event that it holds.
    pub oldest_at: Option<Timestamp>,
    /// The last time that the log was made to forget something.
    pub last_trim: Option<LastTrim>,
    /// Why it is as it is, where that is not as asked for.
    pub reason: Option<String>,
}

/// What was forgotten last.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct LastTrim {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// The messages of the log before this one went.
    pub before: u64,
    /// Jobs that went with them.
    pub jobs_dropped: u64,
    /// Jobs that lost a part of their events.
    pub jobs_cut: u64,
    /// Bytes of the log, before they are compressed.
    pub bytes_freed: u64,
}

/// Why something goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "TrimCause"))]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It is older than asked for.
    Age,
    /// There is no room for it.
    Room,
}

/// What is remembered over a restart.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    last_trim: Option<LastTrim>,
    /// All from before this time went for want of room.
    shortened: Option<Timestamp>,
}

/// What both halves and the readers share.
#[derive(Default)]
struct Told {
    status: RetentionStatus,
    disk: Option<DiskStatus>,
    full: bool,
    /// Somebody was refused since the last look.
    refused: bool,
    /// Why the last trim did not come to its end.
    failed: Option<String>,
    note: Note,
}

/// What one look showed.
struct Look {
    info: LogInfo,
    room: Room,
    /// When the log took its first message.
    oldest_at: Option<Timestamp>,
}

/// The retention of one server's log. Cheap to clone.
#[derive(Clone)]
pub struct Retention {
    log: EventLog,
    live: Handle,
    generations: Generations,
    told: Arc<Mutex<Told>>,
    /// Bytes that may be taken in before the next look.
    left: Arc<AtomicI64>,
    /// Asks for that look.
    ask: Arc<Notify>,
    /// What is to be kept.
    policy: Arc<Mutex<Policy>>,
}

impl Retention {
    /// Of the log that this projector follows.
    pub fn new(log: EventLog, live: Handle, generations: Generations) -> Self {
        // What cannot be read only says less.
        let note = generations.read_note(NOTE).ok().flatten().and_then(|note| serde_json::from_slice(&note).ok());
        let told = Told { note: note.unwrap_or_default(), ..Told::default() };
        let left = Arc::new(AtomicI64::new(i64::MAX));
        let policy = Arc::new(Mutex::new(Policy { keep: None, most: Most::Unlimited }));
        Self { log, live, generations, told: Arc::new(Mutex::new(told)), left, ask: Arc::default(), policy }
    }

    /// How it is.
    pub fn status(&self) -> RetentionStatus {
        self.told.lock().status.clone()
    }

    /// How the disk is; `None` until it was looked at.
    pub fn disk(&self) -> Option<DiskStatus> {
        self.told.lock().disk
    }

    /// Whether nothing more should be brought to the log by whoever can wait.
    pub fn is_full(&self) -> bool {
        self.told.lock().full
    }

    /// Takes room for so many bytes; `false` where there is none. Between two looks at the disk a flood could fill it.
    pub fn take(&self, bytes: usize) -> bool {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let taken = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| {
            left.checked_sub(bytes).filter(|left| *left >= 0)
        });
        if taken.is_err() {
            self.told.lock().refused = true;
            self.ask.notify_one();
        }
        taken.is_ok()
    }

    /// Keeps as much as this policy says, for as long as this is awaited. Trims are told on the subject of this connection.
    pub async fn run(&self, policy: Policy, places: Places, connection: Uuid) {
        self.change(policy);
        tokio::join!(self.watch(&places), self.trim(&places, connection));
    }

    /// Keeps as much as this policy says from now on.
    pub fn change(&self, policy: Policy) {
        *self.policy.lock() = policy;
        self.ask.notify_one();
    }

    fn policy(&self) -> Policy {
        *self.policy.lock()
    }

    /// Looks at log and disk again and again.
    async fn watch(&self, places: &Places) {
        let (mut counted, mut before): (Option<Instant>, Option<(Instant, u64)>) = (None, None);
        loop {
            if counted.is_none_or(|at| at.elapsed() >= COUNT) {
                counted = Some(Instant::now());
                self.count(places).await;
            }
            let policy = self.policy();
            let mut pause = LOOK.min(policy.bucket());
            match self.look(places).await {
                Ok(look) => {
                    self.tell(policy, &look);
                    if let Err(error) = self.live.lost(&look.info).await {
                        tracing::debug!(%error, "whether the log lost something is not known");
                    }
                    let (at, log) = (Instant::now(), look.room.log);
                    if before.is_none() {
                        pause = SHORTEST_LOOK;
                    } else if let (Some((then, was)), Some(allowed)) = (before, policy.allowed(look.room)) {
                        let grown = log.saturating_sub(was).max(1) as f64 / (at - then).as_secs_f64().max(1e-3);
                        pause = pause.min(Duration::from_secs_f64((allowed / 100 * SMALL) as f64 / grown));
                    }
                    before = Some((at, log));
                }
                Err(error) => tracing::debug!(%error, "the log cannot be looked at"),
            }
            tokio::time::sleep(SHORTEST_LOOK).await;
            // Asked for in the meantime counts too.
            let _ = tokio::time::timeout(pause.saturating_sub(SHORTEST_LOOK), self.ask.notified()).await;
        }
    }

    async fn count(&self, places: &Places) {
        let places = places.clone();
        match tokio::task::spawn_blocking(move || places.measure()).await {
            Ok(Ok(disk)) => self.told.lock().disk = Some(disk),
            Ok(Err(error)) => tracing::debug!(%error, "the disk cannot be looked at"),
            Err(error) => tracing::error!(%error, "counting the files of log and views failed"),
        }
    }

    async fn look(&self, places: &Places) -> Result<Look, LogError> {
        let info = self.log.info().await?;
        let oldest = self.log.next_stored(info.first_sequence).await?;
        let disk = places.room().unwrap_or_else(|error| {
            tracing::debug!(%error, "the disk of the log cannot be looked at");
            None
        });
        Ok(Look { info, room: Room { log: info.bytes, disk }, oldest_at: oldest.map(|(_, stored)| stored) })
    }

    fn tell(&self, policy: Policy, look: &Look) {
        let (now, mut told) = (now(), self.told.lock());
        let droppable = policy.most != Most::Unlimited && look.oldest_at.is_some_and(|at| at < policy.youngest(now));
        let refused = std::mem::take(&mut told.refused) || told.full;
        told.full = policy.refuses(look.room, !droppable, refused);
        let left = if told.full { Some(0) } else { policy.left(look.room, !droppable) };
        self.left.store(left.and_then(|left| i64::try_from(left).ok()).unwrap_or(i64::MAX), Ordering::Release);
        if let Some(disk) = &mut told.disk
            && let Some((total, free)) = look.room.disk
        {
            (disk.total_bytes, disk.free_bytes) = (total, free);
        }
        let allowed = policy.allowed(look.room);
        let keep = policy.keep.map(|keep| keep.as_micros() as i64);
        // What went for want of room would have gone by now.
        told.note.shortened.take_if(|at| keep.is_some_and(|keep| at.micros() + keep < now.micros()));
        let (state, reason) = told.state(policy, look.room.log, allowed);
        if state != told.status.state {
            match state {
                RetentionState::Full => tracing::error!(reason, "the log is full"),
                RetentionState::Shortened | RetentionState::Blocked => tracing::warn!(reason, "retention"),
                RetentionState::Keeping if told.status.state != RetentionState::Off => {
                    tracing::info!("there is room again: all is kept that is asked for");
                }
                RetentionState::Keeping | RetentionState::Off => {}
            }
        }
        told.status = RetentionStatus {
            state,
            keep_seconds: policy.keep.map(|keep| keep.as_secs()),
            log_bytes: look.room.log,
            allowed_bytes: allowed,
            oldest_at: look.oldest_at,
            last_trim: told.note.last_trim.clone(),
            reason,
        };
    }

    /// Trims whenever something should go.
    async fn trim(&self, places: &Places, connection: Uuid) {
        loop {
            let policy = self.policy();
            let pause = LOOK.min(policy.bucket()) / 2;
            // One bucket after the other: whoever follows the log is never held up for long.
            let trimmed = match self.due(policy, places).await {
                Ok(Some((before, cause))) => self.trim_before(connection, before, cause).await,
                Ok(None) => Ok(false),
                Err(error) => Err(error.into()),
            };
            let goes_on = matches!(&trimmed, Ok(true));
            let failed = trimmed.err().map(|error| error.to_string());
            let is_news = std::mem::replace(&mut self.told.lock().failed, failed.clone()) != failed;
            if let Some(error) = failed.filter(|_| is_news) {
                tracing::warn!(error, "what the log should forget is still there; it is tried again");
            }
            if !goes_on {
                tokio::time::sleep(pause.max(SHORTEST_LOOK)).await;
            }
        }
    }

    /// Whether that made any room: what the views do not know yet stays for now.
    async fn trim_before(&self, connection: Uuid, before: u64, cause: Cause) -> Result<bool, TrimError> {
        if cause == Cause::Room {
            // Said first: were it to end in between, nobody would know any more that less is kept than asked for.
            self.note_shortened(before).await?;
        }
        let Trimmed { before, jobs_dropped, jobs_cut, bytes_freed } =
            self.live.trim(&self.log, connection, before).await?;
        if bytes_freed == 0 {
            return Ok(false);
        }
        let last_trim = LastTrim { at: now(), cause, before, jobs_dropped, jobs_cut, bytes_freed };
        self.note(|note| note.last_trim = Some(last_trim));
        Ok(true)
    }

    /// Remembers that for want of room all before this message goes.
    async fn note_shortened(&self, before: u64) -> Result<(), LogError> {
        let oldest = self.log.next_stored(before).await?;
        let oldest = oldest.map_or_else(now, |(_, stored)| stored);
        self.note(|note| note.shortened = note.shortened.max(Some(oldest)));
        Ok(())
    }

    /// Changes what is remembered.
    fn note(&self, change: impl FnOnce(&mut Note)) {
        let note = {
            let mut told = self.told.lock();
            change(&mut told.note);
            // A record is always JSON.
            serde_json::to_vec(&told.note).unwrap_or_default()
        };
        if let Err(error) = self.generations.write_note(NOTE, &note) {
            tracing::warn!(%error, "what was trimmed last is not known after a restart");
        }
    }

    /// Before which message the log should forget all, for now, and why; `None` where nothing should go, or nothing can
    /// because no views follow.
    async fn due(&self, policy: Policy, places: &Places) -> Result<Option<(u64, Cause)>, LogError> {
        if self.live.status().phase != Phase::Following {
            return Ok(None);
        }
        let Look { info, room, oldest_at } = self.look(places).await?;
        let Some(oldest_at) = oldest_at else { return Ok(None) };
        let bucket_end = policy.bucket_end(oldest_at);
        if let Some(expired) = policy.expired_before(self.log_time(&info).await?) {
            if bucket_end <= expired {
                return Ok(self.log.first_at(bucket_end).await?.map(|before| (before, Cause::Age)));
            }
            // What somebody else dropped would have gone by now.
            if info.first_sequence > self.live.status().floor.max(1) && bucket_end == policy.bucket_end(expired) {
                return Ok(Some((info.first_sequence, Cause::Age)));
            }
        }
        let Some(excess) = policy.excess(room) else { return Ok(None) };
        Ok(self.before_excess(policy, &info, bucket_end, excess).await?.map(|before| (before, Cause::Room)))
    }

    /// Where the log should begin for there to be room again, or to be nearer to that.
    async fn before_excess(
        &self,
        policy: Policy,
        info: &LogInfo,
        bucket_end: Timestamp,
        excess: Excess,
    ) -> Result<Option<u64>, LogError> {
        let youngest = policy.youngest(now());
        let spared = self.log.first_at(youngest).await?.unwrap_or(info.last_sequence + 1);
        let of_bytes = |bytes: u64| {
            // Messages are about as large as each other, taken by the thousands.
            let messages = u128::from(bytes) * u128::from(info.messages) / u128::from(info.bytes.max(1));
            info.first_sequence + messages.min(u128::from(info.messages)) as u64 + 1
        };
        if spared <= info.first_sequence {
            return Ok(excess.pushed.map(|bytes| of_bytes(bytes).min(info.last_sequence)));
        }
        let whole = self.log.first_at(bucket_end).await?.unwrap_or(info.last_sequence + 1);
        if whole <= spared && whole <= of_bytes(excess.coarse) {
            return Ok(Some(whole));
        }
        Ok(Some(of_bytes(excess.part).min(spared)))
    }

    /// The time now, as far as the log has come: should the clock of this machine go wrong, nothing is lost by that alone.
    async fn log_time(&self, info: &LogInfo) -> Result<Timestamp, LogError> {
        let newest = self.log.next_stored(info.last_sequence).await?;
        Ok(newest.map_or_else(now, |(_, stored)| stored.min(now())))
    }
}

impl Told {
    fn state(&self, policy: Policy, log: u64, allowed: Option<u64>) -> (RetentionState, Option<String>) {
        let of = || allowed.map_or_else(String::new, |allowed| format!(" of the {allowed} that it may take"));
        if self.full {
            let reason = format!(
                "the log takes {log} bytes{}, and nothing of it is old enough to go: give it more room, or remove \
                 what else fills the disk",
                of()
            );
            return (RetentionState::Full, Some(reason));
        }
        if let Some(failed) = &self.failed {
            return (RetentionState::Blocked, Some(format!("what the log should forget is still there: {failed}")));
        }
        // Who sets no time asks for as much as there is room for.
        if let (Some(since), Some(keep)) = (self.note.shortened, policy.keep) {
            let asked = match keep.as_secs() {
                hours if hours.is_multiple_of(3_600) => format!("{} h", hours / 3_600),
                seconds => format!("{seconds} s"),
            };
            let reason = format!(
                "for want of room only what came since {} is kept, and not, as asked for, for {asked}: give the log more \
                 room (--max-log-size), or ask for less (--retention)",
                since.to_millis_text()
            );
            return (RetentionState::Shortened, Some(reason));
        }
        (RetentionState::Keeping, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_than_asked_for_is_kept_only_where_a_time_was_asked_for() {
        let told = Told { note: Note { shortened: Some(Timestamp(0)), ..Note::default() }, ..Told::default() };
        let state = |keep| told.state(Policy { keep, most: Most::Bytes(1) }, 0, Some(1)).0;
        assert_eq!(state(None), RetentionState::Keeping);
        assert_eq!(state(Some(Duration::from_secs(7_200))), RetentionState::Shortened);
        let full = Told { full: true, ..told };
        assert_eq!(full.state(Policy { keep: None, most: Most::Unlimited }, 0, None).0, RetentionState::Full);
    }
}
