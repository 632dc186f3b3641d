//! Lists that are answered whole, however long they are. Jobs are found many thousand at a time, read one by one, and sent
//! as they are written, no faster than the client takes them: memory does not grow with the list.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use uuid::Uuid;
use views::{Query, Reader, Signs, ViewError};
use warp::http::{HeaderValue, header};
use warp::reply::{Reply as _, Response};

use crate::app::{App, Parts};
use crate::errors::ApiError;
use crate::http::Hangup;
use crate::signs::Habits;

/// Jobs that are found at once. Each time all columns are gone through, and 64 bytes are taken for each job.
const FOUND: usize = 20_000;
/// Bytes that are sent at once.
const PIECE: usize = 64 * 1_024;
/// Pieces that wait for the client.
const WAITING: usize = 4;
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
    #[error("the client takes nothing")]
    Silent,
    #[error(transparent)]
    Views(#[from] ViewError),
}

/// An answer with the whole list, over the connection that this ends.
pub(crate) fn answer(
    app: &App,
    parts: &Parts,
    hangup: Hangup,
    walk: Walk,
    writer: impl Writer,
    content_type: &'static str,
) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.lists).try_acquire_owned().map_err(|_| TOO_MANY)?;
    let (reader, habits) = (parts.reader.clone(), Arc::clone(&app.habits));
    let client = Client { permit, silence: app.door.limits.list_silence, hangup };
    let body = client.take(move |send| write(&reader, &habits, walk, writer, send));
    let mut response = warp::reply::stream(body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// Who takes a whole list.
struct Client {
    permit: OwnedSemaphorePermit,
    /// Who takes nothing for so long is given up.
    silence: Duration,
    hangup: Hangup,
}

impl Client {
    /// What is made and handed on piece by piece, on a thread of its own. Ends with an error where that breaks off.
    fn take(
        self,
        make: impl FnOnce(&dyn Fn(Vec<u8>) -> Result<(), Broken>) -> Result<(), Broken> + Send + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        let (pieces, mut waiting) = mpsc::channel::<io::Result<Bytes>>(WAITING);
        let is_whole = Arc::new(AtomicBool::new(false));
        let whole = Arc::clone(&is_whole);
        tokio::task::spawn_blocking(move || {
            let Self { permit, silence, hangup } = self;
            let send = |piece: Vec<u8>| {
                let sending = tokio::time::timeout(silence, pieces.send(Ok(piece.into())));
                Handle::current().block_on(sending).map_err(|_| Broken::Silent)?.map_err(|_| Broken::Gone)
            };
            match make(&send) {
                Ok(()) => whole.store(true, Ordering::Release),
                Err(error @ Broken::Gone) => tracing::debug!(%error, "a whole list breaks off"),
                Err(error @ Broken::Silent) => {
                    tracing::debug!(%error, "a whole list breaks off");
                    // It does not hear that there is no more, and its connection would stay.
                    hangup.now();
                }
                Err(error) => tracing::error!(%error, "a whole list breaks off"),
            }
            drop(permit);
        });
        let mut has_ended = false;
        futures_util::stream::poll_fn(move |context| match waiting.poll_recv(context) {
            // Who goes on reading must not take what there is for all of it.
            Poll::Ready(None) if !has_ended && !is_whole.load(Ordering::Acquire) => {
                has_ended = true;
                Poll::Ready(Some(Err(io::Error::other("the list breaks off"))))
            }
            other => other,
        })
    }
}

fn write(
    reader: &Reader,
    habits: &Habits,
    mut walk: Walk,
    mut writer: impl Writer,
    send: &dyn Fn(Vec<u8>) -> Result<(), Broken>,
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::StreamExt as _;
    use tokio::sync::Semaphore;
    use tokio::time::Instant;

    use super::*;

    const SILENCE: Duration = Duration::from_secs(60);

    /// A list of so many pieces that a client takes or does not.
    struct Taken {
        body: std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>>>>,
        slots: Arc<Semaphore>,
        hangup: Hangup,
        /// How many pieces are made.
        made: Arc<AtomicUsize>,
    }

    fn list(pieces: usize) -> Taken {
        let (slots, hangup, made) = (Arc::new(Semaphore::new(1)), Hangup::default(), Arc::new(AtomicUsize::new(0)));
        let permit = Arc::clone(&slots).try_acquire_owned().unwrap();
        let (client, counted) = (Client { permit, silence: SILENCE, hangup: hangup.clone() }, Arc::clone(&made));
        let body = client.take(move |send| {
            (0..pieces).try_for_each(|number| {
                counted.fetch_add(1, Ordering::Relaxed);
                send(vec![number as u8])
            })
        });
        Taken { body: Box::pin(body), slots, hangup, made }
    }

    /// Waits in earnest for the thread that makes pieces, which the clock of the test does not move.
    fn until(holds: impl Fn() -> bool) {
        let began = std::time::Instant::now();
        while !holds() {
            assert!(began.elapsed() < Duration::from_secs(30), "it never comes to that");
            std::thread::yield_now();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_a_list_is_given_up_and_leaves_its_place() {
        let began = Instant::now();
        let mut list = list(100);
        until(|| list.made.load(Ordering::Relaxed) == WAITING + 1);
        while list.slots.available_permits() == 0 {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(began.elapsed() >= SILENCE, "{:?}", began.elapsed());
        tokio::time::timeout(SILENCE, list.hangup.wanted()).await.expect("its connection is ended");
        let left: Vec<_> = list.body.by_ref().collect().await;
        assert_eq!(left.len(), WAITING + 1, "what was made, and that it is not all");
        assert!(left.last().unwrap().is_err());
        assert_eq!(list.made.load(Ordering::Relaxed), WAITING + 1, "no more is made");
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_now_and_then_gets_the_whole_list() {
        let mut list = list(100);
        for taken in 0..100 {
            until(|| list.made.load(Ordering::Relaxed) == (taken + WAITING + 1).min(100));
            tokio::time::advance(SILENCE * 9 / 10).await;
            assert_eq!(list.body.next().await.unwrap().unwrap()[0], taken as u8);
        }
        assert!(list.body.next().await.is_none());
        until(|| list.slots.available_permits() == 1);
        assert!(tokio::time::timeout(SILENCE, list.hangup.wanted()).await.is_err(), "its connection is good for more");
    }
}
