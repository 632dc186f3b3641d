//! What suffers: a Forebay, its log, and the disk of both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use event_log::testing::{SmallDisk, TestServer};
use forebay_tests::{Flood, Forebay, Options, Redis, job_id, wait_for};
use rand::Rng as _;
use rand::rngs::StdRng;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::people::People;

/// Who runs the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// Forebay, as its own child.
    Embedded,
    /// Somebody else.
    External,
}

/// A Forebay with all that belongs to it.
pub(super) struct World<'a> {
    pub(super) forebay: Forebay,
    nats: Option<TestServer>,
    redis: Redis,
    flood: Flood,
    /// Jobs that came over the broker.
    streamed: u64,
    disk: Option<&'a SmallDisk>,
}

impl<'a> World<'a> {
    pub(super) fn new(server: Server, seed: u64, disk: Option<&'a SmallDisk>) -> Self {
        let redis = Redis::start();
        let nats = (server == Server::External).then(TestServer::start);
        let mut options = Options::celery(&[redis.url(0)]);
        if let Some(nats) = &nats {
            options.arguments.extend(["--nats-url".to_owned(), format!("nats://{}", nats.address())]);
        }
        let dir = disk.map_or_else(tempfile::tempdir, |disk| tempfile::tempdir_in(disk.path())).unwrap();
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        Self {
            forebay: Forebay::start_in(dir, options),
            nats,
            redis,
            flood: Flood::new(seed, start),
            streamed: 0,
            disk,
        }
    }

    pub(super) fn kill_forebay(&mut self, people: &People) {
        people.down();
        self.forebay.kill();
    }

    /// Starts it, again if it ends because of what it found, as whoever supervises it would.
    pub(super) fn start_forebay(&mut self, people: &People) {
        self.forebay.launch();
        self.wait_until_well(people);
    }

    /// Waits until all is well, and starts again what has ended.
    pub(super) fn wait_until_well(&mut self, people: &People) {
        wait_for("all to be well again", 90, || {
            if self.forebay.ended().is_some() {
                people.down();
                self.forebay.launch();
            }
            self.forebay.is(|health| health["status"] == "ok").then_some(())
        });
        people.up(&self.forebay.api);
    }

    /// The log's server dies, and lives again after a while.
    pub(super) fn kill_nats(&mut self, away: Duration) {
        match &mut self.nats {
            None => self.forebay.kill_nats(),
            Some(nats) => {
                nats.kill();
                std::thread::sleep(away);
                nats.restart();
            }
        }
    }

    /// The log's server dies, and whoever runs it sees to it when he comes to it.
    pub(super) fn strike_nats_down(&mut self) {
        match &mut self.nats {
            None => kill_process(self.forebay.nats(), Signal::KILL).unwrap(),
            Some(nats) => nats.kill(),
        }
    }

    /// The log's server lives, if it was struck down.
    pub(super) fn raise_nats(&mut self) {
        if let Some(nats) = &mut self.nats {
            nats.restart();
        }
    }

    /// The log's server stands still for a while.
    pub(super) fn pause_nats(&mut self, how_long: Duration) {
        let nats = self.nats.as_ref().map_or_else(|| self.forebay.nats(), TestServer::pid);
        kill_process(nats, Signal::STOP).unwrap();
        std::thread::sleep(how_long);
        kill_process(nats, Signal::CONT).unwrap();
    }

    /// What Celery publishes while the log is away is kept until the log is back.
    pub(super) fn stream_goes_on(&mut self) {
        let (messages, jobs) = self.flood.messages(60, 7);
        self.redis.publish("/0.celeryev/task.multi", &messages);
        for job in &jobs {
            wait_for("a job of the stream to be recorded", 60, || {
                self.forebay.api.job(&job_id(&job.id)).filter(|record| record["state"] == job.state)
            });
        }
        self.streamed += jobs.len() as u64;
    }

    /// Jobs that came over the broker.
    pub(super) fn streamed(&self) -> u64 {
        self.streamed
    }

    /// Does something with the directory of the log while its server is stopped.
    pub(super) fn with_log_stopped(&mut self, people: &People, work: impl FnOnce(&Path)) {
        if let Some(nats) = &mut self.nats {
            nats.stop();
            work(&nats.store());
            return nats.restart();
        }
        people.down();
        self.forebay.stop();
        work(&self.forebay.dir().join("nats/jetstream"));
        self.forebay.launch();
    }

    /// Fills the disk, for so long.
    pub(super) fn fill_disk(&mut self, how_long: Duration) {
        let disk = self.disk.expect("there is a small disk where this is asked for");
        let until = Instant::now() + how_long;
        // Others may free some of it meanwhile.
        while Instant::now() < until {
            disk.fill(0);
            std::thread::sleep(Duration::from_millis(10));
        }
        disk.relieve();
        self.wait_for_what_comes_of_it();
    }

    /// A write that met the full disk may fail a while after there is room again: until one that came later has lasted,
    /// or the process has ended of it, nobody knows which it is.
    fn wait_for_what_comes_of_it(&mut self) {
        let first = std::cell::Cell::new(None);
        wait_for("a write to last, or the process to end", 90, || {
            let has_lasted = |health: &Value| {
                let last = health["log"]["lastSequence"].as_u64();
                if first.get().is_none() {
                    first.set(last);
                }
                first.get().is_some_and(|first| health["views"]["sequence"].as_u64() > Some(first))
            };
            (self.forebay.ended().is_some() || self.forebay.is(has_lasted)).then_some(())
        });
    }

    /// Damages one of the files of the views that serve; says how.
    pub(super) fn damage_views(&self, random: &mut StdRng) -> String {
        let views = self.forebay.dir().join("views");
        let current = fs::read_to_string(views.join("CURRENT")).unwrap();
        let mut files = Vec::new();
        find_files(&views.join(current.trim()), &mut files);
        let file = &files[random.random_range(0..files.len())];
        let mut bytes = fs::read(file).unwrap();
        let place = random.random_range(0..bytes.len().max(1));
        let how = if random.random_bool(0.5) || bytes.is_empty() {
            bytes.truncate(place);
            "cut off"
        } else {
            bytes[place] ^= 1 << random.random_range(0..8);
            "a bit flipped"
        };
        fs::write(file, &bytes).unwrap();
        format!("{} {how} at {place}", file.strip_prefix(&views).unwrap().display())
    }

    /// Waits until the views hold all of the log.
    pub(super) fn wait_until_whole(&self) {
        wait_until_whole(&self.forebay);
    }

    /// Holds the views against a fresh replay.
    pub(super) fn verify(&mut self) {
        verify(&mut self.forebay);
    }

    /// How many jobs the views hold.
    pub(super) fn jobs(&self) -> u64 {
        self.forebay.api.get("/api/jobs?limit=1").body["pagination"]["total"].as_u64().unwrap()
    }
}

/// Waits until the log holds all that was spooled, and the views all of the log.
pub(crate) fn wait_until_whole(forebay: &Forebay) {
    let deadline = Instant::now() + Duration::from_secs(60);
    // One after the other: an answer may tell of the views as they were before the spool's last event.
    let mut drained = false;
    loop {
        let health = forebay.health();
        if drained && health["projector"]["lagEvents"] == 0 {
            return;
        }
        drained = health["spool"]["events"].as_u64().unwrap_or_default() == 0;
        assert!(Instant::now() < deadline, "the views do not catch up with the log: {health:#}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// `forebay verify` finds the views equal to a fresh replay of the log.
pub(crate) fn verify(forebay: &mut Forebay) {
    let verified = forebay.command(&["verify"]);
    let ended = forebay.ended();
    assert!(verified.status.success(), "the views are not those of the log: {verified:?}, server {ended:?}");
}

/// The word for what is the matter.
pub(super) fn reason(health: &Value) -> &str {
    health["reason"].as_str().unwrap_or_default()
}

/// A copy of a directory, which is replaced where it is there.
pub(crate) fn copy(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success(), "cp fails");
}

/// A place for a copy.
pub(super) fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn find_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { find_files(&path, found) } else { found.push(path) }
    }
    found.sort();
}
