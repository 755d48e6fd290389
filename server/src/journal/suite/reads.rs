//! Reads: pages, tails, wiped buyer actions and the remnants that retention leaves.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Subject,
    values::{
        append, at, attention, begin, begin_write, caller, finish, id, newest, record, redirect,
        reference, retire, tracker_of, try_append,
    },
};
use crate::{
    journal::{Filter, Journal, LOOKED_AT_MAX, Position, Write, Written},
    purchase::{
        AccountName, AttentionReason, Finality, Purchase, PurchaseId, Revision, State, Status,
        Timestamp,
    },
};

/// The revisions that still have a buyer action.
async fn actions(journal: &dyn Journal, number: u64) -> Vec<u32> {
    let transitions = journal.transitions(id(number), Revision(0), 100).await;
    (transitions.unwrap().iter())
        .filter(|transition| transition.status.buyer_action.is_some())
        .map(|transition| transition.status.revision.0)
        .collect()
}

pub async fn leaving_a_state_wipes_its_buyer_actions(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    append(journal, 1, |status| {
        status.state = State::AwaitingPayment;
        status.buyer_action = redirect("https://a.example");
    })
    .await;
    append(journal, 1, |status| {
        status.buyer_action = redirect("https://b.example");
    })
    .await;
    assert_eq!(actions(journal, 1).await, [2, 3], "the state is the same");
    let status = newest(journal, 1).await;
    assert_eq!(status.buyer_action, redirect("https://b.example"));
    append(journal, 1, |status| {
        status.state = State::Confirming;
        status.buyer_action = redirect("https://c.example");
    })
    .await;
    assert_eq!(actions(journal, 1).await, [4]);
    append(journal, 1, |status| {
        status.state = State::Paid;
        status.buyer_action = None;
    })
    .await;
    assert_eq!(actions(journal, 1).await, Vec::<u32>::new());
}

pub async fn buyer_actions_are_wiped_up_to_a_revision(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    for _ in 0..3 {
        append(journal, 1, |status| {
            status.buyer_action = redirect("https://a.example");
        })
        .await;
    }
    let wipe = |through| Write::WipeBuyerActions {
        purchase: id(1),
        through: Revision(through),
    };
    for (through, left) in [(1, vec![2, 3, 4]), (3, vec![4]), (9, vec![])] {
        let written = journal.write(wipe(through)).await.unwrap();
        assert_eq!(written, Written::Done);
        assert_eq!(actions(journal, 1).await, left, "through {through}");
    }
    let status = newest(journal, 1).await;
    assert_eq!(
        (status.revision, &status.buyer_action),
        (Revision(4), &None)
    );
    assert_eq!(journal.head().0, 4, "no revision");
    let unknown = Write::WipeBuyerActions {
        purchase: id(9),
        through: Revision(1),
    };
    assert_eq!(journal.write(unknown).await.unwrap(), Written::Done);
}

pub async fn lists_and_tails_have_no_buyer_actions(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    append(journal, 1, |status| {
        status.buyer_action = redirect("https://a.example");
    })
    .await;
    assert!(newest(journal, 1).await.buyer_action.is_some());
    let listed = journal.list(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(listed.purchases[0].status.revision, Revision(2));
    assert_eq!(listed.purchases[0].status.buyer_action, None);
    let (tail, _) = journal.tail(None, Position(0), 10).await.unwrap();
    assert_eq!(tail[1].purchase.status.buyer_action, None);
}

pub async fn a_tail_is_in_commit_order_and_resumes(subject: Subject) {
    let journal = &*subject.journal;
    for number in 1..=3 {
        begin(journal, record(number)).await;
    }
    for number in [2, 1, 2] {
        append(journal, number, |_| ()).await;
    }
    let (all, through) = journal.tail(None, Position(0), 100).await.unwrap();
    let steps: Vec<_> = (all.iter())
        .map(|one| {
            (
                one.position.0,
                one.purchase.id,
                one.purchase.status.revision.0,
            )
        })
        .collect();
    let expected = [
        (1, id(1), 1),
        (2, id(2), 1),
        (3, id(3), 1),
        (4, id(2), 2),
        (5, id(1), 2),
        (6, id(2), 3),
    ];
    assert_eq!(steps, expected);
    assert_eq!((through, journal.head()), (Position(6), Position(6)));

    let mut resumed = Vec::new();
    let mut after = Position(0);
    loop {
        let (page, through) = journal.tail(None, after, 4).await.unwrap();
        if page.is_empty() {
            break;
        }
        resumed.extend(page.iter().map(|one| one.position.0));
        after = through;
    }
    assert_eq!(resumed, [1, 2, 3, 4, 5, 6]);
    let none = journal.tail(None, Position(2), 0).await.unwrap();
    assert_eq!((none.0.len(), none.1), (0, Position(2)));
}

pub async fn a_tail_of_one_caller_searches_through_those_of_others(subject: Subject) {
    let journal = &*subject.journal;
    for number in 1..=10 {
        let mut one = record(number);
        if number % 4 == 0 {
            one.purchase.caller = caller("ben");
        }
        begin(journal, one).await;
    }
    let ben = caller("ben");
    let tail = async |after, limit| {
        let (page, through) = journal
            .tail(Some(&ben), Position(after), limit)
            .await
            .unwrap();
        let positions: Vec<u64> = page.iter().map(|one| one.position.0).collect();
        (positions, through.0)
    };
    assert_eq!(tail(0, 10).await, (vec![4, 8], 10));
    assert_eq!(tail(0, 1).await, (vec![4], 4));
    assert_eq!(tail(4, 2).await, (vec![8], 10));
    assert_eq!(tail(8, 2).await, (vec![], 10));
    let nobody = caller("nobody");
    let (page, through) = journal.tail(Some(&nobody), Position(0), 5).await.unwrap();
    assert_eq!((page.len(), through), (0, Position(10)));
}

pub async fn a_tail_shows_each_step_with_its_own_status(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    append(journal, 1, |status| status.state = State::Created).await;
    append(journal, 1, |status| status.state = State::Paid).await;
    let (tail, _) = journal.tail(None, Position(0), 10).await.unwrap();
    let steps: Vec<_> = (tail.iter())
        .map(|one| (one.from_state, one.purchase.status.state))
        .collect();
    let expected = [
        (None, State::Pending),
        (Some(State::Pending), State::Created),
        (Some(State::Created), State::Paid),
    ];
    assert_eq!(steps, expected);
    let record = journal.record(id(1)).await.unwrap().unwrap();
    assert_eq!(tail[2].purchase, record.purchase);
}

pub async fn a_tail_from_beyond_the_head_stays_there(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    let (page, through) = journal.tail(None, Position(7), 10).await.unwrap();
    assert_eq!((page.len(), through), (0, Position(7)));
    let (page, through) = journal.tail(None, Position(u64::MAX), 10).await.unwrap();
    assert_eq!((page.len(), through), (0, Position(u64::MAX)));
}

pub async fn transitions_are_read_in_pages(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    for _ in 0..4 {
        append(journal, 1, |_| ()).await;
    }
    let revisions = async |after, limit| {
        let page = journal.transitions(id(1), Revision(after), limit).await;
        let page = page.unwrap();
        page.iter()
            .map(|one| one.status.revision.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(revisions(0, 2).await, [1, 2]);
    assert_eq!(revisions(2, 9).await, [3, 4, 5]);
    assert_eq!(revisions(5, 9).await, Vec::<u32>::new());
}

/// Begins eight purchases that differ in everything that a filter looks at.
async fn varied(journal: &dyn Journal) {
    for number in 0..8 {
        let mut one = record(number);
        let purchase = &mut one.purchase;
        if number % 2 == 1 {
            purchase.caller = caller("ben");
            purchase.provider = Arc::from("carbon");
        }
        if number >= 4 {
            purchase.account = AccountName::new("kiosk");
        }
        let parity = ("parity".to_owned(), (number % 2).to_string());
        purchase.labels = Arc::new(BTreeMap::from([
            parity,
            ("all".to_owned(), "yes".to_owned()),
        ]));
        begin(journal, one).await;
        if number % 3 == 0 {
            append(journal, number, |status| {
                status.state = State::Completed;
                status.finality = Finality::Terminal;
                status.attention = attention(AttentionReason::UnmappedStatus);
            })
            .await;
        }
    }
}

async fn pages(
    journal: &dyn Journal,
    filter: &Filter,
    limit: usize,
) -> Vec<(Timestamp, PurchaseId)> {
    let mut found: Vec<(Timestamp, PurchaseId)> = Vec::new();
    let mut after = None;
    loop {
        let page = journal.list(filter, after, limit).await.unwrap();
        assert!(page.purchases.len() <= limit);
        found.extend(page.purchases.iter().map(|one| (one.create_time, one.id)));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

fn filter(set: impl FnOnce(&mut Filter)) -> Filter {
    let mut filter = Filter::default();
    set(&mut filter);
    filter
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    (pairs.iter())
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Filters, each with the number of varied purchases that it admits.
fn filters() -> Vec<(Filter, usize)> {
    let text = |text: &str| text.to_owned();
    let combined = filter(|one| {
        one.caller = Some(caller("ben"));
        one.states = vec![State::Pending];
        one.created_from = Some(at(2));
        one.created_before = Some(at(7));
        one.labels = labels(&[("all", "yes")]);
    });
    let both = [("parity", "1"), ("all", "yes")];
    vec![
        (Filter::default(), 8),
        (filter(|one| one.caller = Some(caller("ben"))), 4),
        (filter(|one| one.accounts = vec![text("shop")]), 4),
        (
            filter(|one| one.accounts = vec![text("shop"), text("kiosk")]),
            8,
        ),
        (filter(|one| one.providers = vec![text("carbon")]), 4),
        (filter(|one| one.states = vec![State::Completed]), 3),
        (
            filter(|one| one.states = vec![State::Completed, State::Pending]),
            8,
        ),
        (filter(|one| one.finalities = vec![Finality::Open]), 5),
        (filter(|one| one.labels = labels(&[("parity", "1")])), 4),
        (filter(|one| one.labels = labels(&both)), 4),
        (filter(|one| one.labels = labels(&[("parity", "yes")])), 0),
        (filter(|one| one.needs_attention = true), 3),
        (filter(|one| one.created_from = Some(at(6))), 2),
        (filter(|one| one.created_before = Some(at(6))), 6),
        (combined, 1),
    ]
}

pub async fn a_list_is_filtered_as_the_filter_says(subject: Subject) {
    let journal = &*subject.journal;
    varied(journal).await;
    let everything = journal.list(&Filter::default(), None, 100).await.unwrap();
    let everything = everything.purchases;
    for (filter, count) in filters() {
        let listed = journal.list(&filter, None, 100).await.unwrap();
        assert_eq!(listed.next, None, "nothing is left: {filter:?}");
        let listed = listed.purchases;
        let admitted: Vec<Purchase> = (everything.iter())
            .filter(|purchase| filter.admits(purchase))
            .cloned()
            .collect();
        assert_eq!(listed, admitted, "{filter:?}");
        assert_eq!(listed.len(), count, "{filter:?}");
        let places: Vec<_> = listed.iter().map(|one| (one.create_time, one.id)).collect();
        assert!(
            places.is_sorted_by(|left, right| left > right),
            "{filter:?}"
        );
        assert_eq!(pages(journal, &filter, 3).await, places, "{filter:?}");
    }
}

pub async fn pages_neither_skip_nor_repeat_while_others_insert(subject: Subject) {
    let journal = &subject.journal;
    for number in 0..40 {
        let mut one = record(number);
        // Many are created in one millisecond, so that the id has to decide.
        one.purchase.create_time = at(number / 10);
        begin(&**journal, one).await;
    }
    let inserting = async {
        for number in 100..140 {
            begin(&**journal, record(number)).await;
            append(&**journal, number - 100, |status| {
                status.state = State::Created
            })
            .await;
        }
    };
    let filter = Filter::default();
    let (found, ()) = tokio::join!(pages(&**journal, &filter, 3), inserting);
    let old: Vec<PurchaseId> = (found.iter().map(|(_, id)| *id))
        .filter(|one| *one < id(100))
        .collect();
    let expected: Vec<PurchaseId> = (0..40).rev().map(id).collect();
    assert_eq!(old, expected);
    assert!(found.is_sorted_by(|left, right| left > right));
}

pub async fn labels_are_searched_to_the_end(subject: Subject) {
    let journal = &subject.journal;
    let begun = (0..1_200).map(|number| {
        let mut one = record(number);
        let rare = u64::from(number % 1_100 == 5).to_string();
        one.purchase.labels = Arc::new(BTreeMap::from([("rare".to_owned(), rare)]));
        journal.write(begin_write(one))
    });
    let written = futures_util::future::try_join_all(begun).await.unwrap();
    assert!(written.iter().all(|one| *one == Written::Done));
    let filter = Filter {
        labels: BTreeMap::from([("rare".to_owned(), "1".to_owned())]),
        ..Filter::default()
    };
    for limit in [1, 2, 10] {
        let found = pages(&**journal, &filter, limit).await;
        let ids: Vec<_> = found.iter().map(|(_, id)| *id).collect();
        assert_eq!(ids, [id(1_105), id(5)], "limit {limit}");
    }
}

pub async fn a_page_looks_at_a_bounded_number_and_says_where_to_go_on(subject: Subject) {
    let journal = &subject.journal;
    let most = u64::try_from(LOOKED_AT_MAX).unwrap();
    let begun = (0..most + 3).map(|number| journal.write(begin_write(record(number))));
    futures_util::future::try_join_all(begun).await.unwrap();
    let filter = filter(|one| one.providers = vec!["carbon".to_owned()]);
    let page = journal.list(&filter, None, 10).await.unwrap();
    assert_eq!(page.purchases, []);
    assert_eq!(page.next, Some((at(3), id(3))));
    let page = journal.list(&filter, page.next, 10).await.unwrap();
    assert_eq!((page.purchases.len(), page.next), (0, None));
}

/// Begins, names and finishes a purchase; its final time is two seconds after `at(number)`.
async fn finished(journal: &dyn Journal, number: u64) {
    begin(journal, record(number)).await;
    append(journal, number, |status| {
        status.reference = Some(reference(&number.to_string()));
        status.buyer_action = redirect("https://a.example");
    })
    .await;
    append(journal, number, |status: &mut Status| {
        status.finality = Finality::Final;
        status.buyer_action = redirect("https://b.example");
    })
    .await;
}

pub async fn a_final_purchase_becomes_a_remnant(subject: Subject) {
    let journal = &*subject.journal;
    for number in [1, 2, 3] {
        finished(journal, number).await;
    }
    begin(journal, record(4)).await;
    let mut last = journal.record(id(1)).await.unwrap().unwrap();
    let count = retire(journal, at(2_001), at(0), 10).await.unwrap();
    assert_eq!(count, 0, "before is before");
    // The rows are its own and those of its three revisions.
    assert_eq!(retire(journal, at(2_003), at(0), 1).await.unwrap(), 4);
    assert_eq!(
        journal.record(id(1)).await.unwrap(),
        None,
        "the oldest is first"
    );
    assert_eq!(retire(journal, at(2_003), at(0), 10).await.unwrap(), 4);
    assert_eq!(retire(journal, at(2_003), at(0), 10).await.unwrap(), 0);

    assert_eq!(journal.record(id(2)).await.unwrap(), None);
    assert_eq!(
        journal.transitions(id(1), Revision(0), 9).await.unwrap(),
        []
    );
    let listed = journal.list(&Filter::default(), None, 10).await.unwrap();
    let ids: Vec<_> = listed.purchases.iter().map(|one| one.id).collect();
    assert_eq!(ids, [id(4), id(3)]);
    let (tail, through) = journal.tail(None, Position(0), 10).await.unwrap();
    let positions: Vec<_> = tail.iter().map(|one| one.position.0).collect();
    assert_eq!((positions, through.0), (vec![7, 8, 9, 10], 10));

    let remnant = journal
        .record_by_key(&caller("anna"), "key-1")
        .await
        .unwrap();
    Arc::make_mut(&mut last.purchase.status).buyer_action = None;
    assert_eq!(remnant, Some(last));
}

pub async fn retention_is_bounded_by_rows(subject: Subject) {
    let journal = &*subject.journal;
    for number in 1..=4 {
        begin(journal, record(number)).await;
    }
    for _ in 0..20 {
        append(journal, 1, |_| ()).await;
    }
    for number in 1..=4 {
        finish(journal, number).await;
    }
    let all = at(90_000);
    let mut taken = Vec::new();
    loop {
        match retire(journal, all, at(0), 3).await.unwrap() {
            0 => break,
            rows => taken.push(rows),
        }
    }
    // The purchase with 22 revisions ended last, and is never half taken.
    assert_eq!(taken, [3, 3, 3, 23]);
}

pub async fn a_remnant_keeps_its_key_and_frees_its_reference(subject: Subject) {
    let journal = &*subject.journal;
    finished(journal, 1).await;
    let last = journal.record(id(1)).await.unwrap().unwrap();
    assert_eq!(retire(journal, at(9_000), at(0), 10).await.unwrap(), 4);
    let written = journal.write(begin_write(record(1))).await.unwrap();
    let Written::KeyTaken(remnant) = written else {
        panic!("{written:?}");
    };
    assert_eq!(remnant.purchase.id, last.purchase.id);
    assert_eq!(remnant.fingerprints, last.fingerprints);

    assert_eq!(tracker_of(journal, "1").await, None);
    begin(journal, record(2)).await;
    let name = |status: &mut Status| status.reference = Some(reference("1"));
    assert_eq!(try_append(journal, 2, name).await.unwrap(), Written::Done);

    let previous = &last.purchase.status;
    let next = super::values::step(previous, super::values::following(previous, State::Paid));
    let written = journal
        .write(super::values::append_write(id(1), next))
        .await;
    assert_eq!(written.unwrap(), Written::Stale(None));
}

pub async fn remnants_end_with_their_time(subject: Subject) {
    let journal = &*subject.journal;
    for number in [1, 2, 3] {
        finished(journal, number).await;
    }
    assert_eq!(retire(journal, at(9_000), at(9_000), 10).await.unwrap(), 12);
    let known = async |key: &str| {
        let record = journal.record_by_key(&caller("anna"), key).await.unwrap();
        record.is_some()
    };
    assert!(known("key-1").await, "none is made and deleted by one call");
    assert_eq!(retire(journal, at(0), at(2_003), 1).await.unwrap(), 1);
    assert!(!known("key-1").await && known("key-2").await);
    assert_eq!(retire(journal, at(0), at(2_003), 10).await.unwrap(), 1);
    assert!(!known("key-2").await && known("key-3").await);
    begin(journal, record(1)).await;
}

/// The times of its purchase are of a wall clock that was set back; retention's own clock was not.
pub async fn what_ends_while_the_wall_clock_is_years_behind_is_kept_as_long_as_anything(
    subject: Subject,
) {
    let journal = &*subject.journal;
    journal.age(at(1_000_000));
    finished(journal, 1).await;
    assert_eq!(retire(journal, at(1_000_000), at(0), 10).await.unwrap(), 0);
    assert_eq!(retire(journal, at(1_000_001), at(0), 10).await.unwrap(), 4);
    let known = async || {
        let record = journal.record_by_key(&caller("anna"), "key-1").await;
        record.unwrap().is_some()
    };
    assert_eq!(retire(journal, at(0), at(1_000_000), 10).await.unwrap(), 0);
    assert!(known().await);
    assert_eq!(retire(journal, at(0), at(1_000_001), 10).await.unwrap(), 1);
    assert!(!known().await);
}

pub async fn positions_are_not_given_again_after_retirement(subject: Subject) {
    let journal = &*subject.journal;
    finished(journal, 1).await;
    assert_eq!(journal.head(), Position(3));
    retire(journal, at(9_000), at(0), 10).await.unwrap();
    assert_eq!(journal.head(), Position(3));
    begin(journal, record(2)).await;
    let (tail, _) = journal.tail(None, Position(3), 10).await.unwrap();
    assert_eq!(tail[0].position, Position(4));
}
