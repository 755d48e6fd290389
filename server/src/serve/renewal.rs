//! The files of accounts' TLS are looked at now and then, and taken up if they have changed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::{purchase::AccountName, upstream::http::HttpUpstream};

/// The interval of looks at an account's files.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(10);

/// The way out of an account whose files can change. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Renewed {
    account: AccountName,
    upstream: Arc<HttpUpstream>,
    is_stale: Arc<AtomicBool>,
}

impl Renewed {
    pub(super) fn new(account: AccountName, upstream: Arc<HttpUpstream>) -> Self {
        Self {
            account,
            upstream,
            is_stale: Arc::default(),
        }
    }

    pub(super) fn account(&self) -> &AccountName {
        &self.account
    }

    /// True if the files could not be used at the last look, so that older ones hold on.
    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Looks at the files without end. A file that cannot be used is told once.
    pub(super) async fn run(self) {
        let mut told = None;
        loop {
            tokio::time::sleep(LOOKED_AT_EVERY).await;
            let problem = self.look().await.err();
            self.is_stale.store(problem.is_some(), Ordering::Relaxed);
            if problem != told
                && let Some(problem) = &problem
            {
                let account = &self.account;
                tracing::error!(
                    %account,
                    problem,
                    "changed files of an account's TLS cannot be used; the older ones are kept"
                );
            }
            told = problem;
        }
    }

    /// Looks at the files once. The error says which file breaks which rule.
    async fn look(&self) -> Result<(), String> {
        let upstream = Arc::clone(&self.upstream);
        let renewed = tokio::task::spawn_blocking(move || upstream.renew()).await;
        let renewed = renewed.map_err(|error| error.to_string())?;
        if renewed.map_err(|error| error.to_string())? {
            let account = &self.account;
            tracing::info!(%account, "new files of an account's TLS are used for new requests");
        }
        Ok(())
    }
}
