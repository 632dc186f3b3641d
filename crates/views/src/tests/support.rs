//! A log, a projector of a few lines, and the plain truth to compare the views with.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use projection::fleet::{Fleet, FleetFact, What, Word};
use projection::{Evidence, Record, Row, Trimmed};
use proto_events::{Event, Framework, Job, JobState, Position, Timestamp};
use uuid::Uuid;

use crate::codec::Head;
use crate::lifetime::add;
use crate::stats::{Stats, TotalMap};
use crate::{Applied, Brief, Landmark, Opened, Options, Query, Reader, Signs, ViewError, Writer, open};

pub(super) const OPTIONS: Options =
    Options { fold_version: 7, cache_bytes: 1 << 20, list_bytes: 12 << 10, totals_by_host: false };
pub(super) const CREATED: Timestamp = Timestamp(1_000_000);

pub(super) fn open_in(dir: &Path) -> Opened {
    open(dir, &OPTIONS).unwrap()
}

/// An event of some job.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) connection: u8,
    pub(super) job: u16,
    pub(super) name: Option<&'static str>,
    pub(super) state: JobState,
    pub(super) second: i64,
    /// Instead of all that: what stands before this message is forgotten.
    pub(super) trim: Option<u64>,
}

impl Step {
    pub(super) fn trim(before: u64) -> Self {
        Self { connection: 0, job: 0, name: None, state: JobState::Unknown, second: 0, trim: Some(before) }
    }

    fn connection(&self) -> Uuid {
        Uuid::from_u128(self.connection.into())
    }

    fn external_id(&self) -> String {
        format!("job-{}", self.job)
    }

    pub(super) fn id(&self) -> Uuid {
        proto_events::job_id(self.connection(), &self.external_id())
    }

    fn event(&self) -> Event {
        let mut job = Job::new(self.external_id(), self.state);
        job.name = self.name.map(str::to_owned);
        Event::job(Timestamp(self.second * 1_000_000), Framework::Celery, job)
    }
}

/// A log with one event per message; the first has sequence 1.
#[derive(Default)]
pub(super) struct Log(pub(super) Vec<Step>);

impl Log {
    /// A log of so many events, the same each time.
    pub(super) fn scripted(events: u64, jobs: u64) -> Self {
        let names = [None, Some("app.send"), Some("app.resize"), Some("App.Report")];
        let steps = (0..events).map(|n| {
            let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            Step {
                connection: (mixed >> 60) as u8 % 2,
                job: ((mixed >> 20) % jobs) as u16,
                name: names[(mixed >> 40) as usize % names.len()],
                state: JobState::ALL[(mixed >> 50) as usize % JobState::ALL.len()],
                second: (mixed >> 33) as i64 % 1_000,
                trim: None,
            }
        });
        Self(steps.collect())
    }

    pub(super) fn end(&self) -> u64 {
        self.0.len() as u64
    }

    /// Applies what comes after what is applied, up to and with `to`, in one batch but for the trims.
    pub(super) fn apply(&self, opened: &mut Opened, to: u64) -> Result<(), ViewError> {
        let mut from = opened.reader.applied();
        for sequence in from + 1..=to {
            if let Some(before) = self.0[sequence as usize - 1].trim {
                self.apply_events(opened, from, sequence - 1)?;
                self.apply_trim(opened, before, sequence)?;
                from = sequence;
            }
        }
        self.apply_events(opened, from, to)
    }

    fn apply_events(&self, opened: &mut Opened, from: u64, to: u64) -> Result<(), ViewError> {
        if from == to {
            return Ok(());
        }
        let mut rows: BTreeMap<Uuid, Row> = BTreeMap::new();
        for sequence in from + 1..=to {
            let step = &self.0[sequence as usize - 1];
            let known = match rows.remove(&step.id()) {
                Some(row) => Some(row),
                None => opened.writer.row(step.id())?.map(|row| (*row).clone()),
            };
            let events = [(Position::new(sequence, 0), &step.event())];
            let row = Row::apply(known.as_ref(), step.connection(), &step.external_id(), events).unwrap();
            rows.insert(step.id(), row);
        }
        let fleet = (from + 1..=to).map(fleet_fact).collect();
        opened.writer.stage(rows.into_values().collect(), Applied { fleet, ..applied(to) })
    }

    /// What the views must know of workers at this message.
    pub(super) fn true_fleet(&self, at: u64) -> Fleet {
        let mut fleet = Fleet::default();
        for (step, sequence) in self.0.iter().zip(1..=at) {
            match step.trim {
                Some(before) => drop(fleet.forget(before)),
                None => drop(fleet.add(fleet_fact(sequence))),
            }
        }
        fleet
    }

    fn apply_trim(&self, opened: &mut Opened, before: u64, at: u64) -> Result<(), ViewError> {
        let writer = &mut opened.writer;
        writer.flush()?;
        writer.begin_forgetting(before)?;
        let mut rows = Vec::new();
        for id in writer.straddling(before)? {
            let row = writer.row(id)?.unwrap();
            let mut evidence = match row.evidence.trimmed(before) {
                Trimmed::Exact(left) => *left.unwrap(),
                Trimmed::Inexact => self.evidence(id, before, at),
            };
            evidence.note_trim(at);
            rows.push(Row::of(row.record.connection_id, &row.record.external_id, evidence).unwrap());
        }
        writer.replace(rows, at)?;
        writer.forget(before)?;
        writer.stage(Vec::new(), applied(at))?;
        writer.flush()
    }

    /// What the messages from one to another say of a job.
    fn evidence(&self, id: Uuid, from: u64, to: u64) -> Evidence {
        let mut evidence = Evidence::default();
        for (step, sequence) in self.0.iter().zip(1..=to) {
            if sequence >= from && step.trim.is_none() && step.id() == id {
                evidence.add(Position::new(sequence, 0), &step.event());
            }
        }
        evidence
    }

    /// What the views must hold at this message: the fold of what is not forgotten by then.
    pub(super) fn truth(&self, at: u64) -> HashMap<Uuid, Row> {
        let mut told = HashMap::new();
        let mut places: HashMap<Uuid, Vec<(u64, &Step)>> = HashMap::new();
        for (step, sequence) in self.0.iter().zip(1..=at) {
            let Some(before) = step.trim else {
                places.entry(step.id()).or_default().push((sequence, step));
                continue;
            };
            for (id, places) in &mut places {
                let all = places.len();
                places.retain(|(sequence, _)| *sequence >= before);
                if !places.is_empty() && places.len() < all {
                    told.insert(*id, sequence);
                }
            }
        }
        places.retain(|_, places| !places.is_empty());
        let fold = |(id, places): (Uuid, Vec<(u64, &Step)>)| {
            let mut evidence = Evidence::default();
            for (sequence, step) in &places {
                evidence.add(Position::new(*sequence, 0), &step.event());
            }
            told.get(&id).inspect(|trim| evidence.note_trim(**trim));
            let step = places[0].1;
            (id, Row::of(step.connection(), &step.external_id(), evidence).unwrap())
        };
        places.into_iter().map(fold).collect()
    }
}

/// The totals of some rows.
pub(super) fn totals_of(rows: &HashMap<Uuid, Row>) -> TotalMap {
    let heads = |visit: &mut dyn FnMut(&Head<'_>)| {
        for row in rows.values() {
            visit(&Head::of(row));
        }
        Ok::<_, std::convert::Infallible>(())
    };
    Stats::of(OPTIONS.limits(), heads, Timestamp(0)).unwrap().totals()
}

impl Log {
    /// How much there was of everything up to this message, what was forgotten on the way included.
    pub(super) fn ever(&self, at: u64) -> TotalMap {
        let mut ever = totals_of(&self.truth(at));
        for (step, sequence) in self.0.iter().zip(1..=at) {
            if step.trim.is_some() {
                add(&mut ever, &totals_of(&self.truth(sequence - 1)), 1);
                add(&mut ever, &totals_of(&self.truth(sequence)), -1);
            }
        }
        ever
    }
}

/// Each message says something of one of few workers, too.
fn fleet_fact(sequence: u64) -> FleetFact {
    let spoke = What::Spoke {
        word: Word::Online,
        pid: Some((sequence / 7).cast_signed()),
        clock: None,
        processed: None,
        freq: None,
    };
    FleetFact {
        connection: Uuid::from_u128(u128::from(sequence % 2)),
        name: "celery@w".into(),
        position: Position::new(sequence, 0),
        at: Timestamp(sequence.cast_signed() * 1_000),
        what: spoke,
    }
}

/// Fails unless readers know what they must of workers.
pub(super) fn assert_fleet(reader: &Reader, truth: &Fleet) {
    let facts = |fleet: &Fleet| {
        let facts = fleet.facts().map(|fact| (fact.position, fact.clone()));
        facts.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(reader.fleet(facts), facts(truth));
    let gone = truth.all_gone().map(|((connection, name), gone)| ((connection, name.to_owned()), gone.before()));
    assert_eq!(reader.gone(), gone.collect());
}

pub(super) fn applied(sequence: u64) -> Applied {
    let fingerprint = [sequence as u8; 16];
    let landmarks = vec![Landmark { sequence, fingerprint }];
    Applied { created: CREATED, sequence, fingerprint, landmarks, quarantined: Vec::new(), fleet: Vec::new() }
}

/// Fails unless the reader answers exactly what follows from the truth.
pub(super) fn assert_shows(reader: &Reader, truth: &HashMap<Uuid, Row>) {
    let mut all: Vec<&Record> = truth.values().map(|row| &row.record).collect();
    all.sort_by_key(|record| std::cmp::Reverse((record.created_at, record.id)));
    let whole = Query { limit: usize::MAX, ..Query::default() };
    assert_same(&reader.list(&whole, &Signs::default()).unwrap().jobs, &all, "list");
    for row in truth.values() {
        assert_eq!(reader.row(row.record.id).unwrap().as_deref(), Some(row));
        assert_eq!(reader.job(row.record.id).unwrap().as_ref(), Some(&row.record));
    }
    for state in JobState::ALL {
        let count = all.iter().filter(|record| record.state == state).count() as u64;
        assert_eq!(reader.counts(None).of(state), count, "{state:?}");
    }
    for record in &all {
        assert_recent(reader, truth, record);
    }
    assert!(reader.sums_agree(Timestamp(1_000_000_000)).unwrap(), "the sums are those of the jobs");
    assert!(truth.values().all(|row| reader.goes_by(row)), "the list goes by the rows");
    assert!(reader.disk_agrees().unwrap(), "and so does what it has on disk");
    for (id, _) in reader.jobs().unwrap() {
        assert!(truth.contains_key(&id), "{id} is gone");
    }
}

fn assert_recent(reader: &Reader, truth: &HashMap<Uuid, Row>, of: &Record) {
    let same = |row: &&Row| row.record.name == of.name && row.record.connection_id == of.connection_id;
    let mut rows: Vec<&Row> = truth.values().filter(same).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.first_position()));
    rows.truncate(64);
    let mut expected: Vec<Brief> =
        rows.iter().map(|row| Brief::of(&row.record)).filter(|brief| brief.id != of.id).collect();
    expected.sort_by_key(|brief| std::cmp::Reverse((brief.created_at, brief.id)));
    expected.truncate(if of.name == "unknown" { 0 } else { 10 });
    let found = reader.recent(of.connection_id, &of.name, 10, of.id).unwrap();
    assert!(found.iter().eq(&expected), "{}", of.name);
}

/// Tells the first difference only.
fn assert_same(found: &[Record], expected: &[&Record], what: &str) {
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, *expected, "{what}");
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// The digest of what the views must hold at this message.
pub(super) fn digest_of(log: &Log, at: u64) -> crate::Digest {
    let mut digest = crate::Digest::default();
    log.truth(at).values().for_each(|row| digest.add(crate::codec::encode_row(row).1));
    digest
}

/// Lets only so many more writes through, as a kill would.
pub(super) fn kill_after(writer: &Writer, count: u64) {
    writer.shared.store.writes_left.store(count, std::sync::atomic::Ordering::Relaxed);
}
