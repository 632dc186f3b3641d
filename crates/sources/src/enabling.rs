//! Asking workers that were started without `-E` to send the events of their tasks (`--enable-events`).
//!
//! Celery's own control message `enable_events` does it, and a worker forgets it when it starts or connects anew. So all
//! are asked when we connect, each when it is first heard and when it says that it is online, and again, not too often,
//! who goes on with tasks and says nothing of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto_events::{Worker, WorkerState};
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Workers that are known at a time. Anyone who may publish can make names up.
const MOST: usize = 10_000;
/// Workers named in one message; more are asked by a message to all.
const NAMED: usize = 100;
/// Nobody is asked again sooner.
const AGAIN: Duration = Duration::from_secs(30);
/// So long is waited for more workers to ask with the same message.
const LINGER: Duration = Duration::from_millis(250);
/// After a message that could not be sent.
const RETRY: Duration = Duration::from_secs(5);

/// Who has to be asked.
#[derive(Default)]
pub(crate) struct Enabling {
    state: Mutex<State>,
    wanted: Notify,
}

#[derive(Default)]
struct State {
    workers: HashMap<String, Known>,
    everyone: bool,
    /// Workers to ask.
    due: Vec<String>,
}

struct Known {
    pid: Option<i64>,
    /// Tasks it had begun when it was last asked, or at its first heartbeat after it was last heard of a task.
    processed: Option<u64>,
    /// Since when it has said nothing of tasks, as far as that matters.
    silent: Instant,
    /// Whether a task event came after its last heartbeat.
    speaks: bool,
}

/// Whom a message asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Everyone,
    Workers(Vec<String>),
}

impl Enabling {
    /// We can be heard (again): everybody is to be asked, also those of whom we never hear anything.
    pub(crate) fn connected(&self) {
        self.state.lock().everyone = true;
        self.wanted.notify_one();
    }

    pub(crate) fn worker_heard(&self, worker: &Worker) {
        if worker.state == WorkerState::Offline {
            return;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let are_many = state.workers.len() >= MOST;
        match state.workers.get_mut(&worker.hostname) {
            None if are_many => return,
            None => {}
            Some(known) if worker.state == WorkerState::Online || known.pid != worker.pid => {}
            Some(known) => {
                if std::mem::take(&mut known.speaks) {
                    known.processed = worker.processed_total;
                    known.silent = Instant::now();
                }
                // Who has nothing to do has nothing to say.
                if known.processed >= worker.processed_total || known.silent.elapsed() < AGAIN {
                    return;
                }
            }
        }
        let (pid, processed) = (worker.pid, worker.processed_total);
        let known = Known { pid, processed, silent: Instant::now(), speaks: false };
        state.workers.insert(worker.hostname.clone(), known);
        if !state.everyone && !state.due.contains(&worker.hostname) {
            state.due.push(worker.hostname.clone());
        }
        drop(guard);
        self.wanted.notify_one();
    }

    /// This worker sends the events of its tasks.
    pub(crate) fn task_heard(&self, worker: &str) {
        if let Some(known) = self.state.lock().workers.get_mut(worker) {
            known.speaks = true;
        }
    }

    fn take(&self) -> Option<Asked> {
        let mut state = self.state.lock();
        let due = std::mem::take(&mut state.due);
        if std::mem::take(&mut state.everyone) || due.len() > NAMED {
            return Some(Asked::Everyone);
        }
        (!due.is_empty()).then_some(Asked::Workers(due))
    }

    /// Waits until somebody is to be asked.
    pub(crate) async fn next(&self) -> Asked {
        loop {
            self.wanted.notified().await;
            tokio::time::sleep(LINGER).await;
            if let Some(asked) = self.take() {
                return asked;
            }
        }
    }

    /// Takes note of what became of it. What could not be sent is sent again, unless it was refused: then whoever sent it
    /// has said so, and it is tried again when we connect anew.
    pub(crate) async fn sent(&self, name: &str, asked: &Asked, sent: Result<(), NotSent>) {
        match (sent, asked) {
            (Ok(()), Asked::Everyone) => {
                tracing::info!(source = name, "asked all workers to send the events of their tasks");
            }
            (Ok(()), Asked::Workers(workers)) => {
                tracing::info!(source = name, ?workers, "asked workers to send the events of their tasks");
            }
            (Err(NotSent::Refused), _) => {}
            (Err(NotSent::Failed(reason)), _) => {
                tracing::debug!(source = name, reason, "workers could not be asked for the events of their tasks");
                tokio::time::sleep(RETRY).await;
                self.connected();
            }
        }
    }
}

/// Why a control message was not sent.
pub(crate) enum NotSent {
    /// The broker does not let us.
    Refused,
    /// It may go better another time.
    Failed(String),
}

/// The control message as Celery's workers understand it.
pub(crate) fn message(asked: &Asked) -> Value {
    let destination = match asked {
        Asked::Everyone => Value::Null,
        Asked::Workers(workers) => json!(workers),
    };
    json!({"method": "enable_events", "arguments": {}, "destination": destination, "pattern": null, "matcher": null})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, state: WorkerState, pid: i64, processed: u64) -> Worker {
        let json =
            json!({"externalId": name, "hostname": name, "state": state, "pid": pid, "processedTotal": processed});
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_worker_is_asked_when_it_is_new_and_not_again_while_it_may_have_nothing_to_say() {
        let enabling = Enabling::default();
        let heard = |state, pid, processed| enabling.worker_heard(&worker("w", state, pid, processed));
        let asked = || Some(Asked::Workers(vec!["w".to_owned()]));
        enabling.connected();
        heard(WorkerState::Heartbeat, 1, 5);
        assert_eq!(enabling.take(), Some(Asked::Everyone), "which includes it");
        heard(WorkerState::Heartbeat, 1, 5);
        heard(WorkerState::Heartbeat, 1, 6);
        assert_eq!(enabling.take(), None, "not so soon");
        heard(WorkerState::Offline, 1, 6);
        assert_eq!(enabling.take(), None, "it hears nothing");
        heard(WorkerState::Online, 1, 0);
        assert_eq!(enabling.take(), asked(), "it has connected anew and forgotten");
        heard(WorkerState::Heartbeat, 2, 0);
        assert_eq!(enabling.take(), asked(), "another process");

        let later = |enabling: &Enabling| {
            for known in enabling.state.lock().workers.values_mut() {
                known.silent -= AGAIN;
            }
        };
        later(&enabling);
        heard(WorkerState::Heartbeat, 2, 0);
        assert_eq!(enabling.take(), None, "it has done nothing");
        heard(WorkerState::Heartbeat, 2, 1);
        assert_eq!(enabling.take(), asked(), "it goes on without a word");
        later(&enabling);
        enabling.task_heard("w");
        heard(WorkerState::Heartbeat, 2, 9);
        assert_eq!(enabling.take(), None, "it tells of its tasks");
        later(&enabling);
        heard(WorkerState::Heartbeat, 2, 10);
        assert_eq!(enabling.take(), asked(), "and no longer does");
    }

    #[test]
    fn many_at_once_are_asked_by_one_message_to_all_and_made_up_names_are_bounded() {
        let enabling = Enabling::default();
        for number in 0..=MOST {
            enabling.worker_heard(&worker(&format!("w{number}"), WorkerState::Heartbeat, 1, 0));
        }
        assert_eq!(enabling.take(), Some(Asked::Everyone));
        assert_eq!(enabling.state.lock().workers.len(), MOST);
        assert_eq!(message(&Asked::Everyone)["destination"], Value::Null);
        assert_eq!(message(&Asked::Workers(vec!["a@b".to_owned()]))["destination"], json!(["a@b"]));
    }
}
