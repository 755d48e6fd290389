//! Values for tests, each of them valid and small.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    journal::{
        Attempt, AttemptId, Expected, Fingerprints, Journal, JournalError, Record, Write, Written,
    },
    purchase::{
        AccountName, Attention, AttentionReason, BuyerAction, CallerName, Cause, Finality,
        PurchaseId, Redirect, Reference, Revision, State, Status, Timestamp, Transition,
    },
    testing,
};

pub use crate::testing::{append as append_write, begin as begin_write, first, retire};

/// The time so many milliseconds after the tests' beginning of time.
pub fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_790_000_000_000)
        .unwrap()
        .plus(Duration::from_millis(millis))
}

pub fn id(number: u64) -> PurchaseId {
    PurchaseId::from_u128(u128::from(number))
}

pub fn caller(name: &str) -> CallerName {
    CallerName::new(name)
}

pub fn account() -> AccountName {
    AccountName::new("shop")
}

/// A record in PENDING, created `number` ms after the beginning, with key `key-<number>`.
pub fn record(number: u64) -> Record {
    let pending = Status::pending(at(number));
    let mut record = testing::record(id(number), "shop", "masumi", pending);
    let purchase = &mut record.purchase;
    purchase.caller = caller("anna");
    purchase.idempotency_key = format!("key-{number}").into();
    purchase.labels = Arc::new(BTreeMap::from([("n".to_owned(), number.to_string())]));
    record.fingerprints = Fingerprints {
        key_id: "k1".to_owned(),
        fields: BTreeMap::from([("amount".to_owned(), [7; 32])]),
    };
    record.recovery = BTreeMap::from([("network".to_owned(), "Preprod \"é\"".to_owned())]);
    record
}

/// An attempt by this number, which may be under way until then.
pub fn attempt(by: u128, until: u64) -> Attempt {
    Attempt {
        by: AttemptId(by),
        submit_until: at(until),
    }
}

/// A record's part that a change rests on.
pub fn expected(revision: u32, attempt: Option<u128>, sends: u32) -> Expected {
    Expected {
        revision: Revision(revision),
        attempt: attempt.map(AttemptId),
        sends,
    }
}

/// Begins a purchase in PENDING.
pub async fn begin(journal: &dyn Journal, record: Record) {
    let written = journal.write(begin_write(record)).await.unwrap();
    assert_eq!(written, Written::Done);
}

/// The status after `previous`, one second later, in another state.
pub fn following(previous: &Status, state: State) -> Status {
    Status {
        revision: previous.revision.next(),
        state,
        observe_time: previous.observe_time.plus(Duration::from_secs(1)),
        code: format!("code-{}", previous.revision.next()),
        ..previous.clone()
    }
}

pub fn step(previous: &Status, status: Status) -> Transition {
    testing::step(previous, status, Cause::Poll)
}

/// Appends the status that `change` makes of the newest one.
pub async fn try_append(
    journal: &dyn Journal,
    number: u64,
    change: impl FnOnce(&mut Status),
) -> Result<Written, JournalError> {
    let record = journal.record(id(number)).await?.unwrap();
    let previous = &record.purchase.status;
    let mut status = following(previous, previous.state);
    change(&mut status);
    let mut write = append_write(id(number), step(previous, status));
    if let Write::Append { expected, .. } = &mut write {
        *expected = record.expected();
    }
    journal.write(write).await
}

pub async fn append(journal: &dyn Journal, number: u64, change: impl FnOnce(&mut Status)) {
    let written = try_append(journal, number, change).await.unwrap();
    assert_eq!(written, Written::Done);
}

pub async fn finish(journal: &dyn Journal, number: u64) {
    append(journal, number, |status| {
        status.state = State::Completed;
        status.finality = Finality::Final;
    })
    .await;
}

pub async fn newest(journal: &dyn Journal, number: u64) -> Arc<Status> {
    let record = journal.record(id(number)).await.unwrap().unwrap();
    record.purchase.status
}

pub fn reference(text: &str) -> Reference {
    Reference::new([("id", text), ("network", "\"Preprod\"")])
}

pub fn redirect(url: &str) -> Option<BuyerAction> {
    Some(BuyerAction::Redirect(Redirect {
        url: url.to_owned(),
        method: "GET".to_owned(),
        form_fields: BTreeMap::new(),
        expire_time: None,
    }))
}

pub fn attention(reason: AttentionReason) -> Option<Attention> {
    Some(Attention {
        reason,
        note: "look".to_owned(),
        deadline_time: None,
    })
}

/// The purchase of the usual account that has this reference.
pub async fn tracker_of(journal: &dyn Journal, text: &str) -> Option<PurchaseId> {
    let (account, reference) = (account(), reference(text));
    let found = journal.purchase_by_reference(&account, &reference).await;
    found.unwrap()
}
