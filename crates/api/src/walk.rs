//! Lists that are answered whole, however long they are. Jobs are found many thousand at a time, read one by one, and sent
//! as they are written, no faster than the client takes them: memory does not grow with the list.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use uuid::Uuid;
use views::{Query, Reader, Signs, ViewError};
use warp::http::{HeaderValue, header};
use warp::reply::{Reply as _, Response};

use crate::app::{App, Parts};
use crate::errors::ApiError;
use crate::signs::Habits;

/// Jobs that are found at once. Each time all columns are gone through, and 64 bytes are taken for each job.
const FOUND: usize = 20_000;
/// Bytes that are sent at once.
const PIECE: usize = 64 * 1_024;
/// Pieces that wait for the client.
const WAITING: usize = 4;
/// A client that takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Such lists under way at once: each keeps a thread busy, or waiting for its client.
pub(crate) const AT_ONCE: usize = 16;

const TOO_MANY: ApiError = ApiError::Unavailable("Too many whole lists are being read.");

/// Which jobs, in which order.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// One list after the other; their limits count for nothing.
    pub(crate) queries: VecDeque<Query>,
    /// So many are passed over.
    pub(crate) skip: usize,
    /// So many follow at most.
    pub(crate) limit: usize,
}

/// How jobs are written.
pub(crate) trait Writer: Send + 'static {
    /// What stands before them.
    fn begin(&mut self, out: &mut Vec<u8>);
    /// A job, and whether it counts: not where it is gone meanwhile.
    fn job(&mut self, reader: &Reader, id: Uuid, out: &mut Vec<u8>) -> Result<bool, ViewError>;
    /// What stands behind them.
    fn end(&mut self, out: &mut Vec<u8>);
}

/// Why a list ends early.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the client went away")]
    Gone,
    #[error(transparent)]
    Views(#[from] ViewError),
}

/// An answer with the whole list.
pub(crate) fn answer(
    app: &App,
    parts: &Parts,
    walk: Walk,
    writer: impl Writer,
    content_type: &'static str,
) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.lists).try_acquire_owned().map_err(|_| TOO_MANY)?;
    let (pieces, mut waiting) = mpsc::channel::<io::Result<Bytes>>(WAITING);
    let (reader, habits) = (parts.reader.clone(), Arc::clone(&app.habits));
    let is_whole = Arc::new(AtomicBool::new(false));
    let whole = Arc::clone(&is_whole);
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let send = |piece: Vec<u8>| {
            let sending = tokio::time::timeout(PATIENCE, pieces.send(Ok(piece.into())));
            Handle::current().block_on(sending).map_err(|_| Broken::Gone)?.map_err(|_| Broken::Gone)
        };
        match write(&reader, &habits, walk, writer, send) {
            Ok(()) => whole.store(true, Ordering::Release),
            Err(Broken::Gone) => tracing::debug!("the client of a whole list went away, or takes nothing"),
            Err(error) => tracing::error!(%error, "a whole list breaks off"),
        }
    });
    let mut has_ended = false;
    let body = futures_util::stream::poll_fn(move |context| match waiting.poll_recv(context) {
        // Who goes on reading must not take what there is for all of it.
        Poll::Ready(None) if !has_ended && !is_whole.load(Ordering::Acquire) => {
            has_ended = true;
            Poll::Ready(Some(Err(io::Error::other("the list breaks off"))))
        }
        other => other,
    });
    let mut response = warp::reply::stream(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

fn write(
    reader: &Reader,
    habits: &Habits,
    mut walk: Walk,
    mut writer: impl Writer,
    send: impl Fn(Vec<u8>) -> Result<(), Broken>,
) -> Result<(), Broken> {
    let mut out = Vec::new();
    writer.begin(&mut out);
    while let Some(mut query) = walk.queries.pop_front() {
        let filter = &query.filter;
        let asks_for_signs = filter.lost.or(filter.stuck).or(filter.waiting).is_some();
        let signs = if asks_for_signs { habits.signs(reader) } else { Signs::default() };
        if !pass_over(reader, &signs, &mut query, &mut walk.skip)? {
            continue;
        }
        while walk.limit > 0 {
            query.limit = walk.limit.min(FOUND);
            let found = reader.ids(&query, &signs)?;
            for id in found.jobs {
                if writer.job(reader, id, &mut out)? {
                    walk.limit -= 1;
                }
                if out.len() >= PIECE {
                    send(std::mem::take(&mut out))?;
                }
            }
            let Some(next) = found.next else { break };
            query.cursor = Some(next);
        }
    }
    writer.end(&mut out);
    send(out)
}

/// Sets the query behind the jobs that are passed over; `false` where it has no others.
fn pass_over(reader: &Reader, signs: &Signs, query: &mut Query, skip: &mut usize) -> Result<bool, ViewError> {
    while *skip > 0 {
        query.limit = (*skip).min(FOUND);
        let found = reader.ids(query, signs)?;
        *skip -= found.jobs.len();
        let Some(next) = found.next else { return Ok(false) };
        query.cursor = Some(next);
    }
    Ok(true)
}
