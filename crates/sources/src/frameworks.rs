//! What `BullMQ` and Sidekiq call things beyond the words of the contract.
//!
//! The contract's own words always count first; what is read here is what their senders have at hand. The framework's
//! own name of a state is kept as the extension `bullmqState` or `sidekiqState`, as Celery's is as `celeryState`.

use proto_events::{Framework, Job, JobState};
use serde_json::Value;

use crate::json::Fields;

/// A framework's own name of a state.
pub(crate) struct Named {
    pub(crate) state: JobState,
    /// What it says of the state before.
    before: Option<JobState>,
}

/// The unified state that a framework's own name stands for.
pub(crate) fn state(framework: Framework, name: &str) -> Option<Named> {
    let (state, before) = match (framework, name) {
        (Framework::Bullmq, "waiting" | "wait" | "paused" | "prioritized") | (Framework::Sidekiq, "enqueued") => {
            (JobState::Queued, None)
        }
        // Its worker has put it back, or is gone.
        (Framework::Bullmq, "waiting-children" | "stalled") => (JobState::Queued, Some(JobState::Active)),
        (Framework::Bullmq, "delayed") => (JobState::Scheduled, None),
        (Framework::Sidekiq, "busy") => (JobState::Active, None),
        (Framework::Sidekiq, "retry") => (JobState::Retrying, None),
        // Out of retries.
        (Framework::Sidekiq, "dead") => (JobState::Failed, None),
        _ => return None,
    };
    Some(Named { state, before })
}

/// Reads a framework's own fields where the contract's are not there.
pub(crate) fn fill(framework: Framework, named: Option<(Named, String)>, job: &mut Job, fields: &mut Fields<'_>) {
    match framework {
        Framework::Celery => {}
        Framework::Bullmq => bullmq(job, fields),
        Framework::Sidekiq => sidekiq(job, fields),
    }
    if let Some((named, name)) = named {
        job.previous_state = job.previous_state.or(named.before);
        job.extensions.insert(format!("{}State", framework.as_str()), Value::String(name));
    }
}

fn bullmq(job: &mut Job, fields: &mut Fields<'_>) {
    // How many tries have ended, this one among them where it has.
    if job.attempt.is_none()
        && let Some(made) = fields.small_count("attemptsMade")
    {
        let has_ended = matches!(job.state, JobState::Completed | JobState::Failed | JobState::Retrying);
        job.attempt = Some(if has_ended { made.max(1) } else { made.saturating_add(1) });
    }
    if let Some(Value::Object(options)) = fields.get("opts")
        && let Some(attempts) = options.get("attempts").and_then(Value::as_u64)
    {
        let retries = u32::try_from(attempts.saturating_sub(1)).ok();
        job.max_retries = job.max_retries.or(retries);
    }
    job.error = job.error.take().or_else(|| fields.filled_text("failedReason"));
    // One text for each try that failed.
    if job.stacktrace.is_none()
        && let Some(Value::Array(traces)) = fields.get("stacktrace")
        && let Some(Value::String(last)) = traces.last()
    {
        job.stacktrace = Some(last.clone());
        fields.take("stacktrace");
    }
}

fn sidekiq(job: &mut Job, fields: &mut Fields<'_>) {
    // How often it was tried again; absent before its first try has failed, and 0 from then until the second one has.
    if job.attempt.is_none()
        && let Some(count) = fields.small_count("retry_count")
    {
        let has_ended = job.state == JobState::Retrying;
        job.attempt = Some(count.saturating_add(if has_ended { 1 } else { 2 }));
    }
    job.error = job.error.take().or_else(|| {
        let (class, message) = (fields.filled_text("error_class"), fields.filled_text("error_message"));
        match (class, message) {
            (Some(class), Some(message)) => Some(format!("{class}: {message}")),
            (class, message) => class.or(message),
        }
    });
}

/// How far a job is: of one, or of a hundred where `BullMQ` counts so. 1 is all of it, as the contract says.
pub(crate) fn progress(framework: Framework, progress: f64) -> f64 {
    let part = if framework == Framework::Bullmq && progress > 1.0 { progress / 100.0 } else { progress };
    part.clamp(0.0, 1.0)
}
