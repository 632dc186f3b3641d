//! Readers beside the writer.

use std::sync::atomic::{AtomicBool, Ordering};

use super::support::{Log, open_in};
use crate::{Query, Signs};

#[test]
fn a_job_that_is_listed_can_be_fetched_and_nothing_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::scripted(4_000, 2_000);
    let mut opened = open_in(dir.path());
    let done = AtomicBool::new(false);
    let reader = opened.reader.clone();
    std::thread::scope(|scope| {
        for limit in [3, 100] {
            let (reader, done) = (reader.clone(), &done);
            scope.spawn(move || {
                let (mut total, mut applied) = (0, 0);
                while !done.load(Ordering::Relaxed) {
                    let page = reader.list(&Query { limit, ..Query::default() }, &Signs::default()).unwrap();
                    assert_eq!(page.jobs.len(), limit.min(page.total as usize));
                    assert!(page.total >= total, "{} after {total}", page.total);
                    total = page.total;
                    assert!(reader.applied() >= applied);
                    applied = reader.applied();
                    for record in &page.jobs {
                        assert!(reader.job(record.id).unwrap().is_some());
                        reader.recent(record.connection_id, &record.name, 10, record.id).unwrap();
                    }
                }
            });
        }
        for end in (20..=log.end()).step_by(20) {
            log.apply(&mut opened, end).unwrap();
            opened.writer.flush().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(reader.counts(None).total(), log.truth(log.end()).len() as u64);
}
