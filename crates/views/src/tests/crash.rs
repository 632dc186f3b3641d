//! A process that writes is killed, and what it left is taken up.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::support::{Log, assert_shows, digest_of, open_in};
use crate::Outcome;

const DIRECTORY: &str = "FOREBAY_TEST_CRASH_DIRECTORY";
const EVENTS: u64 = 6_000;
const BATCH: u64 = 150;

fn log() -> Log {
    Log::scripted(EVENTS, 1_500)
}

/// Not a test of its own: what the killed process does. It tells the checkpoint after each flush.
#[test]
fn writer_process() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let log = log();
    let mut opened = open_in(&directory);
    while opened.reader.applied() < EVENTS {
        let to = opened.reader.applied() + BATCH;
        log.apply(&mut opened, to.min(EVENTS)).unwrap();
        opened.writer.flush().unwrap();
        println!("flushed {}", opened.reader.applied());
    }
    println!("flushed {}", u64::MAX);
}

fn spawn_writer(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["tests::crash::writer_process", "--exact", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn after_kill_9_in_mid_write_replay_gives_what_no_crash_would_have_given() {
    let dir = tempfile::tempdir().unwrap();
    let log = log();
    let mut kills = 0;
    loop {
        let mut child = spawn_writer(dir.path());
        // A few flushes on, at a moment that nobody chose.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let flushed = lines.by_ref().filter_map(|line| line.strip_prefix("flushed ")?.parse::<u64>().ok());
        let done = flushed.take(4).last().is_none_or(|sequence| sequence == u64::MAX);
        if done {
            assert!(child.wait().unwrap().success());
            break;
        }
        std::thread::sleep(std::time::Duration::from_micros(700 * kills));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;

        let mut opened = open_in(dir.path());
        if kills == 1 && matches!(opened.outcome, Outcome::Fresh) {
            continue;
        }
        assert_eq!(opened.outcome, Outcome::Existing);
        let at = opened.reader.applied();
        assert_eq!(opened.reader.digest(), digest_of(&log, at), "at {at} after {kills} kills");
        // Replay a little in this process too, and leave it unflushed.
        log.apply(&mut opened, (at + BATCH).min(EVENTS)).unwrap();
    }
    assert!(kills >= 3, "only {kills} kills");
    let opened = open_in(dir.path());
    assert_eq!(opened.reader.applied(), EVENTS);
    assert_eq!(opened.reader.digest(), digest_of(&log, EVENTS));
    assert_shows(&opened.reader, &log.truth(EVENTS));
}
