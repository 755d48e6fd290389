//! Sockets: binding, accepting, limiting and closing them, and the server's settings.
//!
//! tonic's own accept loop spins when files run out, waits for ever for silent peers and for open
//! streams, and limits nothing; so a [`Port`] serves instead. It judges a peer by headers alone, and a
//! peer costs next to nothing before it has shown who it is. This module does not know the services
//! behind it.

mod body;
mod connection;
mod frames;
mod incoming;
mod panic;
mod peer;
mod port;
mod protocol;
mod stream;
mod web;

pub use body::word as code_word;
pub use connection::{CertificateNames, EndsAt, RoomLayer, WithRoom};
pub use incoming::{Guarded, Incoming};
pub use panic::{CatchPanic, PanicLayer};
pub use port::{Admit, Admitted, CallCounts, Cause, Guest, Port, Refuse, Refused, Rules};
pub use protocol::Trust;
pub use web::Origins;

use std::{
    fmt, fs,
    future::Future,
    io,
    os::unix::{fs::FileTypeExt as _, net::UnixStream as BlockingUnixStream},
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

/// Streams that a peer may have open on one connection: more than a sensible client opens, and few
/// enough that one connection cannot take all memory. A mesh opens further connections.
pub const STREAMS_PER_CONNECTION: u32 = 1_000;
/// The time that a peer has to send its protocol's preface.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Files that the process needs besides connections: database, logs, resolver, runtime; ours.
const FILES_RESERVED: u64 = 256;
/// The time for closing the last sockets.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The windows of a stream and of a connection, in bytes. A window is for received bytes, and requests
/// are small. A connection's window has to hold a burst on all of its streams: with 64 KiB, h2 0.4.20
/// ends a connection on which 600 small calls begin at once (measured; with 128 KiB and more it does
/// not).
const WINDOWS: (u32, u32) = (64 * 1024, 1024 * 1024);
/// The interval at which a silent peer is pinged, and the time that it has to answer. Nothing else
/// frees the streams of a peer that has vanished.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// The longest list of headers.
const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Streams that a peer may reset before they are looked at.
const PENDING_RESETS: usize = 20;
/// Streams that this side may reset; without a limit one peer could take all memory
/// (RUSTSEC-2024-0003).
const LOCAL_RESETS: usize = 1_024;

/// tonic's server with limits on the cost of a connection, for listeners that no stranger reaches. A
/// [`Port`] serves the listeners that strangers reach.
///
/// It sets no maximal age of connections: with a grace, tonic 0.14.9 cuts them without a GOAWAY.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(LOCAL_RESETS))
        // This serves HTTP/1 health checks, and lets a shutdown end connections without a preface.
        .accept_http1(true)
}

/// Raises this process's limit of open files as far as it may, and returns it.
pub fn raise_file_limit() -> u64 {
    rlimit::increase_nofile_limit(u64::MAX)
        .or_else(|_| rlimit::Resource::NOFILE.get().map(|(soft, _)| soft))
        .unwrap_or(FILES_RESERVED)
}

/// The number of connections, at most `wanted` and at least one, that fit beside `reserved` files for
/// other purposes, such as requests to providers. Warns if fewer than wanted fit.
pub fn connections_within(wanted: u32, file_limit: u64, reserved: u64) -> u32 {
    let left = file_limit.saturating_sub(reserved.saturating_add(FILES_RESERVED));
    let fitting = u32::try_from(left).unwrap_or(u32::MAX).max(1);
    if fitting < wanted {
        tracing::warn!(
            wanted,
            connections = fitting,
            file_limit,
            "the limit of open files allows fewer connections"
        );
    }
    wanted.min(fitting)
}

/// A bound socket that has accepted nobody yet.
pub struct Listener(Socket);

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A Unix socket's file, removed with the listener.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, "the socket's file is gone already");
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Listener({})", self.address())
    }
}

impl Listener {
    /// Listens on `host:port`.
    ///
    /// # Errors
    /// The host is not found, or the address cannot be bound.
    pub async fn tcp(address: &str) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Socket::Tcp).map(Self)
    }

    /// Listens on a Unix socket. A file that an ended process has left there is replaced; the
    /// process's umask decides who may connect.
    ///
    /// # Errors
    /// `AddrInUse` if another process listens there; `AlreadyExists` if another kind of file lies
    /// there; or the system's own.
    pub fn unix(path: &Path) -> io::Result<Self> {
        remove_stale_socket(path)?;
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_owned());
        Ok(Self(Socket::Unix(listener, file)))
    }

    /// The address on which it listens, with the port that the system has chosen.
    pub fn address(&self) -> String {
        match &self.0 {
            Socket::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| String::new(), |address| address.to_string()),
            Socket::Unix(_, SocketFile(path)) => format!("unix:{}", path.display()),
        }
    }

    /// Its connections, at most `connections` at once; `close` closes all of them.
    pub fn incoming(self, connections: u32, close: CancellationToken) -> Incoming {
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        let permits = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Incoming::new(self.0, permits, close)
    }
}

fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match BlockingUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // Somebody answers there, or nobody can tell; in both cases the file is not ours to remove.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The end of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained<T> {
    /// All connections ended by themselves in time.
    Whole(T),
    /// The connections that were left were closed.
    Closed(T),
    /// Some did not end even then; they end with the process.
    Abandoned,
}

/// Ends a server: it stops accepting, has `within` to finish open calls, and then loses its sockets.
/// `serving` is the server's future, made with `stop` as its signal and `close` in its [`Incoming`].
/// The caller has to end streams by other means, before or meanwhile.
pub async fn drain<S: Future>(
    serving: S,
    stop: &CancellationToken,
    close: &CancellationToken,
    within: Duration,
) -> Drained<S::Output> {
    let mut serving = pin!(serving);
    stop.cancel();
    if let Ok(output) = tokio::time::timeout(within, &mut serving).await {
        return Drained::Whole(output);
    }
    close.cancel();
    match tokio::time::timeout(CLOSE_TIMEOUT, &mut serving).await {
        Ok(output) => Drained::Closed(output),
        Err(_) => Drained::Abandoned,
    }
}

#[cfg(test)]
mod tests;
