//! A value that many wait for, and one tells.

use futures_util::{FutureExt as _, future::Shared};
use tokio::sync::oneshot;

/// Waits for the value. Clones wait for the same one; late ones have it at once. An error means that
/// the completer is gone without a word.
///
/// The tasks that wait are woken in the order in which they began to, so that a run can be repeated.
pub(super) type Completion<T> = Shared<oneshot::Receiver<T>>;

/// Tells the value, once.
#[derive(Debug)]
pub(super) struct Completer<T>(Option<oneshot::Sender<T>>);

/// A completer, and the completion that it tells.
pub(super) fn completion<T: Clone>() -> (Completer<T>, Completion<T>) {
    let (sender, receiver) = oneshot::channel();
    (Completer(Some(sender)), receiver.shared())
}

impl<T> Completer<T> {
    /// Tells the value. Nobody hears a second one.
    pub(super) fn complete(&mut self, value: T) {
        if let Some(sender) = self.0.take() {
            drop(sender.send(value));
        }
    }
}
