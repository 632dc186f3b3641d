//! What is found on opening, and what becomes of it.

use std::fs;
use std::path::Path;

use super::support::{Log, OPTIONS, assert_shows, open_in};
use crate::{OpenError, Options, Outcome, Reason, open};

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
