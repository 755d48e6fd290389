//! The settings are read again at each SIGHUP, with all files that they name, as one: bad settings
//! change nothing.

use std::{
    fmt, io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::Notify;

use super::callers;
use crate::{
    audit::Audit,
    config::{Config, ConfigError},
    feed::Feed,
    identity::Directory,
};

/// The way in which a running server hears of new settings.
pub struct Reload {
    /// Each word of it is a wish for a reload.
    pub asked: Arc<Notify>,
    /// Reads the settings as a start does. It blocks.
    pub read: Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reload")
    }
}

/// The reason why new settings cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("telemetry.audit_log: the file cannot be opened")]
    Audit(#[source] io::Error),
}

/// The state of reloads. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Reloads(Arc<State>);

#[derive(Debug, Default)]
struct State {
    is_stale: AtomicBool,
    failed: AtomicU64,
}

impl Reloads {
    /// True if the settings could not be used when they were read last.
    pub(super) fn is_stale(&self) -> bool {
        self.0.is_stale.load(Ordering::Relaxed)
    }

    /// The number of reloads that failed.
    pub(super) fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }
}

/// The parts of a running server that new settings can change.
pub(super) struct Changeable {
    /// The settings of the start: whatever needs a restart still holds as they say.
    pub(super) started: Config,
    pub(super) callers: Directory,
    /// The feed, once the house is open: its streams may have to end.
    pub(super) feed: Arc<OnceLock<Feed>>,
    /// Lets the certificates be looked at.
    pub(super) certificates: Arc<Notify>,
    pub(super) audit: Audit,
}

/// Follows the wishes for a reload without end.
pub(super) async fn follow(reload: Reload, changeable: Changeable, reloads: Reloads) {
    loop {
        reload.asked.notified().await;
        let (read, audit) = (Arc::clone(&reload.read), changeable.audit.clone());
        let read = tokio::task::spawn_blocking(move || {
            let config = read()?;
            let opened = audit.turn_to(config.telemetry.audit_log.as_ref());
            opened.map(|()| config).map_err(Unusable::Audit)
        });
        let read = read.await;
        match read {
            Ok(Ok(config)) => {
                reloads.0.is_stale.store(false, Ordering::Relaxed);
                changeable.take_up(&config);
                changeable.audit.reloaded("SETTINGS_APPLIED");
            }
            Ok(Err(error)) => {
                reloads.0.is_stale.store(true, Ordering::Relaxed);
                reloads.0.failed.fetch_add(1, Ordering::Relaxed);
                changeable.audit.reloaded("SETTINGS_REFUSED");
                let error: &dyn std::error::Error = &error;
                tracing::error!(
                    error,
                    "new settings cannot be used, and nothing was changed"
                );
            }
            Err(error) => tracing::error!(%error, "the settings were not read"),
        }
    }
}

impl Changeable {
    fn take_up(&self, config: &Config) {
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let keys = self.started.restart_keys(config);
        for key in &keys {
            tracing::warn!(key, "this setting has changed and needs a restart");
        }
        // An anonymous caller decides which requests the port lets in at all.
        let is_anonymous = |config: &Config| config.callers.iter().any(|caller| caller.anonymous);
        let mut revoked = 0;
        if is_anonymous(&self.started) == is_anonymous(config) {
            revoked = self.callers.replace(callers(&config.callers));
        }
        if revoked > 0
            && let Some(feed) = self.feed.get()
        {
            feed.wake_all();
        }
        self.certificates.notify_one();
        tracing::info!(
            callers = config.callers.len(),
            revoked,
            restart = keys.len(),
            "the settings were read again"
        );
    }
}
