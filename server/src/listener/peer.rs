//! The ledger of one connection and of each call on it, against which a port holds its limits.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use futures_util::task::AtomicWaker;
use slab::Slab;
use tokio::{sync::Semaphore, task::AbortHandle};
use tokio_util::sync::CancellationToken;

use super::port::{ANSWER_KIB_PER_CONNECTION, Guest};

/// One connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Peer(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    /// True if it came over TCP, and not over a Unix socket.
    is_tcp: bool,
    /// The time at which it was accepted, in the port's milliseconds.
    accepted_at: u64,
    /// True if it has carried a call of an authenticated caller.
    is_known: AtomicBool,
    /// True if health checks alone keep it open: it then has one of the places for that.
    is_kept: AtomicBool,
    /// The time of its last health check, in the port's milliseconds and one more; 0 for never.
    checked_at: AtomicU64,
    /// Bytes read while it was a stranger, less the bytes that a stranger may send in the time since.
    bytes: AtomicU64,
    /// Bytes of requests that have not arrived whole.
    request_bytes: AtomicUsize,
    /// Room for answers that are not read yet, in KiB.
    answers: Arc<Semaphore>,
    /// Ends the connection.
    end: CancellationToken,
    /// Sends the peer away: open calls end by themselves, and no new one begins.
    leave: CancellationToken,
    /// Calls of callers that are not known.
    refused: AtomicU32,
    calls: Mutex<Calls>,
}

/// The calls under way on one connection.
#[derive(Debug, Default)]
struct Calls {
    open: Slab<Arc<WatchedCall>>,
    by_guest: [u32; Guest::COUNT],
    /// The call that has begun and has no task yet.
    begun: Option<Arc<WatchedCall>>,
}

/// The progress of a request.
const ARRIVING: u8 = 0;
const ARRIVED: u8 = 1;
const LATE: u8 = 2;
const STOPPED: u8 = 3;

/// One call on a connection, as the port's sweep sees it.
#[derive(Debug)]
pub(super) struct WatchedCall {
    pub(super) guest: Guest,
    /// The time at which it began, in the port's milliseconds.
    pub(super) began_at: u64,
    /// The task that sends its answer; over HTTP/1 that is the connection's own, and none is here.
    task: OnceLock<AbortHandle>,
    request: AtomicU8,
    request_waker: AtomicWaker,
    /// The time at which the transport got the last part of the answer, in the port's milliseconds and
    /// one more; 0 once it asks for the next part.
    handed_at: AtomicU64,
    /// The time by which the answer has to have ended even if nobody reads it, in the form of
    /// `handed_at`; 0 for never.
    ends_at: AtomicU64,
}

/// The fate of a request that has not arrived whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// It may still come.
    Longer,
    /// Its time is over.
    Late,
    /// The server is about to end.
    Stopped,
}

/// The action of a port's sweep on one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing.
    Fine,
    /// Its request took too long.
    Late,
    /// Its answer was not read for too long, or beyond its end.
    Unread,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    pub(super) fn new(is_tcp: bool, accepted_at: u64) -> Self {
        Self(Arc::new(Ledger {
            is_tcp,
            accepted_at,
            is_known: AtomicBool::new(false),
            is_kept: AtomicBool::new(false),
            checked_at: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            request_bytes: AtomicUsize::new(0),
            answers: Arc::new(Semaphore::new(ANSWER_KIB_PER_CONNECTION)),
            end: CancellationToken::new(),
            leave: CancellationToken::new(),
            refused: AtomicU32::new(0),
            calls: Mutex::default(),
        }))
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.0.is_tcp
    }

    pub(super) fn accepted_at(&self) -> u64 {
        self.0.accepted_at
    }

    pub(super) fn is_known(&self) -> bool {
        self.0.is_known.load(Ordering::Relaxed)
    }

    pub(super) fn is_kept(&self) -> bool {
        self.0.is_kept.load(Ordering::Relaxed)
    }

    pub(super) fn keep(&self, kept: bool) {
        self.0.is_kept.store(kept, Ordering::Relaxed);
    }

    /// The time of the last health check, in the port's milliseconds; now while a watch of health is
    /// open.
    pub(super) fn checked_at(&self, now: u64) -> Option<u64> {
        match self.0.checked_at.load(Ordering::Relaxed) {
            _ if self.has_open(Guest::Watch) => Some(now),
            at => at.checked_sub(1),
        }
    }

    /// Counts bytes that were read, and returns the sum that counts against a stranger.
    pub(super) fn read(&self, bytes: usize) -> u64 {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match self.is_known() {
            true => 0,
            false => self.0.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes,
        }
    }

    /// Forgets so many of the bytes that were read.
    pub(super) fn forgive(&self, bytes: u64) {
        let less = |read: u64| Some(read.saturating_sub(bytes));
        let _ = (self.0.bytes).fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Room for unread answers, in KiB.
    pub(super) fn answers(&self) -> &Arc<Semaphore> {
        &self.0.answers
    }

    pub(super) fn request_bytes(&self) -> &AtomicUsize {
        &self.0.request_bytes
    }

    /// Ends the connection.
    pub(super) fn end(&self) {
        self.0.end.cancel();
    }

    /// Counts a call whose caller is not known, and returns the sum.
    pub(super) fn refused(&self) -> u32 {
        self.0.refused.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Sends the peer away.
    pub(super) fn leave(&self) {
        self.0.leave.cancel();
    }

    pub(super) fn left(&self) -> &CancellationToken {
        &self.0.leave
    }

    pub(super) fn ended(&self) -> &CancellationToken {
        &self.0.end
    }

    /// Begins a call if fewer than `most` of its kind are open. Returns it with its number for
    /// [`Peer::close`].
    pub(super) fn open(
        &self,
        guest: Guest,
        most: u32,
        now: u64,
    ) -> Option<(Arc<WatchedCall>, usize)> {
        let mut calls = lock(&self.0.calls);
        let open = calls.by_guest.get_mut(guest.place())?;
        if *open >= most {
            return None;
        }
        *open += 1;
        let call = Arc::new(WatchedCall::new(guest, now));
        let number = calls.open.insert(Arc::clone(&call));
        calls.begun = Some(Arc::clone(&call));
        drop(calls);
        match guest {
            Guest::Caller => self.0.is_known.store(true, Ordering::Relaxed),
            Guest::Check | Guest::Watch => self.0.checked_at.store(now + 1, Ordering::Relaxed),
            Guest::Reflection | Guest::Other => {}
        }
        Some((call, number))
    }

    /// True if a call of this kind is open.
    pub(super) fn has_open(&self, guest: Guest) -> bool {
        let calls = lock(&self.0.calls);
        let open = calls.by_guest.get(guest.place());
        open.is_some_and(|open| *open > 0)
    }

    pub(super) fn close(&self, number: usize, guest: Guest) {
        let mut calls = lock(&self.0.calls);
        if calls.open.try_remove(number).is_some()
            && let Some(open) = calls.by_guest.get_mut(guest.place())
        {
            *open = open.saturating_sub(1);
        }
    }

    /// The call that was begun last and has no task yet.
    pub(super) fn begun(&self) -> Option<Arc<WatchedCall>> {
        lock(&self.0.calls).begun.take()
    }

    /// Shows each open call to `look`.
    pub(super) fn each(&self, mut look: impl FnMut(&WatchedCall)) {
        for (_, call) in &lock(&self.0.calls).open {
            look(call);
        }
    }
}

impl WatchedCall {
    fn new(guest: Guest, began_at: u64) -> Self {
        Self {
            guest,
            began_at,
            task: OnceLock::new(),
            request: AtomicU8::new(ARRIVING),
            request_waker: AtomicWaker::new(),
            handed_at: AtomicU64::new(0),
            ends_at: AtomicU64::new(0),
        }
    }

    pub(super) fn sent_by(&self, task: AbortHandle) {
        // A call has one task.
        let _ = self.task.set(task);
    }

    pub(super) fn arrived(&self) {
        self.request.store(ARRIVED, Ordering::Relaxed);
    }

    /// The fate of a request that has not arrived whole; the asking task is woken when that changes.
    pub(super) fn waiting(&self, context: &std::task::Context<'_>) -> Waiting {
        self.request_waker.register(context.waker());
        match self.request.load(Ordering::SeqCst) {
            LATE => Waiting::Late,
            STOPPED => Waiting::Stopped,
            _ => Waiting::Longer,
        }
    }

    /// The transport has a part of the answer.
    pub(super) fn handed(&self, now: u64) {
        self.handed_at.store(now + 1, Ordering::Relaxed);
    }

    /// The transport asks for the next part.
    pub(super) fn asked(&self) {
        self.handed_at.store(0, Ordering::Relaxed);
    }

    pub(super) fn ends_at(&self, at: u64) {
        self.ends_at.store(at + 1, Ordering::Relaxed);
    }

    fn tell_request(&self, word: u8) -> bool {
        let (from, order) = (ARRIVING, Ordering::SeqCst);
        let is_new = self
            .request
            .compare_exchange(from, word, order, order)
            .is_ok();
        if is_new {
            self.request_waker.wake();
        }
        is_new
    }

    /// Stops waiting for a request that has not arrived whole.
    pub(super) fn stop(&self) {
        self.tell_request(STOPPED);
    }

    /// Holds a call to its times: `request` and `answer` are the longest waits for either, and `grace`
    /// is the time in which an answer must be read beyond its own end.
    pub(super) fn look(&self, now: u64, request: u64, answer: u64, grace: u64) -> Look {
        if now.saturating_sub(self.began_at) >= request {
            match self.guest {
                // A tool is done with a stream of reflection long before; it opens another.
                Guest::Reflection => self.stop(),
                _ if self.tell_request(LATE) => return Look::Late,
                _ => {}
            }
        }
        let Some(handed_at) = self.handed_at.load(Ordering::Relaxed).checked_sub(1) else {
            return Look::Fine;
        };
        let is_over = (self.ends_at.load(Ordering::Relaxed).checked_sub(1))
            .is_some_and(|ends_at| now >= ends_at.saturating_add(grace) && handed_at < now);
        match is_over || now.saturating_sub(handed_at) >= answer {
            true => Look::Unread,
            false => Look::Fine,
        }
    }

    /// Cuts its answer off. False if that takes the end of its connection.
    pub(super) fn cut(&self) -> bool {
        let task = self.task.get();
        task.inspect(|task| task.abort()).is_some()
    }
}

/// A number of places that all connections share.
#[derive(Debug)]
pub(super) struct Places {
    taken: AtomicU32,
    most: u32,
}

impl Places {
    pub(super) const fn new(most: u32) -> Self {
        Self {
            taken: AtomicU32::new(0),
            most,
        }
    }

    pub(super) fn take(&self) -> bool {
        let more = |taken: u32| (taken < self.most).then(|| taken + 1);
        (self.taken)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    pub(super) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: (u64, u64, u64) = (10_000, 60_000, 2_000);

    fn look(call: &WatchedCall, now: u64) -> Look {
        call.look(now, TIMES.0, TIMES.1, TIMES.2)
    }

    #[test]
    fn a_request_has_its_time_to_arrive_and_is_told_once_that_it_is_late() {
        let call = WatchedCall::new(Guest::Caller, 1_000);
        assert_eq!(look(&call, 10_999), Look::Fine);
        assert_eq!(look(&call, 11_000), Look::Late);
        assert_eq!(look(&call, 12_000), Look::Fine);
        let context = std::task::Context::from_waker(std::task::Waker::noop());
        assert_eq!(call.waiting(&context), Waiting::Late);
        let whole = WatchedCall::new(Guest::Caller, 1_000);
        whole.arrived();
        assert_eq!(look(&whole, 100_000), Look::Fine);
        assert_eq!(whole.waiting(&context), Waiting::Longer);
    }

    #[test]
    fn an_answer_has_a_minute_to_be_read_and_nothing_beyond_its_end() {
        let call = WatchedCall::new(Guest::Caller, 0);
        call.arrived();
        assert_eq!(look(&call, 1_000_000), Look::Fine, "it waits for news");
        call.handed(1_000_000);
        assert_eq!(look(&call, 1_059_999), Look::Fine);
        assert_eq!(look(&call, 1_060_000), Look::Unread);
        call.asked();
        assert_eq!(look(&call, 1_060_000), Look::Fine);
        call.ends_at(1_100_000);
        assert_eq!(look(&call, 1_200_000), Look::Fine, "it ends itself");
        call.handed(1_099_000);
        assert_eq!(look(&call, 1_101_999), Look::Fine);
        assert_eq!(look(&call, 1_102_000), Look::Unread);
    }

    #[test]
    fn calls_of_a_kind_are_counted_by_connection() {
        let peer = Peer::new(true, 0);
        let (_, first) = peer.open(Guest::Watch, 1, 5).unwrap();
        assert!(peer.open(Guest::Watch, 1, 5).is_none());
        assert!(peer.open(Guest::Check, 1, 5).is_some() && !peer.is_known());
        assert_eq!(peer.checked_at(9), Some(9), "a watch is open");
        peer.close(first, Guest::Watch);
        assert_eq!(peer.checked_at(9), Some(5));
        assert!(peer.open(Guest::Watch, 1, 5).is_some());
        assert!(peer.open(Guest::Caller, 1, 5).is_some() && peer.is_known());
    }

    #[test]
    fn a_strangers_bytes_are_counted_until_it_is_known() {
        let peer = Peer::new(true, 0);
        assert_eq!((peer.read(10), peer.read(5)), (10, 15));
        peer.forgive(12);
        assert_eq!(peer.read(0), 3);
        peer.open(Guest::Caller, 1, 0).unwrap();
        assert_eq!(peer.read(100), 0);
    }
}
