//! The stream of one purchase: every revision once, in order, across reconnects.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tillwatch_proto::v1::{
    Heartbeat, PurchaseStatus, Transition, WatchStatusRequest, WatchStatusResponse, WatchUntil,
    watch_status_response,
};
use tonic::{Code, Status, Streaming};

use crate::{
    calls::{Calls, Purchases, to_wire},
    error::{Error, Refusal},
    follow::{Accepted, Events, Limits, Source, follow},
};

/// The way to watch a purchase. By default the stream begins with a snapshot and ends with a
/// terminal status.
#[derive(Debug, Clone, Copy, Default)]
pub struct WatchOptions {
    /// The last revision that the caller has; 0 asks for all. Absent: begin with a snapshot.
    pub after_revision: Option<u32>,
    /// The status that ends the stream.
    pub until: WatchUntil,
    /// The interval in which a silent stream proves itself alive: 5 s to 120 s, 30 s if absent.
    pub heartbeat_interval: Option<Duration>,
    /// The time that the service may stay away until the stream ends with the error. Absent: for
    /// ever.
    pub patience: Option<Duration>,
}

/// The events of a watched purchase's stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchEvent {
    /// The newest status: the first event of a stream without `after_revision`, and of no other.
    Snapshot(PurchaseStatus),
    /// The next revision.
    Transition(Transition),
    /// The stream is alive, and everything up to the named revision was sent before.
    Heartbeat(Heartbeat),
    /// The stream was lost. It will be resumed, and will miss nothing.
    Interrupted {
        /// The error by which it was lost.
        error: Error,
        /// The time until it is opened again.
        retry_in: Duration,
    },
}

/// The events of one purchase. Ends after the service has ended it with OK, or after an error.
pub struct Watch {
    events: Events<WatchEvent>,
}

impl Watch {
    pub(crate) fn new(calls: &Calls, purchase_id: String, options: WatchOptions) -> Self {
        let limits = Limits {
            heartbeat: options.heartbeat_interval,
            patience: options.patience,
        };
        let source = PurchaseSource {
            purchases: calls.purchases(),
            purchase_id,
            until: options.until,
            heartbeat: options.heartbeat_interval,
            cursor: options.after_revision,
        };
        Self {
            events: follow(source, limits),
        }
    }

    /// The next event; `None` once the stream is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<WatchEvent, Error>> {
        self.events.next().await
    }
}

impl Stream for Watch {
    type Item = Result<WatchEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watch").finish_non_exhaustive()
    }
}

struct PurchaseSource {
    purchases: Purchases,
    purchase_id: String,
    until: WatchUntil,
    heartbeat: Option<Duration>,
    /// The last revision that the consumer got.
    cursor: Option<u32>,
}

impl Source for PurchaseSource {
    type Message = WatchStatusResponse;
    type Event = WatchEvent;

    const ENDS: bool = true;

    async fn open(&self) -> Result<Streaming<WatchStatusResponse>, Status> {
        let request = WatchStatusRequest {
            purchase_id: self.purchase_id.clone(),
            after_revision: self.cursor,
            until: self.until.into(),
            heartbeat_interval: self.heartbeat.map(to_wire),
        };
        let answer = self.purchases.clone().watch_status(request).await?;
        Ok(answer.into_inner())
    }

    fn accept(&mut self, message: WatchStatusResponse) -> Result<Accepted<WatchEvent>, Error> {
        match message.event {
            Some(watch_status_response::Event::Snapshot(status)) => self.snapshot(status),
            Some(watch_status_response::Event::Transition(step)) => self.transition(step),
            Some(watch_status_response::Event::Heartbeat(beat)) => self.heartbeat(beat),
            None => Ok(Accepted::Unknown),
        }
    }

    fn interrupted(&self, error: Error, retry_in: Duration) -> WatchEvent {
        WatchEvent::Interrupted { error, retry_in }
    }
}

impl PurchaseSource {
    fn snapshot(&mut self, status: PurchaseStatus) -> Result<Accepted<WatchEvent>, Error> {
        match self.cursor {
            None => {
                self.cursor = Some(status.revision);
                Ok(Accepted::News(WatchEvent::Snapshot(status)))
            }
            // A snapshot may skip revisions, so it cannot replace those after a cursor.
            Some(cursor) if status.revision > cursor => Err(self.gap(cursor, status.revision)),
            Some(_) => Ok(Accepted::Duplicate),
        }
    }

    fn transition(&mut self, step: Transition) -> Result<Accepted<WatchEvent>, Error> {
        let Some(cursor) = self.cursor else {
            return Err(strange("a transition before the snapshot"));
        };
        let Some(status) = &step.status else {
            return Err(strange("a transition without a status"));
        };
        let revision = status.revision;
        if revision <= cursor {
            return Ok(Accepted::Duplicate);
        }
        if revision != cursor.saturating_add(1) {
            return Err(self.gap(cursor, revision));
        }
        self.cursor = Some(revision);
        Ok(Accepted::News(WatchEvent::Transition(step)))
    }

    fn heartbeat(&self, beat: Heartbeat) -> Result<Accepted<WatchEvent>, Error> {
        match self.cursor {
            None => Err(strange("a heartbeat before the snapshot")),
            Some(cursor) if beat.revision > cursor => Err(self.gap(cursor, beat.revision)),
            Some(_) => Ok(Accepted::Alive(WatchEvent::Heartbeat(beat))),
        }
    }

    fn gap(&self, cursor: u32, received: u32) -> Error {
        Error::Gap {
            purchase_id: self.purchase_id.clone(),
            expected: cursor.saturating_add(1),
            received,
        }
    }
}

fn strange(what: &str) -> Error {
    let message = format!("the stream broke the contract: {what}");
    Error::Server(Refusal::local(Code::Internal, message))
}
