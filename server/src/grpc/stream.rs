//! Response streams: events become messages, ends become statuses, deadlines hold, and a stream that
//! panics harms nobody else.

use std::{
    collections::HashMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use tokio::time::{Instant, Sleep};
use tonic::{Response, Status};

use super::error::{Failure, Reason};
use crate::{
    clock::Clock, feed::End, identity::Caller, limits::Limit, listener::EndsAt,
    purchase::CallerName,
};

/// The time over which callers whose streams were ended are asked to come back.
const RETURN_SPREAD: Duration = Duration::from_secs(5);

/// One caller's share of the time over which callers come back.
pub(super) fn return_spread(clock: &Clock) -> Duration {
    Duration::from_millis(100) + clock.up_to(RETURN_SPREAD)
}

/// The count of open streams, and its limits.
#[derive(Debug, Clone)]
pub(super) struct StreamLimits(Arc<Open>);

#[derive(Debug)]
struct Open {
    /// The limit that a caller with too many streams meets.
    per_caller: Limit,
    /// Streams in all, and by caller.
    counts: Mutex<(u32, HashMap<CallerName, u32>)>,
}

/// The right to one open stream; given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    open: Arc<Open>,
    caller: CallerName,
}

impl StreamLimits {
    pub(super) fn new() -> Self {
        Self::of(Limit::StreamsPerCaller)
    }

    /// The limits of streams over many purchases: each costs something at every commit that concerns
    /// it.
    pub(super) fn of_feeds() -> Self {
        Self::of(Limit::FeedsPerCaller)
    }

    fn of(per_caller: Limit) -> Self {
        Self(Arc::new(Open {
            per_caller,
            counts: Mutex::default(),
        }))
    }

    /// The right to one more stream, of a caller that may have so many, if all callers may.
    pub(super) fn open(
        &self,
        caller: &CallerName,
        (most_per_caller, most): (u32, u32),
    ) -> Result<Permit, Failure> {
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_caller) = &mut *counts;
        let own = by_caller.entry(caller.clone()).or_default();
        let beyond = [
            (*all >= most, Limit::Streams),
            (*own >= most_per_caller, self.0.per_caller),
        ];
        if let Some((_, limit)) = beyond.into_iter().find(|(is_met, _)| *is_met) {
            limit.met();
            return Err(Failure::new(Reason::LimitExceeded, "too many open streams"));
        }
        *all += 1;
        *own += 1;
        Ok(Permit {
            open: Arc::clone(&self.0),
            caller: caller.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self
            .open
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (all, by_caller) = &mut *counts;
        *all = all.saturating_sub(1);
        if let Some(own) = by_caller.get_mut(&self.caller) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                by_caller.remove(&self.caller);
            }
        }
    }
}

/// The stream of a response. Dropping it forgets its watcher.
pub struct Responses<T> {
    messages: Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>,
    /// The time by which it has to have ended, even if nobody reads it.
    ends_at: Option<Instant>,
}

impl<T> Responses<T> {
    /// The response of this stream.
    pub(super) fn response(self) -> Response<Self> {
        let ends_at = self.ends_at;
        let mut response = Response::new(self);
        if let Some(ends_at) = ends_at {
            response.extensions_mut().insert(EndsAt(ends_at));
        }
        response
    }
}

impl<T> fmt::Debug for Responses<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Responses")
    }
}

impl<T> Stream for Responses<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.as_mut().poll_next(context)
    }
}

/// Events as messages, until they end or the deadline passes; `age_ends_at` is the time at which the
/// events end by themselves of age.
pub(super) fn responses<S, E, T, P>(
    events: S,
    convert: impl Fn(E) -> T + Send + Unpin + 'static,
    caller: Caller,
    deadline: Option<Instant>,
    age_ends_at: Option<Instant>,
    permit: P,
    clock: Clock,
) -> Responses<T>
where
    P: Send + Unpin + 'static,
    S: Stream<Item = Result<E, End>> + Send + Unpin + 'static,
    T: 'static,
{
    let ends_at = deadline.into_iter().chain(age_ends_at).min();
    let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
    Responses {
        messages: Box::pin(Converted {
            events,
            convert,
            caller,
            deadline,
            clock,
            _permit: permit,
            ended: false,
        }),
        ends_at,
    }
}

struct Converted<S, C, P> {
    events: S,
    convert: C,
    caller: Caller,
    deadline: Option<Pin<Box<Sleep>>>,
    clock: Clock,
    /// The permit, given back when the stream ends.
    _permit: P,
    ended: bool,
}

impl<S, C, P, E, T> Stream for Converted<S, C, P>
where
    P: Unpin,
    S: Stream<Item = Result<E, End>> + Unpin,
    C: Fn(E) -> T + Unpin,
{
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        // Asked first, so that nothing is told to a caller whose right to hear it is gone.
        if this.caller.is_revoked() {
            this.ended = true;
            let text = "the caller is not known any more, or a right of it is gone";
            return Poll::Ready(Some(
                Err(Failure::new(Reason::Unauthenticated, text).into()),
            ));
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            this.ended = true;
            return Poll::Ready(Some(Err(Failure::deadline().into())));
        }
        // A defect ends this stream with a status, and no other stream at all.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            Pin::new(&mut this.events)
                .poll_next(context)
                .map(|event| event.map(|event| event.map(&this.convert)))
        }));
        let failure = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(message)))) => return Poll::Ready(Some(Ok(message))),
            Ok(Poll::Ready(None)) => {
                this.ended = true;
                return Poll::Ready(None);
            }
            Ok(Poll::Ready(Some(Err(end)))) => Failure::of_end(end, return_spread(&this.clock)),
            Err(_) => {
                tracing::error!("a stream panicked");
                Failure::new(
                    Reason::Internal,
                    "an internal error; resume with the cursor",
                )
            }
        };
        this.ended = true;
        Poll::Ready(Some(Err(failure.into())))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::identity::{CallerLimits, Grant, Scope};

    /// Events whose second panics.
    struct Defective(u32);

    impl Stream for Defective {
        type Item = Result<u32, End>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.0 += 1;
            assert_ne!(self.0, 2, "canary");
            Poll::Ready(Some(Ok(self.0)))
        }
    }

    fn caller() -> Caller {
        Caller::new(Grant {
            name: CallerName::new("shop"),
            scopes: BTreeSet::from([Scope::Read]),
            accounts: None,
            limits: CallerLimits::default(),
        })
    }

    #[tokio::test]
    async fn a_stream_that_panics_ends_with_internal_and_gives_back_its_place() {
        use futures_util::StreamExt as _;
        let limits = StreamLimits::new();
        let shop = CallerName::new("shop");
        let permit = limits.open(&shop, (9, 1)).unwrap();
        assert!(limits.open(&shop, (9, 1)).is_err(), "it is the only one");
        let clock = Clock::system();
        let caller = caller();
        let mut stream = responses(
            Defective(0),
            |event| event,
            caller,
            None,
            None,
            permit,
            clock,
        );
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
        assert!(!format!("{status:?}").contains("canary"));
        assert!(stream.next().await.is_none());
        drop(stream);
        assert!(
            limits.open(&shop, (9, 1)).is_ok(),
            "its place is free again"
        );
    }

    #[test]
    fn feeds_are_counted_by_caller_and_each_limit_that_is_met_is_counted() {
        let feeds = StreamLimits::of_feeds();
        let (shop, other) = (CallerName::new("shop"), CallerName::new("other"));
        let before = Limit::FeedsPerCaller.times();
        let _open = [
            feeds.open(&shop, (2, 9)).unwrap(),
            feeds.open(&shop, (2, 9)).unwrap(),
        ];
        assert!(feeds.open(&shop, (2, 9)).is_err() && feeds.open(&other, (2, 9)).is_ok());
        assert!(Limit::FeedsPerCaller.times() > before);
    }

    #[test]
    fn streams_are_counted_in_all_and_by_caller() {
        let limits = StreamLimits::new();
        let (shop, other) = (CallerName::new("shop"), CallerName::new("other"));
        let first = limits.open(&shop, (2, 3)).unwrap();
        let _second = limits.open(&shop, (2, 3)).unwrap();
        assert_eq!(
            limits.open(&shop, (2, 3)).unwrap_err().reason(),
            Reason::LimitExceeded
        );
        let _third = limits.open(&other, (2, 3)).unwrap();
        assert_eq!(
            limits.open(&other, (2, 3)).unwrap_err().reason(),
            Reason::LimitExceeded
        );
        drop(first);
        assert!(limits.open(&other, (2, 3)).is_ok());
    }
}
