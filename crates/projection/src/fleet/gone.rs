//! Which processes of a worker are gone.

use proto_events::{Position, Timestamp};
use serde::{Deserialize, Serialize};

use super::{FleetFact, What};

/// What proves that a process is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// A process of another pid took its place under the same name.
    NewProcess {
        /// The one that is gone.
        from: i64,
        /// The one that came.
        to: i64,
    },
    /// A process of the same pid counts its logical clock anew, as containers bring about.
    ClockRestarted {
        /// The pid of both.
        pid: i64,
        /// The clock as it was last heard.
        from: i64,
        /// And as it was heard then.
        to: i64,
    },
    /// A process of the same pid counts the jobs that it ran anew.
    CountRestarted {
        /// The pid of both.
        pid: i64,
        /// Jobs that the one before had run.
        from: u64,
        /// Jobs that it had run then.
        to: u64,
    },
    /// It was not heard while it would have been.
    Silent {
        /// Its pid.
        pid: Option<i64>,
        /// When it was heard last, by its own clock.
        heard: Timestamp,
        /// Since when it would have been heard.
        listening: Option<Timestamp>,
    },
}

/// That a process is gone, and with it what it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// What began before this time on that worker never ended.
    pub before: Timestamp,
    /// When that was found out: the first word of the next process, or the end of our patience.
    pub at: Timestamp,
    /// What proves it.
    pub proof: Proof,
}

impl Lost {
    /// When the process was heard last, where that is all that is known of its end; else when the next one came.
    pub fn heard(&self) -> Timestamp {
        match self.proof {
            Proof::Silent { heard, .. } => heard,
            _ => self.before,
        }
    }
}

/// All that is gone of a worker, in the order of [`Lost::before`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone(Vec<Lost>);

impl Gone {
    /// What began before this time is lost.
    pub fn before(&self) -> Timestamp {
        self.0.last().map_or(Timestamp::default(), |lost| lost.before)
    }

    /// Why a job that began at this time on the worker is lost; `None` where it is not. Times are compared by the
    /// millisecond, as jobs show them.
    pub fn lost(&self, began: Timestamp) -> Option<&Lost> {
        self.0.iter().find(|lost| began.millis() < lost.before.millis())
    }

    /// The silence of the worker, while it lasts.
    pub fn silence(&self) -> Option<&Lost> {
        self.0.iter().find(|lost| matches!(lost.proof, Proof::Silent { .. }))
    }

    /// When the youngest process came that took the place of others.
    pub fn replaced(&self) -> Option<Timestamp> {
        self.0.iter().rfind(|lost| !matches!(lost.proof, Proof::Silent { .. })).map(|lost| lost.before)
    }
}

/// One process, from its first word to its last, by its own clock.
struct Run {
    pid: i64,
    first: Timestamp,
    last: Timestamp,
    /// By its own clock: where each word stands in the log, its logical clock, and the jobs run by then.
    counts: Vec<Counts>,
    /// What shows that it is not the one before.
    proof: Option<Proof>,
}

type Counts = (Position, Option<i64>, Option<u64>);

/// What is gone, of all that is known of one worker.
pub(super) fn of<'a>(facts: impl Iterator<Item = &'a FleetFact> + Clone) -> Option<Gone> {
    let mut gone = replaced(&runs(facts.clone()));
    gone.extend(silent(facts));
    gone.sort_by_key(|lost| lost.before);
    (!gone.is_empty()).then_some(Gone(gone))
}

fn runs<'a>(facts: impl Iterator<Item = &'a FleetFact>) -> Vec<Run> {
    // A silence tells of a process, too: that it was there when it was heard last.
    let heard = |fact: &FleetFact| match fact.what {
        What::Spoke { pid: Some(pid), clock, processed, .. } => Some((fact.at, fact.position, pid, clock, processed)),
        What::Silent { pid: Some(pid), heard, .. } => Some((heard, fact.position, pid, None, None)),
        _ => None,
    };
    let mut heard: Vec<_> = facts.filter_map(heard).collect();
    heard.sort_by_key(|(at, position, ..)| (*at, *position));
    let mut runs: Vec<Run> = Vec::new();
    for (at, position, pid, clock, processed) in heard {
        let counts = (position, clock, processed);
        let same = runs.iter_mut().rfind(|run| run.pid == pid);
        let proof = match same {
            Some(run) => match run.began_anew(counts) {
                None => {
                    run.last = at;
                    run.counts.push(counts);
                    continue;
                }
                proof => proof,
            },
            None => None,
        };
        let proof = proof.or_else(|| runs.last().map(|before| Proof::NewProcess { from: before.pid, to: pid }));
        runs.push(Run { pid, first: at, last: at, counts: vec![counts], proof });
    }
    runs
}

impl Run {
    /// Why the process of this pid must be another one by now: what only ever grows has shrunk. That counts only against
    /// words that stand before it in the log, too. After its wall clock was set back, what a process says seems to come
    /// before what it said earlier; and what arrives late stands behind what was said later.
    fn began_anew(&self, (position, clock, processed): Counts) -> Option<Proof> {
        let pid = self.pid;
        let before = || self.counts.iter().rev().filter(|(before, ..)| *before < position);
        let of_clock = before().find_map(|(_, from, _)| from.zip(clock).filter(|(from, to)| to < from));
        let of_count = before().find_map(|(.., from)| from.zip(processed).filter(|(from, to)| to < from));
        let of_clock = of_clock.map(|(from, to)| Proof::ClockRestarted { pid, from, to });
        of_clock.or_else(|| of_count.map(|(from, to)| Proof::CountRestarted { pid, from, to }))
    }
}

/// A process took the place of others where all before it were silent by then. Where two speak at the same time under
/// one name, none of them has ended.
fn replaced(runs: &[Run]) -> Vec<Lost> {
    let mut gone = Vec::new();
    let mut last = runs.first().map_or(Timestamp::default(), |run| run.last);
    for run in runs.iter().skip(1) {
        if last <= run.first
            && let Some(proof) = run.proof.clone()
        {
            gone.push(Lost { before: run.first, at: run.first, proof });
        }
        last = last.max(run.last);
    }
    gone
}

/// The last silence, unless the worker was heard since.
fn silent<'a>(facts: impl Iterator<Item = &'a FleetFact> + Clone) -> Option<Lost> {
    let silences = facts.clone().filter_map(|fact| match fact.what {
        What::Silent { pid, heard, listening, beats_while_busy } => {
            Some((fact.at, fact.position, pid, heard, listening, beats_while_busy))
        }
        _ => None,
    });
    let (at, _, pid, heard, listening, beats_while_busy) =
        silences.max_by_key(|(at, position, ..)| (*at, *position))?;
    let mut others = facts.filter(|fact| matches!(fact.what, What::Spoke { .. }));
    if others.any(|fact| fact.at > heard) {
        return None;
    }
    // One that cannot beat while it runs something is silent for as long as that takes. It has beaten since a job began,
    // or while it ran another one: then it can.
    let before = if beats_while_busy { at } else { heard };
    Some(Lost { before, at, proof: Proof::Silent { pid, heard, listening } })
}
