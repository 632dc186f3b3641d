//! The frames as they are sent. The same text goes to everybody, so it is made once for all who follow at about the same
//! time.

use std::sync::Arc;

use parking_lot::Mutex;
use projector::{Happening, Piece};
use proto_events::JobState;
use serde::Serialize;
use uuid::Uuid;

use crate::times::{Millis, now};

/// Pieces whose text is kept: readers are seldom further apart.
const KEPT: usize = 64;
/// A piece with longer names than that is made again for each reader.
const KEPT_BYTES: usize = 256 << 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Job<'a> {
    id: Uuid,
    name: &'a str,
    state: JobState,
    previous_state: Option<JobState>,
    timestamp: Millis,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Worker<'a> {
    id: Uuid,
    hostname: &'a str,
    state: &'a str,
    active_jobs: u64,
}

#[derive(Serialize)]
struct Queue<'a> {
    name: &'a str,
    depth: Option<u64>,
    consumers: Option<u64>,
}

#[derive(Serialize)]
struct Beat {
    timestamp: Millis,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Break<'a> {
    reason: &'a str,
    last_event_id: Option<&'a str>,
}

/// The number of a frame, made unmistakable: those of another process mean nothing here.
pub(super) mod event_id {
    pub(in crate::stream) fn of(epoch: u64, number: u64) -> String {
        format!("{epoch:016x}-{number}")
    }

    /// The epoch and the number, of an id that is written as we write it.
    pub(in crate::stream) fn parse(id: &str) -> Option<(u64, u64)> {
        let (epoch, number) = id.split_once('-')?;
        let parsed = (u64::from_str_radix(epoch, 16).ok()?, number.parse().ok()?);
        (of(parsed.0, parsed.1) == id).then_some(parsed)
    }
}

/// What every stream begins with: when to come back after a loss, and where it is.
pub(super) fn opening(id: &str) -> String {
    format!("retry: 2000\nid: {id}\n\n")
}

/// That the client has to read anew what it knows.
pub(super) fn resync(id: &str, reason: &str, last_event_id: Option<&str>) -> String {
    event(id, "resync", &Break { reason, last_event_id })
}

/// The last words to a client that is too slow.
pub(super) fn overflow(id: &str) -> String {
    event(id, "overflow", &Break { reason: "too-slow", last_event_id: Some(id) })
}

/// That nothing happens, but everybody is still there.
pub(super) fn heartbeat(id: &str) -> String {
    event(id, "heartbeat", &Beat { timestamp: Millis(now()) })
}

fn event(id: &str, name: &str, data: &impl Serialize) -> String {
    // JSON has no line breaks of its own, and escapes those in texts.
    let data = serde_json::to_string(data).expect("a plain struct of numbers and texts is JSON");
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
}

fn frame(id: &str, happening: &Happening) -> String {
    match happening {
        Happening::Job(job) => {
            let data = Job {
                id: job.id,
                name: &job.name,
                state: job.state,
                previous_state: job.previous,
                timestamp: Millis(job.at),
            };
            event(id, "job:state_change", &data)
        }
        Happening::WorkerHeartbeat(worker) => event(id, "worker:heartbeat", &Worker::from(worker)),
        Happening::WorkerState(worker) => event(id, "worker:state_change", &Worker::from(worker)),
        Happening::Queue(queue) => {
            event(id, "queue:snapshot", &Queue { name: &queue.name, depth: queue.depth, consumers: queue.consumers })
        }
        Happening::Replaced => resync(id, "views-replaced", None),
    }
}

impl<'a> From<&'a projector::WorkerSeen> for Worker<'a> {
    fn from(worker: &'a projector::WorkerSeen) -> Self {
        Self { id: worker.id, hostname: &worker.hostname, state: worker.state, active_jobs: worker.active_jobs }
    }
}

/// The text of a piece.
pub(super) struct Text {
    first: u64,
    whole: String,
    /// Where the text of each frame ends.
    ends: Vec<usize>,
}

impl Text {
    fn new(epoch: u64, piece: &Piece) -> Self {
        let (mut whole, mut ends) = (String::new(), Vec::with_capacity(piece.happenings().len()));
        for (number, happening) in (piece.first()..).zip(piece.happenings()) {
            whole.push_str(&frame(&event_id::of(epoch, number), happening));
            ends.push(whole.len());
        }
        Self { first: piece.first(), whole, ends }
    }

    /// That of one of its frames, by its place in the piece.
    pub(super) fn frame(&self, place: usize) -> &str {
        let begin = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.whole[begin..self.ends[place]]
    }
}

/// The texts that were made last.
pub(super) struct Texts {
    kept: Vec<Mutex<Option<Arc<Text>>>>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { kept: (0..KEPT).map(|_| Mutex::default()).collect() }
    }
}

impl Texts {
    /// The text of this piece.
    pub(super) fn of(&self, epoch: u64, piece: &Piece) -> Arc<Text> {
        // Numbers that are close together, as well as those that are a whole number of pieces apart, are spread evenly.
        let mixed = piece.first().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &self.kept[(mixed >> 32) as usize % KEPT];
        if let Some(text) = place.lock().as_ref().filter(|text| text.first == piece.first()) {
            return Arc::clone(text);
        }
        // Two that come at the same time both make it, rather than one wait for the other.
        let text = Arc::new(Text::new(epoch, piece));
        if text.whole.len() <= KEPT_BYTES {
            *place.lock() = Some(Arc::clone(&text));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::event_id;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_given_as_an_id_it_is_read_as_it_was_written_or_refused(
            epoch: u64, number: u64, text in "[0-9a-f]{0,20}-[0-9+ ]{0,24}|\\PC{0,40}",
        ) {
            prop_assert_eq!(event_id::parse(&event_id::of(epoch, number)), Some((epoch, number)));
            if let Some((epoch, number)) = event_id::parse(&text) {
                prop_assert_eq!(event_id::of(epoch, number), text);
            }
        }
    }
}
