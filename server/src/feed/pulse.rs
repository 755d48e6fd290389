//! The signs of life of a stream: its heartbeats, its age and its wake-ups by time.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{Rhythm, Wake, alarms::Alarms};

/// The time until a stream asks a journal again that has failed.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// The heartbeats of one stream of either kind.
pub(super) struct Pulse {
    wake: Arc<Wake>,
    rhythm: Rhythm,
    /// The time at which the stream last sent anything, or opened.
    quiet_since: Instant,
    /// True once a heartbeat has said that the stream has caught up.
    told_caught_up: bool,
    /// The alarms' slot in which this stream is woken; 0 for none.
    slot: u64,
}

impl Pulse {
    /// The pulse of a stream that opens now and is woken by `wake`.
    pub(super) fn new(wake: Arc<Wake>, rhythm: Rhythm) -> Self {
        Self {
            wake,
            rhythm,
            quiet_since: Instant::now(),
            told_caught_up: false,
            slot: 0,
        }
    }

    /// Registers the stream's task. A commit after this call wakes it.
    pub(super) fn register(&self, context: &Context<'_>) {
        self.wake.0.register(context.waker());
    }

    /// True if the stream has reached its maximum age.
    pub(super) fn is_aged(&self) -> bool {
        let ends_at = self.rhythm.ends_at;
        ends_at.is_some_and(|ends_at| ends_at <= Instant::now())
    }

    /// The stream sends something now: the silence begins anew.
    pub(super) fn sends(&mut self) {
        self.quiet_since = Instant::now();
    }

    /// Wakes the stream when it is time to ask a journal again that has failed.
    pub(super) fn read_again(&mut self, alarms: &Alarms) {
        self.slot = alarms.at(Instant::now() + READ_AGAIN, &self.wake);
    }

    /// Ready if a heartbeat is due; else the stream is woken when one is, or at its maximum age. The
    /// first heartbeat of a stream that has caught up is due at once. A stream that waits for the
    /// journal only shows that it is alive.
    pub(super) fn beat(&mut self, alarms: &Alarms, is_caught_up: bool) -> Poll<()> {
        let now = Instant::now();
        let due = match is_caught_up && !self.told_caught_up {
            true => now,
            false => self.quiet_since + self.rhythm.heartbeat,
        };
        if due <= now {
            self.told_caught_up |= is_caught_up;
            self.quiet_since = now;
            self.slot = 0;
            return Poll::Ready(());
        }
        if self.slot <= alarms.passed(now) {
            let next = self.rhythm.ends_at.map_or(due, |ends_at| ends_at.min(due));
            self.slot = alarms.at(next, &self.wake);
        }
        Poll::Pending
    }
}
