//! Points at which the process dies on demand, for tests of the state after a crash.
//!
//! They exist in builds with debug assertions alone, so that the executable under test is the same for
//! all tests, and a release has neither the argument that arms a point nor the check of it.

/// A moment of a submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// Budget was granted; the intent is not durable yet.
    BeforeIntent,
    /// The intent is durable; nothing was sent yet.
    IntentCommitted,
    /// The provider has answered; nothing of it is durable yet.
    Answered,
    /// The answer's meaning is durable; nobody has heard of it yet.
    Settled,
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;

    use crate::failpoint::Failpoint;

    static ARMED: OnceLock<Failpoint> = OnceLock::new();

    impl Failpoint {
        /// The point with this name.
        pub fn named(name: &str) -> Option<Self> {
            Some(match name {
                "before-intent" => Self::BeforeIntent,
                "intent-committed" => Self::IntentCommitted,
                "answered" => Self::Answered,
                "settled" => Self::Settled,
                _ => return None,
            })
        }

        /// Lets the process die at this point. The first point that is armed stays.
        pub fn arm(self) {
            ARMED.get_or_init(|| self);
        }

        pub(super) fn is_armed(self) -> bool {
            ARMED.get() == Some(&self)
        }
    }
}

/// Dies here, if that was asked for: nothing is flushed, closed or answered, as with SIGKILL.
pub(crate) fn reach(point: Failpoint) {
    #[cfg(debug_assertions)]
    if point.is_armed() {
        std::process::abort();
    }
    let _ = point;
}
