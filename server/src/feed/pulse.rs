//! The pulse of a stream: its heartbeats, its age, and the alarm that wakes it for them.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;

use super::{Rhythm, Wake, alarms::Alarms};

/// The heartbeats and the age of one stream.
pub(super) struct Pulse {
    rhythm: Rhythm,
    wake: Arc<Wake>,
    /// When anything was sent last, or the stream opened.
    quiet_since: Instant,
    /// True if the heartbeat has been sent that says so.
    told_caught_up: bool,
    /// The alarms' slot in which this stream is woken; 0 for none.
    slot: u64,
}

impl Pulse {
    pub(super) fn new(rhythm: Rhythm, wake: Arc<Wake>) -> Self {
        Self {
            rhythm,
            wake,
            quiet_since: Instant::now(),
            told_caught_up: false,
            slot: 0,
        }
    }

    /// From now on the stream's task hears of commits and alarms.
    pub(super) fn register(&self, context: &Context<'_>) {
        self.wake.0.register(context.waker());
    }

    /// True if the stream has reached its maximum age.
    pub(super) fn is_aged(&self) -> bool {
        let ends_at = self.rhythm.ends_at;
        ends_at.is_some_and(|ends_at| ends_at <= Instant::now())
    }

    /// The stream sends something: its silence begins anew.
    pub(super) fn sends(&mut self) {
        self.quiet_since = Instant::now();
    }

    pub(super) fn wake_at(&mut self, time: Instant, alarms: &Alarms) {
        self.slot = alarms.at(time, &self.wake);
    }

    /// Ready if a heartbeat is due; else the stream is woken for it. The first of a stream that has
    /// caught up is due at once. A stream that waits for the journal is only shown to be alive.
    pub(super) fn beat(&mut self, is_caught_up: bool, alarms: &Alarms) -> Poll<()> {
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
            self.wake_at(next, alarms);
        }
        Poll::Pending
    }
}
