//! Fences: the store refuses whoever goes on under the take of a lease that another has taken since.

use std::sync::Arc;

use super::{
    Shared, Subject,
    values::{append_write, at, begin, finish, following, id, newest, record, retire, step},
};
use crate::{
    journal::{Fence, Journal, Lease, Ownership, Retirement, Write, Written},
    purchase::{AccountName, Revision, State, Status},
};

pub fn account() -> AccountName {
    AccountName::new("shop")
}

/// Appends a step to purchase 1 under a fence; the step's code is the fence's number.
pub async fn append_under(journal: &dyn Journal, fence: &Fence) -> Written {
    let previous = newest(journal, 1).await;
    let status = Status {
        code: fence.number.to_string(),
        ..following(&previous, State::Created)
    };
    let mut write = append_write(id(1), step(&previous, status));
    if let Write::Append { fence: under, .. } = &mut write {
        *under = Some(fence.clone());
    }
    journal.write(write).await.unwrap()
}

pub async fn put_under(journal: &dyn Journal, fence: &Fence) -> Written {
    let put = Write::Put {
        key: "sweep/shop".to_owned(),
        fence: Some(fence.clone()),
        value: fence.number.to_string(),
    };
    journal.write(put).await.unwrap()
}

pub async fn retire_under(journal: &dyn Journal, fence: Fence) -> Option<usize> {
    let retirement = Retirement {
        fence,
        finals_before: at(9_000),
        remnants_before: at(0),
        limit: 10,
    };
    journal.retire(retirement).await.unwrap()
}

/// The lease of an account as a look shows it.
pub async fn seen(ownership: &dyn Ownership, account: &AccountName) -> Option<Lease> {
    let look = ownership.look(&[]).await.unwrap();
    look.leases
        .into_iter()
        .find(|lease| lease.account == *account)
}

/// Takes a lease as it is, from whoever has it.
pub async fn take(ownership: &dyn Ownership, account: &AccountName) -> Fence {
    let seen = seen(ownership, account).await;
    let taken = ownership.take(account, seen.as_ref()).await.unwrap();
    taken.unwrap()
}

pub async fn fences_of_a_store_without_leases_are_all_zero(subject: Subject) {
    let journal = &*subject.journal;
    begin(journal, record(1)).await;
    let alone = Fence::alone(account());
    assert_eq!(append_under(journal, &alone).await, Written::Done);
    assert_eq!(put_under(journal, &alone).await, Written::Done);
    let other = Fence { number: 1, ..alone };
    let before = journal.record(id(1)).await.unwrap();
    assert_eq!(append_under(journal, &other).await, Written::Fenced);
    assert_eq!(put_under(journal, &other).await, Written::Fenced);
    assert_eq!(journal.record(id(1)).await.unwrap(), before);
    let kept = journal.get("sweep/shop").await.unwrap();
    assert_eq!(kept.as_deref(), Some("0"));
    finish(journal, 1).await;
    let keeper = Fence {
        account: Fence::housekeeping(),
        number: 1,
    };
    assert_eq!(retire_under(journal, keeper).await, None);
    assert!(journal.record(id(1)).await.unwrap().is_some());
    assert_eq!(retire(journal, at(9_000), at(0), 10).await.unwrap(), 4);
}

pub async fn fences_of_a_passed_take_are_refused_and_change_nothing(shared: Shared) {
    let [journal, other] = &shared.journals;
    let [first, second] = &shared.ownerships;
    begin(&**journal, record(1)).await;
    let passed = take(&**first, &account()).await;
    assert_eq!(append_under(&**journal, &passed).await, Written::Done);
    assert_eq!(put_under(&**journal, &passed).await, Written::Done);
    let newer = take(&**second, &account()).await;
    assert!(newer.number > passed.number);
    let before = journal.record(id(1)).await.unwrap();
    assert_eq!(append_under(&**journal, &passed).await, Written::Fenced);
    assert_eq!(put_under(&**journal, &passed).await, Written::Fenced);
    assert_eq!(journal.record(id(1)).await.unwrap(), before);
    let kept = journal.get("sweep/shop").await.unwrap();
    assert_eq!(kept, Some(passed.number.to_string()));
    let stranger = Fence {
        number: newer.number + 1,
        ..newer.clone()
    };
    assert_eq!(append_under(&**other, &stranger).await, Written::Fenced);
    assert_eq!(append_under(&**other, &newer).await, Written::Done);
    // Whatever needs no owner is done by any replica.
    begin(&**journal, record(2)).await;
    super::values::append(&**journal, 1, |_| ()).await;
    // The lease of one account says nothing about another's.
    let elsewhere = take(&**first, &AccountName::new("kiosk")).await;
    assert_eq!(append_under(&**journal, &elsewhere).await, Written::Done);
}

pub async fn fences_are_looked_at_before_any_other_guard(shared: Shared) {
    let [journal, _] = &shared.journals;
    let [first, second] = &shared.ownerships;
    begin(&**journal, record(1)).await;
    let passed = take(&**first, &account()).await;
    take(&**second, &account()).await;
    let pending = newest(&**journal, 1).await;
    super::values::append(&**journal, 1, |_| ()).await;
    let mut stale = append_write(id(1), step(&pending, following(&pending, State::Paid)));
    let written = journal.write(stale.clone()).await.unwrap();
    assert!(matches!(written, Written::Stale(Some(_))), "{written:?}");
    if let Write::Append { fence, .. } = &mut stale {
        *fence = Some(passed);
    }
    assert_eq!(journal.write(stale).await.unwrap(), Written::Fenced);
}

pub async fn fences_are_given_only_for_a_lease_that_is_as_it_was_seen(shared: Shared) {
    let [first, second] = &shared.ownerships;
    let account = account();
    let fence = first.take(&account, None).await.unwrap().unwrap();
    let again = second.take(&account, None).await.unwrap();
    assert_eq!(again, None, "it was taken since");
    let before = seen(&**second, &account).await;
    let shown = before.clone().unwrap();
    let owner = Some(first.replica().clone());
    assert_eq!((shown.owner, shown.fence), (owner, fence.number));
    first.look(std::slice::from_ref(&fence)).await.unwrap();
    let late = second.take(&account, before.as_ref()).await.unwrap();
    assert_eq!(late, None, "it was renewed since");
    let newer = take(&**second, &account).await;
    // A renewal under the older fence is none.
    let before = seen(&**second, &account).await.unwrap();
    first.look(&[fence]).await.unwrap();
    let after = seen(&**second, &account).await.unwrap();
    assert_eq!((after.beat, after.fence), (before.beat, newer.number));
    assert_eq!(after.owner.as_ref(), Some(second.replica()));
}

pub async fn fences_of_a_released_lease_are_passed(shared: Shared) {
    let [journal, _] = &shared.journals;
    let [first, second] = &shared.ownerships;
    begin(&**journal, record(1)).await;
    let fence = take(&**first, &account()).await;
    first.release(&fence).await.unwrap();
    assert_eq!(append_under(&**journal, &fence).await, Written::Fenced);
    let released = seen(&**second, &account()).await.unwrap();
    assert_eq!(released.owner, None);
    let newer = second.take(&account(), Some(&released)).await.unwrap();
    let newer = newer.unwrap();
    first.release(&fence).await.unwrap();
    let written = append_under(&**journal, &newer).await;
    assert_eq!(written, Written::Done, "another's release is none");
}

pub async fn fences_of_housekeeping_let_one_replica_retire(shared: Shared) {
    let [journal, other] = &shared.journals;
    let [first, second] = &shared.ownerships;
    begin(&**journal, record(1)).await;
    finish(&**journal, 1).await;
    let passed = take(&**first, &Fence::housekeeping()).await;
    let newer = take(&**second, &Fence::housekeeping()).await;
    assert_eq!(retire_under(&**journal, passed).await, None);
    assert!(journal.record(id(1)).await.unwrap().is_some());
    assert_eq!(retire_under(&**other, newer).await, Some(3));
}

/// Two replicas take one lease from each other as fast as they can, and write under each fence until it
/// is passed.
pub async fn fences_never_go_back_under_hammering(shared: Shared) {
    const TAKES: usize = 30;
    begin(&*shared.journals[0], record(1)).await;
    let sides = shared.journals.iter().zip(&shared.ownerships);
    let sides = sides.zip([3, 5]).map(|((journal, ownership), step)| {
        let (journal, ownership) = (Arc::clone(journal), Arc::clone(ownership));
        async move {
            let mut taken = 0;
            while taken < TAKES {
                let known = seen(&*ownership, &account()).await;
                let take = ownership.take(&account(), known.as_ref()).await;
                let Some(fence) = take.unwrap() else { continue };
                taken += 1;
                for turn in 0..20 {
                    // They must not go in step: then one would always be first.
                    for _ in 0..turn * step % 7 {
                        tokio::task::yield_now().await;
                    }
                    if append_under(&*journal, &fence).await == Written::Fenced {
                        break;
                    }
                }
            }
        }
    });
    futures_util::future::join_all(sides).await;
    let steps = shared.journals[0].transitions(id(1), Revision(1), 10_000);
    let steps = steps.await.unwrap();
    let numbers: Vec<u64> = (steps.iter())
        .map(|step| step.status.code.parse().unwrap())
        .collect();
    let takes: std::collections::BTreeSet<_> = numbers.iter().collect();
    assert!(
        takes.len() > TAKES / 2,
        "{} takes have written",
        takes.len()
    );
    assert!(numbers.is_sorted(), "{numbers:?}");
}
