//! Damaged files: set aside, whatever the damage.

use std::fs;
use std::path::{Path, PathBuf};

use proto_events::Timestamp;
use uuid::Uuid;

use super::support::{Log, OPTIONS, applied, assert_shows, digest_of, open_in};
use crate::shared::Shared;
use crate::stats::Stats;
use crate::{Opened, Options, Outcome, Prepared, Query, Reason, Signs, ViewError, Writer, open};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
    found.sort();
}

/// Damages one file in the n-th way.
fn damage(generation: &Path, n: u64) -> String {
    let mut all = Vec::new();
    files(generation, &mut all);
    let mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let file = &all[(mixed >> 56) as usize % all.len()];
    let mut bytes = fs::read(file).unwrap();
    let place = (mixed >> 8) as usize % bytes.len().max(1);
    let how = match n % 4 {
        0 => {
            bytes.truncate(place);
            "cut off"
        }
        1 if !bytes.is_empty() => {
            bytes[place] ^= 1 << (mixed & 7);
            "a bit flipped"
        }
        2 => {
            let end = (place + 4_096).min(bytes.len());
            bytes[place..end].fill(0);
            "a page of zeros"
        }
        _ => {
            let end = (place + 64).min(bytes.len());
            bytes[place..end].fill(0xff);
            "64 bytes of ones"
        }
    };
    fs::write(file, bytes).unwrap();
    format!("{} at {place}: {how}", file.display())
}

#[test]
fn damaged_files_are_set_aside_or_harmless_but_never_a_panic_nor_a_wrong_answer() {
    let original = tempfile::tempdir().unwrap();
    let log = Log::scripted(600, 100);
    for end in [200, 400, 600] {
        let mut opened = open_in(original.path());
        log.apply(&mut opened, end).unwrap();
        opened.writer.close().unwrap();
    }
    let (truth, digest) = (log.truth(log.end()), digest_of(&log, log.end()));
    let (mut aside, mut cut) = (0, 0);
    for n in 0..120 {
        let dir = tempfile::tempdir().unwrap();
        copy(original.path(), dir.path());
        let what = damage(&dir.path().join("gen-0001"), n);
        let mut opened = open_in(dir.path());
        match &opened.outcome {
            Outcome::Adopted { .. } => panic!("{what}: there was nothing to adopt"),
            // The damage was where nothing is, or cut the end off, as a crash does.
            Outcome::Existing => cut += u64::from(opened.reader.applied() < log.end()),
            Outcome::SetAside { kept, .. } => {
                aside += 1;
                assert!(kept.is_dir(), "{what}");
                assert_eq!(opened.reader.applied(), 0);
            }
            Outcome::Fresh => panic!("{what}: forgotten"),
        }
        log.apply(&mut opened, log.end()).unwrap();
        opened.writer.flush().unwrap();
        assert_eq!(opened.reader.digest(), digest, "{what}");
        assert_shows(&opened.reader, &truth);
    }
    assert!(aside > 60 && cut > 3, "{aside} set aside, {cut} cut off");
}

fn number(opened: &Opened, id: Uuid) -> u64 {
    opened.reader.shared().state.read().table.numbers(id).next().unwrap()
}

#[test]
fn damage_found_while_reading_condemns_the_generation() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::scripted(10, 10);
    let mut opened = open_in(dir.path());
    log.apply(&mut opened, 10).unwrap();
    opened.writer.flush().unwrap();
    let id = log.0[0].id();
    let key = crate::store::row_key(number(&opened, id));
    let mut bytes = opened.reader.shared().store.get(&key).unwrap().unwrap().to_vec();
    // The end of the evidence, which no digest covers.
    bytes.push(0);
    let mut batch = sled::Batch::default();
    batch.insert(&key, bytes);
    opened.reader.shared().store.apply(batch).unwrap();

    assert!(matches!(opened.reader.row(id), Err(ViewError::Corrupt(_))));
    // From then on nothing of these views is trusted.
    assert!(matches!(opened.reader.list(&Query::default(), &Signs::default()), Err(ViewError::Corrupt(_))));
    assert!(matches!(opened.writer.row(log.0[1].id()), Err(ViewError::Corrupt(_))));
    drop(opened);
    let opened = open_in(dir.path());
    assert!(matches!(opened.outcome, Outcome::SetAside { reason: Reason::Damaged(_), .. }));
}

#[test]
fn a_row_that_is_missing_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::scripted(30, 10);
    let mut opened = open_in(dir.path());
    log.apply(&mut opened, 30).unwrap();
    opened.writer.flush().unwrap();
    let mut batch = sled::Batch::default();
    batch.remove(&crate::store::row_key(number(&opened, log.0[3].id())));
    opened.reader.shared().store.apply(batch).unwrap();
    drop(opened);
    let opened = open_in(dir.path());
    assert!(matches!(opened.outcome, Outcome::SetAside { reason: Reason::Damaged(_), .. }));
}

#[test]
fn a_damaged_page_of_the_list_is_an_error_and_the_next_start_makes_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::scripted(300, 100);
    let options = Options { list_bytes: 0, ..OPTIONS };
    let mut opened = open(dir.path(), &options).unwrap();
    log.apply(&mut opened, 300).unwrap();
    opened.writer.flush().unwrap();
    let truth = log.truth(300);
    assert_shows(&opened.reader, &truth);
    damage_list(dir.path());

    // What needs a page is refused, and what does not is answered.
    assert!(matches!(opened.reader.list(&Query::default(), &Signs::default()), Err(ViewError::Io(_))));
    assert!(opened.reader.row(log.0[0].id()).unwrap().is_some());
    drop(opened);
    let opened = open(dir.path(), &options).unwrap();
    assert_eq!(opened.outcome, Outcome::Existing);
    assert_shows(&opened.reader, &truth);
}

/// Damages what the list has on disk.
fn damage_list(dir: &Path) {
    let mut all = Vec::new();
    files(dir, &mut all);
    let pages: Vec<&PathBuf> =
        all.iter().filter(|path| path.parent().is_some_and(|dir| dir.ends_with("list"))).collect();
    assert!(!pages.is_empty(), "something is on disk");
    for page in pages {
        let mut bytes = fs::read(page).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(page, bytes).unwrap();
    }
}

/// What is carried over to other views stays, so it must not be that of sums that were never made.
#[test]
fn views_whose_statistics_were_not_made_take_over_once_they_are_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::scripted(300, 100);
    let options = Options { list_bytes: 0, ..OPTIONS };
    let mut opened = open(dir.path(), &options).unwrap();
    log.apply(&mut opened, 300).unwrap();
    opened.writer.flush().unwrap();
    let generations = &opened.generations;
    let another = || {
        let mut bulk = generations.begin().unwrap();
        let mut rows: Vec<_> = log.truth(300).into_values().collect();
        rows.sort_by_key(|row| row.record.id);
        for row in &rows {
            bulk.put(Prepared::of(row)).unwrap();
        }
        let (made, _) = bulk.finish(&applied(300), 0).unwrap();
        generations.open(&made).unwrap()
    };
    let not_made = |shared: &Shared| {
        let mut sums = Stats::new(options.limits(), Timestamp(0));
        sums.unsettle();
        *shared.stats.write() = sums;
    };
    let real = || {
        let shared = opened.reader.shared();
        shared.directory.ledger.as_ref().unwrap().real(shared.lifetime())
    };
    let ever = log.ever(300);
    assert!(!ever.is_empty());

    // What is more than memory may take goes to the disk when something is written.
    let to_disk = |writer: &mut Writer| {
        writer.stage(Vec::new(), applied(301)).unwrap();
        writer.flush().unwrap();
    };
    let (mut writer, candidate) = another();
    to_disk(&mut writer);
    let serving = generations.serving().unwrap();
    not_made(&candidate.shared);
    damage_list(&candidate.path);
    assert!(matches!(generations.promote(candidate), Err(ViewError::Io(_))));
    assert_eq!((generations.serving().unwrap(), real()), (serving, ever.clone()));

    let (mut writer, candidate) = another();
    to_disk(&mut writer);
    not_made(&candidate.shared);
    generations.promote(candidate).unwrap();
    opened.reader.shared().settle().unwrap();
    assert_eq!(real(), ever);

    // Those whose own cannot be made are replaced all the same: that may be why.
    let shared = opened.reader.shared();
    not_made(&shared);
    damage_list(&dir.path().join(generations.serving().unwrap().unwrap()));
    let (_writer, candidate) = another();
    generations.promote(candidate).unwrap();
    assert_eq!(real(), ever);
}

/// The same where the log forgets its beginning.
#[test]
fn what_is_forgotten_counts_also_where_the_statistics_were_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::scripted(300, 100);
    let mut opened = open_in(dir.path());
    log.apply(&mut opened, 300).unwrap();
    opened.writer.flush().unwrap();
    let shared = opened.reader.shared();
    let mut sums = Stats::new(OPTIONS.limits(), Timestamp(0));
    sums.unsettle();
    *shared.stats.write() = sums;
    opened.writer.begin_forgetting(250).unwrap();
    assert!(opened.writer.forget(250).unwrap() > 0, "some are gone");
    assert_eq!(shared.directory.ledger.as_ref().unwrap().real(shared.lifetime()), log.ever(300));
}
