//! One pass over the whole log: every job folded once, in the order of the ids, whatever the order of the events.
//!
//! This is not the way of live events. A log replayed through it would read, fold and write each job as often as it has
//! events, in random order; the pass sorts the facts by job through temporary files first, so that it does so once.

mod error;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use event_log::{EventLog, LogError, LogMessage, ReadError};
use parking_lot::Mutex;
use projection::Row;
use projection::fleet::{Fleet, FleetFact};
use proto_events::Position;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use views::{Applied, JobFacts, LANDMARK_EVERY, Landmark, Quarantined, Scatter, Told};

use crate::cut::Cut;
use crate::poison::{NOBODY, fact, fold_facts, unusable};

pub use error::PassError;

/// Batches that may wait for each thread that sorts.
const WAITING: usize = 4;
/// Rows that are handed over at once to the one who writes them, and how often so many may wait: one at a time, the
/// threads would wake each other up all the while.
const TOGETHER: usize = 64;
const AHEAD: usize = 4;
/// The priority of threads that sort and fold: whoever reads the views meanwhile, or follows the log, goes first.
const BEHIND: i32 = 10;
/// Between two questions that the log did not answer.
pub(crate) const RETRY: Duration = Duration::from_millis(200);
/// A slow pass works for so long before it rests.
const SPELL: Duration = Duration::from_millis(5);
/// While it rests it looks so often whether it is to stop.
const NAP: Duration = Duration::from_millis(50);
/// The lowest priority there is, for threads of a slow pass.
const NICE: i32 = 19;

/// Events that could not be used, in no order.
type Quarantine = Mutex<Vec<Quarantined>>;

/// How far a pass is, and the way to stop it.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    stop: AtomicBool,
    messages: AtomicU64,
    messages_total: AtomicU64,
    read: AtomicU64,
    folded: AtomicU64,
    /// So many times the time that it worked it rests; `None` for a pass that takes all that it gets.
    rests: Option<u32>,
}

impl Watch {
    /// Of a pass on one thread, which rests so many times as long as it works.
    pub(crate) fn slow(rests: u32) -> Self {
        Self { rests: Some(rests), ..Self::default() }
    }

    fn threads(&self) -> usize {
        if self.rests.is_some() { 1 } else { threads() }
    }

    /// Bytes of the log, as far as the number of parts is concerned: a slow pass holds one for long, so it makes more.
    fn expected_bytes(&self, log_bytes: u64) -> u64 {
        if self.rests.is_some() { log_bytes.saturating_mul(4) } else { log_bytes }
    }

    /// Lets every other thread go first, on a thread that ends with a slow pass.
    fn yield_to_all(&self) {
        // On Linux this is the calling thread's own. What the system does not grant is no harm: the rests are there.
        if self.rests.is_some() {
            let _ = rustix::process::nice(NICE);
        }
    }

    /// Rests for what this thread did since then, once that is worth it. What it waited for others is no work.
    fn rest(&self, since: &mut Duration) -> Result<(), PassError> {
        let Some(rests) = self.rests else { return Ok(()) };
        let worked = busy().saturating_sub(*since);
        if worked < SPELL {
            return Ok(());
        }
        let mut left = worked * rests;
        while !left.is_zero() {
            self.check()?;
            let nap = left.min(NAP);
            std::thread::sleep(nap);
            left -= nap;
        }
        *since = busy();
        Ok(())
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), PassError> {
        if self.stop.load(Ordering::Relaxed) { Err(PassError::Aborted) } else { Ok(()) }
    }

    /// Events done and events in all. Each is read and folded, so half of the work is done when all are read; how many
    /// there are is estimated until then, from the messages that are left.
    pub(crate) fn events(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (read, messages) = (load(&self.read), load(&self.messages));
        let total = if messages == 0 {
            0
        } else {
            (u128::from(read) * u128::from(load(&self.messages_total)) / u128::from(messages)) as u64
        };
        (read.midpoint(load(&self.folded)), total)
    }
}

/// All facts of the log up to a message, sorted into parts.
pub(crate) struct Scattered {
    scatter: Scatter,
    applied: Applied,
    quarantine: Arc<Quarantine>,
    /// What the log says of workers and sources.
    fleet: Fleet,
    /// What the log said before this message is forgotten.
    floor: u64,
}

/// Reads the log from its first message to `target` and sorts what it says by job.
pub(crate) async fn scatter(
    log: &EventLog,
    target: u64,
    directory: &Path,
    watch: &Arc<Watch>,
) -> Result<Scattered, PassError> {
    let info = log.info().await.map_err(|error| PassError::Log(error.to_string()))?;
    if info.last_sequence < target {
        return Err(PassError::LogChanged);
    }
    watch.messages_total.store(target.saturating_sub(info.first_sequence.saturating_sub(1)), Ordering::Relaxed);
    let scatter = Arc::new(Scatter::new(directory, watch.expected_bytes(info.bytes))?);
    let mut applied = Applied {
        created: info.created,
        sequence: 0,
        fingerprint: [0; 16],
        landmarks: Vec::new(),
        quarantined: Vec::new(),
        fleet: Vec::new(),
    };
    let quarantine = Arc::new(Quarantine::default());
    let floor = Arc::new(AtomicU64::new(info.first_sequence));
    let mut sorters = Sorters::start(&scatter, &quarantine, &floor, watch);
    if info.messages > 0 {
        let mut reader = log.reader(info.first_sequence - 1);
        while applied.sequence < target {
            watch.check()?;
            match reader.next().await {
                Ok(batch) => {
                    let mut messages = batch.messages;
                    messages.truncate(messages.partition_point(|message| message.sequence <= target));
                    note(&mut applied, &messages);
                    // The log may have lost its last messages since; what comes next tells that they are passed.
                    let passed = messages.is_empty();
                    sorters.send(messages).await;
                    if passed {
                        break;
                    }
                }
                Err(ReadError::Reconnected { .. }) => same_log(log, &applied).await?,
                Err(error) => return Err(PassError::Log(error.to_string())),
            }
        }
    }
    let fleet = sorters.finish().await?;
    let floor = floor.load(Ordering::Relaxed);
    // What was dropped may have been read or not, unless it was to be forgotten anyway.
    let info = log.info().await.map_err(|error| PassError::Log(error.to_string()))?;
    if info.first_sequence > floor {
        return Err(PassError::Trimmed);
    }
    let scatter = Arc::into_inner(scatter).ok_or_else(|| PassError::Panicked("a sorter is still there".to_owned()))?;
    Ok(Scattered { scatter, applied, quarantine, fleet, floor })
}

/// Remembers the last message, and one of each thousand.
fn note(applied: &mut Applied, messages: &[LogMessage]) {
    for message in messages {
        if message.sequence / LANDMARK_EVERY > applied.sequence / LANDMARK_EVERY {
            applied.landmarks.push(Landmark { sequence: message.sequence, fingerprint: message.fingerprint() });
        }
        applied.sequence = message.sequence;
    }
    if let Some(last) = messages.last() {
        applied.fingerprint = last.fingerprint();
    }
}

async fn same_log(log: &EventLog, applied: &Applied) -> Result<(), PassError> {
    loop {
        match log.info().await {
            Ok(info) if info.created == applied.created && info.last_sequence >= applied.sequence => return Ok(()),
            Ok(_) | Err(LogError::Missing) => return Err(PassError::LogChanged),
            Err(error) => {
                tracing::debug!(%error, "the log does not answer yet");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The threads that decode and sort.
struct Sorters {
    inputs: Vec<mpsc::Sender<Vec<LogMessage>>>,
    next: usize,
    tasks: JoinSet<Result<Fleet, PassError>>,
}

impl Sorters {
    fn start(scatter: &Arc<Scatter>, quarantine: &Arc<Quarantine>, floor: &Arc<AtomicU64>, watch: &Arc<Watch>) -> Self {
        let mut sorters = Self { inputs: Vec::new(), next: 0, tasks: JoinSet::new() };
        for _ in 0..watch.threads() {
            let (input, messages) = mpsc::channel(WAITING);
            sorters.inputs.push(input);
            let (scatter, quarantine, watch) = (Arc::clone(scatter), Arc::clone(quarantine), Arc::clone(watch));
            let floor = Arc::clone(floor);
            let sorted = behind("sorter", move || sort(&scatter, &quarantine, &floor, &watch, messages));
            sorters.tasks.spawn(async { sorted.await.unwrap_or_else(|_| Err(gone())) });
        }
        sorters
    }

    async fn send(&mut self, messages: Vec<LogMessage>) {
        // A sorter that is gone has failed, which `finish` tells.
        let _ = self.inputs[self.next].send(messages).await;
        self.next = (self.next + 1) % self.inputs.len();
    }

    async fn finish(mut self) -> Result<Fleet, PassError> {
        self.inputs.clear();
        let mut fleet = Fleet::default();
        while let Some(ended) = self.tasks.join_next().await {
            fleet.absorb(ended.map_err(|error| PassError::Panicked(error.to_string()))??);
        }
        Ok(fleet)
    }
}

fn sort(
    scatter: &Scatter,
    quarantine: &Quarantine,
    floor: &AtomicU64,
    watch: &Watch,
    mut batches: mpsc::Receiver<Vec<LogMessage>>,
) -> Result<Fleet, PassError> {
    let (mut sorter, mut fleet) = (scatter.sorter(), Fleet::default());
    while let Some(messages) = batches.blocking_recv() {
        watch.check()?;
        let mut since = busy();
        for message in &messages {
            let events = sort_message(&mut sorter, quarantine, floor, &mut fleet, message)?;
            watch.rest(&mut since)?;
            watch.messages.fetch_add(1, Ordering::Relaxed);
            watch.read.fetch_add(events, Ordering::Relaxed);
        }
    }
    sorter.finish()?;
    Ok(fleet)
}

fn sort_message(
    sorter: &mut views::Sorter<'_>,
    quarantine: &Quarantine,
    floor: &AtomicU64,
    fleet: &mut Fleet,
    message: &LogMessage,
) -> Result<u64, PassError> {
    if message.connection.is_nil() {
        quarantine.lock().push(unusable(message, 0, &NOBODY));
        return Ok(0);
    }
    let elements = match proto_events::decode(&message.payload) {
        Ok(elements) => elements,
        Err(cause) => {
            quarantine.lock().push(unusable(message, 0, &cause));
            return Ok(0);
        }
    };
    let mut events = 0;
    for (index, element) in elements.into_iter().enumerate() {
        let event = match element {
            Ok(event) => event,
            Err(cause) => {
                quarantine.lock().push(unusable(message, index as u32, &cause));
                continue;
            }
        };
        if let Some(cut) = Cut::of(message, &event) {
            floor.fetch_max(cut.before.unwrap_or(0), Ordering::Relaxed);
            for job in cut.jobs {
                sorter.put_trim(job, cut.at)?;
            }
            continue;
        }
        let position = Position::new(message.sequence, index as u32);
        if let Some(fact) = FleetFact::of(message.connection, position, message.published, &event) {
            fleet.add(fact);
            continue;
        }
        let fact = match fact(message.connection, position, &event) {
            Ok(Some(fact)) => fact,
            Ok(None) => continue,
            Err(poison) => {
                quarantine.lock().push(*poison);
                continue;
            }
        };
        let Some(job) = event.job else { continue };
        sorter.put(&Told { connection: message.connection, external_id: job.external_id, fact })?;
        events += 1;
    }
    Ok(events)
}

impl Scattered {
    /// Up to where the log is in the rows, and which of its events are not; whole once all is folded.
    pub(crate) fn applied(&self) -> Applied {
        let mut quarantined = self.quarantine.lock().clone();
        quarantined.retain(|event| event.position.sequence >= self.floor);
        quarantined.sort_unstable_by_key(|event| event.position);
        let mut fleet: Vec<FleetFact> = self.fleet.facts().cloned().collect();
        fleet.retain(|fact| fact.position.sequence >= self.floor);
        Applied { quarantined, fleet, ..self.applied.clone() }
    }

    /// What the log said before this message is forgotten, and not in the rows.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Folds every job and hands what `map` makes of its row, done by several threads, to `sink`, done by the calling
    /// one, in ascending order of the ids. Blocks.
    pub(crate) fn fold<T: Send>(
        &self,
        watch: &Watch,
        map: impl Fn(Row) -> Result<T, PassError> + Sync,
        mut sink: impl FnMut(T) -> Result<(), PassError>,
    ) -> Result<(), PassError> {
        let (threads, parts) = (watch.threads(), self.scatter.parts());
        std::thread::scope(|scope| {
            let mut outputs = Vec::new();
            for first in 0..threads {
                let (output, rows) = sync_channel(AHEAD);
                outputs.push(rows);
                let map = &map;
                scope.spawn(move || {
                    step_behind();
                    watch.yield_to_all();
                    for part in (first..parts).step_by(threads) {
                        let mut ready = Vec::with_capacity(TOGETHER);
                        let told = self.fold_part(part, watch, map, &mut |row| {
                            ready.push(row);
                            if ready.len() < TOGETHER {
                                return true;
                            }
                            output.send(Some(std::mem::replace(&mut ready, Vec::with_capacity(TOGETHER)))).is_ok()
                        });
                        match told {
                            Ok(true) => {}
                            Ok(false) => return,
                            Err(error) => ready.push(Err(error)),
                        }
                        if output.send(Some(ready)).and_then(|()| output.send(None)).is_err() {
                            return;
                        }
                    }
                });
            }
            for part in 0..parts {
                let rows = &outputs[part % threads];
                loop {
                    match rows.recv() {
                        Ok(Some(ready)) => ready.into_iter().try_for_each(|row| sink(row?))?,
                        Ok(None) => break,
                        Err(_) => return Err(gone()),
                    }
                }
            }
            Ok(())
        })
    }

    /// `false` when nobody takes the rows any more.
    fn fold_part<T>(
        &self,
        part: usize,
        watch: &Watch,
        map: &impl Fn(Row) -> Result<T, PassError>,
        output: &mut impl FnMut(Result<T, PassError>) -> bool,
    ) -> Result<bool, PassError> {
        let mut since = busy();
        for mut job in self.scatter.gather(part)? {
            watch.check()?;
            watch.rest(&mut since)?;
            let events = job.facts.len() as u64;
            job.facts.retain(|fact| fact.position().sequence >= self.floor);
            if let Some(row) = fold_job(job, &self.quarantine)
                && !output(map(row))
            {
                return Ok(false);
            }
            watch.folded.fetch_add(events, Ordering::Relaxed);
        }
        Ok(true)
    }
}

fn fold_job(job: JobFacts, quarantine: &Quarantine) -> Option<Row> {
    let JobFacts { connection, external_id, facts, trim } = job;
    let folded = fold_facts(connection, &external_id, facts, trim);
    quarantine.lock().extend(folded.quarantined);
    folded.row
}

/// The processor time that this thread has taken.
fn busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Does this on a thread of its own, which lets others go first: one of the runtime's would be slow for ever after.
fn behind<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        step_behind();
        // Whoever waits for it may be gone.
        let _ = done.send(work());
    });
    if let Err(cause) = thread {
        tracing::error!(%cause, "the system refuses a thread");
    }
    result
}

/// On Linux each thread has a priority of its own. What the system does not grant costs readers some milliseconds.
fn step_behind() {
    let _ = rustix::process::nice(BEHIND);
}

/// A thread ended without a word.
fn gone() -> PassError {
    PassError::Panicked("a thread of the pass ended".to_owned())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The rate of something that is counted, and how long the rest will take.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
}

impl Pace {
    pub(crate) fn begin() -> Self {
        Self { since: Instant::now() }
    }

    /// Events per second, and seconds left.
    pub(crate) fn of(&self, done: u64, total: u64) -> (f64, Option<f64>) {
        let rate = done as f64 / self.since.elapsed().as_secs_f64().max(1e-3);
        (rate, (rate > 0.0).then(|| total.saturating_sub(done) as f64 / rate))
    }
}
