//! Bodies on their way: requests within their bytes and their time, answers in pieces that go out one
//! by one.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use super::{
    peer::{Peer, Waiting},
    port::{Admitted, Cause, Guest, Open, Port, Room},
};
use crate::limits::Limit;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The piece of an answer that the transport gets at once. It is as long as a frame of HTTP/2 by
/// default, so that no more than this of an unread answer is out of sight.
const PIECE: usize = 16 * 1024;
/// The frame of a message: a flag and its length.
const FRAME_HEAD: usize = 5;

/// A request's body on its way to a handler.
pub(super) struct Arriving<B> {
    inner: B,
    call: std::sync::Arc<super::peer::WatchedCall>,
    port: Port,
    peer: Peer,
    admitted: Admitted,
    /// The bytes that may still come.
    left: usize,
    /// The bytes that have come of a request that is not whole yet.
    taken: usize,
    is_over: bool,
}

impl<B> Arriving<B> {
    pub(super) fn new(inner: B, open: &Open, admitted: Admitted) -> Self {
        Self {
            inner,
            call: std::sync::Arc::clone(&open.call),
            port: open.port.clone(),
            peer: open.peer.clone(),
            left: admitted.request_bytes.saturating_add(FRAME_HEAD),
            admitted,
            taken: 0,
            is_over: false,
        }
    }

    /// Ends the wait for the rest of the request.
    fn over(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.call.arrived();
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.port
                .give_bytes(&self.peer, &self.admitted.caller, taken);
        }
    }

    fn refuse(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.over();
        Poll::Ready(Some(Err(Box::new(status))))
    }

    fn meet(&mut self, limit: Limit) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let status = (self.port.rules().refuse)(Cause::Limit(limit), &self.admitted);
        self.refuse(status)
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        // This comes before the look at the body, so that an order to stop in between wakes the task.
        let waiting = this.call.waiting(context);
        let frame = match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                return match waiting {
                    Waiting::Longer => Poll::Pending,
                    Waiting::Late => this.meet(Limit::RequestTime),
                    Waiting::Stopped if this.admitted.guest == Guest::Reflection => {
                        this.over();
                        Poll::Ready(None)
                    }
                    Waiting::Stopped => {
                        let status = (this.port.rules().refuse)(Cause::Ending, &this.admitted);
                        this.refuse(status)
                    }
                };
            }
        };
        let Some(frame) = frame else {
            this.over();
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        let Some(data) = frame.data_ref() else {
            this.over();
            return Poll::Ready(Some(Ok(frame)));
        };
        let bytes = data.len();
        let Some(left) = this.left.checked_sub(bytes) else {
            let text = format!(
                "the request is longer than {} bytes",
                this.admitted.request_bytes
            );
            return this.refuse(Status::out_of_range(text));
        };
        this.left = left;
        if this.inner.is_end_stream() {
            this.over();
        } else if this.admitted.guest != Guest::Reflection {
            if !this.port.take_bytes(&this.peer, &this.admitted, bytes) {
                Limit::RequestBytes.met();
                return this.meet(Limit::RequestBytes);
            }
            this.taken += bytes;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B> Drop for Arriving<B> {
    fn drop(&mut self) {
        // A handler that drops the body before its end wants no more of it.
        self.call.arrived();
        self.give_back();
    }
}

/// An answer's body on its way to the transport, with the place of its call.
pub(super) struct Leaving<B> {
    inner: B,
    /// The bytes of the last part that the transport has not taken yet.
    rest: Bytes,
    open: Open,
    room: Option<Room>,
    has_begun: bool,
}

impl<B> Leaving<B> {
    pub(super) fn new(inner: B, open: Open, room: Option<Room>) -> Self {
        Self {
            inner,
            rest: Bytes::new(),
            open,
            room,
            has_begun: false,
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.len().min(PIECE);
        self.open.call.handed(self.open.port.now());
        Frame::data(self.rest.split_to(bytes))
    }
}

impl<B> Body for Leaving<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.piece())));
        }
        this.open.call.asked();
        let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(context)?) else {
            return Poll::Ready(None);
        };
        let frame = match frame.into_data() {
            Ok(data) => {
                if let Some(room) = &mut this.room
                    && !this.has_begun
                {
                    room.shrink_to(data.len());
                }
                this.has_begun = true;
                this.rest = data;
                this.piece()
            }
            Err(frame) => {
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    this.open.code = Some(code);
                }
                this.open.call.handed(this.open.port.now());
                frame
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.has_begun {
            true => SizeHint::default(),
            false => self.inner.size_hint(),
        }
    }
}

/// The code of a `grpc-status`, in words.
pub(super) fn code(headers: &http::HeaderMap) -> Option<&'static str> {
    let code = Code::from_bytes(headers.get("grpc-status")?.as_bytes());
    Some(word(code))
}

/// A code as the protocol spells it.
pub fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
