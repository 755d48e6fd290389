//! A wait for one purchase's next revision: the long poll. It is in the purchase's channel for as
//! long as it waits, and nowhere else: it has no heartbeat, so it needs no alarm.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use super::{Inner, Wake, channel::Channel};
use crate::{
    journal::JournalError,
    purchase::{PurchaseId, Revision},
};

/// One wait, with its place in the channel; the place is given back when it is dropped.
struct Wait<'a> {
    inner: &'a Inner,
    purchase: PurchaseId,
    channel: Arc<Channel>,
    number: usize,
    wake: Arc<Wake>,
}

impl<'a> Wait<'a> {
    fn begin(inner: &'a Inner, purchase: PurchaseId) -> Self {
        let wake = Arc::new(Wake::default());
        let (channel, number) = inner.channels.join(purchase, &wake);
        inner.streams.fetch_add(1, Ordering::Relaxed);
        Self {
            inner,
            purchase,
            channel,
            number,
            wake,
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.inner.channels.leave(self.purchase, self.number);
        self.inner.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits until a purchase has a revision after `after`, or until streams are ended. Returns true if it
/// has such a revision; a purchase that does not exist never will.
pub(super) async fn past(
    inner: &Inner,
    purchase: PurchaseId,
    after: Revision,
) -> Result<bool, JournalError> {
    // Joins before the read, so that a commit after the read wakes.
    let wait = Wait::begin(inner, purchase);
    let Some(record) = inner.journal.record(purchase).await? else {
        return Ok(false);
    };
    wait.channel.learn(&record);
    let passed = poll_fn(|context| {
        wait.wake.0.register(context.waker());
        if wait.channel.head() > after {
            return Poll::Ready(true);
        }
        match inner.ending() {
            Some(_) => Poll::Ready(false),
            None => Poll::Pending,
        }
    });
    Ok(passed.await)
}
