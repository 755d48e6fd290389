//! Builders for the tests of all modules: providers, records and writes with what no test is about.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    journal::{Fingerprints, Journal, Record, Write, memory::MemoryJournal},
    provider::{Provider, registered},
    purchase::{AccountName, CallerName, Cause, Purchase, PurchaseId, Secret, Status, Transition},
};

/// A provider whose secrets are all `x`.
pub fn provider(name: &str) -> Arc<dyn Provider> {
    let row = registered(name).unwrap();
    let secret = |name: &&str| ((*name).to_owned(), Secret::new("x"));
    (row.build)(&row.secrets.iter().map(secret).collect()).unwrap()
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
        change_time: now,
        resolution_note: None,
    }
}

/// Begins a record, with its status as the first transition.
pub fn begin(record: Record) -> Write {
    let first = Transition {
        from_state: None,
        status: Status::clone(&record.purchase.status),
        cause: Cause::Create,
    };
    Write::Begin {
        record: Box::new(record),
        transitions: vec![first],
    }
}
