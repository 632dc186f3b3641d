//! Backup: `GET /api/export` streams the log as JSON lines, `POST /api/import` takes them in. For the admin token alone:
//! an export holds all there is, hashes of keys included, and an import may make keys good.
//!
//! Both hold little in memory however long the log is, and go as fast as the other side does.

mod export;
mod format;
mod import;

pub(crate) use export::export;
pub use format::{Bound, Checker, FormatError, Header, Line, Message, Trailer, line_of};
pub(crate) use import::import;

use crate::operation::Operation;

const NDJSON: &str = "application/x-ndjson";

pub(crate) const OPERATIONS: &[Operation] = &[export::OPERATION, import::OPERATION];
