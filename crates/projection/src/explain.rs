//! What the fold made of each event: counted, collapsed into another, or refused, and why.

use std::collections::HashSet;

use proto_events::{EventId, JobState, Position, Timestamp};
use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;
use crate::fold::{Prepared, prepare};
use crate::order::{Item, What, order};
use crate::seen::{Said, Seen};
use crate::timeline::Timeline;

/// One event, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// Which event it is.
    pub id: EventId,
    /// The lowest place in the log where it stands.
    pub position: Position,
    /// When it happened, by its own word.
    pub at: Timestamp,
    /// What the fold made of it.
    pub verdict: Verdict,
    /// Why, where it did not simply count.
    pub reason: Option<&'static str>,
}

/// What the fold made of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The record would be another one without it.
    Counted,
    /// Another event says the same; at most its fields fill gaps.
    Collapsed,
    /// It contradicts what is better known.
    Refused,
}

/// What the fold made of each event of the evidence, in the order in which it took them.
pub fn explain(evidence: &Evidence) -> Vec<Testimony> {
    let Prepared { runs, items, .. } = prepare(evidence.events());
    let mut timeline = Timeline::new(runs);
    let mut said = HashSet::new();
    let mut testimonies = Vec::new();
    for place in order(&items) {
        let item = &items[place];
        let before = timeline.progress();
        timeline.step(place, &items);
        // The loss of an execution is read from an event that stands here in its own right as well.
        if matches!(item.what, What::Lost { .. }) {
            continue;
        }
        let is_first = said.insert((item.seen.said, &item.seen.host, item.seen.pid, item.seen.clock, item.seen.at));
        let (verdict, reason) = match item.what {
            What::Fields => of_fields(item.seen, is_first),
            _ if timeline.progress() != before => (Verdict::Counted, None),
            _ => unmoved(item, timeline.state()),
        };
        let Seen { id, position, at, .. } = *item.seen;
        testimonies.push(Testimony { id, position, at, verdict, reason });
    }
    testimonies
}

/// Of an event that plays no part in the walk.
fn of_fields(seen: &Seen, is_first: bool) -> (Verdict, Option<&'static str>) {
    match seen.said {
        Said::Custom => (Verdict::Counted, Some("it changes no state; its fields are kept")),
        Said::Reported => (Verdict::Collapsed, Some("Celery's own event says the same")),
        Said::Reconciled => (Verdict::Collapsed, Some("the end was announced, and that counts more")),
        _ if !is_first => (Verdict::Collapsed, Some("the same event came twice")),
        Said::Succeeded => (Verdict::Refused, Some("a success without a runtime of an execution that was terminated")),
        _ => (Verdict::Collapsed, Some("the same end was announced again")),
    }
}

/// Of an event that could have moved something, and did not.
fn unmoved(item: &Item<'_>, state: Option<JobState>) -> (Verdict, Option<&'static str>) {
    let ended = state.is_some_and(JobState::is_final);
    match (item.what, item.seen.said) {
        (What::Waiting { .. }, Said::Sent) if ended => {
            (Verdict::Refused, Some("it was sent again after the end, and nothing has come of that"))
        }
        (What::Waiting { .. }, Said::Received) if ended => {
            (Verdict::Refused, Some("another worker received it after the end, and has not run it"))
        }
        (What::Waiting { .. }, Said::Received) => (Verdict::Counted, Some("a delivery; the state stays")),
        (What::Waiting { .. }, _) => (Verdict::Collapsed, Some("the job waits already")),
        (What::EndWithoutRun, _) => (Verdict::Refused, Some("the job had ended, or runs elsewhere")),
        (What::Report, Said::Reconciled) => (Verdict::Refused, Some("the end is known from events")),
        (What::Report, _) if item.seen.state == state.unwrap_or(JobState::Unknown) => {
            (Verdict::Collapsed, Some("the same state was reported before"))
        }
        (What::Report, _) if ended => (Verdict::Refused, Some("the job had ended")),
        _ => (Verdict::Collapsed, Some("it says nothing new of the state")),
    }
}
