//! Random lives of the views against the plain truth.

use proptest::prelude::*;
use proto_events::JobState;
use uuid::Uuid;

use super::support::{Log, OPTIONS, Step, assert_fleet, assert_shows, digest_of, kill_after, open_in};
use crate::{Checkpoint, Filter, Lifetime, Outcome, Query, Reader, Signs, Total};

#[derive(Clone, Debug)]
enum Act {
    Apply(Vec<Step>),
    Flush,
    /// Close and open.
    Reopen,
    /// Forget what was not written.
    Crash,
    /// Die after so many writes of a flush.
    DieInFlush(u64),
    /// Forget a part of what there is, in percent.
    Trim(u64),
    /// Forget it, and die after so many writes.
    DieInTrim(u64, u64),
    /// Remove so many rows.
    Sweep(usize),
    /// Remove all there are to remove, and die after so many writes.
    DieInSweep(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let names =
        prop::sample::select(vec![None, Some("unknown"), Some("app.send"), Some("app.send"), Some("APP.Resize")]);
    (0_u8..2, 0_u16..200, names, prop::sample::select(JobState::ALL.to_vec()), 0_i64..500)
        .prop_map(|(connection, job, name, state, second)| Step { connection, job, name, state, second, trim: None })
}

/// Many jobs in a row come to one name.
fn sweep() -> impl Strategy<Value = Vec<Step>> {
    let name = prop::sample::select(vec!["app.send", "APP.Resize"]);
    (0_u16..300, 1_u16..200, name, 0_i64..2_000).prop_map(|(from, count, name, second)| {
        let step = |job| Step { connection: 0, job, name: Some(name), state: JobState::Active, second, trim: None };
        (from..from + count).map(step).collect()
    })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => prop::collection::vec(step(), 1..150).prop_map(Act::Apply),
        3 => sweep().prop_map(Act::Apply),
        3 => Just(Act::Flush),
        1 => Just(Act::Reopen),
        1 => Just(Act::Crash),
        2 => (0_u64..12).prop_map(Act::DieInFlush),
        2 => (0_u64..=100).prop_map(Act::Trim),
        2 => (0_u64..=100, 0_u64..24).prop_map(|(percent, writes)| Act::DieInTrim(percent, writes)),
        2 => (0_usize..100).prop_map(Act::Sweep),
        1 => (0_u64..4).prop_map(Act::DieInSweep),
    ]
}

/// The trim that comes next in the log, if it forgets so much of what there is.
fn trim(log: &Log, percent: u64) -> Step {
    let floor = log.0.iter().filter_map(|step| step.trim).max().unwrap_or(1);
    Step::trim(floor + (log.end() + 1 - floor) * percent / 100)
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn check(log: &Log, checkpoint: &Checkpoint) -> Result<(), TestCaseError> {
    if checkpoint.settled {
        prop_assert_eq!(checkpoint.digest, digest_of(log, checkpoint.sequence));
    }
    Ok(())
}

/// Totals are those of the log, with what was forgotten, and nothing is told lower than it was told before.
fn assert_ever(reader: &Reader, log: &Log, before: &mut Lifetime) -> Result<(), TestCaseError> {
    let shared = reader.shared();
    let ledger = shared.directory.ledger.as_ref().unwrap();
    prop_assert_eq!(ledger.real(shared.lifetime()), log.ever(log.end()));
    let told = reader.lifetime();
    for total in &told.totals {
        let Some(old) = before.totals.iter().find(|old| old.of == total.of) else { continue };
        let counts = |it: &Total| {
            let mut counts = vec![it.sent, it.received, it.started, it.succeeded, it.rejected, it.revoked, it.retried];
            counts.extend(it.runtime.buckets);
            counts.extend([it.runtime.sum_ms, it.wait.sum_ms]);
            counts
        };
        let down = counts(old).into_iter().zip(counts(total)).any(|(old, new)| new < old);
        prop_assert!(!down, "{:?} became {:?}", old, total);
    }
    for failure in &told.failures {
        let old = before.failures.iter().find(|old| (&old.of, &old.exception) == (&failure.of, &failure.exception));
        prop_assert!(old.is_none_or(|old| old.count <= failure.count));
    }
    *before = told;
    Ok(())
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn views_are_the_fold_of_the_log_whatever_happens_to_the_process(acts in prop::collection::vec(act(), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::default();
        let mut opened = open_in(dir.path());
        let mut told = Lifetime::default();
        for act in acts {
            let mut restart = true;
            match act {
                Act::Apply(steps) => {
                    log.0.extend(steps);
                    log.apply(&mut opened, log.end()).unwrap();
                    restart = false;
                }
                Act::Flush => {
                    opened.writer.flush().unwrap();
                    restart = false;
                }
                Act::Reopen => {
                    opened.writer.flush().unwrap();
                    assert_eq!(opened.writer.dirty(), 0);
                }
                Act::Crash => {}
                Act::DieInFlush(writes) => {
                    kill_after(&opened.writer, writes);
                    let _ = opened.writer.flush();
                }
                Act::Trim(percent) => {
                    log.0.push(trim(&log, percent));
                    log.apply(&mut opened, log.end()).unwrap();
                    restart = false;
                }
                Act::DieInTrim(percent, writes) => {
                    log.0.push(trim(&log, percent));
                    kill_after(&opened.writer, writes);
                    let _ = log.apply(&mut opened, log.end());
                }
                Act::Sweep(rows) => {
                    opened.writer.sweep(rows).unwrap();
                    restart = false;
                }
                Act::DieInSweep(writes) => {
                    kill_after(&opened.writer, writes);
                    let _ = opened.writer.sweep(usize::MAX);
                }
            }
            if restart {
                drop(opened);
                opened = open_in(dir.path());
                prop_assert_eq!(&opened.outcome, &Outcome::Existing);
                let checkpoint = opened.reader.checkpoint();
                prop_assert_eq!(checkpoint.map_or(0, |checkpoint| checkpoint.sequence), opened.reader.applied());
                if let Some(checkpoint) = checkpoint {
                    check(&log, &checkpoint)?;
                    prop_assert_eq!(checkpoint.fold_version, OPTIONS.fold_version);
                    prop_assert_eq!(checkpoint.floor, opened.reader.floor());
                }
                // Replay, in two batches with a flush between: no checkpoint may be taken of rows that are ahead.
                let half = opened.reader.applied().midpoint(log.end());
                log.apply(&mut opened, half).unwrap();
                opened.writer.flush().unwrap();
                if let Some(checkpoint) = opened.reader.checkpoint() {
                    check(&log, &checkpoint)?;
                }
                log.apply(&mut opened, log.end()).unwrap();
            }
            let truth = log.truth(log.end());
            assert_shows(&opened.reader, &truth);
            assert_fleet(&opened.reader, &log.true_fleet(log.end()));
            assert_ever(&opened.reader, &log, &mut told)?;
            for step in log.0.iter().filter(|step| step.trim.is_none() && !truth.contains_key(&step.id())) {
                prop_assert_eq!(opened.reader.job(step.id()).unwrap(), None);
                prop_assert!(opened.writer.row(step.id()).unwrap().is_none());
            }
        }
        opened.writer.flush().unwrap();
        opened.writer.sweep(usize::MAX).unwrap();
        assert_shows(&opened.reader, &log.truth(log.end()));
        prop_assert!(opened.reader.checkpoint().is_none_or(|checkpoint| checkpoint.settled));
        prop_assert_eq!(opened.reader.digest(), digest_of(&log, log.end()));
        // Nothing that is forgotten is left on disk.
        let (mut rows, mut facts) = (0, 0);
        opened.writer.shared.store.scan(b"f", |_, _| { facts += 1; Ok(()) }).unwrap();
        prop_assert_eq!(facts, log.true_fleet(log.end()).facts().count());
        opened.writer.shared.store.scan(b"r", |_, _| { rows += 1; Ok(()) }).unwrap();
        prop_assert_eq!(rows, log.truth(log.end()).len());
        if let Some(checkpoint) = opened.reader.checkpoint() {
            prop_assert_eq!(opened.reader.digest_at(log.end()).unwrap(), Some(checkpoint.digest));
        }
    }

    #[test]
    fn the_list_filters_counts_and_goes_on_where_it_stopped(
        steps in prop::collection::vec(step(), 0..400),
        state in prop::option::of(prop::sample::select(JobState::ALL.to_vec())),
        search in prop::option::of(prop::sample::select(vec!["", "SEND", "p.r", "absent"])),
        connections in prop::option::of(prop::collection::vec(0_u128..3, 0..3)),
        limit in 1_usize..40,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log(steps);
        let mut opened = open_in(dir.path());
        log.apply(&mut opened, log.end()).unwrap();
        let connections = connections.map(|numbers| numbers.into_iter().map(Uuid::from_u128).collect::<Vec<_>>());
        let truth = log.truth(log.end());
        let mut expected: Vec<_> = truth
            .values()
            .map(|row| &row.record)
            .filter(|record| state.is_none_or(|state| record.state == state))
            .filter(|record| search.is_none_or(|text| record.name.to_lowercase().contains(&text.to_lowercase())))
            .filter(|record| connections.as_ref().is_none_or(|wanted| wanted.contains(&record.connection_id)))
            .collect();
        expected.sort_by_key(|record| std::cmp::Reverse((record.created_at, record.id)));
        let filter = Filter {
            connections,
            states: state.map(|state| vec![state]),
            search: search.map(str::to_owned),
            ..Filter::default()
        };
        let mut query = Query { filter, limit, ..Query::default() };
        for part in expected.chunks(limit) {
            let page = opened.reader.list(&query, &Signs::default()).unwrap();
            prop_assert_eq!(page.total, expected.len() as u64);
            prop_assert_eq!(page.jobs.iter().collect::<Vec<_>>(), part);
            query.cursor = page.next;
        }
        prop_assert_eq!(&query.cursor, &None);
        prop_assert!(!expected.is_empty() || opened.reader.list(&query, &Signs::default()).unwrap().jobs.is_empty());
    }
}

/// The newest jobs of a name take another: older ones, long let go, are recent again.
#[test]
fn older_executions_are_recent_again_when_newer_ones_change_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let step =
        |job, name, second| Step { connection: 0, job, name: Some(name), state: JobState::Active, second, trim: None };
    let mut log = Log((0..300).map(|job| step(job, "app.launch", 10)).collect());
    let mut opened = open_in(dir.path());
    for renamed in [0..0, 200..300, 120..200, 10..120, 0..10] {
        log.0.extend(renamed.map(|job| step(job, "app.other", 20)));
        log.apply(&mut opened, log.end()).unwrap();
        assert_shows(&opened.reader, &log.truth(log.end()));
        opened.writer.flush().unwrap();
        assert_shows(&opened.reader, &log.truth(log.end()));
    }
    assert!(log.truth(log.end()).values().all(|row| row.record.name == "app.other"));
}
