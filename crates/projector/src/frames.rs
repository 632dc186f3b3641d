//! What happened just now, for those who watch: the last frames in a ring, which any number of readers follow by their
//! number, each at its own pace.
//!
//! Nothing is kept per reader and nobody waits for one: who is overtaken by the ring is told so.

mod changes;

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use proto_events::{JobState, Timestamp};
use tokio::sync::watch;
use uuid::Uuid;

pub(crate) use self::changes::Changes;

/// At least so many of the newest frames are kept.
pub const FRAMES_KEPT: usize = 100_000;
/// Frames that stand in one piece at most.
const PIECE: usize = 256;
/// Frames that are read at once, about.
const BATCH: usize = 512;

/// Something that happened, as those who watch are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A job entered a state.
    Job(JobChange),
    /// A worker was heard of.
    WorkerHeartbeat(WorkerSeen),
    /// A worker came or went.
    WorkerState(WorkerSeen),
    /// How much waits in a queue was counted.
    Queue(QueueCount),
    /// Other views took the place of those that were told of, or events were applied that nobody was told of.
    Replaced,
}

/// A job entered a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobChange {
    /// Whose job it is.
    pub connection: Uuid,
    /// The job.
    pub id: Uuid,
    /// Its task name.
    pub name: Arc<str>,
    /// Its queue, where that is known.
    pub queue: Option<Arc<str>>,
    /// The state that it entered.
    pub state: JobState,
    /// The state that it left; `None` for the first one.
    pub previous: Option<JobState>,
    /// When.
    pub at: Timestamp,
}

/// How a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSeen {
    /// Whose worker it is.
    pub connection: Uuid,
    /// The worker.
    pub id: Uuid,
    /// Its hostname.
    pub hostname: Arc<str>,
    /// Its state as the API names it.
    pub state: &'static str,
    /// Jobs that it runs.
    pub active_jobs: u64,
}

/// How much waits in a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCount {
    /// Whose queue it is.
    pub connection: Uuid,
    /// Its name.
    pub name: Arc<str>,
    /// Jobs that wait in it, where that is known.
    pub depth: Option<u64>,
    /// Who takes jobs from it, where that is known.
    pub consumers: Option<u64>,
}

/// The ring. Frames are numbered from 1, anew in each process.
#[derive(Debug)]
pub struct Frames {
    epoch: u64,
    ring: Mutex<Ring>,
    /// The number of the frame to come, for who waits for it.
    end: watch::Sender<u64>,
}

#[derive(Debug)]
struct Ring {
    pieces: VecDeque<Arc<Piece>>,
    kept: usize,
    /// The number of the frame to come.
    end: u64,
}

/// Frames that follow each other.
#[derive(Debug)]
pub struct Piece {
    first: u64,
    happenings: Box<[Happening]>,
}

/// The frames asked for are no longer kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overtaken;

impl Piece {
    /// The number of its first frame.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The number of the frame after its last one.
    pub fn end(&self) -> u64 {
        self.first + self.happenings.len() as u64
    }

    /// What happened, one for each frame.
    pub fn happenings(&self) -> &[Happening] {
        &self.happenings
    }
}

impl Default for Frames {
    /// An empty ring, with an epoch of its own.
    fn default() -> Self {
        let (epoch, _) = Uuid::new_v4().as_u64_pair();
        let ring = Ring { pieces: VecDeque::new(), kept: 0, end: 1 };
        Self { epoch, ring: Mutex::new(ring), end: watch::Sender::new(1) }
    }
}

impl Frames {
    /// What tells these frames from those of any other process: their numbers mean nothing there.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The number of the frame to come: who reads from here on gets what happens from now on.
    pub fn end(&self) -> u64 {
        self.ring.lock().end
    }

    /// The number of the oldest frame that is kept, or of the one to come.
    pub fn begin(&self) -> u64 {
        let ring = self.ring.lock();
        ring.pieces.front().map_or(ring.end, |piece| piece.first)
    }

    /// Tells all who watch of these, in this order.
    pub fn push(&self, happenings: Vec<Happening>) {
        if happenings.is_empty() {
            return;
        }
        let end = {
            let mut ring = self.ring.lock();
            let mut rest = happenings.into_iter();
            while rest.len() > 0 {
                let happenings = rest.by_ref().take(PIECE).collect();
                ring.add(happenings);
            }
            ring.end
        };
        // Two who push may come to this in the other order.
        self.end.send_if_modified(|known| {
            let is_new = *known < end;
            *known = end.max(*known);
            is_new
        });
    }

    /// The frames from this one on, up to some hundred, in pieces of which the first may begin before it; none where
    /// it is still to come.
    pub fn read(&self, from: u64) -> Result<Vec<Arc<Piece>>, Overtaken> {
        let ring = self.ring.lock();
        if ring.pieces.front().is_some_and(|piece| from < piece.first) {
            return Err(Overtaken);
        }
        let first = ring.pieces.partition_point(|piece| piece.end() <= from);
        let mut room = BATCH;
        let batch = ring.pieces.range(first..).take_while(|piece| {
            let is_in = room > 0;
            room = room.saturating_sub(piece.happenings.len());
            is_in
        });
        Ok(batch.map(Arc::clone).collect())
    }

    /// Waits until there is a frame of this number.
    pub async fn reached(&self, number: u64) {
        // The sender lives as long as these frames, so this is not an error.
        let _ = self.end.subscribe().wait_for(|end| *end > number).await;
    }
}

impl Ring {
    fn add(&mut self, happenings: Box<[Happening]>) {
        let piece = Piece { first: self.end, happenings };
        self.end = piece.end();
        self.kept += piece.happenings.len();
        self.pieces.push_back(Arc::new(piece));
        while let Some(oldest) = self.pieces.front().map(|piece| piece.happenings.len())
            && self.kept - oldest >= FRAMES_KEPT
        {
            self.kept -= oldest;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn count(depth: u64) -> Happening {
        let name = "celery".into();
        Happening::Queue(QueueCount { connection: Uuid::nil(), name, depth: Some(depth), consumers: None })
    }

    /// What a reader sees from here on, and how far that is.
    fn seen(frames: &Frames, mut from: u64) -> Result<Vec<(u64, Happening)>, Overtaken> {
        let mut seen = Vec::new();
        loop {
            let pieces = frames.read(from)?;
            let Some(last) = pieces.last() else { return Ok(seen) };
            assert!(pieces.iter().map(|piece| piece.happenings().len()).sum::<usize>() < BATCH + PIECE);
            let numbered = |piece: &Arc<Piece>| -> Vec<_> {
                (piece.first()..).zip(piece.happenings().to_vec()).filter(|(number, _)| *number >= from).collect()
            };
            seen.extend(pieces.iter().flat_map(numbered));
            from = last.end();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_reader_sees_every_frame_once_and_in_order_or_is_told_that_it_was_overtaken(
            pushes in prop::collection::vec(prop_oneof![0..4_usize, 200..600_usize, 20_000..60_000_usize], 1..12),
            from in 1..150_000_u64,
        ) {
            let frames = Frames::default();
            let mut told = 0;
            for push in pushes {
                frames.push((told..told + push as u64).map(count).collect());
                told += push as u64;
            }
            prop_assert_eq!(frames.end(), told + 1);
            let kept = frames.end() - frames.begin();
            prop_assert!(kept == told || kept >= FRAMES_KEPT as u64 && kept < (FRAMES_KEPT + PIECE) as u64);
            let expected = if from < frames.begin() {
                Err(Overtaken)
            } else {
                Ok((from..=told).map(|number| (number, count(number - 1))).collect::<Vec<_>>())
            };
            prop_assert_eq!(seen(&frames, from), expected);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_is_woken_by_the_frame_it_waits_for() {
        let frames = Arc::new(Frames::default());
        let waiting: Vec<_> = (1..=50)
            .map(|number| {
                let frames = Arc::clone(&frames);
                tokio::spawn(async move {
                    frames.reached(number).await;
                    frames.end() > number
                })
            })
            .collect();
        (0..50).for_each(|depth| frames.push(vec![count(depth)]));
        for reader in waiting {
            assert!(reader.await.unwrap());
        }
    }

    #[test]
    fn every_process_has_an_epoch_of_its_own_and_a_frame_is_small() {
        assert_ne!(Frames::default().epoch(), Frames::default().epoch());
        assert!(size_of::<Happening>() <= 80, "{} bytes", size_of::<Happening>());
    }
}
