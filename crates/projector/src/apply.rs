//! The blocking half: it decodes, folds job by job, stages and flushes, on a thread of its own since sled blocks.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use event_log::{EventLog, LogMessage};
use failpoints::{Point, hit};
use projection::Row;
use projection::fleet::FleetFact;
use proto_events::{Event, EventType, Position, Timestamp};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;
use views::{Applied, Checkpoint, LANDMARK_EVERY, Landmark, Quarantined, Writer};

use crate::cut::Cut;
use crate::follow::Batch;
use crate::frames::Changes;
use crate::handle::Shared;
use crate::live::Heard;
use crate::poison::{Folded, NOBODY, guarded, poisonous, unusable};
use crate::status::FatalReason;

/// A row that changes again within this time is written once. A crash costs the replay of as much.
const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// So many rows are written without waiting for that.
const FLUSH_ROWS: usize = 4_096;
/// Or so many bytes of messages since the last time: rows are about as large as the events in them.
const FLUSH_BYTES: usize = 16 << 20;

/// Forgotten rows that are removed from the disk between two batches.
const SWEEP_ROWS: usize = 256;
/// For readers, while nothing else is to be done.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// The fold, as the loop calls it: what is known, connection, external id, new events.
pub(crate) type Fold = fn(Option<&Row>, Uuid, &str, &[JobEvent]) -> Option<Row>;

/// A job event and where it is.
pub(crate) struct JobEvent {
    connection: Uuid,
    pub(crate) position: Position,
    pub(crate) event: Event,
}

impl JobEvent {
    fn external_id(&self) -> &str {
        // Decoding has checked that a job event has a job.
        self.event.job.as_ref().map_or("", |job| &job.external_id)
    }

    fn key(&self) -> (Uuid, &str) {
        (self.connection, self.external_id())
    }
}

pub(crate) struct Applier {
    pub(crate) log: EventLog,
    pub(crate) writer: Writer,
    pub(crate) shared: Arc<Shared>,
    fold: Fold,
    /// What is written down of messages that the log dropped before they were applied.
    missed: Option<u64>,
    /// The last message that was applied.
    pub(crate) last: u64,
    unflushed_bytes: usize,
    flush_at: Option<Instant>,
    /// What those who watch are to be told once readers see it.
    changes: Changes,
    /// Wanted once a message is reached.
    hold: Option<Hold>,
    /// Who gets the views when the loop ends now.
    surrender: Option<oneshot::Sender<Writer>>,
}

/// What one who holds the loop at a message says next.
pub(crate) enum Release {
    /// Go on.
    Resume,
    /// Go on with these views, which are at the same message.
    Switch(Box<Writer>, oneshot::Sender<()>),
    /// Hand over the views and end.
    Surrender(oneshot::Sender<Writer>),
}

/// The wish that the loop stand still, all written, at a message or at the first chance after it.
pub(crate) struct Hold {
    /// The message; 0 for the first chance.
    pub(crate) at: u64,
    /// Told where it stands, with the checkpoint there if there is one.
    pub(crate) held: oneshot::Sender<(u64, Option<Checkpoint>)>,
    /// How it goes on; dropped means resume.
    pub(crate) release: oneshot::Receiver<Release>,
}

enum Next {
    Batch(Option<Batch>),
    Hold(Hold),
    FlushDue,
    SweepDue,
}

/// What is in messages.
#[derive(Default)]
pub(crate) struct Decoded {
    events: Vec<JobEvent>,
    quarantined: Vec<Quarantined>,
    pub(crate) cuts: Vec<Cut>,
    /// About workers and sources: for the view of them as they are now, and for what is known of them for good.
    heard: Vec<Heard>,
    fleet: Vec<FleetFact>,
}

impl Applier {
    pub(crate) fn new(log: EventLog, writer: Writer, shared: Arc<Shared>, fold: Fold) -> Self {
        let last = writer.checkpoint().map_or(0, |checkpoint| checkpoint.sequence);
        let missed = writer.missed();
        if let Some(first) = missed {
            tracing::warn!(first, "the log had dropped messages before they were applied: the views lack them");
        }
        shared.progress.send_modify(|progress| progress.trimmed = missed);
        Self {
            log,
            writer,
            shared,
            fold,
            missed,
            last,
            unflushed_bytes: 0,
            flush_at: None,
            changes: Changes::default(),
            hold: None,
            surrender: None,
        }
    }

    /// Applies batches until there are no more, then writes everything.
    pub(crate) fn run(
        mut self,
        runtime: &runtime::Handle,
        mut batches: mpsc::Receiver<Batch>,
        mut holds: mpsc::Receiver<Hold>,
    ) -> Result<(), FatalReason> {
        loop {
            match runtime.block_on(self.next(&mut batches, &mut holds)) {
                Next::Batch(Some(batch)) => {
                    if self.apply_held(runtime, &batch)?.is_break() {
                        return self.close();
                    }
                }
                Next::Batch(None) => return self.close(),
                Next::Hold(hold) => {
                    self.hold = Some(hold);
                    self.hold_if_there()?;
                }
                Next::FlushDue => self.flush()?,
                Next::SweepDue => {}
            }
            if let Some(to) = self.surrender.take() {
                // Whoever asked may be gone; all is written in any case.
                let _ = to.send(self.writer);
                return Ok(());
            }
            if self.is_flush_due() {
                self.flush()?;
            }
            self.writer.sweep(SWEEP_ROWS)?;
        }
    }

    async fn next(&self, batches: &mut mpsc::Receiver<Batch>, holds: &mut mpsc::Receiver<Hold>) -> Next {
        let due = async {
            match self.flush_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let sweep = async {
            if self.writer.is_settled() {
                std::future::pending::<()>().await;
            } else {
                tokio::time::sleep(SWEEP_PAUSE).await;
            }
        };
        tokio::select! {
            biased;
            Some(hold) = holds.recv() => Next::Hold(hold),
            batch = batches.recv() => Next::Batch(batch),
            () = due => Next::FlushDue,
            () = sweep => Next::SweepDue,
        }
    }

    /// Applies a batch, cut where somebody wants the loop to stand still.
    fn apply_held(&mut self, runtime: &runtime::Handle, batch: &Batch) -> Result<ControlFlow<()>, FatalReason> {
        let Some(at) = self.hold.as_ref().map(|hold| hold.at) else {
            return self.apply(runtime, batch.created, &batch.messages);
        };
        let (before, after) = batch.messages.split_at(batch.messages.partition_point(|message| message.sequence <= at));
        if self.apply(runtime, batch.created, before)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        self.hold_if_there()?;
        if self.surrender.is_some() {
            return Ok(ControlFlow::Continue(()));
        }
        self.apply(runtime, batch.created, after)
    }

    /// Stands still if somebody wants that here.
    fn hold_if_there(&mut self) -> Result<(), FatalReason> {
        let Some(hold) = self.hold.take_if(|hold| hold.at <= self.last) else { return Ok(()) };
        self.flush()?;
        // What is forgotten and still on disk would be in the digest.
        self.writer.sweep(usize::MAX)?;
        let checkpoint = self.writer.checkpoint().filter(|checkpoint| checkpoint.sequence == self.last);
        if hold.held.send((self.last, checkpoint)).is_ok() {
            match hold.release.blocking_recv() {
                Ok(Release::Switch(writer, switched)) => {
                    self.writer = *writer;
                    self.missed = self.writer.missed();
                    let (floor, missed) = (self.writer.floor(), self.missed);
                    self.shared.progress.send_modify(|progress| {
                        progress.forgot(floor);
                        (progress.trimmed, progress.lost) = (missed, None);
                    });
                    // Whoever asked may be gone; the views are switched in any case.
                    let _ = switched.send(());
                }
                Ok(Release::Surrender(to)) => self.surrender = Some(to),
                Ok(Release::Resume) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn is_flush_due(&self) -> bool {
        self.writer.dirty() >= FLUSH_ROWS
            || self.unflushed_bytes >= FLUSH_BYTES
            || self.flush_at.is_some_and(|at| Instant::now() >= at)
    }

    fn close(mut self) -> Result<(), FatalReason> {
        self.note_missed()?;
        Ok(self.writer.close()?)
    }

    /// Makes the next start know what is missing here.
    fn note_missed(&mut self) -> Result<(), FatalReason> {
        let missed = self.shared.progress.borrow().trimmed;
        if let Some(first) = missed.filter(|_| missed != self.missed) {
            self.writer.set_missed(first)?;
            self.missed = missed;
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), FatalReason> {
        let _flush = tracing::info_span!("flush", rows = self.writer.dirty() as i64).entered();
        self.note_missed()?;
        self.writer.flush()?;
        hit(Point::FlushAfter);
        self.flush_at = None;
        self.unflushed_bytes = 0;
        Ok(())
    }

    /// Breaks off, without applying what is left, when the loop is to end.
    fn apply(
        &mut self,
        runtime: &runtime::Handle,
        created: Timestamp,
        messages: &[LogMessage],
    ) -> Result<ControlFlow<()>, FatalReason> {
        // The reader hands out nothing twice; this is what the views rely on, so it is made certain here.
        let fresh = messages.partition_point(|message| message.sequence <= self.last);
        let messages = &messages[fresh..];
        // Whatever is said of an event says where in the log it was.
        let ends = messages.first().zip(messages.last()).map(|(first, last)| (first.sequence, last.sequence));
        let (first, last) = ends.unwrap_or_default();
        // OpenTelemetry, which may take the span, knows signed numbers alone.
        let _batch = tracing::info_span!("batch", first = first as i64, last = last as i64).entered();
        let since = Instant::now();
        #[cfg(test)]
        assert!(messages.iter().all(|message| &*message.payload != b"as if the loop had a bug"), "a bug in the loop");
        let (mut decoded, mut begin) = (Decoded::default(), 0);
        for (place, message) in messages.iter().enumerate() {
            let one = decode(message);
            if one.cuts.is_empty() {
                decoded.extend(one);
                continue;
            }
            // A trim is a place at which all is written, since what is ahead of it would not survive it.
            self.stage(created, &messages[begin..place], std::mem::take(&mut decoded))?;
            if self.cut(runtime, created, message, one)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            begin = place + 1;
        }
        self.stage(created, &messages[begin..], decoded)?;
        tracing::debug!(messages = messages.len(), took = ?since.elapsed(), "a batch is applied");
        Ok(ControlFlow::Continue(()))
    }

    /// Folds and shows what is in these messages.
    pub(crate) fn stage(
        &mut self,
        created: Timestamp,
        messages: &[LogMessage],
        decoded: Decoded,
    ) -> Result<(), FatalReason> {
        let Some(end) = messages.last() else { return Ok(()) };
        let Decoded { mut events, mut quarantined, heard, fleet, .. } = decoded;
        let rows = self.rows(&mut events, &mut quarantined)?;
        let landmarks = self.landmarks(messages);
        for event in &quarantined {
            let (position, cause) = (event.position, &event.cause);
            tracing::warn!(%position, cause, "an event in the log cannot be used and is passed over");
        }
        let (unusable, count) = (quarantined.len() as u64, events.len() as u64);
        hit(Point::StageBefore);
        self.writer.stage(
            rows,
            Applied { created, sequence: end.sequence, fingerprint: end.fingerprint(), landmarks, quarantined, fleet },
        )?;
        hit(Point::StageAfter);
        self.shared.events.fetch_add(count, Ordering::Relaxed);
        self.shared.live.heard(heard);
        self.last = end.sequence;
        self.unflushed_bytes += messages.iter().map(|message| message.payload.len()).sum::<usize>();
        self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_AFTER);
        // Before it is told that they are applied: who waits for that may then look for what happened.
        self.shared.frames.push(self.changes.take());
        self.shared.progress.send_modify(|progress| {
            progress.quarantined += unusable;
            progress.applied(end.sequence, end.stored);
        });
        // This may have been the last of what the log held at the start.
        self.shared.is_news();
        Ok(())
    }

    /// Folds the events into what is known of their jobs; gives the rows that changed.
    fn rows(&mut self, events: &mut [JobEvent], quarantined: &mut Vec<Quarantined>) -> Result<Vec<Row>, FatalReason> {
        // Stable, so that the events of a job stay in the order of the log.
        events.sort_by(|a, b| a.key().cmp(&b.key()));
        let is_news = self.shared.is_news();
        let mut rows = Vec::new();
        for group in events.chunk_by(|a, b| a.key() == b.key()) {
            let (connection, external_id) = group[0].key();
            let known = self.writer.row(proto_events::job_id(connection, external_id))?;
            let known = known.as_deref();
            let row = guarded(|| (self.fold)(known, connection, external_id, group)).unwrap_or_else(|_| {
                let folded = self.one_by_one(known, connection, external_id, group);
                quarantined.extend(folded.quarantined);
                folded.row
            });
            let Some(row) = row.filter(|row| known != Some(row)) else { continue };
            if is_news {
                self.changes.note(known.map(|known| &known.record), &row.record);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Adds events one by one to what is known of a job, and leaves out those that make the fold panic.
    fn one_by_one(&self, known: Option<&Row>, connection: Uuid, external_id: &str, events: &[JobEvent]) -> Folded {
        let mut folded = Folded { row: known.cloned(), quarantined: Vec::new() };
        for event in events {
            let one = std::slice::from_ref(event);
            match guarded(|| (self.fold)(folded.row.as_ref(), connection, external_id, one)) {
                Ok(row) => folded.row = row.or(folded.row),
                Err(cause) => folded.quarantined.push(poisonous(connection, event.position, external_id, &cause)),
            }
        }
        folded
    }

    /// The first message of each thousand, by its fingerprint.
    fn landmarks(&self, messages: &[LogMessage]) -> Vec<Landmark> {
        let mut thousand = self.last / LANDMARK_EVERY;
        let mut landmarks = Vec::new();
        for message in messages {
            if message.sequence / LANDMARK_EVERY > thousand {
                thousand = message.sequence / LANDMARK_EVERY;
                landmarks.push(Landmark { sequence: message.sequence, fingerprint: message.fingerprint() });
            }
        }
        landmarks
    }
}

impl Decoded {
    fn extend(&mut self, other: Self) {
        self.events.extend(other.events);
        self.quarantined.extend(other.quarantined);
        self.heard.extend(other.heard);
        self.fleet.extend(other.fleet);
    }
}

/// Takes the job events out of a message, what it tells of trims, of workers and sources, and what cannot be read.
fn decode(message: &LogMessage) -> Decoded {
    let mut decoded = Decoded::default();
    let connection = message.connection;
    if connection.is_nil() {
        decoded.quarantined.push(unusable(message, 0, &NOBODY));
        return decoded;
    }
    let elements = match proto_events::decode(&message.payload) {
        Ok(elements) => elements,
        Err(cause) => {
            decoded.quarantined.push(unusable(message, 0, &cause));
            return decoded;
        }
    };
    decoded.events.reserve(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        let position = Position::new(message.sequence, index as u32);
        match element {
            Ok(event) if event.kind == EventType::JobStateChange => {
                decoded.events.push(JobEvent { connection, position, event });
            }
            Ok(event) => {
                decoded.cuts.extend(Cut::of(message, &event));
                decoded.fleet.extend(FleetFact::of(connection, position, message.published, &event));
                decoded.heard.extend(Heard::of(message, event));
            }
            Err(cause) => decoded.quarantined.push(unusable(message, position.index, &cause)),
        }
    }
    decoded
}
