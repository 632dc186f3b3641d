//! A log that was exported and read back gives the views that there were, whatever is killed on the way.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use forebay_tests::{API_KEY, Forebay, Options, forebay_binary, job_id, wait_for};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

const JOBS: usize = 4_000;

/// A log of some megabytes that compress badly: jobs of all kinds, out of order, some events twice.
fn filled() -> Forebay {
    let forebay = Forebay::start(Options::default());
    let mut random = StdRng::seed_from_u64(7);
    for block in 0..JOBS / 100 {
        let mut events: Vec<Value> = (0..100).flat_map(|job| job_events(&mut random, block * 100 + job)).collect();
        events.shuffle(&mut random);
        let again = events[..10].to_vec();
        for events in events.chunks(7).chain([&again[..]]) {
            let answer = forebay.api.ingest(events).unwrap();
            assert_eq!((answer.status, &answer.body["rejected"]), (202, &json!([])));
        }
    }
    forebay
}

fn job_events(random: &mut StdRng, number: usize) -> Vec<Value> {
    let id = format!("job-{number}");
    let args: String = (0..random.random_range(20..60)).map(|_| Uuid::from_u128(random.random()).to_string()).collect();
    let states: &[&str] = match number % 5 {
        0 => &["queued", "active", "failed"],
        1 => &["queued", "active", "retrying", "queued", "active", "completed"],
        2 => &["queued"],
        3 => &["scheduled", "active", "cancelled"],
        _ => &["queued", "active", "completed"],
    };
    let event = |(step, state): (usize, &&str)| {
        let time = format!("2026-02-27T10:{:02}:{:02}.{:03}Z", number / 600 % 60, step * 7 % 60, number % 1_000);
        let mut job = json!({ "externalId": id, "name": format!("shop.task_{}", number % 20), "state": state });
        job["args"] = json!([args]);
        if *state == "failed" {
            job["error"] = json!("ValueError: ü\u{0}\n");
        }
        json!({ "type": "job.state_change", "timestamp": time, "framework": "celery", "job": job })
    };
    states.iter().enumerate().map(event).collect()
}

/// The digest of the views, once they hold the whole log.
fn digest(forebay: &Forebay) -> String {
    wait_for("the views to hold the whole log", 60, || {
        let health = forebay.health();
        let whole = health["views"]["sequence"] == health["log"]["lastSequence"];
        whole.then(|| health["views"]["digest"].as_str().unwrap().to_owned())
    })
}

/// The last position of the log. A server that is up goes on writing into it that time passes.
fn last(forebay: &Forebay) -> u64 {
    forebay.health()["log"]["lastSequence"].as_u64().unwrap()
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(forebay_binary());
    command.args(arguments).arg("--data-dir").arg(dir).stdin(Stdio::null());
    command
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "nothing but the answer where nobody watches: {output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The one line in which it says what is wrong.
fn complaint(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{output:?}");
    said.trim_end().trim_start_matches("forebay: ").to_owned()
}

fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

/// The lines between the first and the last, which name the export.
fn messages(export: &[u8]) -> Vec<String> {
    let lines: Vec<String> = String::from_utf8(export.to_vec()).unwrap().lines().map(str::to_owned).collect();
    lines[1..lines.len() - 1].to_vec()
}

/// By another program than ours, which leaves alone what is not compressed.
fn unpacked(file: &str) -> Vec<u8> {
    let output = Command::new("gzip").args(["-dcf", file]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// Runs a command and kills it as soon as there is reason to; `false` when it ended before.
fn killed_when(mut child: Child, mut reason: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if reason() {
            child.kill().unwrap();
            child.wait().unwrap();
            return true;
        }
        assert!(Instant::now() < deadline, "nothing came of it");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn size(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| size(&entry.path())).sum()
        }
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

#[test]
fn what_was_exported_and_read_back_gives_the_views_that_there_were() {
    let (mut old, files) = (filled(), tempfile::tempdir().unwrap());
    let (before, count) = (digest(&old), last(&old));
    let upto = count.to_string();
    let records: Vec<Value> = (0..50).map(|number| old.api.job(&format!("job-{}", number * 79)).unwrap()).collect();
    for name in ["all.jsonl", "all.jsonl.gz", "all.jsonl.zst"] {
        let file = path(&files, name);
        let said = printed(&old.command(&["export", &file, "--to", &upto]));
        assert_eq!(said, format!("exported {count} messages to {file}\n"));
        assert!(complaint(&old.command(&["export", &file])).contains("exists already"));
    }
    assert!(size(Path::new(&path(&files, "all.jsonl.gz"))) * 10 < size(Path::new(&path(&files, "all.jsonl"))) * 8);
    let plain = unpacked(&path(&files, "all.jsonl"));
    assert_eq!(messages(&plain), messages(&unpacked(&path(&files, "all.jsonl.gz"))));
    // Some in the middle, and of one connection.
    let some = printed(&old.command(&["export", "-", "--from", "101", "--to", "200", "--connection", "default"]));
    assert_eq!(messages(some.as_bytes()), messages(&plain)[100..200]);
    old.stop();
    let offline = old.command(&["export", "-", "--to", &upto]);
    assert_eq!(messages(printed(&offline).as_bytes()), messages(&plain));

    for name in ["all.jsonl", "all.jsonl.gz", "all.jsonl.zst", "-"] {
        let dir = tempfile::tempdir().unwrap();
        let file = if name == "-" { name.to_owned() } else { path(&files, name) };
        let input = if name == "-" { File::open(path(&files, "all.jsonl.gz")).unwrap().into() } else { Stdio::null() };
        let imported = command(dir.path(), &["import", &file]).stdin(input).output().unwrap();
        assert_eq!(printed(&imported), format!("imported {count} messages\n"));
        let new = Forebay::start_in(dir, Options { own_credentials: true, ..Options::default() });
        assert_eq!(digest(&new), before, "{name}");
        for record in &records {
            assert_eq!(&new.api.job(record["id"].as_str().unwrap()).unwrap(), record);
        }
        if name == "-" {
            assert_eq!(new.api.ingest(&[]).unwrap().status, 202, "{API_KEY} is good here too");
            assert!(printed(&new.command(&["import", &path(&files, "all.jsonl.gz")])).contains("nothing was changed"));
            let other = complaint(&new.command(&["import", &path(&files, "all.jsonl")]));
            assert!(other.contains("The log holds jobs already"), "{other}");
            printed(&new.command(&["import", "--merge", &path(&files, "all.jsonl")]));
            assert_eq!(digest(&new), before, "the same messages again change no record");
        }
    }
}

#[test]
fn an_export_that_was_killed_goes_on_where_it_stopped() {
    let (mut forebay, files) = (filled(), tempfile::tempdir().unwrap());
    let (dir, upto) = (forebay.dir().to_owned(), last(&forebay).to_string());
    let export = |file: &str| {
        let mut command = command(&dir, &["export", file, "--to", &upto]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let whole = path(&files, "whole.jsonl");
    printed(&export(&whole).output().unwrap());
    let whole = messages(&unpacked(&whole));
    for name in ["killed.jsonl", "killed.jsonl.gz"] {
        let (file, part) = (path(&files, name), path(&files, &format!("{name}.part")));
        let mut reached = 0;
        for round in 0..3 {
            // First beside the server, in the end without one.
            if round == 2 {
                forebay.stop();
            }
            let child = export(&file).spawn().unwrap();
            // More than what says what is exported.
            let is_far = || size(Path::new(&part)) > reached.max(2_000);
            assert!(killed_when(child, is_far), "it ended before it was killed");
            reached = size(Path::new(&part));
            assert!(!Path::new(&file).exists());
        }
        // As a crash of the machine may leave it: without the end of the last piece.
        File::options().write(true).open(&part).unwrap().set_len(reached - 1_000).unwrap();
        let other = complaint(&forebay.command(&["export", &file, "--to", "5"]));
        assert!(other.contains("was asked for with other options"), "{other}");
        forebay.restart();
        printed(&export(&file).output().unwrap());
        assert!(!Path::new(&part).exists());
        assert!(messages(&unpacked(&file)) == whole, "{name} is not what one without interruption is");
        printed(&command(&files.path().join(name.len().to_string()), &["import", &file]).output().unwrap());
    }

    // The server is killed, not the command.
    let (file, part) = (path(&files, "cut.jsonl"), path(&files, "cut.jsonl.part"));
    let child = export(&file).spawn().unwrap();
    wait_for("something to be exported", 60, || (size(Path::new(&part)) > 0).then_some(()));
    forebay.kill();
    let broken = complaint(&child.wait_with_output().unwrap());
    assert!(broken.contains("run the same command again to go on"), "{broken}");
    forebay.restart();
    printed(&export(&file).output().unwrap());
    assert!(messages(&unpacked(&file)) == whole);
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_stopped() {
    let (old, files) = (filled(), tempfile::tempdir().unwrap());
    let file = path(&files, "all.jsonl.zst");
    let (before, count) = (digest(&old), last(&old));
    printed(&old.command(&["export", &file, "--to", &count.to_string()]));

    let dir = tempfile::tempdir().unwrap();
    let mut enough = 0;
    for round in 0..3 {
        enough = size(&dir.path().join("nats")) + 1_000_000;
        let child =
            command(dir.path(), &["import", &file]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let nats = dir.path().join("nats");
        assert!(killed_when(child, || size(&nats) > enough), "round {round}: it ended before it was killed");
    }
    assert!(enough > 0);
    assert_eq!(
        printed(&command(dir.path(), &["import", &file]).output().unwrap()),
        format!("imported {count} messages\n")
    );
    let new = Forebay::start_in(dir, Options { own_credentials: true, ..Options::default() });
    assert_eq!(digest(&new), before);

    // The server is killed, not the command.
    let mut new = Forebay::start(Options { own_credentials: true, ..Options::default() });
    let child = command(new.dir(), &["import", &file]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("something to be imported", 60, || (last(&new) > 300).then_some(()));
    new.kill();
    let broken = complaint(&child.wait_with_output().unwrap());
    assert!(broken.contains("the same export again and it goes on"), "{broken}");
    new.restart();
    let there = last(&new);
    assert!((300..count).contains(&there), "it was killed in the middle: {there}");
    // And its log, which it starts again by itself.
    let child = command(new.dir(), &["import", &file]).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    new.kill_nats();
    let said = printed(&child.wait_with_output().unwrap());
    assert!(said.starts_with(&format!("imported {count} messages\n")), "{said}");
    assert!(said.contains("its connection default is default-550e8400 here"), "{said}");
    assert_eq!(digest(&new), before);
    assert_eq!(new.api.job(&job_id("job-1")).unwrap()["state"], "completed");
    assert_eq!(new.api.ingest(&[]).unwrap().status, 202, "its key is good all the same");
}

#[test]
fn what_is_cut_off_damaged_or_something_else_is_refused_and_changes_nothing() {
    let (forebay, files) = (Forebay::start(Options::default()), tempfile::tempdir().unwrap());
    let events: Vec<Value> = job_events(&mut StdRng::seed_from_u64(1), 1);
    for event in events {
        assert_eq!(forebay.api.ingest(&[event]).unwrap().status, 202);
    }
    let nowhere = files.path().join("not-made");
    let refused = |name: &str, content: &[u8], why: &str| {
        let file = path(&files, name);
        std::fs::write(&file, content).unwrap();
        let said = complaint(&command(&nowhere, &["import", &file]).output().unwrap());
        assert!(said.starts_with(&format!("{file} is not imported: ")) && said.contains(why), "{said}");
        assert!(!nowhere.exists(), "no directory is made for it");
    };
    for name in ["all.jsonl", "all.jsonl.gz", "all.jsonl.zst"] {
        let whole = path(&files, name);
        printed(&forebay.command(&["export", &whole]));
        let mut content = Vec::new();
        File::open(&whole).unwrap().read_to_end(&mut content).unwrap();
        for end in [content.len() / 2, content.len() - 3] {
            refused(&format!("cut-{name}"), &content[..end], "the export is incomplete");
        }
        let middle = content.len() / 2;
        content[middle] ^= 1;
        refused(&format!("damaged-{name}"), &content, "");
    }
    let plain = unpacked(&path(&files, "all.jsonl"));
    let newer = String::from_utf8(plain).unwrap().replacen("\"version\":1", "\"version\":2", 1);
    refused("newer.jsonl", newer.as_bytes(), "format version 2");
    refused("events.jsonl", b"{\"events\":[]}\n", "this is not an export of forebay");
    refused("empty.jsonl", b"", "this is not an export of forebay");
    assert!(complaint(&command(&nowhere, &["import", "/nowhere/at-all"]).output().unwrap()).starts_with("cannot read"));
    assert!(complaint(&command(&nowhere, &["export", &path(&files, "x")]).output().unwrap()).contains("no data"));

    let notes = path(&files, "notes.part");
    std::fs::write(&notes, "{\"my\":\"notes\"}\n").unwrap();
    let foreign = complaint(&forebay.command(&["export", &path(&files, "notes")]));
    assert!(foreign.contains("notes.part is not an export that broke off"), "{foreign}");
    assert_eq!(std::fs::read_to_string(&notes).unwrap(), "{\"my\":\"notes\"}\n");
    for (arguments, why) in
        [(["--from", "yesterday"], "Invalid from"), (["--connection", "nobody"], "Connection not found")]
    {
        let file = path(&files, "refused.jsonl");
        let said = complaint(&forebay.command(&[&["export", &file][..], &arguments].concat()));
        assert!(said.contains(why) && !Path::new(&format!("{file}.part")).exists(), "{said}");
    }
}
