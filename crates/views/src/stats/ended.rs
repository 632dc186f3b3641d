//! How jobs ended lately, by task and for any length of time: what the rates of alerts are made of. Of all that is known
//! of a task only two numbers are asked for, so that asking every few seconds costs little.

use std::sync::Arc;
use std::time::Duration;

use proto_events::Timestamp;
use uuid::Uuid;

use super::cells::{Cells, HOUR, MINUTE, Work};
use super::{FINE, Stats};

/// How the jobs of a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Whose.
    pub connection: Uuid,
    /// The task; `None` stands for all tasks beyond the limit together.
    pub name: Option<Arc<str>>,
    /// Jobs that ended well.
    pub completed: u64,
    /// Jobs that failed.
    pub failed: u64,
}

impl Stats {
    /// Of each task of which jobs completed or failed within this time until now: by the minute, and where the time is
    /// longer than minutes are kept by the hour. The minute or hour in which it began is counted whole.
    pub(crate) fn ended(&self, window: Duration, now: Timestamp) -> Vec<Ended> {
        let (end, window) = (now.millis(), i64::try_from(window.as_millis()).unwrap_or(i64::MAX));
        let begin = end.saturating_sub(window);
        let is_fine = begin.div_euclid(MINUTE) * MINUTE > end - FINE;
        let of = |work: &Cells<Work>| {
            let mut sum = (0, 0);
            let mut add = |work: &Work| {
                sum.0 += u64::from(work.completed);
                sum.1 += u64::from(work.failed);
            };
            let cells = |width: i64| begin.div_euclid(width)..end.div_euclid(width) + 1;
            if is_fine {
                work.minutes(cells(MINUTE)).for_each(|(_, cell)| add(cell));
            } else {
                work.hours(cells(HOUR)).for_each(|(_, cell)| add(cell));
            }
            sum
        };
        let ended = self.tasks.iter().map(|(connection, name, series)| (connection, name, of(&series.work)));
        ended
            .filter(|(_, _, (completed, failed))| completed + failed > 0)
            .map(|(connection, name, (completed, failed))| Ended { connection, name: name.cloned(), completed, failed })
            .collect()
    }
}
