//! The thread that keeps the file of the spool.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use failpoints::{Point, hit};
use proto_events::Timestamp;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::store::{Change, Row, Store};
use super::{Shared, SpoolDepth, SpoolError};

/// Changes that go to the disk together.
const AT_ONCE: usize = 256;
/// That events are dropped is said so often.
const SAY_AGAIN: Duration = Duration::from_secs(60);

pub(super) enum Order {
    Change(Change, Answer<()>),
    Take(Answer<Vec<Row>>),
    Close(oneshot::Sender<()>),
}

type Answer<T> = oneshot::Sender<Result<T, SpoolError>>;

pub(super) fn start(
    store: Store,
    file: PathBuf,
    limit: u64,
    shared: Arc<Shared>,
) -> std::io::Result<mpsc::UnboundedSender<Order>> {
    let (orders, received) = mpsc::unbounded_channel();
    let keeper = Keeper { store: Some(store), file, limit, shared, said: None };
    std::thread::Builder::new().name("spool".to_owned()).spawn(move || keeper.run(received))?;
    Ok(orders)
}

struct Keeper {
    /// `None` after an error: a file that could not be written is opened anew, and stands then as it was committed last.
    store: Option<Store>,
    file: PathBuf,
    limit: u64,
    shared: Arc<Shared>,
    said: Option<Instant>,
}

impl Keeper {
    fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut next = None;
        while let Some(order) = next.take().or_else(|| orders.blocking_recv()) {
            match order {
                Order::Change(change, answer) => {
                    let mut changes = vec![(change, answer)];
                    while changes.len() < AT_ONCE
                        && let Ok(order) = orders.try_recv()
                    {
                        match order {
                            Order::Change(change, answer) => changes.push((change, answer)),
                            other => {
                                next = Some(other);
                                break;
                            }
                        }
                    }
                    self.change(changes);
                }
                Order::Take(answer) => {
                    let taken = self.with_store(|store| store.take(now()));
                    let _ = answer.send(taken);
                }
                Order::Close(answer) => {
                    // Whoever still has something for it gets no answer, and knows that it is not written.
                    drop(self.store.take());
                    let _ = answer.send(());
                    return;
                }
            }
        }
    }

    fn change(&mut self, changes: Vec<(Change, Answer<()>)>) {
        let now = now();
        let before = self.dropped();
        let put: Vec<Option<Uuid>> = changes
            .iter()
            .map(|(change, _)| match change {
                Change::Put(entry) => Some(entry.connection),
                Change::Stored(_) | Change::Refused { .. } => None,
            })
            .collect();
        let (changes, answers): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        hit(Point::SpoolBefore);
        let done = self.with_store(|store| store.change(changes, now));
        hit(Point::SpoolAfter);
        // In this order: nothing may look as if it were neither in it nor on its way.
        for connection in put.iter().flatten() {
            self.shared.arrived(*connection);
        }
        for answer in answers {
            let _ = answer.send(done.clone());
        }
        self.shared.filled.notify_one();
        self.say(before);
    }

    fn with_store<T>(&mut self, work: impl FnOnce(&mut Store) -> Result<T, SpoolError>) -> Result<T, SpoolError> {
        let store = match &mut self.store {
            Some(store) => store,
            none => none.insert(Store::open(&self.file, self.limit)?),
        };
        let done = work(store);
        self.shared.know(store);
        if done.is_err() {
            self.store = None;
        }
        done
    }

    fn dropped(&self) -> SpoolDepth {
        self.shared.totals.lock().values().fold(SpoolDepth::default(), SpoolDepth::and)
    }

    fn say(&mut self, before: SpoolDepth) {
        let after = self.dropped();
        let is_news = (after.dropped_tasks, after.dropped_others) != (before.dropped_tasks, before.dropped_others);
        if is_news && self.said.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.said = Some(Instant::now());
            let SpoolDepth { dropped_tasks, dropped_others, .. } = after;
            tracing::error!(
                dropped_tasks,
                dropped_others,
                "the spool is full, and its oldest events are dropped: make the log answer, or give it more with --spool-size"
            );
        }
    }
}

fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
