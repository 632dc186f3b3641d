//! One order for everything that was seen: earliest first, but never an effect before its cause.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proto_events::{EventId, JobState, Timestamp};

use crate::seen::{Said, Seen};

/// An event and the part it plays.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    pub(crate) seen: &'a Seen,
    pub(crate) what: What,
    /// Items that come before this one.
    pub(crate) after: Vec<usize>,
}

/// The part that an event plays in the life of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A message of that attempt was sent or received.
    Waiting { attempt: u32 },
    /// An execution begins.
    Start { run: usize },
    /// An execution ends.
    End { run: usize },
    /// An execution's process is gone.
    Lost { run: usize },
    /// The job ends while nothing runs.
    EndWithoutRun,
    /// A report of a state.
    Report,
    /// It moves nothing; its fields count.
    Fields,
}

impl<'a> Item<'a> {
    pub(crate) fn new(seen: &'a Seen, what: What) -> Self {
        Self { seen, what, after: Vec::new() }
    }

    /// Among what happened in the same microsecond, the order of a job's life.
    fn rank(&self) -> u8 {
        match (self.what, self.seen.said, self.seen.state) {
            (What::Waiting { .. }, Said::Sent, _) => 0,
            (What::Lost { .. }, ..) => 1,
            (What::Waiting { .. }, ..)
            | (What::Report, _, JobState::Unknown | JobState::Queued | JobState::Scheduled) => 2,
            (What::Start { .. }, ..) | (What::Report, _, JobState::Active) => 3,
            (What::Fields, ..) => 4,
            (What::End { .. } | What::EndWithoutRun | What::Report, ..) => 5,
        }
    }

    fn priority(&self) -> (Timestamp, u8, EventId) {
        (self.seen.at, self.rank(), self.seen.id)
    }
}

/// The places of the items in their one order: of those whose causes have all been placed, always the earliest next.
pub(crate) fn order(items: &[Item<'_>]) -> Vec<usize> {
    let mut blocked_by: Vec<usize> = items.iter().map(|item| item.after.len()).collect();
    let mut effects: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for (place, item) in items.iter().enumerate() {
        item.after.iter().for_each(|before| effects[*before].push(place));
    }
    let mut ready: BinaryHeap<_> = (0..items.len())
        .filter(|place| blocked_by[*place] == 0)
        .map(|place| Reverse((items[place].priority(), place)))
        .collect();
    let mut ordered = Vec::with_capacity(items.len());
    while let Some(Reverse((_, place))) = ready.pop() {
        ordered.push(place);
        for effect in &effects[place] {
            blocked_by[*effect] -= 1;
            if blocked_by[*effect] == 0 {
                ready.push(Reverse((items[*effect].priority(), *effect)));
            }
        }
    }
    // Causes run from lower attempts to higher and along each host's own order, so there is no circle; were there one
    // all the same, what it holds back must not vanish from the record.
    debug_assert_eq!(ordered.len(), items.len(), "cause and effect go in a circle");
    if ordered.len() < items.len() {
        let mut rest: Vec<usize> = (0..items.len()).filter(|place| blocked_by[*place] > 0).collect();
        rest.sort_by_key(|place| items[*place].priority());
        ordered.append(&mut rest);
    }
    ordered
}
