//! Answers over HTTP/2 that nobody takes.
//!
//! Over HTTP/1 the connection stands still then, and a limit on writes ends it. Over HTTP/2 each stream has a window of its own: who opens
//! streams and no windows has answers wait for ever, with all that has been read for them, on a connection that lives and answers pings.
//! hyper does not ask for the next piece of an answer before there is room for it, so an answer cannot notice by itself: each one
//! is watched. What waits for the client for as long as that may be silent is given up: what was read for it goes at once, and its stream
//! is reset when the client comes back to it. Where nothing else is under way, or too many streams stand still, the connection ends.
//!
//! An answer that waits for us (a watch without events, a store that is slow) is nobody's fault.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The most that is given at one time: a frame. Whoever takes so much within the limit goes on, which a few hundred bytes in a second
/// do.
const PIECE: usize = 16 << 10;

/// Streams of a connection that may stand still at one time. Arbitrary: a proxy may have a few clients that do.
const MOST: usize = 16;

/// Nobody took the answer.
#[derive(Debug, thiserror::Error)]
#[error("nobody has taken the answer for {} s", .0.as_secs())]
struct NotTaken(Duration);

/// The streams of a connection.
#[derive(Debug)]
pub(super) struct Streams {
    /// For how long an answer may wait for its client.
    idle: Duration,
    open: AtomicUsize,
    stuck: AtomicUsize,
    end: CancellationToken,
}

/// A request of such a connection, until its answer was taken.
#[derive(Debug)]
pub(super) struct Open(Arc<Streams>);

impl Streams {
    pub(super) fn new(idle: Duration) -> Arc<Self> {
        let (open, stuck) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { idle, open, stuck, end: CancellationToken::new() })
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Ready when the connection is of no more use.
    pub(super) async fn stand_still(&self) {
        self.end.cancelled().await;
    }

    fn given_up(&self) {
        let stuck = self.stuck.fetch_add(1, Ordering::Relaxed) + 1;
        if stuck >= MOST || stuck >= self.open.load(Ordering::Relaxed) {
            self.end.cancel();
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Open {
    /// The answer, which is watched.
    pub(super) fn answer(self, response: Response) -> Response {
        if response.body().is_end_stream() {
            return response;
        }
        response.map(|body| Body::new(Watched::new(body, self)))
    }
}

/// A body that is watched.
struct Watched {
    answer: Arc<Mutex<Answer>>,
    watch: AbortHandle,
}

struct Answer {
    /// None: it was given up.
    body: Option<Body>,
    /// What came of it in a piece that was too large.
    rest: Bytes,
    /// Since when the client has not asked for more; none: it has.
    given: Option<Instant>,
    stream: Open,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.body.is_none() {
            self.stream.0.stuck.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Watched {
    fn new(body: Body, stream: Open) -> Self {
        let idle = stream.0.idle;
        let given = Some(Instant::now());
        let answer = Arc::new(Mutex::new(Answer { body: Some(body), rest: Bytes::new(), given, stream }));
        let watch = tokio::spawn(watch(Arc::downgrade(&answer), idle)).abort_handle();
        Self { answer, watch }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives an answer up when the client has not asked for more of it for `idle`.
async fn watch(answer: Weak<Mutex<Answer>>, idle: Duration) {
    let mut wait = idle;
    loop {
        sleep(wait).await;
        let Some(answer) = answer.upgrade() else { return };
        let mut answer = lock(&answer);
        wait = answer.given.map_or(idle, |since| idle.saturating_sub(since.elapsed()));
        if wait.is_zero() {
            let (body, rest) = (answer.body.take(), std::mem::take(&mut answer.rest));
            answer.stream.0.given_up();
            drop(answer);
            tracing::debug!("an answer is given up that nobody takes");
            drop((body, rest));
            return;
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut answer = lock(&self.answer);
        answer.given = None;
        if answer.rest.is_empty() {
            let Some(body) = &mut answer.body else {
                let idle = answer.stream.0.idle;
                return Poll::Ready(Some(Err(axum::Error::new(NotTaken(idle)))));
            };
            match Pin::new(body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => answer.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return other,
            }
        }
        let length = answer.rest.len().min(PIECE);
        let piece = answer.rest.split_to(length);
        answer.given = Some(Instant::now());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let answer = lock(&self.answer);
        answer.rest.is_empty() && answer.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let answer = lock(&self.answer);
        let Some(body) = &answer.body else { return SizeHint::default() };
        let (inner, rest) = (body.size_hint(), answer.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper().and_then(|upper| upper.checked_add(rest)) {
            hint.set_upper(upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt as _, stream};
    use http_body_util::BodyExt as _;

    const IDLE: Duration = Duration::from_mins(1);

    /// An answer of endless pieces, and what tells whether it is there still.
    fn endless(streams: &Arc<Streams>) -> (Body, Arc<()>) {
        let held = Arc::new(());
        let token = Arc::clone(&held);
        let pieces = stream::repeat_with(move || {
            let piece = vec![7; 100_000 * Arc::strong_count(&token).min(1)];
            Ok::<_, std::io::Error>(Bytes::from(piece))
        });
        let response = Response::new(Body::from_stream(pieces.boxed()));
        (streams.begin().answer(response).into_body(), held)
    }

    fn is_over(streams: &Streams) -> bool {
        streams.end.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_now_and_then_goes_on() {
        let streams = Streams::new(IDLE);
        let (mut body, held) = endless(&streams);
        for _ in 0..100 {
            sleep(IDLE / 2).await;
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!((1..=PIECE).contains(&piece.len()));
        }
        assert_eq!(Arc::strong_count(&held), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_given_up_with_all_that_was_read_for_it() {
        let streams = Streams::new(IDLE);
        let other = streams.begin();
        let (mut taken, held_taken) = endless(&streams);
        let (never, held_never) = endless(&streams);
        taken.frame().await.unwrap().unwrap();
        sleep(IDLE * 2).await;
        assert_eq!((Arc::strong_count(&held_taken), Arc::strong_count(&held_never)), (1, 1));
        // The stream is reset when its client comes back, and what else the connection does goes on.
        assert!(taken.frame().await.unwrap().is_err());
        assert!(!is_over(&streams));
        drop((taken, never));
        assert_eq!(streams.stuck.load(Ordering::Relaxed), 0);
        drop(other);
        assert_eq!(streams.open.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_moves_ends() {
        let streams = Streams::new(IDLE);
        let (_body, _) = endless(&streams);
        sleep(IDLE * 2).await;
        assert!(is_over(&streams));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_too_much_stands_still_ends() {
        let streams = Streams::new(IDLE);
        let _others: Vec<_> = (0..100).map(|_| streams.begin()).collect();
        let bodies: Vec<_> = (1..MOST).map(|_| endless(&streams)).collect();
        sleep(IDLE * 2).await;
        assert!(!is_over(&streams));
        let _one_more = endless(&streams);
        sleep(IDLE * 2).await;
        assert!(is_over(&streams));
        drop(bodies);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_us_is_not_given_up() {
        let streams = Streams::new(IDLE);
        let silent = stream::pending::<Result<Bytes, std::io::Error>>();
        let response = Response::new(Body::from_stream(silent));
        let mut body = streams.begin().answer(response).into_body();
        let asked = tokio::time::timeout(IDLE * 10, body.frame()).await;
        assert!(asked.is_err() && !is_over(&streams));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_the_same_in_pieces() {
        let streams = Streams::new(IDLE);
        let whole: Bytes = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let response = Response::new(Body::from(whole.clone()));
        let body = streams.begin().answer(response).into_body();
        assert_eq!(body.size_hint().exact(), Some(whole.len() as u64));
        assert_eq!(body.collect().await.unwrap().to_bytes(), whole);
        let empty = streams.begin().answer(Response::new(Body::empty())).into_body();
        assert!(empty.is_end_stream());
    }
}
