//! A connection's bytes: over TCP or a Unix socket, plain or by TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

/// A connection of either kind.
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection as its bytes are read and written.
pub(super) enum Stream {
    Plain(Connection),
    Secure(Box<TlsStream<Connection>>),
    /// Its handshake is under way, or has failed.
    Gone,
}

impl Stream {
    pub(super) fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Plain(connection) => Some(connection),
            Self::Secure(stream) => Some(stream.get_ref().0),
            Self::Gone => None,
        }
    }
}

/// A stream of either kind, under one of two enumerations.
trait Bytes: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Bytes for S {}

impl Connection {
    fn bytes(&mut self) -> Pin<&mut dyn Bytes> {
        match self {
            Self::Tcp(stream) => Pin::new(stream),
            Self::Unix(stream) => Pin::new(stream),
        }
    }
}

impl Stream {
    fn bytes(&mut self) -> io::Result<Pin<&mut dyn Bytes>> {
        match self {
            Self::Plain(connection) => Ok(connection.bytes()),
            Self::Secure(stream) => Ok(Pin::new(&mut **stream)),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.bytes().poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bytes().poll_write_vectored(context, slices)
    }

    /// True: both kinds of socket gather.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_shutdown(context)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.bytes()?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.bytes()?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bytes()?.poll_write_vectored(context, slices)
    }

    /// True: sockets gather, and so does TLS.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes()?.poll_shutdown(context)
    }
}
