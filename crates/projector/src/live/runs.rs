//! The processes that a worker's name stood for, one after the other.

use proto_events::Timestamp;

/// So many are remembered of one worker.
const RUNS: usize = 4;

/// The processes of one worker, as far as they are known.
#[derive(Debug, Default)]
pub(super) struct Runs(Vec<Run>);

/// One process: from its first word to its last, by its own clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) pid: i64,
    pub(super) first: Word,
    pub(super) last: Word,
}

/// A word of a process, and what it counted by then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Word {
    pub(super) at: Timestamp,
    pub(super) processed: Option<u64>,
    pub(super) clock: Option<i64>,
}

impl Run {
    /// Whether the process of this pid must be another one by now: what only ever grows has shrunk. In a container every
    /// process may have the same pid.
    fn has_ended(&self, word: &Word) -> bool {
        let shrank =
            |before: Option<i128>, now: Option<i128>| before.zip(now).is_some_and(|(before, now)| now < before);
        shrank(self.last.processed.map(i128::from), word.processed.map(i128::from))
            || shrank(self.last.clock.map(i128::from), word.clock.map(i128::from))
    }
}

impl Runs {
    /// A process said something, which may come late or again. Tells whether it is one that was not known.
    pub(super) fn note(&mut self, pid: i64, word: Word) -> bool {
        let latest = self.0.iter_mut().filter(|run| run.pid == pid).max_by_key(|run| run.last.at);
        if let Some(run) = latest.filter(|run| word.at <= run.last.at || !run.has_ended(&word)) {
            if word.at >= run.last.at {
                let (processed, clock) = (word.processed.or(run.last.processed), word.clock.or(run.last.clock));
                run.last = Word { at: word.at, processed, clock };
            }
            if word.at < run.first.at {
                run.first = word;
            }
            return false;
        }
        self.0.push(Run { pid, first: word, last: word });
        if self.0.len() > RUNS {
            self.0.sort_by_key(|run| run.last.at);
            self.0.remove(0);
        }
        true
    }

    /// The youngest process and the last one before it, where there were others and all of them were silent by then.
    /// Where two speak at the same time under one name, none of them has ended.
    pub(super) fn replaced(&self) -> Option<(Run, Run)> {
        let (at, youngest) = self.0.iter().enumerate().max_by_key(|(_, run)| run.first.at)?;
        let others = || self.0.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, run)| run);
        let before = others().max_by_key(|run| run.last.at)?;
        others().all(|run| run.last.at <= youngest.first.at).then_some((*before, *youngest))
    }

    /// When the youngest process began, where it took the place of others.
    pub(super) fn last_began(&self) -> Option<Timestamp> {
        self.replaced().map(|(_, youngest)| youngest.first.at)
    }

    /// A process that began before this time and spoke after it.
    pub(super) fn spoke_across(&self, time: Timestamp) -> Option<Run> {
        self.0.iter().find(|run| run.first.at < time && run.last.at > time).copied()
    }

    /// The process that spoke last.
    pub(super) fn last(&self) -> Option<Run> {
        self.0.iter().max_by_key(|run| run.last.at).copied()
    }
}
