//! Who reads meanwhile: people at their dashboards, Prometheus, and who follows the stream.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use forebay_tests::{Api, Forebay};

use super::Recent;

/// People, and between two of their requests.
const PEOPLE: usize = 2;
const PAUSE: Duration = Duration::from_millis(25);
/// Between two scrapes.
const SCRAPE: Duration = Duration::from_secs(15);
/// Between two who only look in at the stream.
const VISIT: Duration = Duration::from_secs(1);
/// A job that was published so long ago can be read.
const SURELY: Duration = Duration::from_secs(5);
/// Who visits the stream gives up after so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// So often the stream may be too fast for who follows it, on a machine of few cores that does all the rest as well.
const OVERFLOWS: u64 = 3;
/// What is missed each time at most: the frames that the server keeps. Going on after the last one that was seen would
/// bring none of them back, since they are too old by then.
const MISSED: u64 = 100_000;

/// What a dashboard asks, page by page.
const PAGES: [&str; 16] = [
    "/",
    "/api/overview?timeRange=1h",
    "/api/jobs?limit=50",
    "/api/jobs?limit=50&state=failed&sortBy=durationMs&sortOrder=desc",
    "/api/jobs?limit=50&queue=q1&search=task_7",
    "/api/jobs?limit=50&attemptAtLeast=2&worker=celery@worker-3&sortBy=startedAt",
    "/api/tasks?timeRange=1h",
    "/api/tasks/app.tasks.task_7?timeRange=1h",
    "/api/failures?timeRange=1h",
    "/api/workers",
    "/api/queues?timeRange=1h",
    "/api/coverage",
    "/api/health",
    "/api/audit",
    "/api/connections",
    "/flower/api/tasks?limit=20",
];

/// How often what was read.
#[derive(Debug, Default)]
pub(super) struct Read {
    requests: u64,
    jobs: u64,
    scrapes: u64,
    visits: u64,
    /// Changes of jobs that the stream told.
    told: u64,
    /// Times that the stream was too fast for who follows it.
    overflows: u64,
}

impl Read {
    fn and(self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            jobs: self.jobs + other.jobs,
            scrapes: self.scrapes + other.scrapes,
            visits: self.visits + other.visits,
            told: self.told + other.told,
            overflows: self.overflows + other.overflows,
        }
    }

    /// Everybody has read, and who follows the stream was told of each job and its states.
    pub(super) fn check(&self, jobs: u64) {
        assert!(self.requests > 100 && self.jobs > 10 && self.scrapes > 0 && self.visits > 10, "{self:?}");
        assert!(self.overflows <= OVERFLOWS, "the stream was too fast: {self:?}");
        let told = self.told + self.overflows * MISSED;
        assert!(told >= 3 * jobs * 99 / 100, "of {jobs} jobs the stream told {self:?}");
    }
}

/// All of them.
pub(super) struct Readers<'scope>(Vec<ScopedJoinHandle<'scope, Read>>);

impl<'scope> Readers<'scope> {
    pub(super) fn begin<'a: 'scope>(
        scope: &'scope Scope<'scope, '_>,
        forebay: &'a Forebay,
        recent: &'a Recent,
        over: &'a AtomicBool,
    ) -> Self {
        let mut handles: Vec<_> =
            (0..PEOPLE).map(|number| scope.spawn(move || look(&forebay.api, number, recent, over))).collect();
        handles.push(scope.spawn(|| scrape(forebay, over)));
        handles.push(scope.spawn(|| follow(&forebay.api, over)));
        handles.push(scope.spawn(|| visit(&forebay.api, over)));
        Self(handles)
    }

    /// Whether one of them has ended, which they do when they are told to, or when something is wrong.
    pub(super) fn have_ended(&self) -> bool {
        self.0.iter().any(ScopedJoinHandle::is_finished)
    }

    pub(super) fn join(self) -> Read {
        self.0.into_iter().map(|handle| handle.join().unwrap()).fold(Read::default(), |sum, read| sum.and(&read))
    }
}

/// A person: page after page, the next page of a list, and some job that came in lately.
fn look(api: &Api, number: usize, recent: &Recent, over: &AtomicBool) -> Read {
    let mut read = Read::default();
    let mut get = |path: &str| {
        let answer = api.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        read.requests += 1;
        std::thread::sleep(PAUSE);
        answer.body
    };
    let mut jobs = 0;
    for turn in number.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let path = PAGES[turn % PAGES.len()];
        let page = get(path);
        if let Some(cursor) = page["pagination"]["nextCursor"].as_str() {
            get(&format!("{path}&cursor={cursor}"));
        }
        let job = {
            let recent = recent.lock().unwrap();
            let sure = recent.iter().rev().find(|(published, _)| published.elapsed() > SURELY);
            sure.map(|(_, job)| job.clone())
        };
        if let Some(job) = job {
            let record = get(&format!("/api/jobs/{}", job.id));
            assert_eq!(record["state"], job.state, "{record:#}");
            get(&format!("/api/jobs/{}/events", job.id));
            get(&format!("/api/jobs/{}/tree", job.id));
            jobs += 1;
        }
    }
    read.jobs = jobs;
    read
}

fn scrape(forebay: &Forebay, over: &AtomicBool) -> Read {
    let (mut read, mut last) = (Read::default(), None::<Instant>);
    while !over.load(Ordering::Relaxed) {
        if last.is_none_or(|last| last.elapsed() >= SCRAPE) {
            last = Some(Instant::now());
            assert!(forebay.metrics().contains("celery_task_succeeded_total"));
            read.scrapes += 1;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    read
}

/// The stream, from where it is now.
fn open(api: &Api, patience: Duration) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(api.address()).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    let (host, token) = (api.address(), api.token());
    write!(stream, "GET /api/events/stream HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n").unwrap();
    BufReader::with_capacity(1 << 18, stream)
}

/// Who follows the stream all the time.
fn follow(api: &Api, over: &AtomicBool) -> Read {
    // Looks up once a second whether it is over.
    let open = || open(api, Duration::from_secs(1));
    let (mut read, mut stream, mut line) = (Read::default(), open(), Vec::new());
    while !over.load(Ordering::Relaxed) {
        match stream.read_until(b'\n', &mut line) {
            // It was too slow, was told so, and begins anew.
            Ok(0) => stream = open(),
            Ok(_) => {
                read.told += u64::from(line.starts_with(b"event: job:state_change"));
                read.overflows += u64::from(line.starts_with(b"event: overflow"));
            }
            // What has come of a line is kept.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(error) => panic!("the stream broke: {error}"),
        }
        line.clear();
    }
    read
}

/// Who opens the stream, looks at its beginning and goes away without a word.
fn visit(api: &Api, over: &AtomicBool) -> Read {
    let mut read = Read::default();
    while !over.load(Ordering::Relaxed) {
        let mut lines = open(api, PATIENCE).lines();
        assert!(lines.any(|line| line.unwrap().starts_with("retry:")), "a stream begins with when to come back");
        read.visits += 1;
        std::thread::sleep(VISIT);
    }
    read
}
