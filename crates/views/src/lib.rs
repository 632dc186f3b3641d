//! The materialized views of Forebay, on sled: what the API answers from.
//!
//! The log is the truth and the views are disposable: whatever is wrong with them, they are set aside and filled again
//! from the log. They are written by one [`Writer`] and read by any number of [`Reader`]s, which see staged rows at
//! once, long before sled has them.
//!
//! # Layout
//! - [`open`]: generations, set aside what cannot be used ([`open`], [`generation`])
//! - [`Writer`]: stage rows, flush them in small atomic chunks, the checkpoint last ([`writer`])
//! - [`sweep`]: what the log forgot, and the rows that go with it
//! - [`Generations`]: another generation beside the one that serves, and the switch ([`generations`])
//! - [`open_or_freeze`]: views of another version of the fold answer until new ones are made ([`frozen`])
//! - [`Preparation`]: a generation made by another process than the one that serves ([`prepare`])
//! - [`Scatter`]: facts sorted by job through temporary files, for a pass over the whole log ([`scratch`])
//! - [`BulkWriter`]: a whole new generation in the order of its keys ([`bulk`])
//! - [`Reader`]: jobs by id, the list, recent executions of a task ([`reader`], [`query`])
//! - [`stats`]: what ran, how long and how it ended, as sums in memory
//! - [`lifetime`]: totals that outlive what the log forgets, and every generation
//! - [`table`]: the list of all jobs in memory; [`recent`]: pages of recent executions
//! - [`store`]: sled and its keys; [`codec`]: values as bytes; [`digest`]: the sum of all records
//!
//! It is not a database: there is one table, and its only writer is the projector.

mod bulk;
mod codec;
mod digest;
mod error;
mod frozen;
mod generation;
mod generations;
mod lifetime;
mod lists;
mod open;
mod prepare;
mod query;
mod reader;
mod recent;
mod scratch;
mod shared;
mod stats;
mod store;
mod sweep;
mod table;
#[cfg(test)]
mod tests;
mod writer;

pub use bulk::{BulkWriter, Prepared};
pub use codec::{Checkpoint, Landmark, Past, Quarantined};
pub use digest::Digest;
pub use error::{OpenError, ViewError};
pub use frozen::{Found, Frozen, open_or_freeze};
pub use generation::Reason;
pub use generations::{Candidate, Generations};
pub use open::{Opened, Options, Outcome, open};
pub use prepare::Preparation;
pub use query::{
    Brief, Counts, Cursor, Filter, Ids, Limit, NotACursor, Page, Patience, Query, Recent, Signs, SortBy, SortOrder,
};
pub use reader::Reader;
pub use scratch::{Gathered, JobFacts, Scatter, Sorter, Told};
pub use stats::{
    ANY_SENDER, Bucket, Ended, FailureGroup, FailureTotal, FailureTrend, Lifetime, Limits, Overview, QueueStats,
    RELATIVE_ERROR, RUNTIME_BOUNDS, Range, Span, Spread, TaskStats, Times, Total, TotalOf, Totals, UnknownRange,
    WAIT_BOUNDS, WorkerRate,
};
pub use table::{Load, Waiting};
pub use writer::{Applied, LANDMARK_EVERY, Writer};
