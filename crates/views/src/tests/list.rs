//! The list against the plain truth: every filter, order, page and count.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use projection::{Evidence, Execution, JsonText, Outcome, Record, Row, Transition, beginning};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proto_events::{Event, Framework, Job, JobState, Position, Timestamp, job_id};
use serde_json::{Value, json};
use uuid::Uuid;

use super::support::{OPTIONS, applied};
use crate::codec::Head;
use crate::stats::failure_shown;
use crate::{Cursor, Filter, Limit, Opened, Options, Patience, Query, Signs, SortBy, SortOrder, open};

const NAMES: [&str; 5] = ["app.send", "APP.Resize", "app.ünïcode", "unknown", "z"];
const QUEUES: [Option<&str>; 4] = [None, Some("default"), Some("mail"), Some("Mail")];
const WORKERS: [Option<&str>; 4] = [None, Some("celery@a"), Some("celery@b"), Some("w")];
const ERRORS: [Option<&str>; 4] = [None, Some("ValueError('Bad 17')"), Some("TimeoutError: slow ÄRGER"), Some("")];
/// Milliseconds since some moment.
const NOW: i64 = 4_000_000_000_000;

fn connection(number: u8) -> Uuid {
    Uuid::from_u128(number.into())
}

fn external_id(job: u16) -> String {
    format!("job-{job}")
}

fn tags() -> impl Strategy<Value = JsonText> {
    let tags = [
        json!({}),
        json!({"tenant": "a"}),
        json!({"tenant": "b", "level": 3}),
        json!({"x": {"tenant": "a"}}),
        json!({"quote\"d": "ä"}),
    ];
    select(tags.to_vec()).prop_map(|tags| JsonText::of(&tags))
}

/// Milliseconds, some near each other and some far from everything.
fn time() -> impl Strategy<Value = Timestamp> {
    let millis = prop_oneof![
        8 => 0_i64..2_000,
        2 => NOW - 100_000..NOW,
        1 => select(vec![-60_000_000_000_000, 200_000_000_000_000, NOW - 5_000_000_000]),
    ];
    (millis, 0_i64..1_000).prop_map(|(millis, micros)| Timestamp(millis * 1_000 + micros))
}

fn record() -> impl Strategy<Value = Record> {
    let who = (0_u8..3, 0_u16..60, select(NAMES.to_vec()), select(QUEUES.to_vec()), select(WORKERS.to_vec()));
    let times = (time(), prop::option::of(time()), prop::option::of(time()), prop::option::of(0_u64..5_000));
    let what = (
        select(JobState::ALL.to_vec()),
        select(vec![Framework::Celery, Framework::Bullmq, Framework::Sidekiq]),
        prop_oneof![5 => 1_u32..4, 1 => select(vec![65_534, 65_535, 65_536, u32::MAX])],
        select(ERRORS.to_vec()),
        tags(),
        prop::option::of(0_u16..60),
    );
    (who, times, what).prop_map(|(who, times, what)| {
        let (of, job, name, queue, worker) = who;
        let (created_at, started_at, completed_at, runtime) = times;
        let (state, framework, attempt, error, tags, root) = what;
        let duration_ms = match (started_at, completed_at) {
            (Some(start), Some(end)) => Some((end.millis() - start.millis()).max(0).cast_unsigned()),
            (None, Some(_)) => runtime,
            _ => None,
        };
        Record {
            id: job_id(connection(of), &external_id(job)),
            external_id: external_id(job),
            framework,
            connection_id: connection(of),
            name: name.to_owned(),
            queue: queue.map(str::to_owned),
            tags,
            state,
            state_changed_at: Timestamp(created_at.micros() + i64::from(attempt % 3) * 20_000_000),
            previous_state: None,
            created_at,
            scheduled_for: (attempt % 2 == 0).then(|| Timestamp(created_at.micros() + 40_000_000)),
            started_at,
            completed_at,
            duration_ms,
            worker_id: worker.map(str::to_owned),
            attempt,
            max_retries: None,
            progress: None,
            args: None,
            kwargs: None,
            result: None,
            error: error.map(|error| if error.is_empty() { "x".repeat(256) + "beyond" } else { error.to_owned() }),
            stacktrace: None,
            parent_id: None,
            root_id: root.map(|root| job_id(connection(of), &external_id(root))),
            extensions: JsonText::empty_object(),
            state_history: vec![Transition { state, timestamp: created_at }],
            executions: executions(started_at, completed_at, attempt),
            deliveries: attempt.wrapping_mul(7) % 40,
            truncated: false,
            notes: Vec::new(),
            notes_truncated: false,
            outcome_from: None,
        }
    })
}

fn executions(started_at: Option<Timestamp>, completed_at: Option<Timestamp>, attempt: u32) -> Vec<Execution> {
    let outcome = completed_at.map(|_| Outcome::Completed);
    let run = Execution { attempt, worker_id: None, pid: None, started_at, completed_at, outcome, error: None };
    (0..attempt.min(3) - 1).map(|_| run.clone()).collect()
}

fn query() -> impl Strategy<Value = (Query, Option<u16>)> {
    let text = (
        prop::option::weighted(0.2, select(vec!["app", "ÜNÏ", "", "resize", "nothing"])),
        prop::option::weighted(0.2, select([NAMES.to_vec(), vec!["nobody"]].concat())),
        prop::option::weighted(0.2, select(vec!["default", "mail", "nobody"])),
        prop::option::weighted(0.2, select(vec!["celery@a", "nobody"])),
        prop::option::weighted(0.2, select(vec!["valueerror", "ärger", "17", "beyond", "xxx"])),
    );
    let kinds = (
        prop::option::weighted(0.3, prop::collection::vec(0_u8..4, 0..3)),
        prop::option::weighted(0.3, prop::collection::vec(select(JobState::ALL.to_vec()), 1..4)),
        prop::option::weighted(0.2, select(vec![Framework::Celery, Framework::Bullmq, Framework::Sidekiq])),
        prop::option::weighted(0.2, select(vec![0, 1, 2, 3, 65_535, 65_536, u32::MAX])),
        prop::option::weighted(0.1, 0_u16..70),
    );
    let rest = (
        prop::option::weighted(0.2, time()),
        prop::option::weighted(0.2, time()),
        prop::option::weighted(
            0.2,
            select(vec![
                ("tenant", None),
                ("tenant", Some("a")),
                ("level", Some("3")),
                ("quote\"d", None),
                ("x", Some("a")),
            ]),
        ),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.2, any::<bool>()),
        prop::option::weighted(0.2, any::<bool>()),
    );
    let sorts = vec![
        SortBy::CreatedAt,
        SortBy::Name,
        SortBy::State,
        SortBy::DurationMs,
        SortBy::Queue,
        SortBy::StartedAt,
        SortBy::Worker,
    ];
    let order = (select(sorts), select(vec![SortOrder::Ascending, SortOrder::Descending]), 1_usize..40);
    (text, kinds, rest, order).prop_map(|(text, kinds, rest, (sort_by, sort_order, limit))| {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let filter = Filter {
            search: owned(text.0),
            name: owned(text.1),
            queue: owned(text.2),
            worker: owned(text.3),
            error_contains: owned(text.4),
            connections: kinds.0.map(|numbers| numbers.into_iter().map(connection).collect()),
            states: kinds.1,
            framework: kinds.2,
            attempt_at_least: kinds.3,
            external_id: kinds.4.map(external_id),
            created_after: rest.0,
            created_before: rest.1,
            tag: rest.2.map(|(key, value)| (key.to_owned(), owned(value))),
            lost: rest.3,
            stuck: rest.4,
            waiting: rest.5,
            taken: rest.6,
        };
        (Query { filter, sort_by, sort_order, limit, cursor: None }, kinds.4)
    })
}

fn signs() -> Signs {
    let key = |connection: u8, text: &str| (self::connection(connection), text.to_owned());
    let limit = |most: u64| Limit { p99: None, most };
    Signs {
        now: Timestamp(NOW * 1_000),
        gone: HashMap::from([
            (key(0, "celery@a"), Timestamp(1_000_000)),
            (key(1, "w"), Timestamp(NOW * 1_000)),
            (key(2, "nobody"), Timestamp(NOW * 1_000)),
        ]),
        patience: Arc::new(Patience {
            runs: HashMap::from([(key(0, "app.send"), limit(50_000)), (key(1, "z"), limit(u64::MAX))]),
            waits: HashMap::from([(key(0, "default"), limit(30_000)), (key(1, "mail"), limit(u64::MAX))]),
            default: 4_000_000_000,
        }),
    }
}

/// By definition, and as slowly as need be.
fn is_wanted(record: &Record, filter: &Filter, signs: &Signs) -> bool {
    let has = |text: &str, part: &str| text.to_lowercase().contains(&part.to_lowercase());
    let since = (record.state == JobState::Active).then(|| record.started_at.unwrap_or(record.created_at));
    let gone = record.worker_id.clone().and_then(|worker| signs.gone.get(&(record.connection_id, worker)));
    let lost = since.zip(gone).is_some_and(|(since, gone)| since.millis() < gone.millis());
    let is_over = |limit: Limit, since: Timestamp| {
        signs.now.millis() - since.millis() > i64::try_from(limit.most).unwrap_or(i64::MAX)
    };
    let stuck = since.is_some_and(|since| is_over(signs.patience.run(record.connection_id, &record.name), since));
    let queue = record.queue.as_deref();
    let of_queue = signs.patience.wait(record.connection_id, queue.unwrap_or("no such queue"));
    let waiting = match record.state {
        JobState::Queued => queue.is_some() && is_over(of_queue, record.state_changed_at),
        JobState::Scheduled => is_over(of_queue, record.scheduled_for.unwrap_or(record.state_changed_at)),
        _ => false,
    };
    let tags = record.tags.value();
    filter.search.as_ref().is_none_or(|part| has(&record.name, part))
        && filter.name.as_ref().is_none_or(|name| *name == record.name)
        && filter.queue.as_ref().is_none_or(|queue| Some(queue) == record.queue.as_ref())
        && filter.worker.as_ref().is_none_or(|worker| Some(worker) == record.worker_id.as_ref())
        && filter.taken.is_none_or(|taken| taken == record.worker_id.is_some())
        && filter
            .error_contains
            .as_ref()
            .is_none_or(|part| record.error.as_deref().is_some_and(|error| has(&beginning(error), part)))
        && filter.connections.as_ref().is_none_or(|wanted| wanted.contains(&record.connection_id))
        && filter.states.as_ref().is_none_or(|states| states.contains(&record.state))
        && filter.framework.is_none_or(|framework| framework == record.framework)
        && filter.attempt_at_least.is_none_or(|attempt| record.attempt >= attempt)
        && filter.external_id.as_ref().is_none_or(|id| *id == record.external_id)
        && filter.created_after.is_none_or(|after| record.created_at >= after)
        && filter.created_before.is_none_or(|before| record.created_at < before)
        && filter.tag.as_ref().is_none_or(|(key, value)| match (tags.get(key), value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(found), Some(value)) => match found {
                Value::String(found) => found == value,
                found => serde_json::to_string(found).unwrap() == *value,
            },
        })
        && filter.lost.is_none_or(|wanted| wanted == lost)
        && filter.stuck.is_none_or(|wanted| wanted == stuck)
        && filter.waiting.is_none_or(|wanted| wanted == waiting)
}

fn compare(a: &Record, b: &Record, sort_by: SortBy, sort_order: SortOrder) -> Ordering {
    /// Whatever has no value comes last.
    fn by<T: Ord>(a: Option<T>, b: Option<T>, directed: impl Fn(Ordering) -> Ordering) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) => directed(a.cmp(&b)),
            (a, b) => b.is_some().cmp(&a.is_some()),
        }
    }
    let directed = |order: Ordering| if sort_order == SortOrder::Descending { order.reverse() } else { order };
    let millis = |time: Option<Timestamp>| time.map(Timestamp::millis);
    let values = match sort_by {
        SortBy::CreatedAt => by(Some(a.created_at.millis()), Some(b.created_at.millis()), directed),
        SortBy::StartedAt => by(millis(a.started_at), millis(b.started_at), directed),
        SortBy::DurationMs => by(a.duration_ms, b.duration_ms, directed),
        SortBy::State => by(Some(a.state.as_str()), Some(b.state.as_str()), directed),
        SortBy::Name => by(Some(&a.name), Some(&b.name), directed),
        SortBy::Queue => by(a.queue.as_ref(), b.queue.as_ref(), directed),
        SortBy::Worker => by(a.worker_id.as_ref(), b.worker_id.as_ref(), directed),
    };
    values.then(directed(a.id.cmp(&b.id)))
}

fn row(record: Record, sequence: u64) -> Row {
    let mut evidence = Evidence::default();
    let event = Event::job(record.created_at, record.framework, Job::new(record.external_id.clone(), record.state));
    evidence.add(Position::new(sequence, 0), &event);
    Row { record, evidence }
}

/// Pages through the whole list, by way of the text of each cursor.
fn assert_list(opened: &Opened, truth: &BTreeMap<Uuid, Record>, mut query: Query) -> Result<(), TestCaseError> {
    let signs = signs();
    let mut expected: Vec<&Record> = truth.values().filter(|record| is_wanted(record, &query.filter, &signs)).collect();
    expected.sort_by(|a, b| compare(a, b, query.sort_by, query.sort_order));
    let mut found = Vec::new();
    loop {
        let page = opened.reader.list(&query, &signs).unwrap();
        prop_assert_eq!(page.total, expected.len() as u64);
        prop_assert!(page.jobs.len() <= query.limit);
        found.extend(page.jobs.into_iter().map(|record| record.id));
        let Some(next) = page.next else { break };
        let written: Cursor = next.to_string().parse().unwrap();
        prop_assert_eq!(&written, &next);
        query.cursor = Some(written);
    }
    // Several lists at once are the same as one after the other.
    let by_start = Query { sort_by: SortBy::StartedAt, ..query.clone() };
    let queries = [Query { cursor: None, ..query.clone() }, Query { cursor: None, ..by_start }, query.clone()];
    let at_once = opened.reader.lists(&queries, &signs).unwrap();
    for (query, page) in queries.iter().zip(at_once) {
        let alone = opened.reader.list(query, &signs).unwrap();
        prop_assert_eq!(page.jobs, alone.jobs);
        prop_assert_eq!((page.next, page.total), (alone.next, alone.total));
    }
    let expected: Vec<Uuid> = expected.iter().map(|record| record.id).collect();
    prop_assert_eq!(&found, &expected);
    let all = opened.reader.ids(&Query { limit: usize::MAX, cursor: None, ..query }, &signs).unwrap();
    prop_assert_eq!((all.jobs, all.next), (expected, None));
    Ok(())
}

/// What waits and runs, counted one by one.
fn assert_load(opened: &Opened, truth: &BTreeMap<Uuid, Record>) -> Result<(), TestCaseError> {
    let load = opened.reader.load(None);
    let (mut waiting, mut active) = (BTreeMap::<_, (u64, u64, Option<i64>)>::new(), BTreeMap::<_, u64>::new());
    for record in truth.values() {
        let key = |text: &Option<String>| text.clone().map(|text| (record.connection_id, text));
        let (queued, scheduled) = (record.state == JobState::Queued, record.state == JobState::Scheduled);
        if let Some(key) = key(&record.queue).filter(|_| queued || scheduled) {
            let (all_queued, all_scheduled, oldest) = waiting.entry(key).or_default();
            *all_queued += u64::from(queued);
            *all_scheduled += u64::from(scheduled);
            let created = record.created_at.millis();
            *oldest = if queued { Some(oldest.map_or(created, |oldest| oldest.min(created))) } else { *oldest };
        }
        if let Some(key) = key(&record.worker_id).filter(|_| record.state == JobState::Active) {
            *active.entry(key).or_default() += 1;
        }
    }
    let told = load.waiting.iter().map(|((connection, queue), it)| {
        ((*connection, queue.to_string()), (it.queued, it.scheduled, it.oldest_queued_at.map(Timestamp::millis)))
    });
    prop_assert_eq!(told.collect::<BTreeMap<_, _>>(), waiting);
    let told = load.active.iter().map(|((connection, worker), count)| ((*connection, worker.to_string()), *count));
    prop_assert_eq!(told.collect::<BTreeMap<_, _>>(), active);
    Ok(())
}

/// The jobs created last of each kind of failure.
fn assert_failing(opened: &Opened, truth: &BTreeMap<Uuid, Record>) -> Result<(), TestCaseError> {
    const EACH: usize = 3;
    let mut kinds: BTreeMap<(Uuid, String), Vec<(i64, Uuid)>> = BTreeMap::new();
    for record in truth.values() {
        let row = row(record.clone(), 1);
        if let Some(kind) = failure_shown(&Head::of(&row)) {
            let jobs = kinds.entry((record.connection_id, kind)).or_default();
            jobs.push((record.created_at.millis(), record.id));
        }
    }
    let known = kinds.iter().map(|((connection, kind), jobs)| (*connection, kind.clone(), jobs.len().min(EACH)));
    let asked: Vec<(Uuid, String, usize)> = known.chain([(Uuid::max(), "nothing".to_owned(), EACH)]).collect();
    let found = opened.reader.shared().state.read().table.snapshot().failing(&asked).unwrap();
    let expected = kinds.into_values().map(|mut jobs| {
        jobs.sort_unstable_by(|a, b| b.cmp(a));
        jobs.into_iter().take(EACH).map(|(_, id)| id).collect::<Vec<_>>()
    });
    prop_assert_eq!(found, expected.chain([Vec::new()]).collect::<Vec<_>>());
    Ok(())
}

/// The jobs of each workflow, those first that stand first in the log.
fn assert_workflows(
    opened: &Opened,
    truth: &BTreeMap<Uuid, Record>,
    firsts: &HashMap<Uuid, u64>,
) -> Result<(), TestCaseError> {
    const MOST: usize = 3;
    let roots: BTreeSet<Uuid> = truth.keys().copied().chain(truth.values().filter_map(|job| job.root_id)).collect();
    for root in roots {
        let others = truth.values().filter(|job| job.root_id == Some(root) && job.id != root);
        let mut others: Vec<(u64, Uuid)> = others.map(|job| (firsts[&job.id], job.id)).collect();
        others.sort_unstable();
        let (jobs, total) = opened.reader.workflow(root, MOST).unwrap();
        prop_assert_eq!(total, others.len());
        let expected: Vec<Uuid> = others.into_iter().take(MOST).map(|(_, id)| id).collect();
        prop_assert_eq!(jobs.iter().map(|job| job.id).collect::<Vec<_>>(), expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Jobs come, change, are forgotten and read back, from memory and from the disk; then everything is asked.
    #[test]
    fn every_filter_order_page_and_count_is_that_of_the_plain_truth(
        batches in prop::collection::vec(prop::collection::vec(record(), 0..60), 1..5),
        reopen in any::<bool>(),
        forget in prop::option::of(1_u64..100),
        queries in prop::collection::vec(query(), 12),
        list_bytes in select(vec![0, 20_000, 40_000, 1 << 20]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open_in = |dir: &Path| open(dir, &Options { list_bytes, ..OPTIONS }).unwrap();
        let mut opened = open_in(dir.path());
        let mut truth: BTreeMap<Uuid, Record> = BTreeMap::new();
        let mut firsts: HashMap<Uuid, u64> = HashMap::new();
        let mut end = 0;
        for batch in &batches {
            let batch: BTreeMap<Uuid, Record> = batch.iter().map(|record| (record.id, record.clone())).collect();
            let rows = batch.values().map(|record| {
                end += 1;
                firsts.insert(record.id, end);
                row(record.clone(), end)
            });
            let rows: Vec<Row> = rows.collect();
            end += 1;
            opened.writer.stage(rows, applied(end)).unwrap();
            // What is old goes to disk now, and comes back when it changes.
            opened.writer.flush().unwrap();
            truth.extend(batch);
        }
        opened.writer.flush().unwrap();
        if let Some(share) = forget {
            let floor = end * share / 100 + 1;
            opened.writer.forget(floor).unwrap();
            opened.writer.stage(Vec::new(), applied(end)).unwrap();
            opened.writer.flush().unwrap();
            truth.retain(|id, _| firsts[id] >= floor);
        }
        if reopen {
            opened.writer.close().unwrap();
            let Opened { reader, generations, .. } = opened;
            drop((reader, generations));
            opened = open_in(dir.path());
        }
        for (query, _) in queries {
            assert_list(&opened, &truth, query)?;
        }
        assert_load(&opened, &truth)?;
        assert_failing(&opened, &truth)?;
        assert_workflows(&opened, &truth, &firsts)?;
        prop_assert!(opened.reader.disk_agrees().unwrap());
    }
}

/// A list that is paged through while jobs come and go gives every job that stays, once.
#[test]
fn what_comes_while_a_list_is_read_neither_repeats_nor_hides_anything() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), &OPTIONS).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut sequence = 0;
    let mut stage = |opened: &mut Opened, jobs: std::ops::Range<u16>| {
        let records: Vec<Record> = jobs
            .map(|job| {
                let template = record().new_tree(&mut runner).unwrap().current();
                let id = job_id(connection(0), &external_id(job));
                let name = format!("task.{}", job % 7);
                Record { id, external_id: external_id(job), connection_id: connection(0), name, ..template }
            })
            .collect();
        let rows = records.into_iter().map(|record| {
            sequence += 1;
            row(record, sequence)
        });
        let rows: Vec<Row> = rows.collect();
        opened.writer.stage(rows, applied(sequence)).unwrap();
    };
    stage(&mut opened, 0..500);
    let mut query = Query { sort_by: SortBy::Name, limit: 7, ..Query::default() };
    let mut found = Vec::new();
    let mut new = 500..;
    loop {
        let page = opened.reader.list(&query, &signs()).unwrap();
        found.extend(page.jobs.iter().map(|record| record.external_id.clone()));
        let Some(next) = page.next else { break };
        query.cursor = Some(next);
        let next = new.next().unwrap();
        stage(&mut opened, next..next + 1);
    }
    let old = |id: &&String| id["job-".len()..].parse::<u16>().unwrap() < 500;
    let mut before: Vec<&String> = found.iter().filter(old).collect();
    assert_eq!(before.len(), 500);
    before.sort_unstable();
    before.dedup();
    assert_eq!(before.len(), 500);
    assert!(found.len() > 500, "what came behind the place is found");
}
