//! Notes if a request went out on a connection that others had used: its errors do not tell.

use std::{
    cell::Cell,
    error::Error,
    future::Future,
    io,
    task::{Context, Poll},
};

use tower::{Layer, Service};

tokio::task_local! {
    /// True if the request under way has begun to make a connection. The client does so within the
    /// request's own future.
    static DIALLED: Cell<bool>;
}

/// Runs a request and returns true if it began to make a connection. If it did not, it was sent on a
/// kept connection; if it did, it may still have met a kept one that came free in the meantime.
pub(super) async fn noting<T>(request: impl Future<Output = T>) -> (T, bool) {
    let noted = async {
        let answer = request.await;
        (answer, DIALLED.with(Cell::get))
    };
    DIALLED.scope(Cell::new(false), noted).await
}

/// True if the peer closed the connection, or it broke, before an answer was there.
pub(super) fn is_closed(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>()
            && (error.is_incomplete_message() || error.is_closed() || error.is_canceled())
        {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Notes that a connection is being made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noting;

impl<S> Layer<S> for Noting {
    type Service = Noted<S>;

    fn layer(&self, connector: S) -> Noted<S> {
        Noted(connector)
    }
}

/// A connector whose use is noted.
#[derive(Debug, Clone)]
pub(super) struct Noted<S>(S);

impl<S: Service<T>, T> Service<T> for Noted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, target: T) -> S::Future {
        // Outside a request nobody waits for the note.
        let _ = DIALLED.try_with(|dialled| dialled.set(true));
        self.0.call(target)
    }
}
