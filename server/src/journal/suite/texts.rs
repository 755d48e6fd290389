//! Texts that a store could trip over.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Subject,
    values::{append, begin, caller, id, record, reference, tracker_of, try_append},
};
use crate::{
    journal::{Filter, Written},
    purchase::Status,
};

pub async fn a_reference_may_be_as_long_as_any_provider_s(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    begin(journal, record(2)).await;
    // Nothing that a store could compress.
    let mut number = 1_u64;
    let digits = std::iter::repeat_with(|| {
        number = number
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        format!("{number:016x}")
    });
    let text: String = digits.take(500).collect();
    append(journal, 1, |status| {
        status.reference = Some(reference(&text))
    })
    .await;
    assert_eq!(tracker_of(journal, &text).await, Some(id(1)));
    let name = |status: &mut Status| status.reference = Some(reference(&text));
    let written = try_append(journal, 2, name).await.unwrap();
    assert_eq!(written, Written::ReferenceTaken(id(1)));
    assert_eq!(tracker_of(journal, &text[1..]).await, None);
}

pub async fn a_label_and_a_filter_may_have_any_character(subject: Subject) {
    let journal = &*subject.journal;
    let labels = |text: &str| BTreeMap::from([(text.to_owned(), text.to_owned())]);
    let odd = ["a\0b", "\\0", "\\", "\"'%_", "é\n"];
    for (number, text) in (1..).zip(odd) {
        let mut one = record(number);
        one.purchase.labels = Arc::new(labels(text));
        begin(journal, one).await;
    }
    for (number, text) in (1..).zip(odd) {
        for caller in [None, Some(caller("anna"))] {
            let filter = Filter {
                labels: labels(text),
                caller,
                ..Filter::default()
            };
            let listed = journal.list(&filter, None, 9).await.unwrap().purchases;
            let found: Vec<_> = listed.iter().map(|one| (one.id, &*one.labels)).collect();
            assert_eq!(found, [(id(number), &labels(text))], "{text:?}");
        }
    }
    let filter = Filter {
        accounts: vec!["sh\0op".to_owned()],
        ..Filter::default()
    };
    let listed = journal.list(&filter, None, 9).await.unwrap();
    assert_eq!(listed.purchases, []);
    let unknown = journal.record_by_key(&caller("anna"), "k\0").await;
    assert_eq!(unknown.unwrap(), None);
    assert!(*journal.available().borrow());
}
