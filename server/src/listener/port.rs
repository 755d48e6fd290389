//! The things that all connections of one port share: the door, the places and bytes that there are,
//! and the sweep that holds every call and every connection to its time.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use slab::Slab;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{
    STREAMS_PER_CONNECTION,
    peer::{Look, Peer, Places, WatchedCall},
    protocol::Trust,
    web::Origins,
};
use crate::{
    figures::{CALL_BOUNDS, Seen, Spread},
    limits::Limit,
};

/// The interval at which calls and connections are held to their times.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// The same interval, once the server is about to end.
const SWEEP_EVERY_AT_THE_END: Duration = Duration::from_millis(50);
/// Connections looked at before others get their turn.
const SWEPT_AT_ONCE: usize = 256;
/// The time that a request may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// The time that an answer may wait for its reader.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// The time in which an answer must be read beyond its own end, such as the caller's deadline.
const END_GRACE: Duration = Duration::from_secs(2);
/// The time that a connection may be open without an authenticated call. Together with the time of
/// closing it is less than a minute.
const STRANGER_TIME: Duration = Duration::from_secs(45);
/// The time that one health check keeps a connection.
const CHECK_KEEPS: Duration = Duration::from_secs(60);
/// The bytes that a stranger may send at once.
const STRANGER_BYTES: u64 = 1024 * 1024;
/// The bytes that a stranger may send between two sweeps, for as long as it likes.
const STRANGER_BYTES_PER_SWEEP: u64 = 32 * 1024;
/// Bytes of unfinished requests: of one connection, one caller, and all.
const REQUEST_BYTES: [usize; 3] = [4 << 20, 16 << 20, 64 << 20];
/// The same, of calls that need no token.
const OPEN_REQUEST_BYTES: [usize; 3] = [256 << 10, 4 << 20, 64 << 20];
/// KiB of unread answers of one connection, one caller, and all. Only large answers ask for room.
pub(super) const ANSWER_KIB_PER_CONNECTION: usize = 16 << 10;
const ANSWER_KIB_PER_CALLER: usize = 32 << 10;
const ANSWER_KIB: usize = 256 << 10;
/// Calls that need no token, on one connection: checks of health, watches of it, streams of
/// reflection, and calls of methods that are not served.
const CHECKS: u32 = 100;
const WATCHES: u32 = 16;
const REFLECTIONS: u32 = 4;
const OTHERS: u32 = 100;
/// Streams of reflection on all connections.
const ALL_REFLECTIONS: u32 = 256;
/// Calls of callers that are not known, on one connection, before it is sent away.
const REFUSED_ATTEMPTS: u32 = 100;
/// The part of the number of connections that may be watches of health beyond a connection's first.
/// The first needs no such place, so that a few connections keep no prober and no caller out.
const MORE_WATCHES_PART: u32 = 2;
/// The part of the connections that health checks alone may keep open.
const KEPT_PART: u32 = 4;

/// The maker of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// An authenticated caller.
    Caller,
    /// Somebody who asks for health once.
    Check,
    /// Somebody who watches health.
    Watch,
    /// Somebody who asks for the services' descriptions.
    Reflection,
    /// Somebody who calls a method that is not served.
    Other,
}

impl Guest {
    pub(super) const COUNT: usize = 5;

    pub(super) fn place(self) -> usize {
        match self {
            Self::Caller => 0,
            Self::Check => 1,
            Self::Watch => 2,
            Self::Reflection => 3,
            Self::Other => 4,
        }
    }

    /// The most calls of this kind on one connection, and the name of that limit.
    fn most(self) -> (u32, Limit) {
        match self {
            Self::Caller => (STREAMS_PER_CONNECTION, Limit::OpenCalls),
            Self::Check => (CHECKS, Limit::OpenCalls),
            Self::Watch => (WATCHES, Limit::HealthWatches),
            Self::Reflection => (REFLECTIONS, Limit::ReflectionStreams),
            Self::Other => (OTHERS, Limit::OpenCalls),
        }
    }
}

/// A call that is let in, as its headers describe it.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Its maker.
    pub guest: Guest,
    /// The caller's name; empty if the call needs none.
    pub caller: Arc<str>,
    /// The method's name, of a fixed set, for the figures.
    pub method: &'static str,
    /// The longest that the request may be, in bytes.
    pub request_bytes: usize,
    /// The room that the answer may need while it is unread, in bytes; 0 for a small one.
    pub answer_bytes: usize,
}

/// A call that is not let in: its method's name and its status.
#[derive(Debug)]
pub struct Refused {
    /// The method's name, as in [`Admitted`].
    pub method: &'static str,
    /// The status that it gets.
    pub status: Status,
}

/// Decides about a call by its headers, before a byte of its body is read.
pub type Admit =
    Arc<dyn Fn(&mut http::request::Parts) -> Result<Admitted, Box<Refused>> + Send + Sync>;

/// The reason why this side ends a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It meets a limit.
    Limit(Limit),
    /// The server is about to end.
    Ending,
}

/// Makes the status of a call that was let in and that this side ends.
pub type Refuse = Arc<dyn Fn(Cause, &Admitted) -> Status + Send + Sync>;

/// The terms of a port for its peers.
#[derive(Clone)]
pub struct Rules {
    /// The peers that it trusts without a token.
    pub trust: Trust,
    /// The origins whose pages may call by gRPC-Web.
    pub origins: Origins,
    /// The door.
    pub admit: Admit,
    /// The maker of statuses for calls that this side ends.
    pub refuse: Refuse,
    /// The most connections at once.
    pub connections: u32,
}

impl fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rules").finish_non_exhaustive()
    }
}

/// The calls of one method that have ended.
#[derive(Debug)]
struct MethodCalls {
    by_code: BTreeMap<&'static str, u64>,
    /// The times of those that were let in.
    times: Spread,
}

impl Default for MethodCalls {
    fn default() -> Self {
        Self {
            by_code: BTreeMap::new(),
            times: Spread::new(CALL_BOUNDS),
        }
    }
}

/// The number of a method's calls that ended with a code.
pub type CallCounts = Vec<(&'static str, &'static str, u64)>;

/// One port. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Port(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rules: Rules,
    began: Instant,
    /// Milliseconds since `began`, at the last sweep.
    now: AtomicU64,
    peers: Mutex<Slab<Peer>>,
    connections: AtomicUsize,
    kept: Places,
    reflections: Places,
    /// Places for watches of health beyond a connection's first.
    more_watches: Places,
    answers: Arc<Semaphore>,
    /// Room for the unread answers of each caller, in KiB; callers are few and configured.
    answers_by_caller: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
    request_bytes: Mutex<RequestBytes>,
    calls: Mutex<BTreeMap<&'static str, MethodCalls>>,
}

#[derive(Debug, Default)]
struct RequestBytes {
    all: usize,
    by_caller: HashMap<Arc<str>, usize>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The room that a large answer has; given back when dropped.
#[derive(Debug)]
pub(super) struct Room([OwnedSemaphorePermit; 3]);

impl Room {
    /// Gives back the room that an answer of so many bytes does not need.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let needed = bytes.div_ceil(1024);
        for permit in &mut self.0 {
            let surplus = permit.num_permits().saturating_sub(needed);
            drop(permit.split(surplus));
        }
    }
}

impl Port {
    /// A port under these rules, to which nobody has come yet.
    pub fn new(rules: Rules) -> Self {
        let kept = Places::new((rules.connections / KEPT_PART).max(1));
        let more_watches = rules.connections / MORE_WATCHES_PART;
        Self(Arc::new(Shared {
            rules,
            began: Instant::now(),
            now: AtomicU64::new(0),
            peers: Mutex::default(),
            connections: AtomicUsize::new(0),
            kept,
            reflections: Places::new(ALL_REFLECTIONS),
            more_watches: Places::new(more_watches),
            answers: Arc::new(Semaphore::new(ANSWER_KIB)),
            answers_by_caller: Mutex::default(),
            request_bytes: Mutex::default(),
            calls: Mutex::default(),
        }))
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.0.rules
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.0.connections.load(Ordering::Relaxed)
    }

    /// The ends of calls, by method and code.
    pub fn calls(&self) -> CallCounts {
        let calls = lock(&self.0.calls);
        let each = calls.iter().flat_map(|(method, calls)| {
            let by_code = calls.by_code.iter();
            by_code.map(|(code, count)| (*method, *code, *count))
        });
        each.collect()
    }

    /// The times of calls that were let in and have ended, by method.
    pub fn call_times(&self) -> Vec<(&'static str, Seen)> {
        let calls = lock(&self.0.calls);
        let each = calls.iter();
        each.map(|(method, calls)| (*method, calls.times.seen()))
            .collect()
    }

    /// Counts a call that has ended, and was not let in.
    pub(super) fn turned_away(&self, method: &'static str, code: &'static str) {
        let mut calls = lock(&self.0.calls);
        let of_method = calls.entry(method).or_default();
        *of_method.by_code.entry(code).or_default() += 1;
    }

    /// Counts a call that has ended after it was let in.
    fn ended(&self, method: &'static str, code: &'static str, took: Duration) {
        let mut calls = lock(&self.0.calls);
        let of_method = calls.entry(method).or_default();
        *of_method.by_code.entry(code).or_default() += 1;
        of_method.times.add_time(took);
    }

    /// The time of the last sweep, in milliseconds: near enough for waits of many seconds.
    pub(super) fn now(&self) -> u64 {
        self.0.now.load(Ordering::Relaxed)
    }

    /// An instant in the port's milliseconds.
    pub(super) fn at(&self, instant: Instant) -> u64 {
        millis(instant.saturating_duration_since(self.0.began))
    }

    pub(super) fn join(&self, peer: Peer) -> Joined {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        let number = lock(&self.0.peers).insert(peer.clone());
        let port = self.clone();
        Joined { port, peer, number }
    }

    /// Begins a call, if there is a place for it.
    pub(super) fn open(&self, peer: &Peer, admitted: &Admitted) -> Result<Open, Limit> {
        let guest = admitted.guest;
        let (most, limit) = guest.most();
        let place = self.place(peer, guest)?;
        let opened = peer.open(guest, most, self.now());
        let (call, number) = opened.ok_or(limit)?;
        Ok(Open {
            port: self.clone(),
            peer: peer.clone(),
            call,
            number,
            _place: place,
            method: admitted.method,
            began: Instant::now(),
            code: None,
        })
    }

    /// Takes one of the places that all connections share, if the call needs one.
    fn place(&self, peer: &Peer, guest: Guest) -> Result<Option<SharedPlace>, Limit> {
        let of: fn(&Shared) -> &Places = match guest {
            Guest::Reflection => |shared| &shared.reflections,
            Guest::Watch if peer.has_open(guest) => |shared| &shared.more_watches,
            _ => return Ok(None),
        };
        let (_, limit) = guest.most();
        if !of(&self.0).take() {
            return Err(limit);
        }
        let shared = Arc::clone(&self.0);
        Ok(Some(SharedPlace { shared, of }))
    }

    /// Waits for room for an answer of so many bytes.
    ///
    /// # Cancel safety
    /// The room that it has taken is given back.
    pub(super) async fn room(&self, peer: &Peer, caller: &Arc<str>, bytes: usize) -> Option<Room> {
        let own = {
            let mut by_caller = lock(&self.0.answers_by_caller);
            let fresh = || Arc::new(Semaphore::new(ANSWER_KIB_PER_CALLER));
            Arc::clone(by_caller.entry(Arc::clone(caller)).or_insert_with(fresh))
        };
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let take = async |room: &Arc<Semaphore>| {
            let room = Arc::clone(room);
            if let Ok(permit) = Arc::clone(&room).try_acquire_many_owned(kib) {
                return Some(permit);
            }
            Limit::AnswerBytes.met();
            // The semaphores are never closed, and never asked for more than they have.
            room.acquire_many_owned(kib).await.ok()
        };
        let on_connection = take(peer.answers()).await?;
        let of_caller = take(&own).await?;
        let of_all = take(&self.0.answers).await?;
        Some(Room([on_connection, of_caller, of_all]))
    }

    /// Takes room for more bytes of a request that has not arrived whole.
    pub(super) fn take_bytes(&self, peer: &Peer, admitted: &Admitted, bytes: usize) -> bool {
        let [connection, caller, all] = match admitted.guest {
            Guest::Caller => REQUEST_BYTES,
            _ => OPEN_REQUEST_BYTES,
        };
        let mut taken = lock(&self.0.request_bytes);
        let on_connection = peer.request_bytes().load(Ordering::Relaxed) + bytes;
        let own = taken.by_caller.get(&admitted.caller).copied().unwrap_or(0) + bytes;
        if on_connection > connection || own > caller || taken.all + bytes > all {
            return false;
        }
        peer.request_bytes().store(on_connection, Ordering::Relaxed);
        taken.by_caller.insert(Arc::clone(&admitted.caller), own);
        taken.all += bytes;
        true
    }

    /// Gives back the bytes that [`Port::take_bytes`] has taken.
    pub(super) fn give_bytes(&self, peer: &Peer, caller: &Arc<str>, bytes: usize) {
        let mut taken = lock(&self.0.request_bytes);
        peer.request_bytes().fetch_sub(bytes, Ordering::Relaxed);
        taken.all = taken.all.saturating_sub(bytes);
        if let Some(own) = taken.by_caller.get_mut(caller) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                taken.by_caller.remove(caller);
            }
        }
    }

    /// Counts a call whose caller is not known. A connection with many of them is sent away: it may
    /// finish its open calls, since a mesh's sidecar brings the calls of good callers over the same
    /// connection. Addresses are not counted: all callers of a mesh or behind a balancer have one.
    pub(super) fn refused(peer: &Peer) {
        if peer.refused() == REFUSED_ATTEMPTS {
            Limit::RefusedAttempts.met();
            peer.leave();
        }
    }

    /// Counts bytes that a connection has sent. False if a stranger has sent too many.
    pub(super) fn read(peer: &Peer, bytes: usize) -> bool {
        let is_fine = peer.read(bytes) <= STRANGER_BYTES;
        if !is_fine {
            Limit::Strangers.met();
        }
        is_fine
    }

    /// Holds calls and connections to their times, for ever.
    pub(super) async fn sweep(&self, stop: &CancellationToken) {
        loop {
            match stop.is_cancelled() {
                true => tokio::time::sleep(SWEEP_EVERY_AT_THE_END).await,
                false => tokio::select! {
                    biased;
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(SWEEP_EVERY) => {}
                },
            }
            let is_stopped = stop.is_cancelled();
            let now = self.at(Instant::now());
            self.0.now.store(now, Ordering::Relaxed);
            let peers: Vec<Peer> = lock(&self.0.peers)
                .iter()
                .map(|(_, peer)| peer.clone())
                .collect();
            for some in peers.chunks(SWEPT_AT_ONCE) {
                for peer in some {
                    peer.each(|call| look(peer, call, now, is_stopped));
                    self.hold(peer, now);
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Ends a connection that has not shown who it is in time, unless health checks keep it and
    /// there is a place for that.
    fn hold(&self, peer: &Peer, now: u64) {
        if peer.is_known() {
            if peer.is_kept() {
                peer.keep(false);
                self.0.kept.give_back();
            }
            return;
        }
        peer.forgive(STRANGER_BYTES_PER_SWEEP);
        if now.saturating_sub(peer.accepted_at()) < millis(STRANGER_TIME) {
            return;
        }
        let is_checked =
            (peer.checked_at(now)).is_some_and(|at| now.saturating_sub(at) < millis(CHECK_KEEPS));
        if is_checked && (peer.is_kept() || self.0.kept.take()) {
            peer.keep(true);
            return;
        }
        if !peer.ended().is_cancelled() {
            Limit::Strangers.met();
            peer.end();
        }
    }
}

fn look(peer: &Peer, call: &WatchedCall, now: u64, is_stopped: bool) {
    if is_stopped {
        call.stop();
    }
    let times = [REQUEST_TIME, ANSWER_TIME, END_GRACE].map(millis);
    let [request, answer, grace] = match call.guest {
        Guest::Reflection => [millis(ANSWER_TIME), times[1], times[2]],
        _ => times,
    };
    match call.look(now, request, answer, grace) {
        Look::Fine => {}
        Look::Late => Limit::RequestTime.met(),
        // A connection that is about to go was told before.
        Look::Unread if peer.ended().is_cancelled() => {}
        Look::Unread => {
            Limit::AnswerTime.met();
            if !call.cut() {
                peer.end();
            }
        }
    }
}

/// A connection's place in the port; given back when dropped.
#[derive(Debug)]
pub(super) struct Joined {
    port: Port,
    peer: Peer,
    number: usize,
}

impl Drop for Joined {
    fn drop(&mut self) {
        lock(&self.port.0.peers).try_remove(self.number);
        self.port.0.connections.fetch_sub(1, Ordering::Relaxed);
        if self.peer.is_kept() {
            self.port.0.kept.give_back();
        }
    }
}

/// One of the places that all connections share; given back when dropped.
#[derive(Debug)]
struct SharedPlace {
    shared: Arc<Shared>,
    of: fn(&Shared) -> &Places,
}

impl Drop for SharedPlace {
    fn drop(&mut self) {
        (self.of)(&self.shared).give_back();
    }
}

/// A call under way; counted when dropped.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) port: Port,
    pub(super) peer: Peer,
    pub(super) call: Arc<WatchedCall>,
    number: usize,
    method: &'static str,
    began: Instant,
    _place: Option<SharedPlace>,
    /// Its end, once that is known.
    pub(super) code: Option<&'static str>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.peer.close(self.number, self.call.guest);
        // A caller that hung up, or was cut off, got no other code.
        let code = self.code.unwrap_or("CANCELLED");
        self.port.ended(self.method, code, self.began.elapsed());
    }
}
