//! What those who watch are told of the jobs of a batch: each change of state that its events made.

use std::collections::HashSet;
use std::sync::Arc;

use projection::{Record, Transition};
use proto_events::{JobState, Timestamp};

use super::{Happening, JobChange};

/// Task names and queues that are kept once for all frames; where there are more they are begun anew.
const NAMES: usize = 10_000;

/// The changes of a batch.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    names: HashSet<Arc<str>>,
    /// With the time by which they are put in order.
    noted: Vec<(Timestamp, Happening)>,
}

impl Changes {
    /// Notes what becomes of a job, of which this was known.
    ///
    /// Where the history goes on, each new entry is a change. Where a late event rewrote it, what was told cannot be
    /// taken back, and only where it ends now is told.
    pub(crate) fn note(&mut self, known: Option<&Record>, record: &Record) {
        let told = known.map_or(&[][..], |known| &known.state_history);
        if let Some(new) = record.state_history.strip_prefix(told) {
            let mut previous = told.last().map(|entry| entry.state);
            let mut order = Timestamp(i64::MIN);
            for entry in new {
                // Clocks differ between hosts, and a job's own order is never given up for theirs.
                order = order.max(entry.timestamp);
                self.add(order, record, entry, previous);
                previous = Some(entry.state);
            }
        } else if known.is_some_and(|known| ends(known) != ends(record)) {
            let (state, timestamp) = ends(record);
            self.add(timestamp, record, &Transition { state, timestamp }, record.previous_state);
        }
    }

    /// All that was noted, by its time.
    pub(crate) fn take(&mut self) -> Vec<Happening> {
        self.noted.sort_by_key(|(order, _)| *order);
        self.noted.drain(..).map(|(_, happening)| happening).collect()
    }

    fn add(&mut self, order: Timestamp, record: &Record, entry: &Transition, previous: Option<JobState>) {
        let change = JobChange {
            connection: record.connection_id,
            id: record.id,
            name: self.name(&record.name),
            queue: record.queue.as_deref().map(|queue| self.name(queue)),
            state: entry.state,
            previous,
            at: entry.timestamp,
        };
        self.noted.push((order, Happening::Job(change)));
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }
}

fn ends(record: &Record) -> (JobState, Timestamp) {
    (record.state, record.state_changed_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use projection::Row;
    use proptest::prelude::*;
    use proto_events::{Event, Framework, Job, Position};
    use uuid::Uuid;

    fn event(job: &str, state: JobState, second: i64) -> Event {
        let mut job = Job::new(job, state);
        job.queue = (second % 3 == 0).then(|| "celery".to_owned());
        Event::job(Timestamp(second * 1_000_000), Framework::Celery, job)
    }

    fn row(known: Option<&Row>, job: &str, number: u64, event: &Event) -> Row {
        Row::apply(known, Uuid::nil(), job, [(Position::new(number, 0), event)]).unwrap()
    }

    fn of(happening: &Happening) -> &JobChange {
        match happening {
            Happening::Job(change) => change,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Whatever comes in whatever order: who believes what was told last knows how each job is, each job's own
        /// changes are told in its order, and where nothing came late they are its history.
        #[test]
        fn who_believes_what_was_told_last_knows_how_each_job_is(
            events in prop::collection::vec((0..4_usize, 0..JobState::ALL.len(), 0..40_i64), 1..40),
            batch in 1..6_usize,
        ) {
            let mut rows: [Option<Row>; 4] = [None, None, None, None];
            let mut told: [Vec<JobChange>; 4] = Default::default();
            let mut went_on = [true; 4];
            let (mut changes, mut number) = (Changes::default(), 0);
            for batch in events.chunks(batch) {
                for job in 0..4 {
                    let before = rows[job].clone();
                    for (_, state, second) in batch.iter().filter(|event| event.0 == job) {
                        number += 1;
                        let name = format!("job-{job}");
                        let event = event(&name, JobState::ALL[*state], *second);
                        rows[job] = Some(row(rows[job].as_ref(), &name, number, &event));
                    }
                    let Some(after) = rows[job].as_ref().filter(|after| before.as_ref() != Some(after)) else { continue };
                    let known = before.as_ref().map(|row| &row.record);
                    let history = known.map_or(&[][..], |known| &known.state_history);
                    went_on[job] &= after.record.state_history.starts_with(history);
                    changes.note(known, &after.record);
                }
                let mut is_fresh = [false; 4];
                for happening in changes.take() {
                    let change = of(&happening).clone();
                    let is_it = |job: &usize| rows[*job].as_ref().is_some_and(|row| row.record.id == change.id);
                    let job = (0..4).find(is_it).unwrap();
                    told[job].push(change);
                    is_fresh[job] = true;
                }
                for ((row, told), is_fresh) in rows.iter().zip(&told).zip(is_fresh) {
                    let Some(Row { record, .. }) = row else { continue };
                    let last = told.last().unwrap();
                    prop_assert_eq!((last.state, last.at), (record.state, record.state_changed_at));
                    if is_fresh {
                        prop_assert_eq!(last.previous, record.previous_state);
                        prop_assert_eq!((&*last.name, last.queue.as_deref()), (&*record.name, record.queue.as_deref()));
                    }
                }
            }
            for ((row, told), went_on) in rows.iter().zip(&told).zip(went_on) {
                let Some(Row { record, .. }) = row.as_ref().filter(|_| went_on) else { continue };
                let history: Vec<_> = record.state_history.iter().map(|entry| (entry.state, entry.timestamp)).collect();
                prop_assert_eq!(told.iter().map(|change| (change.state, change.at)).collect::<Vec<_>>(), history);
                prop_assert!(told.windows(2).all(|pair| pair[1].previous == Some(pair[0].state)));
            }
        }
    }

    fn record(entries: &[(JobState, i64)]) -> Record {
        let mut record = row(None, "job", 1, &event("job", JobState::Queued, 0)).record;
        let entry = |(state, second): &(JobState, i64)| Transition { state: *state, timestamp: Timestamp(*second) };
        record.state_history = entries.iter().map(entry).collect();
        let (last, before) = record.state_history.split_last().unwrap();
        (record.state, record.state_changed_at) = (last.state, last.timestamp);
        record.previous_state = before.last().map(|entry| entry.state);
        record
    }

    fn told(known: Option<&Record>, new: &Record) -> Vec<(JobState, Option<JobState>, i64)> {
        let mut changes = Changes::default();
        changes.note(known, new);
        changes.take().iter().map(of).map(|change| (change.state, change.previous, change.at.0)).collect()
    }

    #[test]
    fn a_history_that_goes_on_is_told_entry_by_entry_and_a_rewritten_one_by_its_end() {
        use JobState::{Active, Completed, Failed, Queued};
        // The second worker's clock is behind, and yet it was second.
        let first = record(&[(Queued, 5), (Active, 2)]);
        assert_eq!(told(None, &first), [(Queued, None, 5), (Active, Some(Queued), 2)]);
        assert_eq!(told(Some(&first), &first), []);
        let whole = record(&[(Queued, 5), (Active, 2), (Failed, 7), (Queued, 8)]);
        assert_eq!(told(Some(&first), &whole), [(Failed, Some(Active), 7), (Queued, Some(Failed), 8)]);
        // Before what was told.
        let earlier = record(&[(Queued, 4), (Active, 2)]);
        assert_eq!(told(Some(&first), &earlier), []);
        let in_between = record(&[(Queued, 5), (Active, 1), (Completed, 9)]);
        assert_eq!(told(Some(&first), &in_between), [(Completed, Some(Active), 9)]);
        // Less than was told.
        assert_eq!(told(Some(&whole), &first), [(Active, Some(Queued), 2)]);
    }

    #[test]
    fn jobs_are_told_of_by_time_and_names_are_kept_once() {
        let mut changes = Changes::default();
        for (name, seconds) in [("a", [3, 6]), ("b", [2, 5]), ("c", [4, 1])] {
            let id = proto_events::job_id(Uuid::nil(), name);
            let entries = [(JobState::Queued, seconds[0]), (JobState::Active, seconds[1])];
            changes.note(None, &Record { id, ..record(&entries) });
        }
        let happenings = changes.take();
        let times: Vec<i64> = happenings.iter().map(|it| of(it).at.0).collect();
        assert_eq!(times, [2, 3, 4, 1, 5, 6]);
        assert!(happenings.iter().all(|it| Arc::ptr_eq(&of(it).name, &of(&happenings[0]).name)));
        (0..=NAMES).for_each(|number| drop(changes.name(&number.to_string())));
        assert!(changes.names.len() <= NAMES);
    }
}
