//! How long a text of an event may be, and what happens to a longer one.
//!
//! The figures are those of the documented ingest API. A text that is too long is cut and marked, never refused: a
//! sender that does not cut its tracebacks must not lose the event. The one exception is the external id, since two
//! ids cut to the same text would merge two jobs.

use serde_json::{Map, Value};

use crate::event::{Event, EventType, Job, check_external_id};
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
/// Jobs that one `log.trim` names.
pub const TRIM_JOBS: usize = 3_000;
/// Levels of nesting in a free-form value. A parser stops at 128 for the whole message, and what could be read from one
/// place of a body must be readable from another place of a message.
pub const DEPTH: usize = 64;

/// Characters of Celery's `signum`.
const SIGNUM: usize = 64;

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

/// The same, but what is left out is the middle: the last line of a traceback tells the most.
///
/// ```
/// let mut text = "a".repeat(20) + &"z".repeat(20);
/// assert!(proto_events::limits::cut_middle(&mut text, 20));
/// assert_eq!(text, "aaaaaa… [cut]zzzzzzz");
/// ```
pub fn cut_middle(text: &mut String, characters: usize) -> bool {
    if text.len() <= characters {
        return false;
    }
    let length = text.chars().count();
    if length <= characters {
        return false;
    }
    let kept = characters.saturating_sub(CUT.chars().count());
    let place = |nth: usize| text.char_indices().nth(nth).map_or(text.len(), |(at, _)| at);
    let (head, tail) = (place(kept / 2), place(length - (kept - kept / 2)));
    text.replace_range(head..tail, CUT);
    true
}

/// Brings the event within every limit: each text within its own, the whole within [`EVENT_BYTES`] once encoded, and
/// only the payload that its kind promises. What the limits allow stays as it is, so doing it twice changes nothing.
///
/// The external id of a job is left alone: [`Event::check`] refuses one that is too long.
pub fn enforce(event: &mut Event) {
    keep_own_payload(event);
    if let Some(producer) = &mut event.producer {
        cut(&mut producer.hostname, WORKER_ID);
    }
    if let Some(job) = &mut event.job {
        enforce_job(job);
    }
    if let Some(worker) = &mut event.worker {
        cut(&mut worker.external_id, WORKER_ID);
        cut(&mut worker.hostname, WORKER_ID);
        worker.heartbeat_freq = worker.heartbeat_freq.filter(|number| number.is_finite());
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
    if let Some(trim) = &mut event.trim {
        trim.jobs.truncate(TRIM_JOBS);
    }
    shrink(event);
}

fn keep_own_payload(event: &mut Event) {
    let kind = event.kind;
    event.job.take_if(|_| kind != EventType::JobStateChange);
    event.worker.take_if(|_| kind != EventType::WorkerStateChange);
    event.queue.take_if(|_| kind != EventType::QueueSnapshot);
    event.source.take_if(|_| kind != EventType::SourceStateChange);
    event.trim.take_if(|_| kind != EventType::LogTrim);
}

fn enforce_job(job: &mut Job) {
    let texts =
        [(&mut job.name, NAME), (&mut job.queue, QUEUE), (&mut job.worker_id, WORKER_ID), (&mut job.error, ERROR)];
    for (text, limit) in texts {
        if let Some(text) = text {
            cut(text, limit);
        }
    }
    job.stacktrace.as_mut().map(|text| cut_middle(text, STACKTRACE));
    // A job of such an id is refused, so nothing can be the parent that it names; cut, it could name another job.
    job.parent_id.take_if(|id| check_external_id(id).is_err());
    job.root_id.take_if(|id| check_external_id(id).is_err());
    job.progress = job.progress.filter(|number| number.is_finite()).map(|number| number.clamp(0.0, 1.0));
    if let Some(celery) = &mut job.celery {
        celery.runtime = celery.runtime.filter(|number| number.is_finite());
        celery.signum.as_mut().map(|text| cut(text, SIGNUM));
    }
    for value in [&mut job.args, &mut job.kwargs, &mut job.result].into_iter().flatten() {
        bound_depth(value, DEPTH);
    }
    bound_map(&mut job.tags);
    bound_map(&mut job.extensions);
}

fn bound_map(map: &mut Map<String, Value>) {
    while map.len() > MAP_ENTRIES {
        let Some(last) = map.keys().next_back().cloned() else { break };
        map.remove(&last);
    }
    map.values_mut().for_each(|value| bound_depth(value, DEPTH));
}

fn bound_depth(value: &mut Value, levels: usize) {
    match value {
        Value::Array(_) | Value::Object(_) if levels == 0 => *value = Value::String(CUT.to_owned()),
        Value::Array(values) => values.iter_mut().for_each(|value| bound_depth(value, levels - 1)),
        Value::Object(map) => map.values_mut().for_each(|value| bound_depth(value, levels - 1)),
        _ => {}
    }
}

/// Cuts the free-form parts, the least telling first, until the encoded event fits. After the last step it does: each
/// map holds at most an eighth of the limit, a character takes at most six bytes, and the sum is below the limit.
fn shrink(event: &mut Event) {
    let steps: [fn(&mut Job); 6] = [
        |job| shrink_map(&mut job.extensions),
        |job| shrink_value(&mut job.args),
        |job| shrink_value(&mut job.kwargs),
        |job| shrink_value(&mut job.result),
        |job| shrink_map(&mut job.tags),
        |job| {
            job.stacktrace.as_mut().map(|text| cut_middle(text, STACKTRACE / 8));
            job.error.as_mut().map(|text| cut(text, ERROR / 8));
        },
    ];
    for step in steps {
        if wire::encoded_len(event) <= EVENT_BYTES {
            return;
        }
        if let Some(job) = &mut event.job {
            step(job);
        }
        if let Some(worker) = &mut event.worker {
            shrink_map(&mut worker.metadata);
            shrink_map(&mut worker.extensions);
        }
        if let Some(queue) = &mut event.queue {
            shrink_map(&mut queue.extensions);
        }
    }
}

fn shrink_map(map: &mut Map<String, Value>) {
    // Short values (Celery's own state names among them) stay: it is the long ones that do not fit.
    for value in map.values_mut() {
        if wire::encoded_len(value) > 256 {
            *value = Value::String(CUT.to_owned());
        }
    }
    if wire::encoded_len(map) > EVENT_BYTES / 8 {
        map.clear();
        map.insert("cut".to_owned(), Value::Bool(true));
    }
}

fn shrink_value(value: &mut Option<Value>) {
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
            for cut in [cut, cut_middle] {
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
}
