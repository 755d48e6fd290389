//! The stream of many purchases' transitions, resumed by token.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use tillwatch_proto::v1::{
    FeedHeartbeat, PurchaseFilter, PurchaseTransition, WatchPurchasesRequest,
    WatchPurchasesResponse, watch_purchases_response,
};
use tonic::{Status, Streaming};

use crate::{
    calls::{Calls, Purchases, to_wire},
    error::Error,
    follow::{Accepted, Events, Limits, Source, follow},
};

/// The place at which a feed begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FeedStart {
    /// With the next transition. Until the first message has arrived, the feed has no place to
    /// resume from. If you may miss nothing, begin with the token of a list.
    #[default]
    Now,
    /// With all that the journal holds, oldest first.
    Beginning,
    /// After the message or list that this token came with.
    After(String),
}

/// The way to follow a feed.
#[derive(Debug, Clone, Default)]
pub struct FeedOptions {
    /// The place to begin.
    pub start: FeedStart,
    /// The interval in which a silent stream proves itself alive: 5 s to 120 s, 30 s if absent.
    pub heartbeat_interval: Option<Duration>,
    /// The time that the service may stay away until the stream ends with the error. Absent: for
    /// ever.
    pub patience: Option<Duration>,
}

/// The events of a feed.
#[derive(Debug)]
#[non_exhaustive]
pub enum FeedEvent {
    /// A step of one purchase.
    Transition {
        /// The purchase with its status after the step.
        transition: Box<PurchaseTransition>,
        /// Resumes after this step; store it together with its effect.
        resume_token: String,
    },
    /// The feed is alive, and everything up to its token was sent before.
    Heartbeat {
        /// The service's clocks.
        heartbeat: FeedHeartbeat,
        /// Resumes after all that was sent so far.
        resume_token: String,
    },
    /// The feed was lost and will be resumed.
    Interrupted {
        /// The error by which it was lost.
        error: Error,
        /// The time until it is opened again.
        retry_in: Duration,
    },
}

/// The events of many purchases. Ends with an error only.
pub struct Feed {
    events: Events<FeedEvent>,
}

impl Feed {
    pub(crate) fn new(calls: &Calls, filter: PurchaseFilter, options: FeedOptions) -> Self {
        let limits = Limits {
            heartbeat: options.heartbeat_interval,
            patience: options.patience,
        };
        let source = FeedSource {
            purchases: calls.purchases(),
            filter,
            heartbeat: options.heartbeat_interval,
            start: options.start,
        };
        Self {
            events: follow(source, limits),
        }
    }

    /// The next event; `None` once the feed is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<FeedEvent, Error>> {
        self.events.next().await
    }
}

impl Stream for Feed {
    type Item = Result<FeedEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.as_mut().poll_next(context)
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Feed").finish_non_exhaustive()
    }
}

struct FeedSource {
    purchases: Purchases,
    filter: PurchaseFilter,
    heartbeat: Option<Duration>,
    /// The place at which the next connection begins.
    start: FeedStart,
}

impl Source for FeedSource {
    type Message = WatchPurchasesResponse;
    type Event = FeedEvent;

    const ENDS: bool = false;

    async fn open(&self) -> Result<Streaming<WatchPurchasesResponse>, Status> {
        let (resume_token, from_beginning) = match &self.start {
            FeedStart::Now => (String::new(), false),
            FeedStart::Beginning => (String::new(), true),
            FeedStart::After(token) => (token.clone(), false),
        };
        let request = WatchPurchasesRequest {
            filter: Some(self.filter.clone()),
            resume_token,
            from_beginning,
            heartbeat_interval: self.heartbeat.map(to_wire),
        };
        let answer = self.purchases.clone().watch_purchases(request).await?;
        Ok(answer.into_inner())
    }

    fn accept(&mut self, message: WatchPurchasesResponse) -> Result<Accepted<FeedEvent>, Error> {
        let resume_token = message.resume_token;
        if !resume_token.is_empty() {
            self.start = FeedStart::After(resume_token.clone());
        }
        match message.event {
            Some(watch_purchases_response::Event::Transition(transition)) => {
                Ok(Accepted::News(FeedEvent::Transition {
                    transition: Box::new(transition),
                    resume_token,
                }))
            }
            Some(watch_purchases_response::Event::Heartbeat(heartbeat)) => {
                Ok(Accepted::Alive(FeedEvent::Heartbeat {
                    heartbeat,
                    resume_token,
                }))
            }
            // An event of a later version: its token is kept above.
            None => Ok(Accepted::Unknown),
        }
    }

    fn interrupted(&self, error: Error, retry_in: Duration) -> FeedEvent {
        FeedEvent::Interrupted { error, retry_in }
    }
}
