//! Many events of a broker into few messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use proto_events::Event;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::AppendError;
use crate::log::EventLog;
use crate::outlet::Outlet;
use crate::spool::{Entry, Spool};

/// An array is closed so long after its first event.
const LINGER: Duration = Duration::from_millis(25);
/// An array is closed when it has grown to this: with what stands around it in the spool, 256 KB.
const ARRAY_BYTES: usize = 255 * 1_024;
/// What may wait in memory, unsent or unacknowledged; beyond it, [`Batcher::push`] waits.
const PENDING_BYTES: usize = 32 << 20;
/// Where there is a spool, the log is given so long to take an array before it goes there.
const SPOOL_AFTER: Duration = Duration::from_secs(2);
/// Arrays under way at a time.
const IN_FLIGHT: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Gathers events into arrays of up to 25 ms or 256 KB and brings each into the log, however long that takes.
///
/// Nothing is dropped while the log is away: it goes to the spool, and is published from there before anything newer.
/// Without a spool, or where that cannot be written, what waits is bounded, and a full batcher makes
/// [`push`](Self::push) wait. The events of a batcher that is dropped are still delivered. Cheap to clone.
#[derive(Clone)]
pub struct Batcher {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

/// What a batcher has done so far, in events; and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatcherStats {
    /// Events that were pushed.
    pub pushed: u64,
    /// Events that the log has acknowledged.
    pub acked: u64,
    /// Events that went to the spool.
    pub spooled: u64,
    /// Events that can never be stored and were dropped: a single one larger than the server's limit.
    pub failed: u64,
    /// Arrays that were acknowledged.
    pub arrays: u64,
    /// Attempts that were repeated because the log was away or full.
    pub retries: u64,
    /// Bytes that are not acknowledged yet.
    pub pending_bytes: u64,
}

struct Shared {
    room: Arc<Semaphore>,
    pushed: AtomicU64,
    acked: AtomicU64,
    spooled: AtomicU64,
    failed: AtomicU64,
    arrays: AtomicU64,
    retries: AtomicU64,
}

/// Tells whoever pushed events with a number which of them are done with: in the log, or dropped since they can never be
/// stored. A number comes as often as it was given, in no certain order; none comes whose events might still be lost.
pub type Receipts = mpsc::UnboundedReceiver<Vec<u64>>;

enum Command {
    Event(Kind, Vec<u8>, Option<u64>),
    Flush(oneshot::Sender<()>),
}

#[derive(Clone, Copy)]
enum Kind {
    Task,
    Worker,
}

impl Kind {
    fn of(event: &Event) -> Self {
        if event.worker.is_some() { Self::Worker } else { Self::Task }
    }
}

impl Batcher {
    pub(crate) fn start(outlet: Outlet, connection: Uuid, receipts: Option<mpsc::UnboundedSender<Vec<u64>>>) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let counters = || AtomicU64::new(0);
        let shared = Arc::new(Shared {
            room: Arc::new(Semaphore::new(PENDING_BYTES)),
            pushed: counters(),
            acked: counters(),
            spooled: counters(),
            failed: counters(),
            arrays: counters(),
            retries: counters(),
        });
        let sender = Sender { outlet, connection, receipts, shared: Arc::clone(&shared) };
        tokio::spawn(Worker { commands: received, sender, arrays: Default::default() }.run());
        Self { commands, shared }
    }

    /// Takes one event; waits while too much is waiting already.
    pub async fn push(&self, event: Event) {
        self.push_event(event, None).await;
    }

    /// The same, and the [`Receipts`] will tell the number once the event is done with.
    pub async fn push_numbered(&self, event: Event, number: u64) {
        self.push_event(event, Some(number)).await;
    }

    async fn push_event(&self, event: Event, number: Option<u64>) {
        let kind = Kind::of(&event);
        let bytes = proto_events::encode(std::slice::from_ref(&event));
        // A semaphore that nobody closes gives its permits, and an event beyond all bounds may take the whole room.
        if let Ok(room) = self.shared.room.acquire_many(bytes.len().min(PENDING_BYTES) as u32).await {
            room.forget();
        }
        self.shared.pushed.fetch_add(1, Ordering::Relaxed);
        // The worker lives as long as any batcher does.
        let _ = self.commands.send(Command::Event(kind, bytes, number));
    }

    /// Sends what waits and returns when the log or the spool has it all; waits for as long as neither takes it.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let _ = self.commands.send(Command::Flush(done));
        let _ = flushed.await;
    }

    /// What it has done so far.
    pub fn stats(&self) -> BatcherStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.shared;
        BatcherStats {
            pushed: read(&shared.pushed),
            acked: read(&shared.acked),
            spooled: read(&shared.spooled),
            failed: read(&shared.failed),
            arrays: read(&shared.arrays),
            retries: read(&shared.retries),
            pending_bytes: (PENDING_BYTES - shared.room.available_permits().min(PENDING_BYTES)) as u64,
        }
    }
}

/// The array that is being filled.
#[derive(Default)]
struct Array {
    bytes: Vec<u8>,
    events: u64,
    /// Those of them that are about workers.
    workers: u32,
    /// What its events took of the room.
    room: usize,
    /// What its events are called by those who want to know.
    numbers: Vec<u64>,
    closes: Option<Instant>,
}

/// An array on its way.
struct Closed {
    payload: Bytes,
    events: u64,
    workers: u32,
    room: usize,
    numbers: Vec<u64>,
}

impl Array {
    fn fits(&self, event: &[u8], largest: usize) -> bool {
        self.events == 0 || self.bytes.len() + event.len() + 2 <= largest
    }

    fn add(&mut self, kind: Kind, event: &[u8], number: Option<u64>) {
        self.bytes.push(if self.events == 0 { b'[' } else { b',' });
        self.bytes.extend_from_slice(event);
        self.events += 1;
        self.workers += u32::from(matches!(kind, Kind::Worker));
        self.room += event.len().min(PENDING_BYTES);
        self.numbers.extend(number);
        self.closes.get_or_insert_with(|| Instant::now() + LINGER);
    }

    /// One event stands alone, as [`proto_events::encode`] has it.
    fn finish(mut self) -> Closed {
        let payload = if self.events == 1 {
            Bytes::from(self.bytes).slice(1..)
        } else {
            self.bytes.push(b']');
            Bytes::from(self.bytes)
        };
        Closed { payload, events: self.events, workers: self.workers, room: self.room, numbers: self.numbers }
    }
}

struct Worker {
    commands: mpsc::UnboundedReceiver<Command>,
    sender: Sender,
    /// Those that are filled: of all events, and of those about workers while they go to the spool.
    arrays: [Array; 2],
}

impl Worker {
    async fn run(mut self) {
        let mut under_way = FuturesUnordered::new();
        let mut flushes: Vec<oneshot::Sender<()>> = Vec::new();
        loop {
            let closes = self.arrays.iter().filter_map(|array| array.closes).min();
            let command = tokio::select! {
                Some(()) = under_way.next() => {
                    if under_way.is_empty() {
                        answer(&mut flushes);
                    }
                    continue;
                }
                () = closing(closes) => None,
                command = self.commands.recv(), if under_way.len() < IN_FLIGHT && flushes.is_empty() => match command {
                    Some(command) => Some(command),
                    None => break,
                },
            };
            let full = match command {
                Some(Command::Event(kind, event, number)) => [self.add(kind, &event, number), None],
                Some(Command::Flush(done)) => {
                    flushes.push(done);
                    self.close(|_| true)
                }
                None => self.close(|array| array.closes == closes),
            };
            under_way.extend(full.into_iter().flatten().map(|array| self.sender.clone().deliver(array)));
            if under_way.is_empty() {
                answer(&mut flushes);
            }
        }
        let full = self.close(|_| true);
        under_way.extend(full.into_iter().flatten().map(|array| self.sender.clone().deliver(array)));
        while under_way.next().await.is_some() {}
    }

    /// The array that is full, if this makes it so.
    fn add(&mut self, kind: Kind, event: &[u8], number: Option<u64>) -> Option<Array> {
        let largest = self.sender.largest();
        // In the spool they stand apart, so that they can make room.
        let is_apart = matches!(kind, Kind::Worker) && !self.sender.is_direct();
        let array = &mut self.arrays[usize::from(is_apart)];
        let full = (!array.fits(event, largest)).then(|| std::mem::take(array));
        array.add(kind, event, number);
        full
    }

    fn close(&mut self, closes: impl Fn(&Array) -> bool) -> [Option<Array>; 2] {
        self.arrays.each_mut().map(|array| (array.events > 0 && closes(array)).then(|| std::mem::take(array)))
    }
}

fn answer(flushes: &mut Vec<oneshot::Sender<()>>) {
    for done in flushes.drain(..) {
        // Whoever asked may have given up waiting.
        let _ = done.send(());
    }
}

async fn closing(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[derive(Clone)]
struct Sender {
    outlet: Outlet,
    connection: Uuid,
    receipts: Option<mpsc::UnboundedSender<Vec<u64>>>,
    shared: Arc<Shared>,
}

impl Sender {
    fn largest(&self) -> usize {
        self.outlet.log_now().map_or(ARRAY_BYTES, |log| ARRAY_BYTES.min(log.max_payload() / 2))
    }

    /// Tries until the log or the spool has the array, or the log says that it never will. The place among all arrays is
    /// taken at once, not when this is first polled.
    fn deliver(self, array: Array) -> impl Future<Output = ()> {
        let number = self.outlet.spool().map_or(0, Spool::number);
        self.deliver_as(array, number)
    }

    async fn deliver_as(self, array: Array, number: u64) {
        let Closed { payload, events, workers, room, numbers } = array.finish();
        let connection = self.connection;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.append(payload.clone()).await {
                Ok(()) => {
                    self.shared.acked.fetch_add(events, Ordering::Relaxed);
                    self.shared.arrays.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error @ AppendError::TooLarge { .. }) if self.outlet.spool().is_none() || events == 1 => {
                    tracing::error!(%connection, events, %error, "events were dropped");
                    self.shared.failed.fetch_add(events, Ordering::Relaxed);
                    break;
                }
                Err(error) => error,
            };
            if let Some(spool) = self.outlet.spool() {
                let tasks = u32::try_from(events).unwrap_or(u32::MAX).saturating_sub(workers);
                let entry = Entry { connection, number, tasks, others: workers, payload: payload.clone() };
                match spool.put(entry).await {
                    Ok(()) => {
                        self.shared.spooled.fetch_add(events, Ordering::Relaxed);
                        break;
                    }
                    Err(error) => tracing::error!(%connection, events, %error, "events are kept in memory for now"),
                }
            }
            tracing::warn!(%connection, events, %error, "the log does not take events; trying again");
            self.shared.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.shared.room.add_permits(room);
        if let Some(receipts) = self.receipts.filter(|_| !numbers.is_empty()) {
            // Whoever wanted to know may be gone.
            let _ = receipts.send(numbers);
        }
    }

    /// Whether the log is likely to take the next array.
    fn is_direct(&self) -> bool {
        let is_there = self.outlet.log_now().is_some_and(|log| log.connected());
        self.outlet.spool().is_none_or(|spool| is_there && !spool.holds(self.connection))
    }

    async fn append(&self, payload: Bytes) -> Result<(), AppendError> {
        let Some(spool) = self.outlet.spool() else {
            return self.outlet.log().await.append(self.connection, payload).await.map(|_| ());
        };
        let unavailable = |reason: &str| AppendError::Unavailable { reason: reason.to_owned() };
        match self.outlet.log_now().filter(EventLog::connected) {
            Some(_) if spool.holds(self.connection) => Err(unavailable("older events wait in the spool")),
            Some(log) => {
                let append = log.append_once(self.connection, payload);
                let appended = tokio::time::timeout(SPOOL_AFTER, append).await;
                appended.unwrap_or_else(|_| Err(unavailable("no acknowledgement in time"))).map(|_| ())
            }
            None => Err(unavailable("not connected")),
        }
    }
}
