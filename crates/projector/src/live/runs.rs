//! The processes that a worker's name stood for, one after the other.

use proto_events::Timestamp;

/// So many are remembered of one worker.
const RUNS: usize = 4;

/// The processes of one worker, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Run>);

/// One process: from its first word to its last, by its own clock.
#[derive(Debug)]
struct Run {
    pid: i64,
    first: Timestamp,
    last: Timestamp,
    processed: Option<u64>,
    clock: Option<i64>,
}

impl Run {
    /// Whether the process of this pid must be another one by now: what only ever grows has shrunk. In a container every
    /// process may have the same pid.
    fn has_ended(&self, processed: Option<u64>, clock: Option<i64>) -> bool {
        let shrank =
            |before: Option<i128>, now: Option<i128>| before.zip(now).is_some_and(|(before, now)| now < before);
        shrank(self.processed.map(i128::from), processed.map(i128::from))
            || shrank(self.clock.map(i128::from), clock.map(i128::from))
    }
}

impl Runs {
    /// A process said something, which may come late or again.
    pub(super) fn note(&mut self, pid: i64, said: Timestamp, processed: Option<u64>, clock: Option<i64>) {
        let latest = self.0.iter_mut().filter(|run| run.pid == pid).max_by_key(|run| run.last);
        if let Some(run) = latest.filter(|run| said <= run.last || !run.has_ended(processed, clock)) {
            if said >= run.last {
                (run.processed, run.clock) = (processed.or(run.processed), clock.or(run.clock));
            }
            (run.first, run.last) = (run.first.min(said), run.last.max(said));
            return;
        }
        self.0.push(Run { pid, first: said, last: said, processed, clock });
        if self.0.len() > RUNS {
            self.0.sort_by_key(|run| run.last);
            self.0.remove(0);
        }
    }

    /// When the youngest process began, where there were others and all of them were silent by then. Where two speak at
    /// the same time under one name, none of them has ended.
    pub(super) fn last_began(&self) -> Option<Timestamp> {
        let (at, youngest) = self.0.iter().enumerate().max_by_key(|(_, run)| run.first)?;
        let others = || self.0.iter().enumerate().filter(|(other, _)| *other != at);
        let is_last = others().all(|(_, run)| run.last <= youngest.first);
        (others().next().is_some() && is_last).then_some(youngest.first)
    }
}
