//! The accounts of a running server as they are configured: newer settings change them, add accounts and
//! take accounts away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{RECOVERED_AT_ONCE, StartError};
use crate::{
    account::{Account, Accounts, Settings},
    clock::Clock,
    config, grpc,
    journal::{Budgets, JournalError, Record},
    ownership::Owner,
    provider,
    purchase::AccountName,
    upstream::http::{self, HttpUpstream},
};

/// The wait after a failure of the journal while purchases are handed over.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// All accounts that this process has had, with the settings that they had last. Clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Configured {
    held: Arc<Mutex<BTreeMap<AccountName, Held>>>,
    /// The budgets of those that are to come.
    budgets: Arc<dyn Budgets>,
}

/// One account that this process has, or had. An account that comes back goes on with its budget.
#[derive(Debug)]
struct Held {
    settings: config::Account,
    account: Arc<Account>,
    is_gone: bool,
}

/// One account's way to newer settings.
struct Step {
    settings: config::Account,
    /// Other credentials or another way out; `None` leaves them.
    access: Option<Settings>,
    /// True if the account was not configured before.
    is_new: bool,
}

/// All accounts' way to newer settings. Nothing of it can fail any more.
pub(super) struct Plan {
    steps: Vec<Step>,
    gone: BTreeSet<AccountName>,
}

/// The accounts that newer settings have touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Accounts whose settings have changed.
    pub(super) changed: BTreeSet<AccountName>,
    /// Accounts that are there from now on.
    pub(super) new: BTreeSet<AccountName>,
    /// Accounts that are gone.
    pub(super) gone: BTreeSet<AccountName>,
}

impl Configured {
    /// No accounts yet. Those to come have these budgets.
    pub(super) fn new(budgets: &Arc<dyn Budgets>) -> Self {
        Self {
            held: Arc::default(),
            budgets: Arc::clone(budgets),
        }
    }

    /// Opens the accounts of a start, with the budgets that the store has of them.
    pub(super) async fn open(
        settings: &[config::Account],
        budgets: &Arc<dyn Budgets>,
        clock: &Clock,
    ) -> Result<(Accounts, Self), StartError> {
        let configured = Self::new(budgets);
        let accounts = Accounts::default();
        for step in configured.plan(settings)?.steps {
            if let Some(account) = configured.account(&step, clock).await {
                accounts.insert(account.name.clone(), account);
            }
        }
        Ok((accounts, configured))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AccountName, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the account's TLS has files.
    pub(super) fn has_tls_files(&self, account: &AccountName) -> bool {
        let held = self.lock();
        held.get(account)
            .is_some_and(|held| held.settings.tls.has_files())
    }

    /// Works out how to come to newer settings. Nothing is changed yet.
    ///
    /// # Errors
    /// An account has another provider than before, or its settings give no provider or no way out.
    pub(super) fn plan(&self, newer: &[config::Account]) -> Result<Plan, StartError> {
        let known = self.lock();
        let mut steps = Vec::new();
        for settings in newer {
            let problem = |problem: String| StartError::Account {
                account: settings.name.clone(),
                problem,
            };
            let before = known.get(&settings.name);
            if let Some(before) = before
                && before.settings.provider != settings.provider
            {
                let rule = format!(
                    "provider must stay {}: an account's provider never changes",
                    before.settings.provider
                );
                return Err(problem(rule));
            }
            let is_new = before.is_none_or(|before| before.is_gone);
            if before.is_some_and(|before| before.settings == *settings) && !is_new {
                continue;
            }
            let is_same = before.is_some_and(|before| is_same_access(&before.settings, settings));
            steps.push(Step {
                settings: settings.clone(),
                access: match is_same {
                    true => None,
                    false => Some(access(settings).map_err(problem)?),
                },
                is_new,
            });
        }
        let configured = known.iter().filter(|(_, held)| !held.is_gone);
        let gone = configured.map(|(name, _)| name.clone());
        let is_named = |name: &AccountName| newer.iter().any(|settings| settings.name == *name);
        Ok(Plan {
            steps,
            gone: gone.filter(|name| !is_named(name)).collect(),
        })
    }

    /// The account of a step, which has its newer settings from now on.
    async fn account(&self, step: &Step, clock: &Clock) -> Option<Arc<Account>> {
        let (settings, name) = (&step.settings, step.settings.name.clone());
        let known = (self.lock().get(&settings.name)).map(|held| Arc::clone(&held.account));
        let account = match (known, step.access.clone()) {
            (Some(account), Some(newer)) => {
                account.take_up(account.settings().moved_to(newer));
                account
            }
            (Some(account), None) => {
                account.take_up(account.settings().with_policy(settings.policy.clone()));
                account
            }
            (None, Some(settings)) => {
                Account::open(name, settings, clock.clone(), &self.budgets).await
            }
            (None, None) => return None,
        };
        let held = Held {
            settings: settings.clone(),
            account: Arc::clone(&account),
            is_gone: false,
        };
        self.lock().insert(settings.name.clone(), held);
        Some(account)
    }

    /// Goes the whole way: from now on each account has its newer settings, new ones are polled and can
    /// be used, and those that are gone are as if they had never been configured. What is under way
    /// ends by the older settings.
    pub(super) async fn take_up(&self, plan: Plan, rooms: &grpc::Rooms, owner: &Owner) -> Touched {
        let mut touched = Touched {
            gone: plan.gone,
            ..Touched::default()
        };
        for step in plan.steps {
            let Some(account) = self.account(&step, &rooms.clock).await else {
                continue;
            };
            let name = account.name.clone();
            if step.is_new {
                rooms.accounts.insert(name.clone(), account);
                touched.new.insert(name);
            } else {
                rooms.tracker.changed(&name);
                touched.changed.insert(name);
            }
        }
        for name in &touched.gone {
            rooms.accounts.remove(name);
            if let Some(held) = self.lock().get_mut(name) {
                held.is_gone = true;
            }
        }
        rooms.accounts.others_allow(&owner.limits_of_others());
        owner.configure(rooms.accounts.limits());
        touched
    }
}

/// True if requests go the same way, with the same credentials.
fn is_same_access(before: &config::Account, after: &config::Account) -> bool {
    let with_policy = config::Account {
        policy: after.policy.clone(),
        ..before.clone()
    };
    with_policy == *after
}

fn access(settings: &config::Account) -> Result<Settings, String> {
    let row = provider::registered(settings.provider).ok_or("no such provider")?;
    let provider = (row.build)(&settings.secrets).map_err(|error| error.to_string())?;
    let way = http::Settings {
        allow_insecure: settings.allow_insecure,
        allow_private_networks: settings.allow_private_networks,
        proxy: settings.proxy.clone(),
        tls: settings.tls.clone(),
        ..http::Settings::new(settings.base_url.clone())
    };
    let upstream = HttpUpstream::new(way).map_err(|error| error.to_string())?;
    let policy = settings.policy.clone();
    let newer = Settings::new(provider, policy, Arc::new(upstream));
    Ok(newer.at(settings.base_url.as_str()))
}

impl Touched {
    fn is_touched(&self, account: &AccountName) -> bool {
        self.changed.contains(account) || self.gone.contains(account)
    }

    /// Hands the open purchases of these accounts over: those of accounts that are gone say so, and those
    /// of accounts that have changed are due as the newer schedules say. New accounts' purchases are taken
    /// up with their tenures. It is tried again while the journal fails.
    pub(super) async fn hand_over(&self, rooms: &grpc::Rooms) {
        if self.changed.is_empty() && self.gone.is_empty() {
            return;
        }
        let mut after = None;
        loop {
            let records = match rooms.journal.open_records(after, RECOVERED_AT_ONCE).await {
                Ok(records) => records,
                Err(_) => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    continue;
                }
            };
            let Some(last) = records.last() else { return };
            after = Some(last.purchase.id);
            let touched = |record: &&Record| self.is_touched(&record.purchase.account);
            for record in records.iter().filter(touched) {
                while self.hand(record, rooms).await.is_err() {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn hand(&self, record: &Record, rooms: &grpc::Rooms) -> Result<(), JournalError> {
        rooms.intake.recover(record);
        if self.changed.contains(&record.purchase.account) {
            rooms.tracker.reschedule(record);
            return Ok(());
        }
        rooms.tracker.recover(record).await
    }
}
