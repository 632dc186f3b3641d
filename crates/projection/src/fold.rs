//! Evidence in, record out.

use std::collections::HashSet;

use proto_events::{JobState, Timestamp, job_id};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::evidence::Evidence;
use crate::json::JsonText;
use crate::order::{Item, What, order};
use crate::record::{Execution, Note, Outcome, OutcomeFrom, Record, Transition};
use crate::seen::{Said, Seen};
use crate::stream::{self, Run};
use crate::timeline::{Entry, Shown, Timeline};

/// A report by the SDK and an event of Celery's own stream this close speak of the same thing.
const SAME_FACT: i64 = 5_000_000;
/// Notes that are kept from the beginning and from the end.
const FIRST_NOTES: usize = 20;
const LAST_NOTES: usize = 80;
/// A pool child may speak of its task this long before its worker announces the start.
const CHILD_AHEAD: i64 = 1_000_000;

/// The record of a job, from its evidence; `None` where there is no evidence.
pub fn fold(connection: Uuid, external_id: &str, evidence: &Evidence) -> Option<Record> {
    let events = evidence.events();
    let first = events.first()?;
    let Prepared { runs, items, covered, deliveries } = prepare(events);
    let order = order(&items);
    let ordered: Vec<&Seen> = order.iter().map(|place| items[*place].seen).collect();
    let mut timeline = Timeline::new(runs);
    for place in &order {
        timeline.step(*place, &items);
    }
    // What the backend says beside an announced end is not needed: the record is as if it had not been asked.
    for seen in covered.into_iter().filter(|seen| seen.said == Said::Reported) {
        attach(&mut timeline.runs, seen);
    }
    mark_replaced(&mut timeline.runs, &items);

    let history = history(&timeline.history, first.at);
    let last = history.last()?;
    let shown = ShownFields::of(&timeline, events);
    let (name, replaced) = name(&ordered);
    let (notes, notes_truncated) = notes(events);
    let latest = |field: fn(&Seen) -> Option<&JsonText>| ordered.iter().rev().find_map(|seen| field(seen)).cloned();
    let record = Record {
        id: job_id(connection, external_id),
        external_id: external_id.to_owned(),
        framework: first.framework,
        connection_id: connection,
        name: name.unwrap_or("unknown").to_owned(),
        queue: ordered.iter().rev().find_map(|seen| seen.queue.as_deref()).map(str::to_owned),
        tags: JsonText::of_map(&merged(ordered.iter().filter_map(|seen| seen.tags.as_ref()))),
        state: last.state,
        state_changed_at: last.timestamp,
        previous_state: history.len().checked_sub(2).map(|before| history[before].state),
        created_at: evidence.earliest().unwrap_or(first.at),
        scheduled_for: timeline.eta,
        started_at: shown.started_at,
        completed_at: shown.completed_at,
        duration_ms: shown.duration_ms,
        worker_id: shown.worker.or(timeline.worker).map(str::to_owned),
        attempt: timeline.attempt.max(evidence.highest_attempt()).max(1),
        max_retries: ordered.iter().rev().find_map(|seen| seen.max_retries),
        progress: shown.progress,
        args: latest(|seen| seen.args.as_ref()),
        kwargs: latest(|seen| seen.kwargs.as_ref()),
        result: shown.result.cloned(),
        error: shown.error.map(str::to_owned),
        stacktrace: shown.stacktrace.map(str::to_owned),
        parent_id: relative(connection, &ordered, |seen| seen.parent.as_deref()),
        root_id: relative(connection, &ordered, |seen| seen.root.as_deref()),
        extensions: extensions(&ordered, &timeline, last.state, replaced),
        executions: timeline.begun.iter().map(|run| execution(&timeline.runs[*run])).collect(),
        // Nothing runs that was not delivered, even where the receipt was not seen.
        deliveries: deliveries.max(timeline.reported_deliveries).max(timeline.begun.len() as u32),
        truncated: evidence.is_truncated() || evidence.is_trimmed(),
        notes,
        notes_truncated,
        outcome_from: outcome_from(&timeline, last.state),
        state_history: history,
    };
    #[cfg(feature = "testing")]
    let record = crate::pretended::mark(record);
    Some(record)
}

/// The events of a job and the part that each plays.
pub(crate) struct Prepared<'a> {
    pub(crate) runs: Vec<Run<'a>>,
    pub(crate) items: Vec<Item<'a>>,
    /// Reports that Celery's own stream makes superfluous.
    pub(crate) covered: Vec<&'a Seen>,
    pub(crate) deliveries: u32,
}

pub(crate) fn prepare(events: &[Seen]) -> Prepared<'_> {
    let stream = stream::read(events);
    let mut items = stream.items;
    let (covered, moving): (Vec<&Seen>, Vec<&Seen>) = events
        .iter()
        .filter(|seen| seen.said.is_by_word())
        .partition(|report| events.iter().any(|event| covers(event, report)));
    items.extend(covered.iter().map(|seen| Item::new(seen, What::Fields)));
    for seen in moving {
        let after = if seen.said == Said::Reconciled { before_end(&items, &stream.runs, seen) } else { Vec::new() };
        items.push(Item { after, ..Item::new(seen, What::Report) });
    }
    Prepared { runs: stream.runs, items, covered, deliveries: stream.deliveries }
}

/// What came before an end that only the result backend told of: the first message, and the starts of executions that are
/// not known to have ended, since a worker may announce one when the task has stored its result already.
fn before_end(items: &[Item<'_>], runs: &[Run<'_>], end: &Seen) -> Vec<usize> {
    let begun_before = |run: usize| {
        let begun = runs[run].begun.filter(|_| runs[run].ended.is_none());
        begun.is_some_and(|begun| begun.at.micros() <= end.at.micros() + SAME_FACT)
    };
    let starts = (0..items.len()).filter(|item| matches!(items[*item].what, What::Start { run } if begun_before(run)));
    let sent = (0..items.len()).filter(|item| items[*item].seen.said == Said::Sent);
    starts.chain(sent.min_by_key(|item| items[*item].seen.key())).collect()
}

/// Whether an event of Celery's own stream says what the report says, or anybody's word of the end comes beside that of
/// the result backend. The report then moves nothing.
fn covers(event: &Seen, report: &Seen) -> bool {
    let says_the_same = match event.said {
        Said::Sent => report.state == JobState::Unknown,
        Said::Received => matches!(report.state, JobState::Queued | JobState::Scheduled | JobState::Unknown),
        Said::Started => report.state == JobState::Active,
        Said::Succeeded => report.state == JobState::Completed,
        Said::Failed | Said::Rejected => report.state == JobState::Failed,
        Said::Retried => report.state == JobState::Retrying,
        Said::Revoked | Said::Cancelled => report.state == JobState::Cancelled,
        Said::Custom | Said::Reported | Said::Reconciled => false,
    };
    let says_the_same = if report.said == Said::Reconciled { tells_an_end(event, report.state) } else { says_the_same };
    says_the_same && (event.at.micros() - report.at.micros()).abs() <= SAME_FACT
}

/// Whether an event, or anybody's report, tells how the job ended, or that it is tried again where the backend says that.
fn tells_an_end(event: &Seen, state: JobState) -> bool {
    match event.said {
        Said::Succeeded | Said::Failed | Said::Revoked | Said::Cancelled => true,
        Said::Rejected => event.requeue != Some(true),
        Said::Retried => state == JobState::Retrying,
        Said::Reported => event.state.is_final() || event.state == state,
        _ => false,
    }
}

/// Lets a report that moves nothing fill in what the execution it speaks of leaves open.
fn attach<'a>(runs: &mut [Run<'a>], seen: &'a Seen) {
    let moment = |run: &Run<'a>| match seen.state {
        JobState::Active => run.begun.map(|begun| begun.at),
        JobState::Completed | JobState::Failed | JobState::Retrying | JobState::Cancelled => {
            let says_the_same = run.ended.is_some_and(|ended| covers(ended, seen));
            run.ended.filter(|_| says_the_same).map(|ended| ended.at)
        }
        _ => None,
    };
    let distance = |run: &Run<'a>| moment(run).map(|at| (at.micros() - seen.at.micros()).abs());
    if let Some(run) = runs.iter_mut().filter(|run| distance(run).is_some()).min_by_key(|run| distance(run)) {
        run.also.push(seen);
    }
}

/// `self.replace()` ends an execution without an event: the same worker receives the id under another name.
fn mark_replaced(runs: &mut [Run<'_>], items: &[Item<'_>]) {
    let name_of = |run: &Run<'_>| run.delivery.and_then(|delivery| items[delivery].seen.name.as_deref());
    for earlier in 0..runs.len() {
        let Some(begun) = runs[earlier].begun.filter(|_| runs[earlier].outcome.is_none()) else { continue };
        let Some(name) = name_of(&runs[earlier]) else { continue };
        let is_successor = |run: &Run<'_>| {
            run.attempt == runs[earlier].attempt
                && name_of(run).is_some_and(|other| other != name)
                && run.witness().is_some_and(|witness| witness.at >= begun.at)
        };
        if runs.iter().any(is_successor) {
            runs[earlier].outcome = Some(Outcome::Replaced);
        }
    }
}

/// The history as shown: never back in time. Waiting begins no later than what it waited for; anything else that seems
/// to lie before its cause (a retry is announced a few milliseconds late, hosts' clocks differ) is put at its cause.
fn history(entries: &[Entry], first: Timestamp) -> Vec<Transition> {
    let mut history: Vec<Transition> =
        entries.iter().map(|entry| Transition { state: entry.state, timestamp: entry.at }).collect();
    // A worker's word may have turned `scheduled` into the `queued` that stood before it.
    history.dedup_by_key(|entry| entry.state);
    if let [waited, next, ..] = history.as_mut_slice() {
        waited.timestamp = waited.timestamp.min(next.timestamp);
    }
    for place in 1..history.len() {
        history[place].timestamp = history[place].timestamp.max(history[place - 1].timestamp);
    }
    if history.is_empty() {
        history.push(Transition { state: JobState::Unknown, timestamp: first });
    }
    history
}

/// The task name, and the one before where the job was replaced by another task.
fn name<'a>(ordered: &[&'a Seen]) -> (Option<&'a str>, Option<&'a str>) {
    let mut names = ordered.iter().rev().filter_map(|seen| seen.name.as_deref());
    let latest = names.next();
    (latest, names.find(|name| Some(*name) != latest))
}

fn relative(connection: Uuid, ordered: &[&Seen], id: fn(&Seen) -> Option<&str>) -> Option<Uuid> {
    ordered.iter().find_map(|seen| id(seen)).map(|id| job_id(connection, id))
}

/// Objects merged in order: of one key said twice, the later value stays.
fn merged<'a>(objects: impl Iterator<Item = &'a JsonText>) -> Map<String, Value> {
    let mut merged = Map::new();
    for object in objects {
        if let Value::Object(object) = object.value() {
            merged.extend(object);
        }
    }
    merged
}

fn extensions(ordered: &[&Seen], timeline: &Timeline<'_>, state: JobState, replaced: Option<&str>) -> JsonText {
    let plain = ordered.iter().filter(|seen| seen.said != Said::Custom);
    let mut extensions = merged(plain.filter_map(|seen| seen.extensions.as_ref()));
    for custom in ordered.iter().filter(|seen| seen.said == Said::Custom) {
        let Some(Value::Object(mut fields)) = custom.extensions.as_ref().map(JsonText::value) else { continue };
        if custom.progress.is_some() {
            fields.remove("progress");
        }
        if let Some(Value::String(event)) = fields.remove("celeryEvent")
            && !fields.is_empty()
        {
            extensions.insert(event, Value::Object(fields));
        }
    }
    if let Some(replaced) = replaced {
        extensions.insert("replacedFrom".to_owned(), json!(replaced));
    }
    if state == JobState::Cancelled {
        match timeline.shown_end().map(|end| (end.said, end)) {
            Some((Said::Cancelled, _)) => {
                extensions.insert("cancelledBy".to_owned(), json!("worker"));
            }
            Some((Said::Revoked, end)) => {
                let revoked = json!({"terminated": end.terminated, "expired": end.expired, "signum": end.signum});
                extensions.insert("revoked".to_owned(), revoked);
            }
            _ => {}
        }
    }
    if extensions.is_empty() { JsonText::empty_object() } else { JsonText::of_map(&extensions) }
}

/// What the task said of its own: the first and the last of it.
fn notes(events: &[Seen]) -> (Vec<Note>, bool) {
    // The same event through two sources may differ in its texts, never in who said it and when.
    let mut known = HashSet::new();
    let told = events.iter().filter_map(|seen| Some((seen, seen.note.as_ref()?)));
    let told: Vec<_> =
        told.filter(|(seen, note)| known.insert((&note.name, seen.at, &seen.host, seen.pid, seen.clock))).collect();
    let is_kept = |place: usize| place < FIRST_NOTES || place + LAST_NOTES >= told.len();
    let kept = told.iter().enumerate().filter(|(place, _)| is_kept(*place));
    let notes = kept.map(|(_, (seen, note))| Note {
        name: note.name.to_string(),
        timestamp: seen.at,
        data: note.data.clone(),
        truncated: note.cut,
    });
    (notes.collect(), told.len() > FIRST_NOTES + LAST_NOTES)
}

/// Who told of the outcome that is shown.
fn outcome_from(timeline: &Timeline<'_>, state: JobState) -> Option<OutcomeFrom> {
    if !state.is_final() && state != JobState::Retrying {
        return None;
    }
    let by_backend = timeline.shown_end().is_some_and(|end| end.said == Said::Reconciled);
    Some(if by_backend { OutcomeFrom::ResultBackend } else { OutcomeFrom::Event })
}

fn execution(run: &Run<'_>) -> Execution {
    Execution {
        attempt: run.attempt,
        worker_id: run.worker().map(str::to_owned),
        pid: run.witness().and_then(|witness| witness.pid),
        started_at: run.start(),
        completed_at: run.end(),
        outcome: run.outcome,
        error: run.error().map(str::to_owned),
    }
}

/// The fields that belong to what is shown: one execution, or an end without one.
#[derive(Default)]
struct ShownFields<'a> {
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    duration_ms: Option<u64>,
    worker: Option<&'a str>,
    progress: Option<f64>,
    result: Option<&'a JsonText>,
    error: Option<&'a str>,
    stacktrace: Option<&'a str>,
}

impl<'a> ShownFields<'a> {
    fn of(timeline: &Timeline<'a>, events: &'a [Seen]) -> Self {
        match timeline.shown {
            Shown::Nothing => Self::default(),
            Shown::End(end) => Self {
                completed_at: Some(end.completed_at.unwrap_or(end.at)),
                worker: end.worker.as_deref(),
                error: end.error.as_deref(),
                stacktrace: end.stacktrace.as_deref(),
                result: end.result.as_ref(),
                ..Self::default()
            },
            Shown::Run(shown) => Self::of_run(&timeline.runs, shown, events),
        }
    }

    fn of_run(runs: &[Run<'a>], shown: usize, events: &'a [Seen]) -> Self {
        let run = &runs[shown];
        let (started_at, completed_at) = (run.start(), run.end());
        let runtime = run.events().find_map(|seen| seen.runtime).map(|seconds| (seconds * 1e3).round() as u64);
        let duration_ms = match (started_at, completed_at) {
            (Some(start), Some(end)) => Some((end.millis() - start.millis()).max(0) as u64),
            (None, Some(_)) => runtime,
            _ => None,
        };
        Self {
            started_at,
            completed_at,
            duration_ms,
            worker: run.worker(),
            progress: progress(runs, shown, events),
            result: run.events().find_map(|seen| seen.result.as_ref()),
            error: run.error(),
            stacktrace: run.events().find_map(|seen| seen.stacktrace.as_deref()),
        }
    }
}

/// The last progress that was told of an execution, by its pool child or by a report.
fn progress(runs: &[Run<'_>], shown: usize, events: &[Seen]) -> Option<f64> {
    let is_of_shown = |custom: &&Seen| {
        let begun_by = |run: &Run<'_>| {
            let begun = run.begun?;
            let on_host = begun.host.is_some() && begun.host == custom.host;
            (on_host && begun.at.micros() <= custom.at.micros() + CHILD_AHEAD).then_some(begun.key())
        };
        let latest =
            (0..runs.len()).filter(|run| begun_by(&runs[*run]).is_some()).max_by_key(|run| begun_by(&runs[*run]));
        latest == Some(shown)
    };
    let from_child =
        events.iter().filter(|seen| seen.said == Said::Custom && seen.progress.is_some()).filter(is_of_shown);
    let from_reports = runs[shown].events().filter(|seen| seen.progress.is_some());
    from_child.chain(from_reports).max_by_key(|seen| seen.key()).and_then(|seen| seen.progress)
}
