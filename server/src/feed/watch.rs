//! A stream of one purchase: written by hand, so that an idle one is a cursor and no task.

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

use super::{
    End, Inner, Rhythm, Wake,
    channel::{Channel, Next},
    pulse::Pulse,
};
use crate::{
    journal::{JournalError, Record},
    purchase::{Finality, PurchaseId, Revision, Status, Transition},
};

/// Transitions read from the journal at once.
const READ_MAX: usize = 64;
/// How long a stream waits before it asks a journal again that has failed.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// When a stream has reached its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When the newest status has been sent and is not OPEN.
    Terminal,
    /// When the newest status has been sent and is FINAL.
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

/// What follows a revision; `None` where the purchase is no longer there.
type Reading = BoxFuture<'static, Result<Option<Vec<Transition>>, JournalError>>;

/// What a stream finds after its cursor.
enum Found {
    Next(Box<Transition>),
    /// Nothing; the newest status has this finality.
    CaughtUp(Finality),
    /// The purchase is no longer there.
    Gone,
}

/// A stream of one purchase's transitions, in order and without gap. It ends with `None` where the
/// wanted end is reached, or with an error that says why it was ended.
pub struct Watch {
    inner: Arc<Inner>,
    purchase: PurchaseId,
    channel: Arc<Channel>,
    /// The place of this stream's waker in the channel.
    place: usize,
    /// The last revision that was sent.
    cursor: Revision,
    /// Its finality, where this stream has sent it.
    sent: Finality,
    /// Sent before anything else.
    snapshot: Option<Box<Status>>,
    /// Read from the journal and not sent yet.
    read: VecDeque<Transition>,
    reading: Option<Reading>,
    until: Until,
    pulse: Pulse,
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
    /// Subscribes, then reads: what is committed in between is skipped by the cursor.
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
            cursor: cursor.unwrap_or_default(),
            sent: Finality::Open,
            snapshot: None,
            read: VecDeque::new(),
            reading: None,
            until,
            pulse: Pulse::new(rhythm, wake),
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
        Ok(Some((record, watch)))
    }

    /// The next transition after the cursor, or the finality of the newest status.
    fn advance(&mut self, context: &mut Context<'_>) -> Poll<Found> {
        loop {
            if let Some(transition) = self.read.pop_front() {
                if transition.status.revision <= self.cursor {
                    continue;
                }
                return Poll::Ready(Found::Next(Box::new(transition)));
            }
            if let Some(reading) = &mut self.reading {
                let result = ready!(reading.as_mut().poll(context));
                self.reading = None;
                match result {
                    Ok(None) => return Poll::Ready(Found::Gone),
                    Ok(Some(read)) if !read.is_empty() => self.read = read.into(),
                    Ok(Some(_)) | Err(_) => {
                        let again = Instant::now() + READ_AGAIN;
                        self.pulse.wake_at(again, &self.inner.alarms);
                        return Poll::Pending;
                    }
                }
                continue;
            }
            match self.channel.after(self.cursor) {
                Next::Here(transition) => return Poll::Ready(Found::Next(transition)),
                Next::CaughtUp(finality) => return Poll::Ready(Found::CaughtUp(finality)),
                Next::Ahead => return Poll::Ready(Found::CaughtUp(self.sent)),
                Next::InJournal => {
                    let (journal, purchase) = (Arc::clone(&self.inner.journal), self.purchase);
                    let cursor = self.cursor;
                    self.reading = Some(Box::pin(async move {
                        let read = journal.transitions(purchase, cursor, READ_MAX).await?;
                        // What was committed is there, unless retention has taken it all.
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
            return Poll::Ready(Some(Ok(Event::Snapshot(status))));
        }
        let aged = this.pulse.is_aged();
        let end = this.inner.ending().or(aged.then_some(End::Aged));
        let newest = match this.advance(context) {
            Poll::Ready(Found::Next(transition)) if end != Some(End::JournalLost) => {
                this.cursor = transition.status.revision;
                this.sent = transition.status.finality;
                this.pulse.sends();
                return Poll::Ready(Some(Ok(Event::Transition(transition))));
            }
            Poll::Ready(Found::CaughtUp(finality)) => Some(finality),
            Poll::Ready(Found::Gone) => {
                this.ended = true;
                return Poll::Ready(Some(Err(End::Gone)));
            }
            Poll::Ready(Found::Next(_)) | Poll::Pending => None,
        };
        if newest.is_some_and(|finality| this.until.is_reached(finality)) {
            this.ended = true;
            return Poll::Ready(None);
        }
        if let Some(end) = end {
            this.ended = true;
            return Poll::Ready(Some(Err(end)));
        }
        ready!(this.pulse.beat(newest.is_some(), &this.inner.alarms));
        let revision = this.cursor;
        Poll::Ready(Some(Ok(Event::Heartbeat { revision })))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner.channels.leave(self.purchase, self.place);
        let streams = &self.inner.streams;
        streams.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}
