//! Lists of jobs: which ones the table in memory finds, and their records.

use projection::Record;
use uuid::Uuid;

use crate::error::ViewError;
use crate::query::{Ids, Page, Query, Signs};
use crate::reader::Reader;

impl Reader {
    /// A part of the list of jobs. What is found is a moment older than the records that are shown, so that under way a
    /// job may have come to be another than was asked for.
    pub fn list(&self, query: &Query, signs: &Signs) -> Result<Page, ViewError> {
        let shared = self.shared();
        loop {
            let (snapshot, only, floor) = {
                let state = shared.state.read();
                (state.table.snapshot(), state.candidates(&query.filter), state.floor)
            };
            let found = snapshot.find(query, signs, only.as_deref())?;
            drop(snapshot);
            if let Some(jobs) = shared.records(shared.staged(found.jobs), floor)? {
                return Ok(Page { jobs, next: found.next, total: found.total });
            }
        }
    }

    /// The first pages of several lists, found at one moment in one pass, so that of many jobs it takes little longer than
    /// one of them.
    pub fn lists<const N: usize>(&self, queries: &[Query; N], signs: &Signs) -> Result<[Page; N], ViewError> {
        let shared = self.shared();
        loop {
            let (snapshot, only, floor) = {
                let state = shared.state.read();
                let only = queries.each_ref().map(|query| state.candidates(&query.filter));
                (state.table.snapshot(), only, state.floor)
            };
            let asked: [_; N] = std::array::from_fn(|place| (&queries[place], only[place].as_deref()));
            let found = snapshot.find_each(asked, signs)?;
            drop(snapshot);
            let mut pages = [const { None }; N];
            for (page, found) in pages.iter_mut().zip(found) {
                let jobs = shared.records(shared.staged(found.jobs), floor)?;
                *page = jobs.map(|jobs| Page { jobs, next: found.next, total: found.total });
            }
            // None where a job was dropped while its record was read.
            if pages.iter().all(Option::is_some) {
                return Ok(pages.map(Option::unwrap_or_default));
            }
        }
    }

    /// A part of the list, found in the same way, without reading any record: of many jobs at once.
    pub fn ids(&self, query: &Query, signs: &Signs) -> Result<Ids, ViewError> {
        let shared = self.shared();
        let (snapshot, only) = {
            let state = shared.state.read();
            (state.table.snapshot(), state.candidates(&query.filter))
        };
        let found = snapshot.find(query, signs, only.as_deref())?;
        Ok(Ids { jobs: found.jobs, next: found.next })
    }

    /// The other jobs of the workflow that this job began, those first that stand first in the log, up to so many; and how
    /// many there are.
    pub fn workflow(&self, root: Uuid, most: usize) -> Result<(Vec<Record>, usize), ViewError> {
        let shared = self.shared();
        loop {
            let (mut jobs, snapshot, floor) = {
                let state = shared.state.read();
                (state.table.workflow(root), state.table.snapshot(), state.floor)
            };
            jobs.extend(snapshot.workflow(root)?);
            drop(snapshot);
            jobs.sort_unstable();
            let total = jobs.len();
            let jobs = jobs.into_iter().take(most).map(|(_, id)| id).collect();
            if let Some(records) = shared.records(shared.staged(jobs), floor)? {
                return Ok((records, total));
            }
        }
    }
}
