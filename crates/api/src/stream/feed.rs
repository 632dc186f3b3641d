//! The task of one stream: it makes a piece when the client has taken the last one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use projector::{Frames, Overtaken};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use super::text::{Texts, event_id, heartbeat, overflow};
use super::watched::Watched;
use crate::http::Hangup;

const HEARTBEAT: Duration = Duration::from_secs(15);
/// A client that has everything gets what comes next in pieces at least so far apart: each is a write for each client.
const PAUSE: Duration = Duration::from_millis(25);
/// A client that was overtaken and takes nothing for so long does not hear its last event either.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what a client was sent last, when the server stops.
const CLOSING: Duration = Duration::from_millis(500);

/// Tells whether the client may still read.
pub(super) type IsAllowed = Box<dyn Fn() -> bool + Send + Sync>;

pub(super) struct Feed {
    frames: Arc<Frames>,
    texts: Arc<Texts>,
    watched: Watched,
    /// The number of the frame to look at next.
    next: u64,
    /// Nothing is sent before.
    not_before: Instant,
    is_allowed: IsAllowed,
}

/// Why a stream ends.
enum End {
    /// The client is gone, or may not read any more.
    Gone,
    /// The client was overtaken, and told so.
    Overtaken,
    /// The client was overtaken, and does not listen.
    Deaf,
    /// The server stops.
    Closing,
}

impl Feed {
    pub(super) fn new(
        frames: Arc<Frames>,
        texts: Arc<Texts>,
        watched: Watched,
        next: u64,
        is_allowed: IsAllowed,
    ) -> Self {
        Self { frames, texts, watched, next, not_before: Instant::now(), is_allowed }
    }

    /// Sends until the client is gone, or has to go.
    pub(super) async fn run(
        mut self,
        first: Bytes,
        pieces: mpsc::Sender<Bytes>,
        mut closing: watch::Receiver<bool>,
        hangup: Hangup,
    ) {
        let end = tokio::select! {
            biased;
            // The sender lives as long as the API.
            _ = closing.wait_for(|closing| *closing) => End::Closing,
            end = self.send(first, &pieces) => end,
        };
        // Ends the answer, and with it the connection once the client has taken what is on its way.
        drop(pieces);
        let patience = match end {
            End::Gone => return,
            End::Overtaken => PATIENCE,
            End::Deaf => Duration::ZERO,
            End::Closing => CLOSING,
        };
        tokio::spawn(async move {
            sleep(patience).await;
            hangup.now();
        });
    }

    async fn send(&mut self, first: Bytes, pieces: &mpsc::Sender<Bytes>) -> End {
        if pieces.send(first).await.is_err() {
            return End::Gone;
        }
        let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = tokio::select! {
                biased;
                room = pieces.reserve() => room,
                () = self.deaf() => return End::Deaf,
            };
            let Ok(room) = room else { return End::Gone };
            tokio::select! {
                biased;
                () = pieces.closed() => return End::Gone,
                _ = beat.tick() => {
                    if !(self.is_allowed)() {
                        return End::Gone;
                    }
                    room.send(heartbeat(&self.seen()).into());
                }
                piece = self.piece() => {
                    let Ok(piece) = piece else {
                        room.send(overflow(&self.seen()).into());
                        return End::Overtaken;
                    };
                    room.send(piece);
                }
            }
        }
    }

    /// Up to where the client knows what there was to know.
    fn seen(&self) -> String {
        event_id::of(self.frames.epoch(), self.next - 1)
    }

    /// Resolves when a client that takes nothing was overtaken long ago.
    async fn deaf(&self) {
        loop {
            let was_overtaken = self.is_overtaken();
            sleep(PATIENCE).await;
            if was_overtaken {
                return;
            }
        }
    }

    fn is_overtaken(&self) -> bool {
        self.next < self.frames.begin()
    }

    /// The next frames that the client wants. May be dropped while it waits; nothing is lost then.
    async fn piece(&mut self) -> Result<Bytes, Overtaken> {
        loop {
            sleep_until(self.not_before).await;
            self.frames.reached(self.next).await;
            let piece = self.read()?;
            if self.next == self.frames.end() {
                self.not_before = Instant::now() + PAUSE;
            }
            if !piece.is_empty() {
                return Ok(piece.into());
            }
        }
    }

    fn read(&mut self) -> Result<String, Overtaken> {
        let mut wanted = String::new();
        for piece in self.frames.read(self.next)? {
            let mut text = None;
            for (number, (place, happening)) in (piece.first()..).zip(piece.happenings().iter().enumerate()) {
                if number >= self.next && self.watched.wants(happening) {
                    let text = text.get_or_insert_with(|| self.texts.of(self.frames.epoch(), &piece));
                    wanted.push_str(text.frame(place));
                }
            }
            self.next = piece.end();
        }
        Ok(wanted)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use projector::{FRAMES_KEPT, Happening, QueueCount};
    use uuid::Uuid;

    use crate::stream::watched::Params;

    /// A stream that wants no queues, and its frames.
    struct Begun {
        frames: Arc<Frames>,
        pieces: mpsc::Receiver<Bytes>,
        hangup: Hangup,
        closing: watch::Sender<bool>,
    }

    fn begin() -> Begun {
        begin_while(Box::new(|| true))
    }

    fn begin_while(is_allowed: IsAllowed) -> Begun {
        let (frames, hangup, closing) = (Arc::new(Frames::default()), Hangup::default(), watch::Sender::new(false));
        let watched = Params::parse("types=job", &[]).unwrap().watched;
        let (out, pieces) = mpsc::channel(1);
        let feed = Feed::new(Arc::clone(&frames), Arc::default(), watched, frames.end(), is_allowed);
        tokio::spawn(feed.run(Bytes::from_static(b"first"), out, closing.subscribe(), hangup.clone()));
        Begun { frames, pieces, hangup, closing }
    }

    /// Whether its connection is ended, be it after a long time; that passes at once.
    async fn is_cut_off(begun: &Begun) -> bool {
        tokio::time::timeout(PATIENCE * 100, begun.hangup.wanted()).await.is_ok()
    }

    fn counts(number: usize) -> Vec<Happening> {
        let count = QueueCount { connection: Uuid::nil(), name: "celery".into(), depth: Some(7), consumers: None };
        vec![Happening::Queue(count); number]
    }

    #[tokio::test(start_paused = true)]
    async fn who_hears_nothing_hears_every_fifteen_seconds_where_it_is() {
        let mut begun = begin();
        assert_eq!(begun.pieces.recv().await.unwrap(), "first");
        let start = Instant::now();
        for beat in 1..4_u32 {
            begun.frames.push(counts(100));
            let text = begun.pieces.recv().await.unwrap();
            let id = event_id::of(begun.frames.epoch(), u64::from(beat) * 100);
            let expected = format!("id: {id}\nevent: heartbeat\ndata: {{\"timestamp\":\"");
            assert!(text.starts_with(expected.as_bytes()) && text.ends_with(b"Z\"}\n\n"), "{text:?}");
            assert_eq!(start.elapsed().as_millis() / 100, (HEARTBEAT * beat).as_millis() / 100);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_read_any_more_is_told_nothing_more() {
        let allowed = Arc::new(AtomicBool::new(true));
        let asked = Arc::clone(&allowed);
        let mut begun = begin_while(Box::new(move || asked.load(Ordering::Relaxed)));
        assert_eq!(begun.pieces.recv().await.unwrap(), "first");
        assert!(begun.pieces.recv().await.is_some(), "a heartbeat");
        allowed.store(false, Ordering::Relaxed);
        assert_eq!(begun.pieces.recv().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_overtaken_and_takes_nothing_is_cut_off_and_who_only_takes_nothing_is_not() {
        let begun = begin();
        // The first piece is never taken.
        assert!(!is_cut_off(&begun).await, "nothing is lost yet");
        begun.frames.push(counts(FRAMES_KEPT * 2));
        let overtaken = Instant::now();
        assert!(is_cut_off(&begun).await);
        assert!((PATIENCE..=PATIENCE * 2).contains(&overtaken.elapsed()), "{:?}", overtaken.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_server_stops_a_stream_ends_at_once_and_its_connection_soon() {
        let mut begun = begin();
        assert_eq!(begun.pieces.recv().await.unwrap(), "first");
        let stopped = Instant::now();
        begun.closing.send_replace(true);
        assert_eq!(begun.pieces.recv().await, None);
        assert!(stopped.elapsed() < Duration::from_millis(5), "{:?}", stopped.elapsed());
        assert!(is_cut_off(&begun).await);
        assert!(stopped.elapsed() < Duration::from_secs(1), "{:?}", stopped.elapsed());
    }
}
