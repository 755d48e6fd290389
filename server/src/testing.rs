//! Builders for the tests of all modules: clocks, providers, accounts, records, writes, logs
//! and certificates, with the values that no test is about.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tracing::subscriber::DefaultGuard;

use crate::{
    account::{Account, Accounts, Settings},
    cadence::Policy,
    clock::Clock,
    journal::{
        AloneBudgets, AttemptChange, Budgets, Expected, Fence, Fingerprints, Journal, JournalError,
        Record, Retirement, Write, memory::MemoryJournal,
    },
    ownership::Tenures,
    provider::{Provider, registered},
    purchase::{
        AccountName, CallerName, Cause, Purchase, PurchaseId, Revision, Secret, Status, Timestamp,
        Transition,
    },
    upstream::Upstream,
};

/// A clock that begins in January 2027 and goes as tokio's does.
pub fn clock() -> Clock {
    Clock::simulated(Timestamp::from_millis(1_800_000_000_000).unwrap(), 1)
}

/// A provider whose secrets are all `x`.
pub fn provider(name: &str) -> Arc<dyn Provider> {
    let row = registered(name).unwrap();
    let secret = |name: &&str| ((*name).to_owned(), Secret::new("x"));
    (row.build)(&row.secrets.iter().map(secret).collect()).unwrap()
}

/// An account at a provider whose secrets are all `x`, in a process that has this journal for itself.
pub async fn account(
    name: &str,
    provider: &str,
    policy: Policy,
    upstream: Arc<dyn Upstream>,
    clock: &Clock,
    journal: Arc<dyn Journal>,
) -> Arc<Account> {
    let settings = Settings::new(self::provider(provider), policy, upstream);
    let budgets: Arc<dyn Budgets> = Arc::new(AloneBudgets::new(&journal, clock));
    Account::open(AccountName::new(name), settings, clock.clone(), &budgets).await
}

/// The tenures of a process that has these accounts, and its store, for itself.
pub fn alone(accounts: &Accounts) -> Tenures {
    Tenures::alone(accounts.all().keys().cloned())
}

/// An empty journal in memory.
pub fn journal() -> Arc<dyn Journal> {
    Arc::new(MemoryJournal::new("test"))
}

/// A purchase of the caller `shop` that was created, and last changed, when its status was observed.
/// Its key is its id.
pub fn record(id: PurchaseId, account: &str, provider: &str, status: Status) -> Record {
    let now = status.observe_time;
    Record {
        purchase: Purchase {
            id,
            account: AccountName::new(account),
            provider: provider.into(),
            caller: CallerName::new("shop"),
            idempotency_key: id.to_string().into(),
            labels: Arc::default(),
            create_time: now,
            status: Arc::new(status),
        },
        fingerprints: Fingerprints::default(),
        recovery: BTreeMap::new(),
        attempt: None,
        first_send_time: None,
        sends: 0,
        change_time: now,
        resolution_note: None,
    }
}

/// The first transition of a record, to its status.
pub fn first(record: &Record) -> Transition {
    Transition {
        from_state: None,
        status: Status::clone(&record.purchase.status),
        cause: Cause::Create,
    }
}

/// The transition from one status to another.
pub fn step(before: &Status, after: Status, cause: Cause) -> Transition {
    Transition {
        from_state: Some(before.state),
        status: after,
        cause,
    }
}

/// Begins a record, with its status as the first transition.
pub fn begin(record: Record) -> Write {
    let transitions = vec![first(&record)];
    Write::Begin {
        record: Box::new(record),
        transitions,
    }
}

/// Appends a transition to the revision before it, of a purchase whose order was never sent.
pub fn append(purchase: PurchaseId, transition: Transition) -> Write {
    Write::Append {
        purchase,
        fence: None,
        expected: Expected {
            revision: Revision(transition.status.revision.0 - 1),
            attempt: None,
            sends: 0,
        },
        transition: Box::new(transition),
        attempt: AttemptChange::Keep,
        note: None,
    }
}

/// Retires as the process that keeps house in a store of its own. Returns the number of rows.
pub async fn retire(
    journal: &dyn Journal,
    finals_before: Timestamp,
    remnants_before: Timestamp,
    limit: usize,
) -> Result<usize, JournalError> {
    let retirement = Retirement {
        fence: Fence::alone(Fence::housekeeping()),
        finals_before,
        remnants_before,
        limit,
    };
    let rows = journal.retire(retirement).await?;
    Ok(rows.expect("nobody else keeps house"))
}

/// An authority for certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// An authority that nobody knows yet. Its name is not unique.
    pub fn new() -> Self {
        Self::named("authority.test")
    }

    /// An authority of this name that nobody knows yet.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this name or address, and its key, in PEM.
    pub fn certificate(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// The lines that a test's own thread has logged.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Notes the lines from now on, until the guard is dropped.
    pub fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let lines = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || lines.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines so far.
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
