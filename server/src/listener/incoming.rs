//! Accepted connections: as many as there are permits, each with a deadline for its first bytes. The
//! server can order each to end.

use std::{
    fmt,
    future::Future as _,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, PollSemaphore, WaitForCancellationFutureOwned};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{
    PREFACE_TIMEOUT, Socket,
    frames::Frames,
    peer::Peer,
    port::Port,
    stream::{Connection, Stream},
};
use crate::{
    limits::Limit,
    tls::{self, ServerTls},
};

/// The time that a peer has for its TLS handshake, before the time for its preface begins.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time that accepting rests when the system has no file or no memory for a connection.
const REST: Duration = Duration::from_millis(100);
/// The shortest time between two warnings about that.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);
/// The silence after which the system probes a peer, and the interval of its probes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// The length of HTTP/2's connection preface (RFC 9113, 3.4); no HTTP/1.1 request is shorter.
const PREFACE_BYTES: usize = 24;

/// The connections of a listener, in the form of tonic's `serve_with_incoming_shutdown`. The stream
/// never fails and never ends; dropping it stops listening.
pub struct Incoming {
    socket: Socket,
    permits: PollSemaphore,
    /// The permit for the next connection, taken before accepting it: connections beyond the limit wait
    /// in the system's queue.
    permit: Option<OwnedSemaphorePermit>,
    /// True if it is known that there is no permit for the next connection.
    is_full: bool,
    close: CancellationToken,
    /// The TLS of its connections, if they have any.
    tls: Option<ServerTls>,
    rest: Option<Pin<Box<Sleep>>>,
    warned: Option<Instant>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Incoming")
    }
}

impl Incoming {
    pub(super) fn new(socket: Socket, permits: Arc<Semaphore>, close: CancellationToken) -> Self {
        Self {
            socket,
            permits: PollSemaphore::new(permits),
            permit: None,
            is_full: false,
            close,
            tls: None,
            rest: None,
            warned: None,
        }
    }

    /// With TLS on each connection, if there is any.
    #[must_use]
    pub fn secured(mut self, tls: Option<ServerTls>) -> Self {
        self.tls = tls;
        self
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        match &self.socket {
            Socket::Tcp(listener) => listener.poll_accept(context).map_ok(|(stream, _)| {
                // A status is small, and its caller waits for it. If this fails, the connection is gone.
                let _ = stream.set_nodelay(true);
                let probes = TcpKeepalive::new()
                    .with_time(KEEPALIVE_TIME)
                    .with_interval(KEEPALIVE_INTERVAL);
                let _ = SockRef::from(&stream).set_tcp_keepalive(&probes);
                Connection::Tcp(stream)
            }),
            Socket::Unix(listener, _) => listener
                .poll_accept(context)
                .map_ok(|(stream, _)| Connection::Unix(stream)),
        }
    }

    fn warn(&mut self, error: &io::Error) {
        let now = Instant::now();
        let is_new = |warned: Instant| now.duration_since(warned) >= WARNING_INTERVAL;
        if self.warned.is_none_or(is_new) {
            self.warned = Some(now);
            tracing::warn!(%error, "no connection can be accepted for now");
        }
    }
}

impl futures_util::Stream for Incoming {
    type Item = io::Result<Guarded>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(context));
                self.rest = None;
            }
            if self.permit.is_none() {
                let Poll::Ready(permit) = self.permits.poll_acquire(context) else {
                    if !self.is_full {
                        self.is_full = true;
                        Limit::Connections.met();
                    }
                    return Poll::Pending;
                };
                self.permit = permit;
                self.is_full = false;
            }
            match ready!(self.poll_accept(context)) {
                Ok(stream) => {
                    let permit = self.permit.take();
                    let tls = self.tls.clone();
                    let guarded = Guarded::new(stream, tls, permit, self.close.clone());
                    return Poll::Ready(Some(Ok(guarded)));
                }
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    self.warn(&error);
                    self.rest = Some(Box::pin(sleep(REST)));
                }
            }
        }
    }
}

/// True if an error is about the connection that was to be accepted, so that the next may be fine.
/// Other errors (EMFILE, ENFILE, ENOBUFS, ENOMEM above all) would come again at once.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A connection that ends if it says nothing at first, or when it is told to.
pub struct Guarded {
    stream: Stream,
    /// The TLS that has to be agreed on before anything else, if there is any.
    tls: Option<ServerTls>,
    /// The wait for the preface; `None` once enough has been read.
    preface: Option<Preface>,
    close: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The ledger that counts the bytes of strangers, if they have a limit here.
    peer: Option<Peer>,
    /// The count of control frames, if they have a limit here.
    frames: Option<Frames>,
    /// The permit, given back when the connection ends.
    _permit: Option<OwnedSemaphorePermit>,
}

struct Preface {
    deadline: Pin<Box<Sleep>>,
    bytes_read: usize,
}

impl Preface {
    fn from_now() -> Self {
        Self {
            deadline: Box::pin(sleep_until(Instant::now() + PREFACE_TIMEOUT)),
            bytes_read: 0,
        }
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Guarded")
    }
}

impl Guarded {
    fn new(
        connection: Connection,
        tls: Option<ServerTls>,
        permit: Option<OwnedSemaphorePermit>,
        close: CancellationToken,
    ) -> Self {
        Self {
            stream: Stream::Plain(connection),
            tls,
            preface: Some(Preface::from_now()),
            close: Box::pin(close.cancelled_owned()),
            peer: None,
            frames: None,
            _permit: permit,
        }
    }

    /// True if it came over TCP.
    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.stream.connection(), Some(Connection::Tcp(_)))
    }

    /// Agrees on TLS, if there is any. It returns the names in the client's certificate.
    ///
    /// # Errors
    /// The handshake failed, took too long, or the connection has to end.
    pub(super) async fn shake_hands(&mut self) -> io::Result<Arc<[String]>> {
        let nobody = Arc::default();
        let Some(tls) = self.tls.take() else {
            return Ok(nobody);
        };
        let Stream::Plain(connection) = mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let handshake = TlsAcceptor::from(tls.config()).accept(connection);
        let shaken = tokio::select! {
            biased;
            () = self.close.as_mut() => Err(io::ErrorKind::ConnectionAborted.into()),
            shaken = timeout(HANDSHAKE_TIMEOUT, handshake) => {
                shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
        };
        let stream = shaken.inspect_err(|_| tls.handshake_failed())?;
        let (_, session) = stream.get_ref();
        let certificate = session.peer_certificates().and_then(<[_]>::first);
        let names = certificate.map_or(nobody, |certificate| tls::names(certificate).into());
        self.stream = Stream::Secure(Box::new(stream));
        self.preface = Some(Preface::from_now());
        Ok(names)
    }

    /// Holds it to the limits of a stranger's bytes and of anybody's control frames.
    pub(super) fn watch(&mut self, peer: Peer) {
        self.peer = Some(peer);
        self.frames = Some(Frames::new(Instant::now()));
    }

    /// An error if the connection has to end. It is asked whenever the connection would wait: an idle
    /// connection spends its time there, and the order to end has to wake it.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Option<io::Error> {
        if self.close.as_mut().poll(context).is_ready() {
            return Some(io::ErrorKind::ConnectionAborted.into());
        }
        let preface = self.preface.as_mut()?;
        let is_late = preface.deadline.as_mut().poll(context).is_ready();
        is_late.then(|| io::ErrorKind::TimedOut.into())
    }

    fn wrote(&mut self, progress: &Poll<io::Result<usize>>) {
        if let (Some(frames), Poll::Ready(Ok(bytes))) = (&mut self.frames, progress) {
            frames.wrote(*bytes);
        }
    }

    fn or_end<T>(
        &mut self,
        context: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match progress {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => match self.poll_end(context) {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}

impl Connected for Guarded {
    type ConnectInfo = TcpConnectInfo;

    /// The addresses of the connection; none if it came over a Unix socket.
    fn connect_info(&self) -> TcpConnectInfo {
        match self.stream.connection() {
            Some(Connection::Tcp(stream)) => stream.connect_info(),
            Some(Connection::Unix(_)) | None => TcpConnectInfo {
                local_addr: None,
                remote_addr: None,
            },
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let progress = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        if let Some(peer) = &self.peer
            && read > 0
            && !Port::read(peer, read)
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let arrived = buffer.filled().get(before..).unwrap_or_default();
        if let Some(frames) = &mut self.frames
            && !frames.read(arrived, Instant::now)
        {
            Limit::ControlFrames.met();
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let Some(preface) = &mut self.preface {
            preface.bytes_read += read;
            if preface.bytes_read >= PREFACE_BYTES {
                self.preface = None;
            }
        }
        self.or_end(context, progress)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&progress);
        self.or_end(context, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(&progress);
        self.or_end(context, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
