//! How long a text of an event may be, and what happens to a longer one.
//!
//! The figures are those of the documented ingest API. A text that is too long is cut and marked, never refused: a
//! sender that does not cut its tracebacks must not lose the event. The one exception is the external id, since two
//! ids cut to the same text would merge two jobs.

use serde_json::Value;

use crate::event::{Event, Job};
use crate::wire;

/// Characters of a job's external id; a longer one is refused.
pub const EXTERNAL_ID: usize = 512;
/// Characters of a task name.
pub const NAME: usize = 1_024;
/// Characters of a queue name.
pub const QUEUE: usize = 255;
/// Characters of a worker id or hostname.
pub const WORKER_ID: usize = 512;
/// Characters of an error.
pub const ERROR: usize = 10_000;
/// Characters of a stack trace.
pub const STACKTRACE: usize = 50_000;
/// Bytes of one encoded event.
pub const EVENT_BYTES: usize = 128 * 1_024;
/// Entries of `tags` and of `extensions`.
pub const MAP_ENTRIES: usize = 256;

/// What stands where a text was cut.
pub const CUT: &str = "… [cut]";

/// Cuts the text to at most so many characters, the mark included; tells whether it did.
///
/// ```
/// let mut text = "x".repeat(30);
/// assert!(proto_events::limits::cut(&mut text, 20));
/// assert_eq!(text, "xxxxxxxxxxxxx… [cut]");
/// assert!(!proto_events::limits::cut(&mut text, 20));
/// ```
pub fn cut(text: &mut String, characters: usize) -> bool {
    // A text has at least as many bytes as characters, so short texts, nearly all, are never walked.
    if text.len() <= characters || text.chars().count() <= characters {
        return false;
    }
    let kept = characters.saturating_sub(CUT.chars().count());
    let end = text.char_indices().nth(kept).map_or(text.len(), |(at, _)| at);
    text.truncate(end);
    text.push_str(CUT);
    true
}

/// Brings every text of the event within its limit, and the event within [`EVENT_BYTES`].
pub fn enforce(event: &mut Event) {
    if let Some(producer) = &mut event.producer {
        cut(&mut producer.hostname, WORKER_ID);
    }
    if let Some(job) = &mut event.job {
        enforce_job(job);
    }
    if let Some(worker) = &mut event.worker {
        cut(&mut worker.external_id, WORKER_ID);
        cut(&mut worker.hostname, WORKER_ID);
        bound_map(&mut worker.metadata);
        bound_map(&mut worker.extensions);
    }
    if let Some(queue) = &mut event.queue {
        cut(&mut queue.name, QUEUE);
        bound_map(&mut queue.extensions);
    }
    if let Some(source) = &mut event.source {
        cut(&mut source.name, NAME);
        source.reason.as_mut().map(|reason| cut(reason, ERROR));
    }
    shrink(event);
}

fn enforce_job(job: &mut Job) {
    let texts = [
        (&mut job.name, NAME),
        (&mut job.queue, QUEUE),
        (&mut job.worker_id, WORKER_ID),
        (&mut job.error, ERROR),
        (&mut job.stacktrace, STACKTRACE),
        (&mut job.parent_id, EXTERNAL_ID),
        (&mut job.root_id, EXTERNAL_ID),
    ];
    for (text, limit) in texts {
        if let Some(text) = text {
            cut(text, limit);
        }
    }
    bound_map(&mut job.tags);
    bound_map(&mut job.extensions);
}

fn bound_map(map: &mut serde_json::Map<String, Value>) {
    while map.len() > MAP_ENTRIES {
        let Some(last) = map.keys().next_back().cloned() else { break };
        map.remove(&last);
    }
}

/// Cuts the free-form parts, the least telling first, until the encoded event fits.
fn shrink(event: &mut Event) {
    let steps: [fn(&mut Job); 6] = [
        |job| replace_map(&mut job.extensions),
        |job| replace_value(&mut job.args),
        |job| replace_value(&mut job.kwargs),
        |job| replace_value(&mut job.result),
        |job| replace_map(&mut job.tags),
        |job| {
            job.stacktrace.as_mut().map(|text| cut(text, STACKTRACE / 8));
            job.error.as_mut().map(|text| cut(text, ERROR / 8));
        },
    ];
    for step in steps {
        if wire::encoded_len(event) <= EVENT_BYTES {
            return;
        }
        match (&mut event.job, &mut event.worker, &mut event.queue) {
            (Some(job), _, _) => step(job),
            (_, Some(worker), _) => {
                replace_map(&mut worker.metadata);
                replace_map(&mut worker.extensions);
            }
            (_, _, Some(queue)) => replace_map(&mut queue.extensions),
            _ => return,
        }
    }
}

fn replace_map(map: &mut serde_json::Map<String, Value>) {
    // Short values (Celery's own state names among them) stay: it is the long ones that do not fit.
    for value in map.values_mut() {
        if wire::encoded_len(value) > 256 {
            *value = Value::String(CUT.to_owned());
        }
    }
    if wire::encoded_len(map) > EVENT_BYTES / 4 {
        map.clear();
        map.insert("cut".to_owned(), Value::Bool(true));
    }
}

fn replace_value(value: &mut Option<Value>) {
    match value {
        Some(Value::String(text)) => {
            cut(text, 1_024);
        }
        Some(other) if wire::encoded_len(other) > 1_024 => *other = Value::String(CUT.to_owned()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cut_text_is_within_its_limit_and_stays_as_it_is(text in "\\PC{0,80}", limit in 8_usize..60) {
            let mut cut_text = text.clone();
            let was_cut = cut(&mut cut_text, limit);
            prop_assert!(cut_text.chars().count() <= limit);
            prop_assert_eq!(was_cut, text.chars().count() > limit);
            let once = cut_text.clone();
            prop_assert!(!cut(&mut cut_text, limit));
            prop_assert_eq!(once, cut_text);
        }
    }
}
