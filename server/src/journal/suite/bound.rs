//! Further keys of a purchase.

use super::{
    Subject,
    values::{append, at, begin, begin_write, caller, id, record, reference, retire},
};
use crate::{
    journal::{Binding, Fingerprints, Journal, Record, Write, Written},
    purchase::{Finality, State},
};

/// A further key of a purchase, bound so many milliseconds after the beginning.
pub fn binding(number: u64, key: &str, millis: u64) -> Binding {
    Binding {
        caller: caller("anna"),
        key: key.into(),
        purchase: id(number),
        fingerprints: Fingerprints {
            key_id: "k2".to_owned(),
            fields: [("existing".to_owned(), [9; 32])].into(),
        },
        bind_time: at(millis),
    }
}

async fn bind(journal: &dyn Journal, binding: Binding) -> Written {
    let written = journal.write(Write::Bind(Box::new(binding))).await;
    written.unwrap()
}

async fn known(journal: &dyn Journal, key: &str) -> Option<Record> {
    let record = journal.record_by_key(&caller("anna"), key).await;
    record.unwrap()
}

/// A purchase that is FINAL two seconds after the beginning.
async fn finished(journal: &dyn Journal, number: u64) {
    begin(journal, record(number)).await;
    append(journal, number, |status| {
        status.state = State::Completed;
        status.finality = Finality::Final;
        status.reference = Some(reference(&number.to_string()));
    })
    .await;
}

pub async fn a_further_key_names_the_purchase_with_its_own_fingerprints(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    begin(journal, record(2)).await;
    let head = journal.head();
    assert_eq!(bind(journal, binding(1, "more", 5)).await, Written::Done);
    assert_eq!(journal.head(), head, "it is no event");
    append(journal, 1, |status| status.state = State::Created).await;
    let newest = journal.record(id(1)).await.unwrap().unwrap();
    let expected = Record {
        fingerprints: binding(1, "more", 5).fingerprints,
        ..newest.clone()
    };
    assert_eq!(known(journal, "more").await, Some(expected.clone()));
    assert_eq!(known(journal, "key-1").await, Some(newest));
    let other = journal.record_by_key(&caller("ben"), "more").await;
    assert_eq!(other.unwrap(), None);

    let taken = Written::KeyTaken(Box::new(expected));
    assert_eq!(bind(journal, binding(2, "more", 6)).await, taken);
    let mut rival = record(3);
    rival.purchase.idempotency_key = "more".into();
    assert_eq!(journal.write(begin_write(rival)).await.unwrap(), taken);
    let own = bind(journal, binding(1, "key-2", 6)).await;
    assert!(matches!(own, Written::KeyTaken(record) if record.purchase.id == id(2)));
    let nobody = bind(journal, binding(9, "new", 6)).await;
    assert_eq!(nobody, Written::Stale(None));
    assert_eq!(known(journal, "new").await, None);
}

pub async fn a_further_key_and_its_purchase_live_as_long_as_a_key_from_its_binding_on(
    subject: Subject,
) {
    let journal = &*subject.journal;
    finished(journal, 1).await;
    finished(journal, 2).await;
    assert_eq!(
        bind(journal, binding(1, "more", 5_000)).await,
        Written::Done
    );
    assert_eq!(retire(journal, at(9_000), at(0), 10).await.unwrap(), 6);
    let remnant = known(journal, "more").await.unwrap();
    assert_eq!(remnant.purchase.id, id(1));
    assert_eq!(remnant.fingerprints, binding(1, "more", 5_000).fingerprints);
    let late = bind(journal, binding(1, "late", 6_000)).await;
    assert_eq!(late, Written::Stale(None), "a remnant gets no more keys");

    assert_eq!(retire(journal, at(0), at(5_000), 10).await.unwrap(), 1);
    assert!(known(journal, "key-2").await.is_none());
    assert!(known(journal, "key-1").await.is_some());
    assert!(known(journal, "more").await.is_some());
    assert_eq!(retire(journal, at(0), at(5_001), 10).await.unwrap(), 1);
    assert!(known(journal, "key-1").await.is_none());
    assert!(known(journal, "more").await.is_none());
    begin(journal, record(3)).await;
    assert_eq!(bind(journal, binding(3, "more", 700)).await, Written::Done);
}
