//! What is found on opening, and what becomes of it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use proto_events::{JobState, Timestamp};

use super::support::{Log, OPTIONS, Step, applied, assert_shows, open_in};
use crate::{
    Checkpoint, Found, Frozen, OpenError, Opened, Options, Outcome, Preparation, Prepared, Query, Range, Reason, Signs,
    open, open_or_freeze,
};

fn filled(dir: &Path) -> Log {
    let log = Log::scripted(50, 20);
    let mut opened = open_in(dir);
    log.apply(&mut opened, 50).unwrap();
    opened.writer.close().unwrap();
    log
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn existing_views_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let views = dir.path().join("not/there/yet");
    let log = filled(&views);
    let opened = open_in(&views);
    assert_eq!(opened.outcome, Outcome::Existing);
    assert_eq!(opened.reader.applied(), 50);
    assert_shows(&opened.reader, &log.truth(50));
    assert_eq!(names(&views), ["CURRENT", "LOCK", "gen-0001"]);
}

#[test]
fn another_fold_starts_a_new_generation_and_the_old_ones_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    for fold_version in 8..12 {
        let opened = open(dir.path(), &Options { fold_version, ..OPTIONS }).unwrap();
        let Outcome::SetAside { reason, kept } = opened.outcome else { panic!("{:?}", opened.outcome) };
        assert_eq!(reason, Reason::OtherFold { found: fold_version - 1 });
        assert!(kept.is_dir());
        assert_eq!((opened.reader.applied(), opened.reader.checkpoint()), (0, None));
    }
    let expected = ["CURRENT", "LOCK", "gen-0003.set-aside-other-fold", "gen-0004.set-aside-other-fold", "gen-0005"];
    assert_eq!(names(dir.path()), expected);
    assert_eq!(fs::read_to_string(dir.path().join("CURRENT")).unwrap(), "gen-0005\n");
}

#[test]
fn another_format_is_not_guessed_at() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    for meta in [&b""[..], b"\x02\x01\x07", b"\x01\x63\x07"] {
        let opened = open_in(dir.path());
        let mut batch = sled::Batch::default();
        batch.insert(&[crate::store::prefix::META], meta);
        opened.reader.shared().store.apply(batch).unwrap();
        drop(opened);
        assert!(matches!(open_in(dir.path()).outcome, Outcome::SetAside { reason: Reason::OtherFormat, .. }));
    }
}

#[test]
fn a_lost_or_senseless_pointer_starts_over() {
    for pointer in [None, Some("gen-0007"), Some("../elsewhere"), Some("gen-"), Some("\u{0}")] {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path());
        match pointer {
            Some(text) => fs::write(dir.path().join("CURRENT"), text).unwrap(),
            None => fs::remove_file(dir.path().join("CURRENT")).unwrap(),
        }
        let opened = open_in(dir.path());
        assert!(matches!(opened.outcome, Outcome::SetAside { reason: Reason::NotCurrent, .. }), "{pointer:?}");
        drop(opened);
        assert_eq!(open_in(dir.path()).outcome, Outcome::Existing);
    }
}

#[test]
fn views_in_use_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path());
    let first = open_in(dir.path());
    let error = open(dir.path(), &OPTIONS).err().unwrap();
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert_shows(&first.reader, &log.truth(50));
    // A reader alone keeps them in use.
    drop(first.writer);
    assert!(matches!(open(dir.path(), &OPTIONS).err(), Some(OpenError::Locked { .. })));
    drop((first.reader, first.generations));
    assert_eq!(open_in(dir.path()).outcome, Outcome::Existing);
}

#[test]
fn what_the_system_refuses_is_an_error_and_destroys_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let file = dir.path().join("CURRENT");
    assert!(matches!(open(&file, &OPTIONS).err(), Some(OpenError::Io { .. })));
    assert_eq!(open_in(dir.path()).outcome, Outcome::Existing);
}

const OTHER: Options = Options { fold_version: 8, ..OPTIONS };

fn frozen(dir: &Path, options: &Options, adopt: impl Fn(&Checkpoint) -> bool) -> Frozen {
    match open_or_freeze(dir, options, adopt).unwrap() {
        Found::OtherFold(frozen) => frozen,
        Found::Ours(opened) => panic!("{:?}", opened.outcome),
    }
}

fn ours(dir: &Path, options: &Options, adopt: impl Fn(&Checkpoint) -> bool) -> Opened {
    match open_or_freeze(dir, options, adopt).unwrap() {
        Found::Ours(opened) => *opened,
        Found::OtherFold(frozen) => panic!("frozen: {}", frozen.fold_version),
    }
}

/// Makes a generation as another process would while this one has the directory.
fn prepare(dir: &Path, log: &Log) {
    let preparation = Preparation::begin(dir, &OTHER).unwrap().unwrap();
    assert!(Preparation::begin(dir, &OTHER).unwrap().is_none(), "one at a time");
    assert!(preparation.existing().unwrap().is_none());
    let mut bulk = preparation.build().unwrap();
    let mut rows: Vec<_> = log.truth(50).into_values().collect();
    rows.sort_by_key(|row| row.record.id);
    for row in &rows {
        bulk.put(Prepared::of(row)).unwrap();
    }
    let (made, _) = bulk.finish(&applied(50), 0).unwrap();
    let (writer, candidate) = preparation.open(&made).unwrap();
    assert_shows(&candidate.reader(), &log.truth(50));
    drop((writer, candidate));
    assert!(preparation.existing().unwrap().is_some());
}

#[test]
fn views_of_another_fold_answer_as_they_are_or_give_way_to_ours() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path());
    let nothing = |_: &Checkpoint| panic!("there is nothing to adopt");
    let old = frozen(dir.path(), &OTHER, nothing);
    assert_eq!((old.fold_version, old.reader.fold_version(), old.generations.fold_version()), (7, 7, 8));
    assert_shows(&old.reader, &log.truth(50));
    assert!(old.generations.open_ours().unwrap().is_none());

    // A rebuild of the process that has the directory leaves alone what another one makes, and the other way round.
    prepare(dir.path(), &log);
    old.generations.begin().unwrap().abandon();
    assert_eq!(old.generations.tidy(std::time::Duration::ZERO).unwrap(), 0);
    drop(old);
    assert_eq!(names(dir.path()), ["CURRENT", "LOCK", "PREPARE.LOCK", "gen-0001", "prepared-8"]);

    // Not wanted now, it is there for later.
    let old = frozen(dir.path(), &OTHER, |checkpoint| checkpoint.sequence != 50);
    assert!(old.generations.open_ours().unwrap().is_some());
    drop(old);
    let new = ours(dir.path(), &OTHER, |checkpoint| checkpoint.sequence == 50);
    assert_eq!(new.outcome, Outcome::Adopted { replaced: 7 });
    assert_shows(&new.reader, &log.truth(50));
    assert_eq!(new.generations.previous_version().unwrap(), Some(7));
    drop(new);
    assert_eq!(ours(dir.path(), &OTHER, nothing).outcome, Outcome::Existing);
    assert_eq!(ours(dir.path(), &OPTIONS, |_| true).outcome, Outcome::Adopted { replaced: 8 });

    // What was prepared too late for it is not kept for ever.
    prepare(dir.path(), &log);
    drop(ours(dir.path(), &OTHER, |_| true));
    prepare(dir.path(), &log);
    drop(ours(dir.path(), &OTHER, nothing));
    assert_eq!(names(dir.path()), ["CURRENT", "LOCK", "PREPARE.LOCK", "gen-0001", "gen-0003"]);
}

#[test]
fn empty_views_of_another_fold_are_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_in(dir.path()));
    let opened = ours(dir.path(), &OTHER, |_| true);
    assert!(matches!(opened.outcome, Outcome::SetAside { reason: Reason::OtherFold { found: 7 }, .. }));
}

#[test]
fn nothing_but_the_statistics_waits_for_the_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path());
    let opened = open_in(dir.path());
    let shared = opened.reader.shared();
    let patience = || opened.reader.patience_within(Duration::from_millis(1), Timestamp(0), 1, 1);
    // As long as they are made.
    let making = shared.stats.write();
    assert!(patience().is_none());
    let listed = opened.reader.list(&Query::default(), &Signs::default()).unwrap();
    assert!(listed.total > 0);
    assert_eq!(listed.total, log.truth(50).len() as u64);
    for record in &listed.jobs {
        assert_eq!(opened.reader.job(record.id).unwrap().as_ref(), Some(record));
    }
    drop(making);
    assert!(patience().is_some());
}

/// The sums of many jobs are made beside everything else, and whoever asks for them waits.
#[test]
fn the_statistics_of_many_jobs_are_there_when_they_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let step = |job| Step {
        connection: 0,
        job,
        name: Some("app.send"),
        state: JobState::Active,
        second: i64::from(job),
        trim: None,
    };
    let log = Log((0..21_000).map(step).collect());
    let mut opened = open_in(dir.path());
    log.apply(&mut opened, log.end()).unwrap();
    opened.writer.close().unwrap();
    drop((opened.reader, opened.generations));
    let mut opened = open_in(dir.path());
    let started = |opened: &Opened| {
        let now = Timestamp(20_999 * 1_000_000);
        opened.reader.overview(None, Range::Week, now).totals.started
    };
    assert_eq!(started(&opened), 21_000);
    assert!(opened.reader.sums_agree(Timestamp(0)).unwrap());
    let later = Log([log.0, vec![step(21_000)]].concat());
    later.apply(&mut opened, later.end()).unwrap();
    assert_eq!(started(&opened), 21_001);
}
