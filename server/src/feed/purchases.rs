//! A stream of many purchases: from a ring of recent transitions, and older ones from the journal.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::{Stream, future::BoxFuture};
use tokio::time::Instant;

use super::{
    End, Inner, Rhythm, Wake,
    figures::{Kind, Life},
    lock,
    pulse::Pulse,
};
use crate::journal::{Committed, Filter, JournalError, Position};

/// Transitions read from the journal at once.
const READ_MAX: usize = 256;

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
    /// The position up to which the stream has looked at everything.
    position: Position,
    /// Transitions that were looked up, and when their commits were heard of, if that is known.
    looked_up: VecDeque<(Arc<Committed>, Option<Instant>)>,
    reading: Option<BoxFuture<'static, Read>>,
    /// The position that `looked_up` reaches.
    reaches: Position,
    place: usize,
    pulse: Pulse,
    life: Life,
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
            pulse: Pulse::new(wake, rhythm),
            life: Life::begin(&inner.figures, Kind::Feed),
            ended: false,
        }
    }

    /// The position up to which everything that the filter admits was sent.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next admitted transition; `None` if the stream has caught up.
    fn advance(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<(Arc<Committed>, Option<Instant>)>> {
        loop {
            while let Some((one, at)) = self.looked_up.pop_front() {
                self.position = one.position;
                if self.filter.admits(&one.purchase) {
                    return Poll::Ready(Some((one, at)));
                }
            }
            self.position = self.position.max(self.reaches);
            if let Some(reading) = &mut self.reading {
                let result = ready!(reading.as_mut().poll(context));
                self.reading = None;
                let Ok((read, reaches)) = result else {
                    self.pulse.read_again(&self.inner.alarms);
                    return Poll::Pending;
                };
                self.looked_up = read.into_iter().map(|one| (one, None)).collect();
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
                    let next = next.into_iter();
                    self.looked_up = next.map(|(one, at)| (one, Some(at))).collect();
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
}

impl Stream for WatchAll {
    type Item = Result<(FeedEvent, Position), End>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        this.pulse.register(context);
        let aged = this.pulse.is_aged().then_some(End::Aged);
        if let Some(end) = this.inner.ending().or(aged) {
            this.ended = true;
            this.life.ends(end);
            return Poll::Ready(Some(Err(end)));
        }
        let advanced = this.advance(context);
        if let Poll::Ready(Some((one, at))) = advanced {
            this.pulse.sends();
            let changed = one.purchase.status.provider_change_time;
            this.life.tells_news(at, changed, || this.inner.clock.now());
            return Poll::Ready(Some(Ok((FeedEvent::Transition(one), this.position))));
        }
        let beat = this.pulse.beat(&this.inner.alarms, advanced.is_ready());
        let position = this.position;
        beat.map(|()| {
            this.life.tells();
            Some(Ok((FeedEvent::Heartbeat, position)))
        })
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
