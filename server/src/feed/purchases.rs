//! A stream of many purchases: a ring of recent transitions, and the journal for what is older.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{Stream, future::BoxFuture};
use tokio::time::Instant;

use super::{End, Inner, Rhythm, Wake, lock};
use crate::journal::{Committed, Filter, JournalError, Position};

/// Transitions read from the journal at once.
const READ_MAX: usize = 256;
/// How long a stream waits before it asks a journal again that has failed.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// One message of a stream over many purchases.
#[derive(Debug, Clone)]
pub enum FeedEvent {
    /// The next transition that the filter admits.
    Transition(Arc<Committed>),
    /// Everything up to the stream's position was sent.
    Heartbeat,
}

type Read = Result<(Vec<Arc<Committed>>, Position), JournalError>;

/// A stream of the transitions that a filter admits, in commit order. It ends by an error alone.
pub struct WatchAll {
    inner: Arc<Inner>,
    filter: Filter,
    /// Everything up to here was looked at.
    position: Position,
    looked_up: VecDeque<Arc<Committed>>,
    reading: Option<BoxFuture<'static, Read>>,
    /// The position that `looked_up` reaches.
    reaches: Position,
    place: usize,
    wake: Arc<Wake>,
    rhythm: Rhythm,
    /// When anything was sent last, or the stream opened.
    quiet_since: Instant,
    /// True if the heartbeat has been sent that says so.
    told_caught_up: bool,
    slot: u64,
    ended: bool,
}

impl fmt::Debug for WatchAll {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WatchAll")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl WatchAll {
    pub(super) fn open(
        inner: &Arc<Inner>,
        filter: Filter,
        after: Position,
        rhythm: Rhythm,
    ) -> Self {
        let wake = Arc::new(Wake::default());
        let place = inner.followers.join(filter.caller.as_ref(), &wake);
        inner
            .streams
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self {
            inner: Arc::clone(inner),
            filter,
            position: after,
            looked_up: VecDeque::new(),
            reading: None,
            reaches: after,
            place,
            wake,
            rhythm,
            quiet_since: Instant::now(),
            told_caught_up: false,
            slot: 0,
            ended: false,
        }
    }

    /// The position up to which everything that the filter admits was sent.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next admitted transition; `None` where the stream has caught up.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Option<Arc<Committed>>> {
        loop {
            while let Some(one) = self.looked_up.pop_front() {
                self.position = one.position;
                if self.filter.admits(&one.purchase) {
                    return Poll::Ready(Some(one));
                }
            }
            self.position = self.position.max(self.reaches);
            if let Some(reading) = &mut self.reading {
                let result = ready!(reading.as_mut().poll(context));
                self.reading = None;
                let Ok((read, reaches)) = result else {
                    self.slot = self
                        .inner
                        .alarms
                        .at(Instant::now() + READ_AGAIN, &self.wake);
                    return Poll::Pending;
                };
                self.looked_up = read.into();
                self.reaches = reaches;
                continue;
            }
            let caller = self.filter.caller.as_ref();
            let following = lock(&self.inner.ring).following(caller, self.position);
            match following {
                Some((next, reaches)) => {
                    self.reaches = reaches;
                    if next.is_empty() {
                        self.position = self.position.max(reaches);
                        return Poll::Ready(None);
                    }
                    self.looked_up = next.into();
                }
                None => {
                    let journal = Arc::clone(&self.inner.journal);
                    let (caller, position) = (self.filter.caller.clone(), self.position);
                    self.reading = Some(Box::pin(async move {
                        journal.tail(caller.as_ref(), position, READ_MAX).await
                    }));
                }
            }
        }
    }

    /// A heartbeat that is due, or the promise of one. The first of a stream that has caught up is
    /// due at once; one that waits for the journal is only shown to be alive.
    fn beat(&mut self, is_caught_up: bool) -> Poll<FeedEvent> {
        let now = Instant::now();
        let due = match is_caught_up && !self.told_caught_up {
            true => now,
            false => self.quiet_since + self.rhythm.heartbeat,
        };
        if due <= now {
            self.told_caught_up |= is_caught_up;
            self.quiet_since = now;
            self.slot = 0;
            return Poll::Ready(FeedEvent::Heartbeat);
        }
        if self.slot <= self.inner.alarms.passed(now) {
            let next = self.rhythm.ends_at.map_or(due, |ends_at| ends_at.min(due));
            self.slot = self.inner.alarms.at(next, &self.wake);
        }
        Poll::Pending
    }
}

impl Stream for WatchAll {
    type Item = Result<(FeedEvent, Position), End>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        this.wake.0.register(context.waker());
        let aged = this
            .rhythm
            .ends_at
            .is_some_and(|ends_at| ends_at <= Instant::now());
        if let Some(end) = this.inner.ending().or(aged.then_some(End::Aged)) {
            this.ended = true;
            return Poll::Ready(Some(Err(end)));
        }
        let advanced = this.advance(context);
        if let Poll::Ready(Some(one)) = advanced {
            this.quiet_since = Instant::now();
            return Poll::Ready(Some(Ok((FeedEvent::Transition(one), this.position))));
        }
        let beat = ready!(this.beat(advanced.is_ready()));
        Poll::Ready(Some(Ok((beat, this.position))))
    }
}

impl Drop for WatchAll {
    fn drop(&mut self) {
        let caller = self.filter.caller.as_ref();
        self.inner.followers.leave(caller, self.place);
        let streams = &self.inner.streams;
        streams.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
