//! A stream that survives its connection: it opens, resumes, and gives up on silence.
//!
//! The [`Source`] knows the meaning of a message, and the place to resume.

use std::{future::Future, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::{
    backoff::{Backoff, DEFECTS_MAX},
    error::{Error, Refusal},
};

/// The heartbeat interval of a stream that asked for none.
pub(crate) const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);

/// One kind of resumable stream.
pub(crate) trait Source: Send + Sync + 'static {
    type Message: Send + 'static;
    type Event: Send + 'static;

    /// True if OK ends the stream for good; else a stream that ends with OK is lost.
    const ENDS: bool;

    /// Opens the stream after the last accepted message.
    fn open(&self) -> impl Future<Output = Result<Streaming<Self::Message>, Status>> + Send;

    /// Takes a message in; an error ends the stream.
    fn accept(&mut self, message: Self::Message) -> Result<Accepted<Self::Event>, Error>;

    /// Tells the consumer that the stream was lost.
    fn interrupted(&self, error: Error, retry_in: Duration) -> Self::Event;
}

/// The worth of a message.
pub(crate) enum Accepted<E> {
    /// It moves the cursor on.
    News(E),
    /// It proves the stream alive.
    Alive(E),
    /// The consumer has it already.
    Duplicate,
    /// A later version of the contract has added its kind: it only proves the stream alive.
    Unknown,
}

/// The times after which a connection, and the whole stream, is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) patience: Option<Duration>,
}

pub(crate) type Events<E> = Pin<Box<dyn Stream<Item = Result<E, Error>> + Send>>;

/// The events of a source, over as many connections as they need.
pub(crate) fn follow<S: Source>(source: S, limits: Limits) -> Events<S::Event> {
    let heartbeat = limits.heartbeat.unwrap_or(DEFAULT_HEARTBEAT);
    let follow = Follow {
        source,
        silence: heartbeat.saturating_mul(2),
        patience: limits.patience,
        open: None,
        opened_at: None,
        pause: None,
        lost_since: None,
        backoff: Backoff::default(),
        defects: 0,
        done: false,
    };
    let events = stream::unfold(follow, |mut follow| async move {
        let item = follow.next().await?;
        Some((item, follow))
    });
    Box::pin(events.fuse())
}

struct Follow<S: Source> {
    source: S,
    /// The longest silence of an open stream before it counts as dead.
    silence: Duration,
    patience: Option<Duration>,
    open: Option<Streaming<S::Message>>,
    opened_at: Option<Instant>,
    /// The wait before the stream is opened again.
    pause: Option<Duration>,
    /// The time since which no message has arrived.
    lost_since: Option<Instant>,
    backoff: Backoff,
    /// Defects of the service in a row.
    defects: u32,
    done: bool,
}

/// This side's error for a stream that the service did not end with an error.
fn local(message: &str) -> Error {
    Error::Unavailable(Refusal::local(Code::Unavailable, message))
}

enum Step<M> {
    Message(M),
    End,
    Lost(Error),
    Fatal(Error),
}

impl<S: Source> Follow<S> {
    async fn next(&mut self) -> Option<Result<S::Event, Error>> {
        while !self.done {
            if let Some(pause) = self.pause.take() {
                sleep(pause).await;
            }
            match self.step().await {
                Step::Message(message) => {
                    self.lost_since = None;
                    match self.take(message) {
                        Ok(Some(event)) => return Some(Ok(event)),
                        Ok(None) => {}
                        Err(error) => return Some(Err(self.end_with(error))),
                    }
                }
                Step::End if S::ENDS => self.done = true,
                Step::End => return Some(self.lost(local("the stream was ended on the way"))),
                Step::Fatal(error) if error.is_defect() && self.defects < DEFECTS_MAX => {
                    self.defects += 1;
                    return Some(self.lost(error));
                }
                Step::Fatal(error) => return Some(Err(self.end_with(error))),
                Step::Lost(error) => return Some(self.lost(error)),
            }
        }
        None
    }

    async fn step(&mut self) -> Step<S::Message> {
        let received = match &mut self.open {
            Some(stream) => timeout(self.silence, stream.message()).await,
            None => match timeout(self.silence, self.source.open()).await {
                Ok(Ok(stream)) => {
                    self.opened_at = Some(Instant::now());
                    let stream = self.open.insert(stream);
                    timeout(self.silence, stream.message()).await
                }
                Ok(Err(status)) => Ok(Err(status)),
                Err(elapsed) => Err(elapsed),
            },
        };
        match received {
            Ok(Ok(Some(message))) => Step::Message(message),
            Ok(Ok(None)) => Step::End,
            Ok(Err(status)) => match Error::from(status) {
                error if error.is_transient() => Step::Lost(error),
                error => Step::Fatal(error),
            },
            Err(_) => {
                let silence = self.silence.as_secs();
                Step::Lost(local(&format!("nothing was received for {silence} s")))
            }
        }
    }

    fn take(&mut self, message: S::Message) -> Result<Option<S::Event>, Error> {
        Ok(match self.source.accept(message)? {
            Accepted::News(event) => {
                self.backoff.reset();
                self.defects = 0;
                Some(event)
            }
            Accepted::Alive(event) => Some(event),
            Accepted::Duplicate | Accepted::Unknown => None,
        })
    }

    fn lost(&mut self, error: Error) -> Result<S::Event, Error> {
        self.open = None;
        // The waits begin anew only if the stream held for a while: a service that accepts and
        // drops streams at once must not get them back at full speed.
        let opened_at = self.opened_at.take();
        if opened_at.is_some_and(|at| at.elapsed() >= self.silence) {
            self.backoff.reset();
        }
        let retry_in = self.backoff.next(error.retry_after());
        let since = *self.lost_since.get_or_insert_with(Instant::now);
        let spent = since.elapsed().saturating_add(retry_in);
        if self.patience.is_some_and(|patience| spent > patience) {
            return Err(self.end_with(error));
        }
        self.pause = Some(retry_in);
        Ok(self.source.interrupted(error, retry_in))
    }

    fn end_with(&mut self, error: Error) -> Error {
        self.done = true;
        self.open = None;
        error
    }
}
