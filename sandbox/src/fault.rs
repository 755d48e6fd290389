//! Faults on request: the trouble that one request can have, and the queue of faults to come.

use std::time::Duration;

/// The trouble of one request.
///
/// A fault either comes before the request has any effect, or after it was processed; the
/// difference is what a client that retries has to live with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 500 in the provider's shape; nothing was processed.
    Error,
    /// 500 in the provider's shape, after the request was processed.
    ErrorAfter,
    /// 401 in the provider's shape; nothing was processed.
    Unauthorized,
    /// 429 in the provider's shape with this Retry-After in seconds; nothing was processed.
    Throttled(u64),
    /// 503; nothing was processed.
    Unavailable,
    /// The request is processed, then the connection is closed without an answer.
    Lost,
    /// The connection is reset and nothing was processed.
    ResetBefore,
    /// The request is processed, then the connection is reset.
    ResetAfter,
    /// The request is processed, then the answer's body comes a byte at a time, this far apart.
    SlowDrip(Duration),
    /// Nothing was processed, and no answer comes until the client leaves or the sandbox stops.
    Hang,
    /// The request is processed, and the answer is a page of HTML under its status.
    NotJson,
    /// The request is processed, and the answer is 16 MiB of JSON.
    Oversized,
    /// 302 to `/elsewhere` below the provider's base URL; nothing was processed.
    Redirect,
    /// The request is processed, and the answer says a status that no documentation knows.
    UnknownWord,
}

impl Fault {
    /// True if the request has its effect nevertheless.
    #[must_use]
    pub fn processes(self) -> bool {
        match self {
            Self::ErrorAfter
            | Self::Lost
            | Self::ResetAfter
            | Self::SlowDrip(_)
            | Self::NotJson
            | Self::Oversized
            | Self::UnknownWord => true,
            Self::Error
            | Self::Unauthorized
            | Self::Throttled(_)
            | Self::Unavailable
            | Self::ResetBefore
            | Self::Hang
            | Self::Redirect => false,
        }
    }
}

/// The requests that a scripted fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every request.
    Any,
    /// Creates only.
    Create,
    /// Everything but creates.
    Read,
}

#[derive(Debug)]
struct Scripted {
    provider: &'static str,
    target: Target,
    fault: Fault,
    left: u64,
}

/// Faults still to come, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Script {
    queue: Vec<Scripted>,
}

impl Script {
    pub(crate) fn add(&mut self, provider: &'static str, target: Target, fault: Fault, times: u64) {
        if times > 0 {
            self.queue.push(Scripted {
                provider,
                target,
                fault,
                left: times,
            });
        }
    }

    pub(crate) fn clear(&mut self, provider: &'static str) {
        self.queue.retain(|scripted| scripted.provider != provider);
    }

    /// Takes the fault for a request that has arrived.
    pub(crate) fn take(&mut self, provider: &'static str, is_create: bool) -> Option<Fault> {
        let found = self.queue.iter_mut().find(|scripted| {
            scripted.provider == provider
                && match scripted.target {
                    Target::Any => true,
                    Target::Create => is_create,
                    Target::Read => !is_create,
                }
        })?;
        found.left = found.left.saturating_sub(1);
        let fault = found.fault;
        self.queue.retain(|scripted| scripted.left > 0);
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_meets_its_requests_as_often_as_asked() {
        let mut script = Script::default();
        script.add("masumi", Target::Create, Fault::Lost, 1);
        script.add("masumi", Target::Any, Fault::Error, 2);
        assert_eq!(script.take("carbon", true), None);
        assert_eq!(script.take("masumi", false), Some(Fault::Error));
        assert_eq!(script.take("masumi", true), Some(Fault::Lost));
        assert_eq!(script.take("masumi", true), Some(Fault::Error));
        assert_eq!(script.take("masumi", true), None);
    }
}
