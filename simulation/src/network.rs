//! A network in memory: ordered streams of bytes that arrive late, stall while it is parted, and
//! break when they are cut. It follows tokio's clock, so a paused one makes it part of the run.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::Connected;

/// The bytes that one direction holds before its writer has to wait.
const WINDOW_BYTES: usize = 32 * 1024;
/// The time for which a connect waits for a server that is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The network. Clones are the same network.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    /// The servers that listen: each new connection goes to one of them.
    listeners: BTreeMap<u64, mpsc::UnboundedSender<io::Result<End>>>,
    /// The number of servers that have listened.
    servers: u64,
    /// Nothing arrives before this time.
    parted_until: Instant,
    /// Nothing arrives at these servers, or comes from them, before this time.
    stopped_until: BTreeMap<u64, Instant>,
    /// The longest that a byte is usually under way.
    latency_max: Duration,
    connections: Vec<Weak<Connection>>,
    /// The times at which streams may have been late or broken through no fault of the service.
    disturbances: Vec<(Instant, Instant)>,
}

struct Connection {
    /// The server that has it.
    server: u64,
    /// The bytes that the first and the second end have sent.
    directions: [Mutex<Direction>; 2],
    is_cut: AtomicBool,
}

struct Direction {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last_arrival: Instant,
    is_closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a connection.
pub struct End {
    network: Network,
    connection: Arc<Connection>,
    /// The direction that this end writes.
    writes: usize,
    arrival: Option<Pin<Box<Sleep>>>,
}

impl Network {
    /// A quiet network whose latencies follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: StdRng::seed_from_u64(seed),
            listeners: BTreeMap::new(),
            servers: 0,
            parted_until: Instant::now(),
            stopped_until: BTreeMap::new(),
            latency_max: Duration::from_millis(40),
            connections: Vec::new(),
            disturbances: Vec::new(),
        })))
    }

    /// One more server listens. Returns its number for [`Network::close`].
    pub fn listen(&self) -> (u64, mpsc::UnboundedReceiver<io::Result<End>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.lock().unwrap();
        let server = state.servers;
        state.servers += 1;
        state.listeners.insert(server, sender);
        (server, receiver)
    }

    /// A new connection to a server that listens.
    pub async fn connect(&self) -> io::Result<End> {
        let wait = {
            let mut state = self.0.lock().unwrap();
            let latency = state.latency();
            state.parted_until.max(Instant::now()) + latency
        };
        let limit = Instant::now() + CONNECT_TIMEOUT;
        sleep_until(wait.min(limit)).await;
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        if wait > limit {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let now = Instant::now();
        let direction = || {
            Mutex::new(Direction {
                under_way: VecDeque::new(),
                bytes: 0,
                last_arrival: now,
                is_closed: false,
                reader: None,
                writer: None,
            })
        };
        let mut state = self.0.lock().unwrap();
        let (server, listener) = state.listener().ok_or_else(refused)?;
        let connection = Arc::new(Connection {
            server,
            directions: [direction(), direction()],
            is_cut: AtomicBool::new(false),
        });
        let end = |writes| End {
            network: self.clone(),
            connection: Arc::clone(&connection),
            writes,
            arrival: None,
        };
        state.connections.retain(|known| known.strong_count() > 0);
        state.connections.push(Arc::downgrade(&connection));
        drop(state);
        listener.send(Ok(end(1))).map_err(|_| refused())?;
        Ok(end(0))
    }

    /// Nothing arrives for so long.
    pub fn part(&self, duration: Duration) {
        let mut state = self.0.lock().unwrap();
        let until = Instant::now() + duration;
        state.parted_until = state.parted_until.max(until);
        state.disturb(until);
    }

    /// Breaks some of the connections, or all.
    pub fn cut(&self, share: f64) {
        self.cut_those(share, |_| true);
    }

    fn cut_those(&self, share: f64, is_meant: impl Fn(&Connection) -> bool) {
        let mut state = self.0.lock().unwrap();
        state.disturb(Instant::now());
        let all: Vec<_> = state.connections.iter().filter_map(Weak::upgrade).collect();
        let hit: Vec<_> = all
            .into_iter()
            .filter(|one| is_meant(one))
            .filter(|_| state.random.random_bool(share))
            .collect();
        drop(state);
        for connection in hit {
            connection.is_cut.store(true, Ordering::SeqCst);
            connection.wake();
        }
    }

    /// A server listens no more and its connections are broken: the process is gone.
    pub fn close(&self, server: u64) {
        self.0.lock().unwrap().listeners.remove(&server);
        self.cut_those(1.0, |connection| connection.server == server);
    }

    /// A server is stopped: for so long it takes nothing in and sends nothing out.
    pub fn stop(&self, server: u64, duration: Duration) {
        let mut state = self.0.lock().unwrap();
        let until = Instant::now() + duration;
        state.stopped_until.insert(server, until);
        state.disturb(until);
    }

    /// True if the network, or whoever listens on it, was disturbed within this time.
    pub fn was_disturbed(&self, from: Instant, until: Instant) -> bool {
        let state = self.0.lock().unwrap();
        state.listeners.is_empty()
            || (state.disturbances.iter()).any(|(began, ended)| *began <= until && *ended >= from)
    }

    /// Notes a disturbance that ends now, such as a server's return.
    pub fn disturbed_now(&self) {
        self.0.lock().unwrap().disturb(Instant::now());
    }
}

impl State {
    fn latency(&mut self) -> Duration {
        let most_us = u64::try_from(self.latency_max.as_micros()).unwrap_or(0);
        // One packet in 50 is sent twice before it arrives.
        let times = if self.random.random_bool(0.02) { 20 } else { 1 };
        Duration::from_micros(self.random.random_range(0..=most_us) * times)
    }

    /// A server that listens. A single one is no choice.
    fn listener(&mut self) -> Option<(u64, mpsc::UnboundedSender<io::Result<End>>)> {
        let place = match self.listeners.len() {
            0 | 1 => 0,
            several => self.random.random_range(0..several),
        };
        let (server, listener) = self.listeners.iter().nth(place)?;
        Some((*server, listener.clone()))
    }

    fn disturb(&mut self, until: Instant) {
        self.disturbances.push((Instant::now(), until));
    }
}

impl Connection {
    fn wake(&self) {
        for direction in &self.directions {
            let mut direction = direction.lock().unwrap();
            let wakers = [direction.reader.take(), direction.writer.take()];
            drop(direction);
            wakers.into_iter().flatten().for_each(Waker::wake);
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for direction in &self.connection.directions {
            direction.lock().unwrap().is_closed = true;
        }
        self.connection.wake();
    }
}

impl Connected for End {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = Arc::clone(&self.connection);
        connection.check()?;
        let mut direction = connection.directions[1 - self.writes].lock().unwrap();
        let Some((arrival, bytes)) = direction.under_way.front_mut() else {
            if direction.is_closed {
                return Poll::Ready(Ok(()));
            }
            direction.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        if *arrival > Instant::now() {
            let arrival = *arrival;
            direction.reader = Some(context.waker().clone());
            drop(direction);
            let mut sleep = Box::pin(sleep_until(arrival));
            if sleep.as_mut().poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
            self.arrival = Some(sleep);
            return Poll::Pending;
        }
        let taken = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..taken]);
        bytes.advance(taken);
        if bytes.is_empty() {
            direction.under_way.pop_front();
        }
        direction.bytes -= taken;
        if let Some(writer) = direction.writer.take() {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.connection.check()?;
        let arrival = {
            let mut state = self.network.0.lock().unwrap();
            let latency = state.latency();
            let stopped = state.stopped_until.get(&self.connection.server);
            let stopped = stopped.copied().unwrap_or(state.parted_until);
            state.parted_until.max(stopped).max(Instant::now()) + latency
        };
        let mut direction = self.connection.directions[self.writes].lock().unwrap();
        if direction.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if direction.bytes >= WINDOW_BYTES {
            direction.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = bytes.len().min(WINDOW_BYTES - direction.bytes);
        let arrival = arrival.max(direction.last_arrival);
        direction.last_arrival = arrival;
        direction.bytes += taken;
        let bytes = Bytes::copy_from_slice(&bytes[..taken]);
        direction.under_way.push_back((arrival, bytes));
        if let Some(reader) = direction.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.connection.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut direction = self.connection.directions[self.writes].lock().unwrap();
        direction.is_closed = true;
        if let Some(reader) = direction.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}
