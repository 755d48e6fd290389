//! The settings are read again at each SIGHUP, with all files that they name, as one; the files alone
//! also by themselves. Settings that cannot be used change nothing.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt, io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    StartError,
    accounts::{Configured, Touched},
    callers, files,
    front::stream_bounds,
    supervisor::Supervisor,
};
use crate::{
    audit::Audit,
    config::{Config, ConfigError},
    grpc,
    ownership::Owner,
};

/// The interval of looks at the files that the settings name.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(10);
/// The time for which changed files have to stay as they are: a file may be half written.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// The way in which a running server hears of new settings.
pub struct Reload {
    /// Each word of it is a wish for a reload.
    pub asked: Arc<Notify>,
    /// Reads the settings as a start does. It blocks.
    pub read: Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
    /// Sets the log's filter.
    pub log: Arc<dyn Fn(&str) + Send + Sync>,
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
    #[error(transparent)]
    Account(#[from] StartError),
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
    files: Mutex<Files>,
}

/// The last look at the files that the settings name.
#[derive(Debug, Default)]
struct Files {
    /// The problem that was found, if there was one.
    problem: Option<String>,
    /// The accounts whose files are to blame.
    accounts: BTreeSet<String>,
}

impl Reloads {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the settings, or a file that they name, could not be used when they were read last.
    pub(super) fn is_stale(&self) -> bool {
        self.0.is_stale.load(Ordering::Relaxed) || self.files().problem.is_some()
    }

    /// The number of reloads that failed.
    pub(super) fn failed(&self) -> u64 {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// True if a file of this account could not be used when the files were looked at last.
    pub(super) fn is_blamed(&self, account: &str) -> bool {
        self.files().accounts.contains(account)
    }

    fn worked(&self) {
        self.0.is_stale.store(false, Ordering::Relaxed);
        *self.files() = Files::default();
    }

    fn fails(&self, error: &(dyn Error + 'static), audit: &Audit) {
        audit.reloaded("SETTINGS_REFUSED");
        self.0.is_stale.store(true, Ordering::Relaxed);
        self.0.failed.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            error,
            "new settings cannot be used, and nothing was changed"
        );
    }

    /// The files can be used.
    fn files_are_good(&self) {
        *self.files() = Files::default();
    }

    /// The files cannot be used. The same problem is told once.
    fn files_fail(&self, error: &(dyn Error + 'static), accounts: BTreeSet<String>, audit: &Audit) {
        let problem = error.to_string();
        let mut files = self.files();
        let is_news = files.problem.as_ref() != Some(&problem);
        *files = Files {
            problem: Some(problem),
            accounts,
        };
        drop(files);
        if is_news {
            audit.reloaded("SETTINGS_REFUSED");
            self.0.failed.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                error,
                "changed files of the settings cannot be used; the older ones are kept"
            );
        }
    }
}

/// The parts of a running server that new settings can change.
pub(super) struct Changeable {
    /// The settings of the start: whatever needs a restart still holds as they say.
    pub(super) started: Config,
    /// The connections and open files that the process may have: they bound long polls.
    pub(super) file_limit: u64,
    pub(super) rooms: grpc::Rooms,
    pub(super) configured: Configured,
    pub(super) owner: Owner,
    pub(super) limits: grpc::CurrentBounds,
    /// Lets the certificates be looked at.
    pub(super) certificates: Arc<Notify>,
    pub(super) audit: Audit,
    pub(super) supervisor: Supervisor,
    /// Sets the log's filter.
    pub(super) log: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Follows the wishes for a reload, and looks at the files, without end.
pub(super) async fn follow(reload: Reload, changeable: Changeable, reloads: Reloads) {
    let mut current = changeable.started.clone();
    // Settings with changed files that have not stayed as they are for long enough.
    let mut unsettled: Option<Config> = None;
    loop {
        let outcome = match reloads.is_stale() {
            true => "serving; new settings cannot be used, see the log",
            false => "serving",
        };
        changeable.supervisor.reloaded(outcome).await;
        let wait = match unsettled {
            Some(_) => SETTLES_WITHIN,
            None => LOOKED_AT_EVERY,
        };
        let is_asked = tokio::select! {
            biased;
            () = reload.asked.notified() => true,
            () = tokio::time::sleep(wait) => false,
        };
        if is_asked {
            changeable.supervisor.reloading().await;
        }
        let read = Arc::clone(&reload.read);
        let known = current.clone();
        let read = tokio::task::spawn_blocking(move || match is_asked {
            true => read(),
            false => known.with_files_of_now(),
        });
        let config = match read.await {
            Ok(Ok(config)) => config,
            Ok(Err(error)) if is_asked => {
                reloads.fails(&error, &changeable.audit);
                continue;
            }
            Ok(Err(error)) => {
                unsettled = None;
                reloads.files_fail(&error, blamed(&error), &changeable.audit);
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "the settings were not read");
                continue;
            }
        };
        if !is_asked {
            if has_same_files(&config, &current) {
                unsettled = None;
                reloads.files_are_good();
                continue;
            }
            let has_settled = unsettled
                .take()
                .is_some_and(|before| has_same_files(&before, &config));
            if !has_settled {
                unsettled = Some(config);
                continue;
            }
        }
        unsettled = None;
        match changeable.take_up(&config, is_asked).await {
            Ok(touched) => {
                reloads.worked();
                changeable.audit.reloaded("SETTINGS_APPLIED");
                current = config;
                touched.hand_over(&changeable.rooms).await;
            }
            Err(error) if is_asked => reloads.fails(&error, &changeable.audit),
            Err(error) => reloads.files_fail(&error, BTreeSet::new(), &changeable.audit),
        }
    }
}

/// True if the files that two readings of the same settings name had the same content.
fn has_same_files(one: &Config, other: &Config) -> bool {
    let keys = |config: &Config| -> Vec<_> {
        let callers = config.callers.iter();
        callers.map(|caller| caller.jwt.clone()).collect()
    };
    one.accounts == other.accounts && keys(one) == keys(other)
}

/// The accounts that the problems of settings are about.
fn blamed(error: &ConfigError) -> BTreeSet<String> {
    let ConfigError::Refused(problems) = error else {
        return BTreeSet::new();
    };
    let keys = problems.iter().map(|problem| problem.key.as_str());
    let accounts = keys.filter_map(|key| key.strip_prefix("accounts.")?.split('.').next());
    accounts.map(str::to_owned).collect()
}

impl Changeable {
    /// Takes settings up. If that is asked for, the audit log's file is opened anew.
    ///
    /// # Errors
    /// They cannot be used; nothing is changed.
    async fn take_up(&self, config: &Config, is_asked: bool) -> Result<Touched, Unusable> {
        let mut accounts = config.accounts.clone();
        files::share(
            &mut accounts,
            self.started.limits.connections,
            self.file_limit,
        );
        let plan = self.configured.plan(&accounts)?;
        if is_asked {
            self.turn_audit(config).await?;
        }
        (self.log)(&config.telemetry.log);
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let keys = self.started.restart_keys(config);
        for key in &keys {
            tracing::warn!(key, "this setting has changed and needs a restart");
        }
        let touched = (self.configured)
            .take_up(plan, &self.rooms, &self.owner)
            .await;
        // An anonymous caller decides which requests the port lets in at all.
        let is_anonymous = |config: &Config| config.callers.iter().any(|caller| caller.anonymous);
        let mut revoked = 0;
        if is_anonymous(&self.started) == is_anonymous(config) {
            revoked = self.rooms.callers.replace(callers(&config.callers));
        }
        if revoked > 0 {
            self.rooms.feed.wake_all();
        }
        self.certificates.notify_one();
        self.limits.set(stream_bounds(config));
        let names = |names: &BTreeSet<_>| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        tracing::info!(
            callers = config.callers.len(),
            revoked,
            changed = ?names(&touched.changed),
            new = ?names(&touched.new),
            gone = ?names(&touched.gone),
            restart = keys.len(),
            "the settings were read again"
        );
        Ok(touched)
    }

    /// Sends the audit log where the settings say.
    async fn turn_audit(&self, config: &Config) -> Result<(), Unusable> {
        let (audit, target) = (self.audit.clone(), config.telemetry.audit_log.clone());
        let turned = tokio::task::spawn_blocking(move || audit.turn_to(target.as_ref()));
        let turned = turned.await.map_err(io::Error::other);
        turned.and_then(|turned| turned).map_err(Unusable::Audit)
    }
}
