//! The effects of writes, and the guards that refuse them.

use std::{sync::Arc, time::Duration};

use super::{
    Subject,
    values::{
        append, append_write, at, attempt, attention, begin, begin_write, caller, expected, finish,
        first, following, id, newest, record, reference, step, tracker_of, try_append,
    },
};
use crate::{
    journal::{AttemptChange, Journal, Write, Written},
    purchase::{AccountName, AttentionReason, Revision, State, Status, Transition},
};

pub async fn a_purchase_that_was_begun_is_read_back_whole(subject: Subject) {
    let journal = &*subject.journal;
    let mut whole = record(1);
    whole.attempt = Some(attempt(7, 90));
    whole.first_send_time = Some(at(10));
    whole.sends = 3;
    whole.resolution_note = Some("by hand".to_owned());
    begin(journal, whole.clone()).await;
    assert_eq!(journal.record(id(1)).await.unwrap(), Some(whole.clone()));
    let by_key = journal.record_by_key(&caller("anna"), "key-1").await;
    assert_eq!(by_key.unwrap(), Some(whole.clone()));
    let transitions = journal.transitions(id(1), Revision(0), 10).await.unwrap();
    assert_eq!(transitions, [first(&whole)]);
    assert_eq!(journal.record(id(2)).await.unwrap(), None);
    let other = journal.record_by_key(&caller("ben"), "key-1").await;
    assert_eq!(other.unwrap(), None);
}

/// A beginning in two steps, the second with a reference.
fn adopted(number: u64, text: &str) -> Write {
    let mut adopted = record(number);
    let pending = first(&adopted);
    let mut status = following(&pending.status, State::Paid);
    status.reference = Some(reference(text));
    adopted.purchase.status = Arc::new(status.clone());
    let second = step(&pending.status, status);
    Write::Begin {
        record: Box::new(adopted),
        transitions: vec![pending, second],
    }
}

pub async fn an_adopted_purchase_begins_with_two_transitions(subject: Subject) {
    let journal = &*subject.journal;
    let written = journal.write(adopted(1, "r1")).await.unwrap();
    assert_eq!(written, Written::Done);
    let status = newest(journal, 1).await;
    assert_eq!((status.revision, status.state), (Revision(2), State::Paid));
    assert_eq!(tracker_of(journal, "r1").await, Some(id(1)));
    let transitions = journal.transitions(id(1), Revision(0), 10).await.unwrap();
    assert_eq!(transitions.len(), 2);
    assert_eq!(journal.head().0, 2);

    let written = journal.write(adopted(2, "r1")).await.unwrap();
    assert_eq!(written, Written::ReferenceTaken(id(1)));
    assert_eq!(journal.record(id(2)).await.unwrap(), None);
}

pub async fn a_key_is_taken_once_per_caller(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    let mut rival = record(2);
    rival.purchase.idempotency_key = Arc::from("key-1");
    let written = journal.write(begin_write(rival.clone())).await.unwrap();
    assert_eq!(written, Written::KeyTaken(Box::new(record(1))));
    assert_eq!(journal.record(id(2)).await.unwrap(), None);
    rival.purchase.caller = caller("ben");
    begin(journal, rival).await;
}

pub async fn a_reference_is_tracked_once_per_account(subject: Subject) {
    let journal = &*subject.journal;
    let mut elsewhere = record(3);
    elsewhere.purchase.account = AccountName::new("kiosk");
    for one in [record(1), record(2), elsewhere] {
        begin(journal, one).await;
    }
    let name = |status: &mut Status| status.reference = Some(reference("r"));
    append(journal, 1, name).await;
    let before = journal.record(id(2)).await.unwrap();
    let head = journal.head();
    let written = try_append(journal, 2, name).await.unwrap();
    assert_eq!(written, Written::ReferenceTaken(id(1)));
    assert_eq!(journal.record(id(2)).await.unwrap(), before);
    assert_eq!(journal.head(), head, "nothing is written");
    append(journal, 3, name).await;
    append(journal, 1, |_| ()).await;
    assert_eq!(tracker_of(journal, "r").await, Some(id(1)));
    assert_eq!(tracker_of(journal, "other").await, None);
}

/// Writes that arrive together can be one commit.
pub async fn keys_and_references_that_collide_within_a_group_are_given_once(subject: Subject) {
    let journal = &*subject.journal;
    for number in [1, 2, 3] {
        begin(journal, record(number)).await;
    }
    let named = async |number: u64, name: &str| {
        let previous = newest(journal, number).await;
        let mut status = following(&previous, State::Created);
        status.reference = Some(reference(name));
        append_write(id(number), step(&previous, status))
    };
    let mut same_key = record(5);
    same_key.purchase.idempotency_key = Arc::from("key-4");
    let bound = super::bound::binding(1, "key-4", 5);
    let writes = [
        begin_write(record(4)),
        begin_write(same_key),
        Write::Bind(Box::new(bound)),
        adopted(6, "a"),
        named(1, "a").await,
        named(2, "b").await,
        named(3, "b").await,
    ];
    let writing = writes.map(|write| journal.write(write));
    let written = futures_util::future::try_join_all(writing).await.unwrap();
    let fourth = journal.record(id(4)).await.unwrap().map(Box::new).unwrap();
    let expected = [
        Written::Done,
        Written::KeyTaken(fourth.clone()),
        Written::KeyTaken(fourth),
        Written::Done,
        Written::ReferenceTaken(id(6)),
        Written::Done,
        Written::ReferenceTaken(id(2)),
    ];
    assert_eq!(written, expected);
    assert_eq!(journal.record(id(5)).await.unwrap(), None);
    assert_eq!(tracker_of(journal, "a").await, Some(id(6)));
    assert_eq!(tracker_of(journal, "b").await, Some(id(2)));
}

pub async fn a_reference_that_was_left_is_free_again(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    begin(journal, record(2)).await;
    append(journal, 1, |status| status.reference = Some(reference("a"))).await;
    append(journal, 1, |status| status.reference = Some(reference("b"))).await;
    append(journal, 2, |status| status.reference = Some(reference("a"))).await;
    assert_eq!(tracker_of(journal, "a").await, Some(id(2)));
}

pub async fn an_append_needs_the_newest_revision(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    let pending = newest(journal, 1).await;
    let transition = step(&pending, following(&pending, State::Created));
    append(journal, 1, |status| status.state = State::Paid).await;
    let now = journal.record(id(1)).await.unwrap().unwrap();
    let head = journal.head();
    let stale = Written::Stale(Some(Box::new(now)));

    let late = append_write(id(1), transition.clone());
    assert_eq!(journal.write(late).await.unwrap(), stale);
    let attempt = Write::ChangeAttempt {
        purchase: id(1),
        expected: expected(1, None, 0),
        change: AttemptChange::Begin {
            attempt: attempt(1, 5),
            now: at(4),
        },
    };
    assert_eq!(journal.write(attempt).await.unwrap(), stale);
    let unknown = append_write(id(9), transition);
    let written = journal.write(unknown).await.unwrap();
    assert_eq!(written, Written::Stale(None));
    assert_eq!(journal.head(), head, "nothing is written");
}

pub async fn revisions_are_dense(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    for state in [State::Created, State::AwaitingPayment, State::Paid] {
        append(journal, 1, |status| status.state = state).await;
    }
    let pending = newest(journal, 1).await;
    let mut skipping = following(&pending, State::Completed);
    skipping.revision = Revision(6);
    let write = Write::Append {
        purchase: id(1),
        fence: None,
        transition: Box::new(step(&pending, skipping)),
        expected: expected(4, None, 0),
        attempt: AttemptChange::Keep,
        note: None,
    };
    let written = journal.write(write).await.unwrap();
    assert!(matches!(written, Written::Stale(Some(_))), "{written:?}");
    let transitions = journal.transitions(id(1), Revision(0), 10).await.unwrap();
    let revisions: Vec<u32> = (transitions.iter())
        .map(|transition| transition.status.revision.0)
        .collect();
    assert_eq!(revisions, [1, 2, 3, 4]);
}

pub async fn a_beginning_with_gaps_is_refused_and_changes_nothing(subject: Subject) {
    let journal = &*subject.journal;
    let begin_with = |transitions: Vec<Transition>| Write::Begin {
        record: Box::new(record(1)),
        transitions,
    };
    let mut second = first(&record(1));
    second.status.revision = Revision(2);
    for transitions in [vec![], vec![second]] {
        assert!(journal.write(begin_with(transitions)).await.is_err());
    }
    begin(journal, record(1)).await;
    let mut same_id = record(1);
    same_id.purchase.idempotency_key = Arc::from("another");
    assert!(journal.write(begin_write(same_id)).await.is_err());
    assert_eq!(journal.head().0, 1);
    assert!(*journal.available().borrow(), "the store is not to blame");
}

pub async fn nothing_is_appended_after_final(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    finish(journal, 1).await;
    let last = journal.record(id(1)).await.unwrap();
    let written = try_append(journal, 1, |_| ()).await.unwrap();
    assert_eq!(written, Written::Stale(last.clone().map(Box::new)));
    let attempt = Write::ChangeAttempt {
        purchase: id(1),
        expected: expected(2, None, 0),
        change: AttemptChange::Begin {
            attempt: attempt(1, 5),
            now: at(4),
        },
    };
    let written = journal.write(attempt).await.unwrap();
    assert_eq!(written, Written::Stale(last.clone().map(Box::new)));
    assert_eq!(journal.record(id(1)).await.unwrap(), last);
}

pub async fn one_of_many_rivals_wins_each_revision(subject: Subject) {
    let journal = &subject.journal;
    begin(&**journal, record(1)).await;
    for round in 1..=5 {
        let previous = newest(&**journal, 1).await;
        let rivals = (0..20).map(|rival| {
            let mut status = following(&previous, State::Created);
            status.code = format!("rival-{rival}");
            let write = append_write(id(1), step(&previous, status));
            let journal = Arc::clone(journal);
            async move { journal.write(write).await.unwrap() }
        });
        let written = futures_util::future::join_all(rivals).await;
        let won = written.iter().filter(|one| **one == Written::Done).count();
        assert_eq!(won, 1, "{written:?}");
        let status = newest(&**journal, 1).await;
        assert_eq!(status.revision, Revision(round + 1));
    }
}

/// Until when the attempt is under way, when the order was first sent, and how often.
async fn attempt_of(journal: &dyn Journal) -> (Option<u64>, Option<u64>, u32) {
    let record = journal.record(id(1)).await.unwrap().unwrap();
    let millis = |time: crate::purchase::Timestamp| {
        u64::try_from(time.as_millis() - at(0).as_millis()).unwrap()
    };
    (
        (record.attempt).map(|attempt| millis(attempt.submit_until)),
        record.first_send_time.map(millis),
        record.sends,
    )
}

/// Changes the attempt of purchase 1 as it is.
async fn change(journal: &dyn Journal, change: AttemptChange) {
    let record = journal.record(id(1)).await.unwrap().unwrap();
    let write = Write::ChangeAttempt {
        purchase: id(1),
        expected: record.expected(),
        change,
    };
    assert_eq!(journal.write(write).await.unwrap(), Written::Done);
}

pub async fn an_attempt_begins_and_ends(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    let begins = |by, until, now| AttemptChange::Begin {
        attempt: attempt(by, until),
        now: at(now),
    };
    change(journal, begins(1, 100, 40)).await;
    assert_eq!(attempt_of(journal).await, (Some(100), Some(40), 1));
    change(journal, begins(1, 200, 140)).await;
    assert_eq!(attempt_of(journal).await, (Some(200), Some(40), 2));
    let extends = |until| AttemptChange::Extend {
        submit_until: at(until),
    };
    change(journal, extends(250)).await;
    assert_eq!(attempt_of(journal).await, (Some(250), Some(40), 2));
    assert_eq!(journal.head().0, 1, "no revision");

    let changes = [
        (AttemptChange::Keep, Some(250), 2),
        (AttemptChange::End, None, 2),
        (begins(3, 300, 290), Some(300), 3),
    ];
    for (change, expected, sends) in changes {
        let record = journal.record(id(1)).await.unwrap().unwrap();
        let previous = &record.purchase.status;
        let mut write = append_write(id(1), step(previous, following(previous, State::Pending)));
        if let Write::Append {
            attempt,
            expected: known,
            ..
        } = &mut write
        {
            (*attempt, *known) = (change, record.expected());
        }
        assert_eq!(journal.write(write).await.unwrap(), Written::Done);
        assert_eq!(attempt_of(journal).await, (expected, Some(40), sends));
    }
    let known = journal.record(id(1)).await.unwrap().unwrap();
    assert_eq!(
        known.attempt,
        Some(attempt(3, 300)),
        "it is read back whole"
    );
    let head = journal.head();
    change(journal, AttemptChange::End).await;
    assert_eq!(attempt_of(journal).await, (None, Some(40), 3));
    change(journal, extends(900)).await;
    assert_eq!(
        attempt_of(journal).await,
        (None, Some(40), 3),
        "none to extend"
    );
    change(journal, AttemptChange::Undate).await;
    let undated = journal.record(id(1)).await.unwrap().unwrap();
    assert_eq!(
        undated.first_send_time,
        Some(crate::purchase::Timestamp::default())
    );
    change(journal, AttemptChange::Unsent).await;
    assert_eq!(
        attempt_of(journal).await,
        (None, None, 0),
        "nothing was sent"
    );
    change(journal, AttemptChange::Undate).await;
    assert_eq!(attempt_of(journal).await, (None, None, 0), "still not");
    change(journal, begins(4, 300, 290)).await;
    assert_eq!(attempt_of(journal).await, (Some(300), Some(290), 1));
    change(journal, AttemptChange::Accepted).await;
    let accepted = journal.record(id(1)).await.unwrap().unwrap();
    assert_eq!((accepted.attempt, accepted.sends), (None, 1));
    assert_eq!(
        accepted.first_send_time,
        Some(crate::purchase::Timestamp::default())
    );
    assert_eq!(journal.head(), head, "no revision");
}

/// A send can begin and end without a revision. Whoever has decided without knowing of it has to decide
/// again.
pub async fn a_change_needs_the_attempt_and_the_sends_that_it_rests_on(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    change(
        journal,
        AttemptChange::Begin {
            attempt: attempt(1, 100),
            now: at(40),
        },
    )
    .await;
    let now = journal.record(id(1)).await.unwrap().unwrap();
    assert_eq!(now.expected(), expected(1, Some(1), 1));
    let stale = Written::Stale(Some(Box::new(now.clone())));
    let previous = newest(journal, 1).await;
    let others = [
        expected(1, None, 1),
        expected(1, Some(2), 1),
        expected(1, Some(1), 0),
        expected(1, Some(1), 2),
        expected(2, Some(1), 1),
    ];
    for other in others {
        let ends = Write::ChangeAttempt {
            purchase: id(1),
            expected: other,
            change: AttemptChange::End,
        };
        assert_eq!(journal.write(ends).await.unwrap(), stale, "{other:?}");
        let mut write = append_write(id(1), step(&previous, following(&previous, State::Failed)));
        if let Write::Append { expected, .. } = &mut write {
            *expected = other;
        }
        assert_eq!(journal.write(write).await.unwrap(), stale, "{other:?}");
    }
    assert_eq!(journal.record(id(1)).await.unwrap(), Some(now));
}

/// Of many that begin a send of the same record one does, and of many that end it for good as well.
pub async fn one_of_many_rivals_begins_each_send(subject: Subject) {
    let journal = &subject.journal;
    begin(&**journal, record(1)).await;
    for round in 0..5_u32 {
        let known = journal.record(id(1)).await.unwrap().unwrap();
        let rivals = (0..20_u128).map(|rival| {
            let begins = Write::ChangeAttempt {
                purchase: id(1),
                expected: known.expected(),
                change: AttemptChange::Begin {
                    attempt: attempt(u128::from(round) * 100 + rival, 100),
                    now: at(40),
                },
            };
            let journal = Arc::clone(journal);
            async move { journal.write(begins).await.unwrap() }
        });
        let written = futures_util::future::join_all(rivals).await;
        let won = written.iter().filter(|one| **one == Written::Done).count();
        assert_eq!(won, 1, "{written:?}");
        let record = journal.record(id(1)).await.unwrap().unwrap();
        assert_eq!(record.sends, round + 1);
    }
}

pub async fn a_note_is_kept(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    for note in [Some("never created".to_owned()), None] {
        let previous = newest(journal, 1).await;
        let mut write = append_write(id(1), step(&previous, following(&previous, State::Failed)));
        if let Write::Append { note: noted, .. } = &mut write {
            *noted = note;
        }
        journal.write(write).await.unwrap();
        let record = journal.record(id(1)).await.unwrap().unwrap();
        assert_eq!(record.resolution_note.as_deref(), Some("never created"));
    }
}

pub async fn a_stale_attention_does_not_move_the_change_time(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    append(journal, 1, |status| status.state = State::Created).await;
    let changed = async || {
        let record = journal.record(id(1)).await.unwrap().unwrap();
        let moved = record.change_time == record.purchase.status.observe_time;
        (record.change_time, moved)
    };
    let (created, moved) = changed().await;
    assert!(moved);
    append(journal, 1, |status| {
        status.attention = attention(AttentionReason::Stale);
        status.code = "code-2".to_owned();
    })
    .await;
    assert_eq!(changed().await, (created, false), "STALE is set");
    append(journal, 1, |status| status.code = "other".to_owned()).await;
    assert!(changed().await.1, "its code is another");
    let (coded, _) = changed().await;
    append(journal, 1, |status| {
        status.attention = None;
        status.code = "other".to_owned();
        status.observe_time = status.observe_time.plus(Duration::from_secs(60));
    })
    .await;
    assert_eq!(changed().await, (coded, false), "STALE is cleared");
    append(journal, 1, |status| {
        status.attention = attention(AttentionReason::NotFoundAtProvider);
        status.code = "other".to_owned();
    })
    .await;
    assert_eq!(changed().await, (coded, false), "unknown to the provider");
    append(journal, 1, |status| {
        status.attention = attention(AttentionReason::UnmappedStatus);
        status.code = "other".to_owned();
    })
    .await;
    assert!(!changed().await.1, "known again");
    append(journal, 1, |status| {
        status.attention = attention(AttentionReason::ProviderManualAction);
        status.code = "other".to_owned();
    })
    .await;
    assert!(changed().await.1, "another attention is a change");
}

pub async fn a_text_is_kept_by_its_key(subject: Subject) {
    let journal = &*subject.journal;
    assert_eq!(journal.get("budget/shop").await.unwrap(), None);
    for value in ["1", "", "2"] {
        let write = Write::Put {
            key: "budget/shop".to_owned(),
            fence: None,
            value: value.to_owned(),
        };
        assert_eq!(journal.write(write).await.unwrap(), Written::Done);
        let kept = journal.get("budget/shop").await.unwrap();
        assert_eq!(kept.as_deref(), Some(value));
    }
    assert_eq!(journal.get("budget/").await.unwrap(), None);
    assert_eq!(journal.head().0, 0, "a text is no transition");
}
