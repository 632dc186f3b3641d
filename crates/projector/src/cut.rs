//! What the log says of its own beginning: messages that tell of a trim, and what the views make of them.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use event_log::{EventLog, LogMessage};
use failpoints::{Point, hit};
use projection::{Evidence, Row, Trimmed};
use proto_events::{Event, EventType, Position, Timestamp};
use tokio::runtime;
use uuid::Uuid;

use crate::apply::{Applier, Decoded};
use crate::part::Part;
use crate::poison::{fact, fold_evidence};
use crate::status::FatalReason;

/// Rows that are folded again before they are written.
const ROWS: usize = 2_048;

/// What one message tells of a trim.
pub(crate) struct Cut {
    /// The message.
    pub(crate) at: u64,
    /// What stands before this one is forgotten.
    pub(crate) before: Option<u64>,
    /// These jobs lose a part of what is known of them.
    pub(crate) jobs: Vec<Uuid>,
}

impl Cut {
    /// What the event at this message tells of a trim.
    ///
    /// Nobody can forget what is still to come, and the positions of another log mean nothing here; which jobs lost a
    /// part there is true here too.
    pub(crate) fn of(message: &LogMessage, event: &Event) -> Option<Self> {
        let trim = event.trim.as_deref().filter(|_| event.kind == EventType::LogTrim)?;
        let at = message.sequence;
        let before = trim.before.filter(|before| *before <= at && !message.imported);
        Some(Self { at, before, jobs: trim.jobs.clone() })
    }
}

/// What became of the views at a message that told of a trim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// The message.
    pub(crate) at: u64,
    /// Jobs that are gone.
    pub(crate) dropped: u64,
    /// Jobs that lost a part of what was known of them.
    pub(crate) cut: u64,
    /// Those among them that no message had named.
    pub(crate) unnamed: Vec<Uuid>,
}

impl Applier {
    /// Applies a message that tells of trims: these first, then its other events. All before it and all of it is
    /// written, so that no row is ever ahead of a trim. Breaks off, having applied nothing of it, when the loop is to
    /// end.
    pub(crate) fn cut(
        &mut self,
        runtime: &runtime::Handle,
        created: Timestamp,
        message: &LogMessage,
        mut decoded: Decoded,
    ) -> Result<ControlFlow<()>, FatalReason> {
        self.flush()?;
        hit(Point::CutBefore);
        let cuts = std::mem::take(&mut decoded.cuts);
        let at = message.sequence;
        let named: HashSet<Uuid> = cuts.iter().flat_map(|cut| cut.jobs.iter().copied()).collect();
        let before = cuts.iter().filter_map(|cut| cut.before).max().unwrap_or(0);
        let floor = Some(before).filter(|before| *before > self.writer.floor());
        let mut done = Done { at, ..Done::default() };
        if let Some(floor) = floor {
            self.writer.begin_forgetting(floor)?;
        }
        let straddling = floor.map(|floor| self.writer.straddling(floor)).transpose()?.unwrap_or_default();
        let Some(read) = self.read_again(runtime, created, floor.unwrap_or(0), &straddling)? else {
            return Ok(ControlFlow::Break(()));
        };
        let mut jobs: Vec<Uuid> = named.iter().copied().chain(straddling).collect();
        jobs.sort_unstable();
        jobs.dedup();
        for jobs in jobs.chunks(ROWS) {
            let mut rows = Vec::new();
            for id in jobs {
                let Some(known) = self.writer.row(*id)? else { continue };
                let Some(mut left) = left_of(&known, floor, read.get(id)) else { continue };
                if named.contains(id) {
                    left.note_trim(at);
                }
                if floor.is_some_and(|floor| known.first_position().sequence < floor) {
                    done.cut += 1;
                    done.unnamed.extend(Some(*id).filter(|_| !left.is_trimmed()));
                }
                if left != known.evidence {
                    let record = &known.record;
                    rows.extend(fold_evidence(record.connection_id, &record.external_id, left).row);
                }
            }
            self.writer.replace(rows, at)?;
            hit(Point::CutReplaced);
        }
        if let Some(floor) = floor {
            done.dropped = self.writer.forget(floor)?;
        }
        hit(Point::CutForgotten);
        self.stage(created, std::slice::from_ref(message), decoded)?;
        self.flush()?;
        hit(Point::CutWritten);
        // Whoever is told may purge the log, and what is not on disk then could not be read again.
        self.writer.sync()?;
        hit(Point::CutSynced);
        let floor = self.writer.floor();
        tracing::info!(at, floor, dropped = done.dropped, cut = done.cut, "the beginning of the log is forgotten");
        self.shared.progress.send_modify(|progress| progress.cut(floor, done));
        Ok(ControlFlow::Continue(()))
    }

    /// What the log says from the floor on of those jobs of which it cannot be told from what is kept. `None` when the
    /// loop is to end.
    fn read_again(
        &self,
        runtime: &runtime::Handle,
        created: Timestamp,
        floor: u64,
        straddling: &[Uuid],
    ) -> Result<Option<HashMap<Uuid, Evidence>>, FatalReason> {
        let mut unclear = HashMap::new();
        for id in straddling {
            let row = self.writer.row(*id)?;
            if row.is_some_and(|row| row.evidence.trimmed(floor) == Trimmed::Inexact) {
                unclear.insert(*id, Evidence::default());
            }
        }
        if unclear.is_empty() {
            return Ok(Some(unclear));
        }
        tracing::info!(jobs = unclear.len(), floor, "events of jobs with very many are read again from the log");
        let mut stop = self.shared.stop.subscribe();
        Ok(runtime.block_on(async {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => None,
                read = read(&self.log, created, floor, self.last, unclear) => read,
            }
        }))
    }
}

/// What is left of what is known of a job, or was read again of it; `None` where the job goes.
fn left_of(known: &Row, floor: Option<u64>, read: Option<&Evidence>) -> Option<Evidence> {
    let left = match floor.map(|floor| known.evidence.trimmed(floor)) {
        None => Some(known.evidence.clone()),
        Some(Trimmed::Exact(left)) => left.map(|left| *left),
        Some(Trimmed::Inexact) => read.cloned().map(|mut read| {
            read.note_trim(known.evidence.trim().unwrap_or(0));
            read
        }),
    };
    left.filter(|left| !left.is_empty())
}

/// Adds to each job what the messages from one to another say of it. `None` when the log is another one by now, which the
/// half that reads finds out too.
async fn read(
    log: &EventLog,
    created: Timestamp,
    from: u64,
    to: u64,
    mut jobs: HashMap<Uuid, Evidence>,
) -> Option<HashMap<Uuid, Evidence>> {
    let mut part = Part::new(log, created, from, to);
    while let Some(messages) = part.next().await.ok()? {
        for message in &messages {
            add(message, &mut jobs);
        }
    }
    Some(jobs)
}

fn add(message: &LogMessage, jobs: &mut HashMap<Uuid, Evidence>) {
    let elements = proto_events::decode(&message.payload).unwrap_or_default();
    for (index, event) in (0..).zip(elements) {
        let Ok(event) = event else { continue };
        let Some(job) = event.job.as_deref() else { continue };
        let Some(evidence) = jobs.get_mut(&proto_events::job_id(message.connection, &job.external_id)) else {
            continue;
        };
        // What cannot be used is in quarantine already.
        if let Ok(Some(fact)) = fact(message.connection, Position::new(message.sequence, index), &event) {
            evidence.add_fact(fact);
        }
    }
}
