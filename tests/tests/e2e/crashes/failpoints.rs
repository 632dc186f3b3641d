//! The process dies at each step that has a name, one after the other, and goes on as if nothing had happened.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use failpoints::Point;
use forebay_tests::{Answer, Forebay, Options, forebay_binary, wait_for};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::world::{reason, verify, wait_until_whole};
use super::{spool, trims};

/// More than a chunk of rows.
const JOBS_AT_ONCE: usize = 40;
/// So many batches are posted until a step is reached.
const POSTS: u32 = 6;
/// Between two of them.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// After so many steps a directory has enough of it.
const STEPS: u32 = 5;
/// How long a step may take to be reached.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const SIGABRT: i32 = 6;
const FOLD_VERSION: &str = "FOREBAY_TEST_FOLD_VERSION";

/// What makes the process pass a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Events come in.
    Follow,
    /// A batch comes in that is more than one message.
    LargeBatch,
    /// It is asked to stop.
    Stop,
    /// It is started for the first time.
    FirstStart,
    /// It finds its views damaged.
    Damage,
    /// The views are rebuilt while events come in.
    Rebuild,
    /// A rebuild is undone.
    Rollback,
    /// The views of before a rebuild are removed.
    Discard,
    /// The log was made anew, and somebody lets its views serve.
    Promote,
    /// Another version of the fold finds the views of the one before.
    Upgrade,
    /// The same, and it has prepared its own.
    Prepared,
    /// The log is exported.
    Export,
    /// Another test dies there.
    Elsewhere,
    /// An export is read in.
    Import,
    /// The log forgets its beginning.
    Trim,
    /// A broker tells of jobs while the log is away.
    Spool,
}

/// How each step is come by, and the how manieth time it is reached is the last. Where seconds are given, what sled holds
/// goes to the disk before the end; without that, most of what was written last is lost with the process.
fn way(point: Point) -> (Way, u64, u64) {
    match point {
        Point::LogSent | Point::LogAcknowledged | Point::IngestStored => (Way::Follow, 5, 0),
        Point::IngestPart => (Way::LargeBatch, 1, 0),
        Point::StageBefore | Point::StageAfter => (Way::Follow, 3, 0),
        Point::FlushAfter => (Way::Follow, 3, 1),
        // In the midst of the chunks of one flush.
        Point::RowsBefore | Point::RowsAfter => (Way::Follow, 4, 1),
        Point::PagesBefore | Point::PagesAfter | Point::CheckpointBefore | Point::CheckpointAfter => {
            (Way::Follow, 2, 1)
        }
        Point::Close => (Way::Stop, 1, 0),
        Point::Created => (Way::FirstStart, 1, 1),
        Point::AsideBefore | Point::AsideAfter => (Way::Damage, 1, 0),
        Point::BulkRow => (Way::Rebuild, 50, 1),
        Point::BulkRows | Point::BulkPages | Point::BulkTally | Point::BulkCheckpoint => (Way::Rebuild, 1, 1),
        Point::Scattered
        | Point::BulkFlushed
        | Point::Finished
        | Point::CaughtUp
        | Point::Compared
        | Point::Surrendered
        | Point::CurrentBefore
        | Point::CurrentAfter
        | Point::Switched
        | Point::MarkBefore
        | Point::MarkAfter
        | Point::SwitchBefore
        | Point::SwitchAfter => (Way::Rebuild, 1, 0),
        Point::StartOverBefore | Point::StartOverAfter => (Way::Promote, 1, 0),
        Point::RemoveBefore | Point::RemoveUnmarked | Point::RemoveAfter => (Way::Discard, 1, 0),
        // Of these, what is written is to be on disk.
        Point::CutReplaced | Point::CutWritten | Point::SweepChunk | Point::SweepEnd => (Way::Trim, 1, 1),
        Point::TrimFound
        | Point::TrimNamed
        | Point::TrimTold
        | Point::CutBefore
        | Point::CutForgotten
        | Point::CutSynced
        | Point::TrimUnnamed
        | Point::PurgeBefore
        | Point::PurgeAfter
        | Point::NoteBefore
        | Point::TotalsBefore => (Way::Trim, 1, 0),
        // When the cut is done; it was begun with the first.
        Point::TotalsAfter => (Way::Trim, 2, 0),
        Point::SpoolBefore | Point::SpoolAfter => (Way::Spool, 3, 0),
        Point::SpoolPublished => (Way::Spool, 1, 0),
        Point::ExportLine => (Way::Export, 25, 0),
        Point::ExportBefore | Point::ExportAfter => (Way::Export, 1, 0),
        Point::ImportBegun => (Way::Import, 1, 0),
        Point::ImportSent => (Way::Import, 25, 0),
        Point::ImportBefore | Point::ImportAfter => (Way::Import, 2, 0),
        // Beside the webhook that they are about.
        Point::AlertKept | Point::AlertSent => (Way::Elsewhere, 1, 0),
    }
}

/// Steps that more than one way leads over.
const AGAIN: [(Point, Way); 16] = [
    (Point::BulkRows, Way::Upgrade),
    (Point::Finished, Way::Upgrade),
    (Point::CurrentBefore, Way::Upgrade),
    (Point::CurrentAfter, Way::Upgrade),
    (Point::StartOverBefore, Way::Upgrade),
    (Point::CurrentBefore, Way::Prepared),
    (Point::MarkBefore, Way::Prepared),
    (Point::CurrentBefore, Way::Rollback),
    (Point::CurrentAfter, Way::Rollback),
    (Point::MarkAfter, Way::Rollback),
    (Point::SwitchBefore, Way::Rollback),
    (Point::TotalsAfter, Way::Promote),
    (Point::CurrentBefore, Way::Promote),
    (Point::CurrentAfter, Way::Promote),
    (Point::MarkBefore, Way::Promote),
    (Point::MarkAfter, Way::Promote),
];

/// From here on the new views have taken the place of the old ones.
const REPLACED: [Point; 4] = [Point::CurrentAfter, Point::Switched, Point::SwitchBefore, Point::SwitchAfter];

/// All steps that these ways lead over. `FAILPOINT` names one step, to look into it alone.
fn steps(ways: &[Way]) -> impl Iterator<Item = (Point, Way, u64, u64)> {
    let only = std::env::var("FAILPOINT").ok();
    let once = Point::ALL.iter().map(|point| (*point, way(*point)));
    let again = AGAIN.iter().map(|(point, its_way)| (*point, (*its_way, 1, 0)));
    let steps = once.chain(again).map(|(point, (way, count, seconds))| (point, way, count, seconds));
    steps.filter(move |(point, way, ..)| ways.contains(way) && only.as_ref().is_none_or(|only| only == point.name()))
}

/// Dies at all steps that these ways lead over.
fn die_on(ways: &[Way]) {
    let mut lane = None;
    for (point, way, count, seconds) in steps(ways) {
        let began = Instant::now();
        eprintln!("{} by {way:?}", point.name());
        let lane = match lane.take_if(|lane: &mut Lane| lane.steps == STEPS) {
            None => lane.get_or_insert_with(Lane::new),
            Some(_) => lane.insert(Lane::new()),
        };
        lane.steps += 1;
        lane.die_at(point, way, count, seconds);
        eprintln!("{} by {way:?}: {:.1} s", point.name(), began.elapsed().as_secs_f64());
    }
}

#[test]
fn a_crash_at_any_step_from_the_sender_to_the_checkpoint_is_no_crash() {
    die_on(&[Way::Follow, Way::LargeBatch, Way::Stop, Way::FirstStart, Way::Damage]);
}

#[test]
fn a_crash_at_any_step_of_a_rebuild_is_no_crash() {
    die_on(&[Way::Rebuild, Way::Rollback, Way::Discard, Way::Promote, Way::Upgrade, Way::Prepared]);
}

#[test]
fn a_crash_at_any_step_of_an_export_or_import_is_no_crash() {
    die_on(&[Way::Export, Way::Import]);
}

#[test]
fn a_crash_at_any_step_of_a_trim_is_no_crash() {
    let steps = steps(&[Way::Trim]).map(|(point, _, count, seconds)| (point, count, seconds));
    trims::die_at_each(&steps.collect::<Vec<_>>());
}

#[test]
fn a_crash_at_any_step_of_the_spool_is_no_crash() {
    for (point, _, count, _) in steps(&[Way::Spool]) {
        spool::die_at(point, count);
    }
}

/// One directory that goes through step after step.
struct Lane {
    forebay: Forebay,
    armed: PathBuf,
    ledger: Ledger,
    /// Jobs from here on are those of the log that there is.
    first: usize,
    random: StdRng,
    files: tempfile::TempDir,
    steps: u32,
    /// Of the fold.
    version: u32,
}

impl Lane {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let armed = files.path().join("armed");
        let forebay = Forebay::start(options(&armed));
        let (ledger, random) = (Ledger::default(), StdRng::seed_from_u64(1));
        Self { forebay, armed, ledger, first: 0, random, files, steps: 0, version: 100 }
    }

    fn die_at(&mut self, point: Point, way: Way, count: u64, seconds: u64) {
        let arm = |lane: &Self| arm(&lane.armed, &format!("{} {count} {seconds}", point.name()));
        match way {
            Way::FirstStart => return self.first_start(point, arm),
            Way::Export => return self.export(point, arm),
            Way::Import => return self.import(point, arm),
            _ => self.post(),
        }
        match way {
            Way::Rollback | Way::Discard => self.rebuild(),
            Way::Damage => {
                self.forebay.stop();
                let views = self.forebay.dir().join("views");
                let current = fs::read_to_string(views.join("CURRENT")).unwrap();
                fs::write(views.join(current.trim()).join("CONDEMNED"), "by a test").unwrap();
            }
            Way::Promote => {
                // More than the new log will hold, so that whatever is counted twice is told.
                (0..3).for_each(|_| self.post());
                self.make_the_log_anew();
            }
            Way::Upgrade => {
                self.become_newer();
                self.forebay.stop();
            }
            Way::Prepared => {
                self.become_newer();
                let prepared = self.forebay.command(&["rebuild", "--prepare"]);
                assert!(prepared.status.success(), "{prepared:?}");
                self.forebay.stop();
            }
            _ => {}
        }
        let totals = (way == Way::Promote).then(|| self.totals());
        arm(self);
        let api = self.forebay.api.clone();
        let ask = |answer: Option<Answer>| {
            assert!(answer.as_ref().is_none_or(|answer| answer.status < 300), "{answer:?}");
        };
        match way {
            Way::LargeBatch => self.post_large(),
            Way::Stop => self.forebay.process().ask_to_stop(),
            Way::Damage | Way::Upgrade | Way::Prepared => self.forebay.launch(),
            Way::Rebuild => ask(api.try_post("/api/rebuilds", &json!({}))),
            Way::Rollback => ask(api.try_post("/api/rebuilds", &json!({ "rollback": true }))),
            Way::Discard => ask(api.try_delete("/api/rebuilds/previous")),
            Way::Promote => {
                let begun = api.try_post("/api/rebuilds", &json!({})).unwrap();
                let path = format!("/api/rebuilds/{}", begun.body["id"].as_str().unwrap());
                wait_for("the rebuild to wait for a person", 60, || {
                    let status = api.try_get(&path)?.body;
                    (status["state"] == "verifying" && status["reason"].is_string()).then_some(())
                });
                ask(api.try_post(&format!("{path}/promote"), &json!({})));
            }
            _ => {}
        }
        let posts = if matches!(way, Way::Follow | Way::Rebuild | Way::Rollback) { POSTS } else { 0 };
        self.wait_until_dead(point, posts);
        self.go_on();
        if let Some(totals) = totals {
            assert_eq!(self.totals(), totals, "nothing is counted twice");
        }
        if way == Way::Rebuild && REPLACED.contains(&point) {
            let back = self.forebay.command(&["rebuild", "--rollback"]);
            assert!(back.status.success(), "the views of before can be gone back to: {back:?}");
        }
        self.check();
    }

    /// Waits until the process has died at the step.
    fn wait_until_dead(&mut self, point: Point, mut posts: u32) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.forebay.ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "the step {} was never reached", point.name());
            if posts > 0 {
                posts -= 1;
                self.post();
            }
            std::thread::sleep(PAUSE);
        };
        assert_died(status, point);
    }

    /// Starts it again, and lets it run its way.
    fn go_on(&mut self) {
        fs::remove_file(&self.armed).unwrap();
        self.forebay.launch();
        let is_there = |health: &Value| health["status"] == "ok" || reason(health) == "LOG_CHANGED";
        self.forebay.wait_until("answer", is_there);
        if reason(&self.forebay.health()) == "LOG_CHANGED" {
            // The views of the log before are still the ones that count, and still it takes a person.
            let promoted = self.forebay.command(&["rebuild", "--promote"]);
            assert!(promoted.status.success(), "{promoted:?}");
        }
        self.forebay.wait_until_well();
        // A rebuild that was under way is begun again, and comes to its end.
        wait_for("what was interrupted to be done", 60, || {
            let rebuilds = self.forebay.api.try_get("/api/rebuilds")?.body;
            let mut states = rebuilds["data"].as_array()?.iter().map(|rebuild| rebuild["state"].as_str());
            let is_over = |state| matches!(state, Some("completed" | "aborted"));
            states.all(is_over).then_some(())
        });
    }

    /// Posts a batch; what of it was acknowledged is noted.
    fn post(&mut self) {
        let events = self.ledger.plan(&mut self.random, JOBS_AT_ONCE);
        for part in events.chunks(50) {
            let bodies: Vec<Value> = part.iter().map(|planned| planned.event.clone()).collect();
            match self.forebay.api.ingest(&bodies) {
                Some(answer) if answer.status == 202 => self.ledger.acknowledge(part),
                // It dies, or is about to.
                Some(answer) => return assert_eq!(answer.status, 503, "{}", answer.body),
                None => return,
            }
        }
    }

    /// A batch of more than one message: what stands in a message of the log is at most 4 MB.
    fn post_large(&mut self) {
        let events = self.ledger.plan(&mut self.random, 28);
        let mut bodies: Vec<Value> = events.iter().map(|planned| planned.event.clone()).collect();
        for body in &mut bodies {
            body["job"]["args"] = json!(["x".repeat(55_000)]);
        }
        let answer = self.forebay.api.ingest(&bodies);
        assert!(answer.is_none(), "it was to die before it could answer: {answer:?}");
    }

    /// All is recorded, the views are the fold of the log, and a rebuild changes nothing.
    fn check(&mut self) {
        wait_until_whole(&self.forebay);
        self.ledger.check(&self.forebay.api, self.first..self.ledger.len());
        self.first = self.ledger.len();
        verify(&mut self.forebay);
        self.rebuild();
    }

    /// Rebuilds the views, which changes nothing in them.
    fn rebuild(&self) {
        let rebuilt = self.forebay.command(&["rebuild", "--json"]);
        let status: Value = serde_json::from_slice(&rebuilt.stdout).unwrap_or_else(|_| panic!("{rebuilt:?}"));
        assert_eq!((&status["state"], &status["sameAsBefore"]), (&json!("completed"), &json!(true)), "{status:#}");
    }

    /// How often each task was told to have ended well, as Prometheus reads it.
    fn totals(&self) -> Vec<String> {
        let told = self.forebay.metrics();
        let totals: Vec<String> =
            told.lines().filter(|line| line.starts_with("celery_task_succeeded_total")).map(str::to_owned).collect();
        assert!(!totals.is_empty(), "{told}");
        totals
    }

    /// The program that runs next folds by the next version.
    fn become_newer(&mut self) {
        self.version += 1;
        let version = self.version.to_string();
        let environment = self.forebay.environment();
        environment.retain(|(name, _)| *name != FOLD_VERSION);
        environment.push((FOLD_VERSION, version));
    }

    /// The log is deleted and another one begun; the views of the old one answer on.
    fn make_the_log_anew(&mut self) {
        self.forebay.stop();
        fs::remove_dir_all(self.forebay.dir().join("nats/jetstream")).unwrap();
        self.forebay.launch();
        self.forebay.wait_until("notice the other log", |health| reason(health) == "LOG_CHANGED");
        self.first = self.ledger.len();
        self.post();
    }

    fn first_start(&self, point: Point, arm: impl FnOnce(&Self)) {
        arm(self);
        let mut new = Forebay::launch_in(tempfile::tempdir().unwrap(), options(&self.armed));
        assert_died(wait_for("the first start to end", 30, || new.ended()), point);
        fs::remove_file(&self.armed).unwrap();
        new.restart();
        verify(&mut new);
    }

    /// The command dies, and does the rest when it is run again.
    fn export(&mut self, point: Point, arm: impl FnOnce(&Self)) {
        (0..15).for_each(|_| self.post());
        let file = self.files.path().join(format!("{}.jsonl", point.name()));
        let export = || self.command(&["export", file.to_str().unwrap()]);
        arm(self);
        assert_died(export(), point);
        fs::remove_file(&self.armed).unwrap();
        // Where it had its name already nothing is left to be done.
        assert_eq!(export().success(), point != Point::ExportAfter);
        let text = fs::read_to_string(&file).unwrap();
        let last = self.forebay.health()["log"]["lastSequence"].as_u64().unwrap();
        assert!(text.lines().count() as u64 >= last.saturating_sub(5), "the export is whole");
        self.import_into(&mut Forebay::start(options(&self.armed)), &file);
    }

    /// A server dies of an import, and takes the rest when it is given the same again.
    fn import(&mut self, point: Point, arm: impl FnOnce(&Self)) {
        (0..15).for_each(|_| self.post());
        let file = self.files.path().join(format!("{}.jsonl", point.name()));
        assert!(self.command(&["export", file.to_str().unwrap()]).success());
        let mut new = Forebay::start(options(&self.armed));
        arm(self);
        let refused = new.command(&["import", file.to_str().unwrap()]);
        assert!(!refused.status.success(), "{refused:?}");
        assert_died(wait_for("the server to die", 30, || new.ended()), point);
        fs::remove_file(&self.armed).unwrap();
        new.restart();
        self.import_into(&mut new, &file);
    }

    /// Reads the export in, whole, and holds its views against ours.
    fn import_into(&mut self, new: &mut Forebay, file: &Path) {
        let imported = new.command(&["import", file.to_str().unwrap()]);
        assert!(imported.status.success(), "{imported:?}");
        let digest = |forebay: &Forebay| {
            wait_for("the views to hold the whole log", 60, || {
                let health = forebay.health();
                let whole = health["views"]["sequence"] == health["log"]["lastSequence"];
                whole.then(|| health["views"]["digest"].clone())
            })
        };
        assert_eq!(digest(new), digest(&self.forebay));
        verify(new);
        self.ledger.check(&new.api, self.first..self.ledger.len());
        self.first = self.ledger.len();
    }

    fn command(&self, arguments: &[&str]) -> ExitStatus {
        let mut command = Command::new(forebay_binary());
        command.args(arguments).arg("--data-dir").arg(self.forebay.dir()).env("FOREBAY_FAILPOINTS", &self.armed);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
    }
}

pub(super) fn options(armed: &Path) -> Options {
    let environment = vec![("FOREBAY_FAILPOINTS", armed.to_str().unwrap().to_owned())];
    Options { environment, ..Options::default() }
}

/// All or nothing: the process looks into the file at any moment.
pub(super) fn arm(armed: &Path, text: &str) {
    let new = armed.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, armed).unwrap();
}

pub(super) fn assert_died(status: ExitStatus, point: Point) {
    assert_eq!(status.signal(), Some(SIGABRT), "it was to die at {}, and ended with {status}", point.name());
}
