//! Calls of strangers: each is counted by the reason why its caller is not known, and told now and then in
//! the log and in the audit log. Neither has a part of what was shown.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{audit::Audit, identity::Unauthenticated, limits::Tally};

/// The refused attempts of a process. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Attempts(Arc<Refusals>);

#[derive(Debug)]
struct Refusals {
    tallies: Vec<(Unauthenticated, Tally)>,
    audit: Audit,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::new(Audit::default())
    }
}

impl Attempts {
    pub(super) fn new(audit: Audit) -> Self {
        let tallies = Unauthenticated::all().map(|reason| (reason, Tally::default()));
        Self(Arc::new(Refusals {
            tallies: tallies.collect(),
            audit,
        }))
    }

    pub(super) fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// Counts one more.
    pub(super) fn refused(&self, reason: Unauthenticated) {
        let word = reason.word();
        self.0.audit.refused(None, word);
        let mut tallies = self.0.tallies.iter();
        let Some((_, tally)) = tallies.find(|(known, _)| *known == reason) else {
            return;
        };
        if let Some(times) = tally.met(Instant::now()) {
            tracing::warn!(reason = word, times, "a caller is not known");
        }
    }

    /// The number of attempts by reason.
    pub(super) fn figures(&self) -> Vec<(&'static str, u64)> {
        let tallies = self.0.tallies.iter();
        let figures = tallies.map(|(reason, tally)| (reason.word(), tally.times()));
        figures.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn each_reason_has_a_word_and_a_count_of_its_own() {
        let attempts = Attempts::default();
        for (times, reason) in Unauthenticated::all().enumerate() {
            for _ in 0..=times {
                attempts.refused(reason);
            }
        }
        let figures = attempts.figures();
        let counts: Vec<u64> = figures.iter().map(|(_, times)| *times).collect();
        assert_eq!(counts, Vec::from_iter(1..=11));
        let words: BTreeSet<&str> = figures.iter().map(|(word, _)| *word).collect();
        assert_eq!(words.len(), 11);
    }
}
