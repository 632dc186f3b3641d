//! The queue between the thread that drains the socket and the task that decodes, bounded by bytes.
//!
//! Redis cuts a reader off that is 32 MB behind, and then everything is lost until it is back. So the drainer never
//! waits: when the queue is full, the oldest messages make room, those about workers first, and each is counted.

use std::collections::VecDeque;

use parking_lot::Mutex;
use proto_events::Event;
use tokio::sync::Notify;

/// What a queued message costs beside its bytes.
const OVERHEAD: usize = 64;

pub(super) enum Item {
    /// A message as Redis delivered it.
    Message(Vec<u8>),
    /// Something about the source itself, in its place among the messages; never dropped.
    Change(Box<Event>),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Message(payload) => payload.len() + OVERHEAD,
            Self::Change(_) => 0,
        }
    }
}

pub(super) struct Queue {
    capacity: usize,
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Default)]
struct Inner {
    tasks: VecDeque<Item>,
    workers: VecDeque<Vec<u8>>,
    bytes: usize,
    dropped: u64,
    closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, inner: Mutex::default(), filled: Notify::new() }
    }

    pub(super) fn push_message(&self, payload: Vec<u8>, about_workers: bool) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.bytes += payload.len() + OVERHEAD;
        if about_workers {
            inner.workers.push_back(payload);
        } else {
            inner.tasks.push_back(Item::Message(payload));
        }
        while inner.bytes > self.capacity && inner.drop_oldest() {}
        drop(inner);
        self.filled.notify_one();
    }

    pub(super) fn push_change(&self, event: Event) {
        let mut inner = self.inner.lock();
        if !inner.closed {
            inner.tasks.push_back(Item::Change(Box::new(event)));
        }
        drop(inner);
        self.filled.notify_one();
    }

    /// What waits, in order, up to about so many bytes; waits until there is something. `None` when the queue is closed
    /// and empty. Nothing is lost when the future is dropped.
    pub(super) async fn take(&self, bytes: usize) -> Option<Vec<Item>> {
        loop {
            // A notification that comes between the look and the wait is kept by `Notify`.
            let taken = self.inner.lock().take(bytes);
            match taken {
                Taken::Items(items) => return Some(items),
                Taken::Closed => return None,
                Taken::Nothing => self.filled.notified().await,
            }
        }
    }

    /// Takes no more in; what is there can still be taken out.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.filled.notify_one();
    }

    pub(super) fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    pub(super) fn dropped(&self) -> u64 {
        self.inner.lock().dropped
    }

    /// How many messages still wait.
    pub(super) fn len(&self) -> usize {
        let inner = self.inner.lock();
        inner.tasks.len() + inner.workers.len()
    }
}

enum Taken {
    Items(Vec<Item>),
    Nothing,
    Closed,
}

impl Inner {
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.workers.pop_front().map(Item::Message).or_else(|| {
            // Changes are few, so that the first message is never far.
            let at = self.tasks.iter().position(|item| matches!(item, Item::Message(_)))?;
            self.tasks.remove(at)
        });
        let Some(oldest) = oldest else { return false };
        self.bytes -= oldest.bytes();
        self.dropped += 1;
        true
    }

    fn take(&mut self, bytes: usize) -> Taken {
        let (mut items, mut taken) = (Vec::new(), 0);
        // Tasks first, but never all of the turn: a flood must not make the workers look dead.
        while taken < bytes
            && let Some(item) = self.tasks.pop_front()
        {
            taken += item.bytes();
            items.push(item);
        }
        let tasks = taken;
        while taken < tasks + bytes / 4
            && let Some(payload) = self.workers.pop_front()
        {
            let item = Item::Message(payload);
            taken += item.bytes();
            items.push(item);
        }
        self.bytes -= taken;
        match (items.is_empty(), self.closed) {
            (false, _) => Taken::Items(items),
            (true, true) => Taken::Closed,
            (true, false) => Taken::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    async fn drain(queue: &Queue) -> Vec<String> {
        queue.close();
        let mut texts = Vec::new();
        while let Some(items) = queue.take(usize::MAX / 8).await {
            texts.extend(items.into_iter().map(|item| match item {
                Item::Message(payload) => String::from_utf8(payload).unwrap(),
                Item::Change(_) => "a change".to_owned(),
            }));
        }
        texts
    }

    fn change() -> Event {
        Event::bare(
            proto_events::EventType::SourceStateChange,
            proto_events::Timestamp(0),
            proto_events::Framework::Celery,
        )
    }

    #[tokio::test]
    async fn a_full_queue_drops_workers_first_then_the_oldest_tasks_and_counts_them() {
        let queue = Queue::new(3 * (OVERHEAD + 2));
        queue.push_change(change());
        queue.push_message(message("t1"), false);
        queue.push_message(message("w1"), true);
        queue.push_message(message("w2"), true);
        assert_eq!((queue.dropped(), queue.bytes()), (0, 3 * (OVERHEAD + 2)));
        queue.push_message(message("t2"), false);
        queue.push_message(message("t3"), false);
        assert_eq!(queue.dropped(), 2);
        queue.push_message(message("t4"), false);
        queue.push_message(message("w3"), true);
        assert_eq!(queue.dropped(), 4);
        assert_eq!(drain(&queue).await, ["a change", "t2", "t3", "t4"]);
        assert_eq!(queue.bytes(), 0);
    }

    #[tokio::test]
    async fn workers_get_their_share_of_a_flood() {
        let queue = Queue::new(1 << 20);
        for _ in 0..100 {
            queue.push_message(message("t"), false);
        }
        queue.push_message(message("w"), true);
        let items = queue.take(10 * OVERHEAD).await.unwrap();
        assert!(items.len() < 15);
        assert!(matches!(items.last(), Some(Item::Message(payload)) if payload == b"w"));
    }
}
