//! One ending that many wait for.

use futures_util::{FutureExt as _, future::Shared};
use tokio::sync::oneshot;

/// Waits for the ending. Clones wait for the same one; late ones have it at once. An error means
/// that whoever was to tell is gone without a word.
///
/// All who wait are woken in the order in which they began to, so that a run can be repeated.
pub(super) type Heard<T> = Shared<oneshot::Receiver<T>>;

/// Tells the ending, once.
#[derive(Debug)]
pub(super) struct Teller<T>(Option<oneshot::Sender<T>>);

/// A teller and those who wait for it.
pub(super) fn telling<T: Clone>() -> (Teller<T>, Heard<T>) {
    let (sender, receiver) = oneshot::channel();
    (Teller(Some(sender)), receiver.shared())
}

impl<T> Teller<T> {
    /// Tells it; what is told after the first time nobody hears.
    pub(super) fn tell(&mut self, ending: T) {
        if let Some(sender) = self.0.take() {
            drop(sender.send(ending));
        }
    }
}
