//! A connection whose client takes its time over a request: it is cut off, however steadily it sends.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// For the head of a request, from its first byte on, and for TLS to be agreed on.
pub(crate) const HEAD_TIME: Duration = Duration::from_secs(10);
/// Between two looks at a connection. No alarm is set for each request: nearly all heads come in one piece.
const LOOK: Duration = Duration::from_millis(2_500);

/// No head is under way.
const NONE: u64 = u64::MAX;
/// What comes now belongs to a request that is being answered.
const SERVING: u64 = u64::MAX - 1;

/// How long the client has been at the head of its request.
#[derive(Clone, Debug)]
pub(crate) struct Pace(Arc<Clock>);

#[derive(Debug)]
struct Clock {
    opened: Instant,
    /// Milliseconds after the opening at which the head began to come, or one of the above.
    began: AtomicU64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Clock { opened: Instant::now(), began: AtomicU64::new(NONE) }))
    }

    /// The head is there.
    pub(crate) fn serving(&self) {
        self.0.began.store(SERVING, Ordering::Relaxed);
    }

    /// The request is answered, and another may come.
    pub(crate) fn answered(&self) {
        self.0.began.store(NONE, Ordering::Relaxed);
    }

    fn heard(&self) {
        let now = self.0.opened.elapsed().as_millis() as u64;
        let _ = self.0.began.compare_exchange(NONE, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Waits until a head takes too long.
    pub(crate) async fn too_slow(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let began = self.0.began.load(Ordering::Relaxed);
            if began < SERVING && self.0.opened.elapsed() > Duration::from_millis(began) + HEAD_TIME {
                return;
            }
        }
    }
}

/// A stream that tells when something comes.
pub(crate) struct Wire<S> {
    stream: S,
    pace: Pace,
}

impl<S> Wire<S> {
    pub(crate) fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pace.heard();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
