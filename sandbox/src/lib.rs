//! The HTTP interfaces of five payment providers, simulated.
//!
//! A [`Sandbox`] listens on one address and serves each provider below its own path.
//! Purchases walk through the provider's words by themselves, in seconds instead of hours; magic
//! values in an order choose another way ([`Scenario`]), and tests can script [`Fault`]s.
//! Everything that arrived can be read back.
//!
//! It accepts any credential and keeps nothing: it is for trying and for tests only.
//!
//! Below it lies an [`Engine`], which answers [`Call`]s without sockets and by a clock from outside.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod book;
mod carbon;
mod devdraft;
mod engine;
mod exchange;
mod fault;
mod ids;
mod inabit;
mod life;
mod masumi;
mod phygitals;
mod record;
mod registry;
mod sample;
mod scenario;
mod server;
#[cfg(test)]
mod trial;
mod window;

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpSocket, task::JoinHandle};

pub use crate::{
    engine::{Engine, Wall},
    exchange::{Answer, Call, Lie, Told, UNKNOWN_WORD},
    fault::{Fault, Target},
    life::TimeLine,
    record::RecordedRequest,
    registry::{REGISTRY, Simulated, simulated},
    sample::{Recipe, Sample},
    scenario::Scenario,
};

/// The names of the simulated providers, which are also their paths.
pub const PROVIDERS: [&str; 5] = ["phygitals", "masumi", "inabit", "carbon", "devdraft"];

/// The widest range of [`Options::speed`], bounds included.
const SPEEDS: RangeInclusive<f64> = 0.001..=10_000.0;

/// The settings of a sandbox.
#[derive(Clone)]
pub struct Options {
    /// The address at which it listens; port 0 takes a free one. Default: `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// True if it may listen beyond this machine. Default: no.
    pub expose: bool,
    /// Lives and long polls go this many times faster than written, 0.001 to 10,000. Default: 1.
    pub speed: f64,
    /// The origin of ids and of the errors of flaky purchases. Default: 0.
    pub seed: u64,
    /// The only credentials accepted; empty accepts all. Default: empty.
    pub credentials: Vec<String>,
    /// The length of the windows in which providers count, aligned to the clock. Default: 1 min.
    pub rate_window: Duration,
    /// Creates per window and key at Phygitals, 0 for no limit (the real one: 1). Default: 0.
    pub phygitals_creates_per_window: u32,
    /// Requests per window and client key at Devdraft, 0 for no limit. Default: 100.
    pub devdraft_calls_per_window: u32,
    /// The time for which Phygitals holds a poll open at speed 1. Default: 6 s.
    pub long_poll: Duration,
    /// Purchases kept per provider; the oldest are dropped. Default: 100,000.
    pub purchases_max: usize,
    /// Requests kept in the record; the oldest are dropped. Default: 100,000.
    pub requests_max: usize,
    /// Connections served at once; others wait. Default: 20,000.
    pub connections_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            expose: false,
            speed: 1.0,
            seed: 0,
            credentials: Vec::new(),
            rate_window: Duration::from_secs(60),
            phygitals_creates_per_window: 0,
            devdraft_calls_per_window: 100,
            long_poll: Duration::from_secs(6),
            purchases_max: 100_000,
            requests_max: 100_000,
            connections_max: 20_000,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("listen", &self.listen)
            .field("speed", &self.speed)
            .field("seed", &self.seed)
            .field("credentials", &"[redacted]")
            .finish_non_exhaustive()
    }
}

/// A running sandbox. It ends when it is dropped; [`Sandbox::stop`] also waits for its end.
///
/// Methods take a provider by its name (see [`PROVIDERS`]); a name that is none of them has no
/// requests and no purchases.
#[derive(Debug)]
pub struct Sandbox {
    engine: Arc<Engine>,
    address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Sandbox {
    /// Binds its address and begins to serve.
    ///
    /// # Errors
    ///
    /// The address cannot be bound, or, as [`io::ErrorKind::InvalidInput`], it is not
    /// a loopback address without [`Options::expose`], or the speed is out of its range.
    pub async fn start(options: Options) -> io::Result<Self> {
        if !SPEEDS.contains(&options.speed) {
            return Err(invalid("speed must be from 0.001 to 10000"));
        }
        if !options.expose && !options.listen.ip().is_loopback() {
            return Err(invalid("not a loopback address; it accepts any credential"));
        }
        let socket = match options.listen {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(options.listen)?;
        let listener = socket.listen(4096)?;
        let address = listener.local_addr()?;
        let engine = Arc::new(Engine::new(options, Wall::system()));
        let tasks = vec![
            tokio::spawn(Arc::clone(&engine).drive()),
            tokio::spawn(server::listen(Arc::clone(&engine), listener)),
        ];
        Ok(Self {
            engine,
            address,
            tasks,
        })
    }

    /// The address at which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of a provider, without a slash at its end.
    #[must_use]
    pub fn base_url(&self, provider: &str) -> String {
        format!("http://{}/{provider}", self.address)
    }

    /// Everything that has reached it, the oldest first, as far as the record goes back.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.engine.state().record.all()
    }

    /// The number of requests that a provider has had.
    #[must_use]
    pub fn calls(&self, provider: &str) -> u64 {
        self.engine.state().record.calls(provider)
    }

    /// The number of purchases made at a provider.
    #[must_use]
    pub fn created(&self, provider: &str) -> u64 {
        self.engine.state().record.created_count(provider)
    }

    /// The references of the purchases at a provider, the oldest first.
    ///
    /// A reference is Phygitals' session id, Masumi's blockchain identifier, Inabit's purchase
    /// id, Carbon's order id, Devdraft's transaction id.
    #[must_use]
    pub fn references(&self, provider: &str) -> Vec<String> {
        let Some(provider) = simulated(provider) else {
            return Vec::new();
        };
        let mut desk = self.engine.open(provider.name);
        let mut references: Vec<String> = desk
            .book_mut()
            .newest_first()
            .map(|purchase| purchase.reference.to_string())
            .collect();
        references.reverse();
        references
    }

    /// The words a purchase has gone through, the present one last; empty for an unknown one.
    #[must_use]
    pub fn history(&self, provider: &str, reference: &str) -> Vec<String> {
        let Some(provider) = simulated(provider) else {
            return Vec::new();
        };
        let desk = self.engine.open(provider.name);
        let purchase = desk.find(reference);
        purchase
            .into_iter()
            .flat_map(|purchase| &purchase.past)
            .map(|(_, word)| word.clone())
            .collect()
    }

    /// The words that a purchase of a scenario walks through by itself.
    #[must_use]
    pub fn walk(provider: &str, scenario: Scenario) -> Vec<String> {
        let walk = simulated(provider).map(|provider| provider.walk(scenario));
        walk.into_iter().flatten().map(|(_, word)| word).collect()
    }

    /// Spoils the next requests at a provider, after those spoiled already.
    pub fn fault(&self, provider: &str, fault: Fault, times: u64) {
        self.fault_on(provider, Target::Any, fault, times);
    }

    /// Spoils the next creates, or the next requests that are none.
    pub fn fault_on(&self, provider: &str, target: Target, fault: Fault, times: u64) {
        if let Some(provider) = simulated(provider) {
            let mut state = self.engine.state();
            state.script.add(provider.name, target, fault, times);
        }
    }

    /// Forgets the faults that are still to come at a provider.
    pub fn clear_faults(&self, provider: &str) {
        if let Some(provider) = simulated(provider) {
            self.engine.state().script.clear(provider.name);
        }
    }

    /// Sets the word of a purchase, which then stays; false for an unknown purchase.
    ///
    /// At Masumi a word is an on-chain state, an action while nothing is on chain, or both as
    /// `state/action`, with `null` for no state.
    pub fn set_status(&self, provider: &str, reference: &str, word: &str) -> bool {
        let provider = simulated(provider);
        provider.is_some_and(|provider| self.engine.open(provider.name).set(reference, word))
    }

    /// Stops all lives, until [`Sandbox::resume`].
    pub fn pause(&self) {
        self.engine.pause(true);
    }

    /// Lets all lives go on.
    pub fn resume(&self) {
        self.engine.pause(false);
    }

    /// Pushes all lives ahead by a time as written at speed 1, paused or not.
    pub fn advance(&self, by: Duration) {
        self.engine.advance(by);
    }

    /// Stops listening, lets answers under way finish for at most a second, and waits for the
    /// end of everything that it began.
    pub async fn stop(mut self) {
        self.engine.stop();
        for task in self.tasks.drain(..) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the sandbox ended early");
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.engine.stop();
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
