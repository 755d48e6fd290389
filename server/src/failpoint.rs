//! Points at which the process dies on demand, for tests of the state after a crash, and loops that
//! stand still on demand, for tests of liveness.
//!
//! They exist in builds with debug assertions alone, so that the executable under test is the same for
//! all tests, and a release has neither the arguments that arm them nor the checks.

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

/// The way in which a loop stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandStill {
    /// The loop's name.
    pub name: String,
    /// True if it takes its thread with it; else it waits for something that never comes.
    pub blocks: bool,
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;

    use crate::failpoint::{Failpoint, StandStill};

    static STANDS: OnceLock<StandStill> = OnceLock::new();

    impl StandStill {
        /// The loop in a text like `feed` or `feed:block`.
        pub fn named(text: &str) -> Self {
            let (name, blocks) = match text.strip_suffix(":block") {
                Some(name) => (name, true),
                None => (text, false),
            };
            Self {
                name: name.to_owned(),
                blocks,
            }
        }

        /// Lets the loop stand still from its next round on.
        pub fn arm(self) {
            STANDS.get_or_init(|| self);
        }

        /// The way in which this loop has to stand still, if it has to.
        pub(super) fn of(name: &str) -> Option<&'static Self> {
            STANDS.get().filter(|stands| stands.name == name)
        }
    }

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

/// Stands still for ever, if that was asked for of the loop with this name.
pub(crate) async fn stand_still(name: &str) {
    #[cfg(debug_assertions)]
    if let Some(stands) = StandStill::of(name) {
        if stands.blocks {
            loop {
                std::thread::park();
            }
        }
        std::future::pending::<()>().await;
    }
    let _ = name;
}
