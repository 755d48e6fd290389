//! A stream of one purchase: written by hand, so that an idle one is a cursor and no task.

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
    End, Inner, Rhythm, Wake, Watching,
    channel::{Channel, Next},
    figures::{Kind, Life},
    pulse::Pulse,
};
use crate::{
    journal::{JournalError, Record},
    purchase::{Finality, PurchaseId, Revision, Status, Transition},
};

/// Transitions read from the journal at once.
const READ_MAX: usize = 64;

/// The status that ends a stream, once it has been sent and is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// A status that is not OPEN.
    Terminal,
    /// A FINAL status.
    Final,
}

impl Until {
    fn is_reached(self, newest: Finality) -> bool {
        match self {
            Self::Terminal => newest != Finality::Open,
            Self::Final => newest == Finality::Final,
        }
    }
}

/// One message of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The newest status, as the first message of a stream without cursor.
    Snapshot(Box<Status>),
    /// The next transition.
    Transition(Box<Transition>),
    /// Everything up to this revision was sent.
    Heartbeat {
        /// The newest revision.
        revision: Revision,
    },
}

/// The transitions after a revision; `None` if the purchase is gone.
type Reading = BoxFuture<'static, Result<Option<Vec<Transition>>, JournalError>>;

/// The next thing after a stream's cursor.
enum Found {
    /// The next transition, and when its commit was heard of, if that is known.
    Next(Box<Transition>, Option<Instant>),
    /// Nothing; the newest status has this finality.
    CaughtUp(Finality),
    /// The purchase is gone.
    Gone,
}

/// A stream of one purchase's transitions, in order and without gap. It ends with `None` if the
/// wanted end is reached, or with an error that says why it was ended.
pub struct Watch {
    inner: Arc<Inner>,
    purchase: PurchaseId,
    channel: Arc<Channel>,
    /// The place of the stream's waker in the channel.
    place: usize,
    pulse: Pulse,
    /// The last revision that was sent.
    cursor: Revision,
    /// Its finality, if this stream has sent it.
    sent: Finality,
    /// The status to send before anything else.
    snapshot: Option<Box<Status>>,
    /// The transitions that are read from the journal and not sent yet.
    read: VecDeque<Transition>,
    reading: Option<Reading>,
    until: Until,
    /// Its life, once there is something to watch.
    life: Option<Life>,
    ended: bool,
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watch")
            .field("purchase", &self.purchase)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Subscribes, then reads: the cursor skips transitions that are committed in between.
    pub(super) async fn open(
        inner: &Arc<Inner>,
        purchase: PurchaseId,
        cursor: Option<Revision>,
        until: Until,
        rhythm: Rhythm,
    ) -> Result<Option<(Record, Self)>, JournalError> {
        let wake = Arc::new(Wake::default());
        let (channel, place) = inner.channels.join(purchase, &wake);
        inner
            .streams
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut watch = Self {
            inner: Arc::clone(inner),
            purchase,
            channel,
            place,
            pulse: Pulse::new(wake, rhythm),
            cursor: cursor.unwrap_or_default(),
            sent: Finality::Open,
            snapshot: None,
            read: VecDeque::new(),
            reading: None,
            until,
            life: None,
            ended: false,
        };
        let Some(record) = inner.journal.record(purchase).await? else {
            return Ok(None);
        };
        watch.channel.learn(&record);
        if cursor.is_none() {
            watch.cursor = record.purchase.status.revision;
            watch.sent = record.purchase.status.finality;
            watch.snapshot = Some(Box::new(record.purchase.status.as_ref().clone()));
        }
        watch.life = Some(Life::begin(&inner.figures, Kind::Purchase));
        inner.tell_watch(Watching::Begins(&record.purchase));
        Ok(Some((record, watch)))
    }

    fn tells(&mut self) {
        self.life.iter_mut().for_each(Life::tells);
    }

    /// This service ends the stream.
    fn ends(&mut self, end: End) -> End {
        self.ended = true;
        self.life.iter_mut().for_each(|life| life.ends(end));
        end
    }

    /// The next transition after the cursor, or the finality of the newest status.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Found> {
        loop {
            if let Some(transition) = self.read.pop_front() {
                if transition.status.revision <= self.cursor {
                    continue;
                }
                return Poll::Ready(Found::Next(Box::new(transition), None));
            }
            if let Some(reading) = &mut self.reading {
                let result = ready!(reading.as_mut().poll(context));
                self.reading = None;
                match result {
                    Ok(None) => return Poll::Ready(Found::Gone),
                    Ok(Some(read)) if !read.is_empty() => self.read = read.into(),
                    Ok(Some(_)) | Err(_) => {
                        self.pulse.read_again(&self.inner.alarms);
                        return Poll::Pending;
                    }
                }
                continue;
            }
            match self.channel.after(self.cursor) {
                Next::Here(transition, at) => {
                    return Poll::Ready(Found::Next(transition, Some(at)));
                }
                Next::CaughtUp(finality) => return Poll::Ready(Found::CaughtUp(finality)),
                Next::Ahead => return Poll::Ready(Found::CaughtUp(self.sent)),
                Next::InJournal => {
                    let (journal, purchase) = (Arc::clone(&self.inner.journal), self.purchase);
                    let cursor = self.cursor;
                    self.reading = Some(Box::pin(async move {
                        let read = journal.transitions(purchase, cursor, READ_MAX).await?;
                        // The commits are there, unless retention has taken all of them.
                        let is_gone = read.is_empty() && journal.record(purchase).await?.is_none();
                        Ok((!is_gone).then_some(read))
                    }));
                }
            }
        }
    }
}

impl Stream for Watch {
    type Item = Result<Event, End>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        // Registered before looking: a commit after the look wakes this stream.
        this.pulse.register(context);
        if let Some(status) = this.snapshot.take() {
            this.pulse.sends();
            this.tells();
            return Poll::Ready(Some(Ok(Event::Snapshot(status))));
        }
        let aged = this.pulse.is_aged().then_some(End::Aged);
        let end = this.inner.ending().or(aged);
        let newest = match this.advance(context) {
            Poll::Ready(Found::Next(transition, at)) if end != Some(End::JournalLost) => {
                this.cursor = transition.status.revision;
                this.sent = transition.status.finality;
                this.pulse.sends();
                let changed = transition.status.provider_change_time;
                if let Some(life) = &mut this.life {
                    life.tells_news(at, changed, || this.inner.clock.now());
                }
                return Poll::Ready(Some(Ok(Event::Transition(transition))));
            }
            Poll::Ready(Found::CaughtUp(finality)) => Some(finality),
            Poll::Ready(Found::Gone) => {
                return Poll::Ready(Some(Err(this.ends(End::Gone))));
            }
            Poll::Ready(Found::Next(..)) | Poll::Pending => None,
        };
        if newest.is_some_and(|finality| this.until.is_reached(finality)) {
            this.ended = true;
            this.life.iter_mut().for_each(Life::completes);
            return Poll::Ready(None);
        }
        if let Some(end) = end {
            return Poll::Ready(Some(Err(this.ends(end))));
        }
        let beat = this.pulse.beat(&this.inner.alarms, newest.is_some());
        let revision = this.cursor;
        beat.map(|()| {
            this.tells();
            Some(Ok(Event::Heartbeat { revision }))
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A watch that has found no purchase has no life.
        if self.life.is_some() {
            self.inner.tell_watch(Watching::Ends(self.purchase));
        }
        self.inner.channels.leave(self.purchase, self.place);
        let streams = &self.inner.streams;
        streams.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
