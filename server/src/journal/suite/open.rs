//! Reads of the purchases that are not FINAL.

use super::{
    Subject,
    values::{append, begin, finish, id, record},
};
use crate::purchase::{AccountName, Finality, PurchaseId};

pub async fn open_records_are_read_in_pages_without_finals(subject: Subject) {
    let journal = &*subject.journal;
    for number in 0..9 {
        begin(journal, record(number)).await;
        if number % 3 == 0 {
            finish(journal, number).await;
        }
    }
    append(journal, 1, |status| status.finality = Finality::Terminal).await;
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = journal.open_records(after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.purchase.id);
        for one in page {
            assert_eq!(
                journal.record(one.purchase.id).await.unwrap().as_ref(),
                Some(&one)
            );
            found.push(one.purchase.id);
        }
    }
    assert_eq!(found, [1, 2, 4, 5, 7, 8].map(id));
    let end = PurchaseId::from_u128(u128::MAX);
    assert_eq!(journal.open_records(Some(end), 4).await.unwrap(), []);
}

pub async fn open_records_of_an_account_are_its_own(subject: Subject) {
    let journal = &*subject.journal;
    for number in 0..9 {
        let mut record = record(number);
        let account = ["even", "odd", "over"][usize::try_from(number).unwrap() % 3];
        record.purchase.account = AccountName::new(account);
        begin(journal, record).await;
        if account == "over" || number == 0 {
            finish(journal, number).await;
        }
    }
    let open = journal.open_accounts().await.unwrap();
    assert_eq!(open, ["even", "odd"].map(AccountName::new));
    let page = async |account: &str, after: Option<u64>, limit| {
        let account = AccountName::new(account);
        let page = journal.open_of(&account, after.map(id), limit).await;
        let records = page.unwrap().into_iter();
        records.map(|one| one.purchase.id).collect::<Vec<_>>()
    };
    assert_eq!(page("even", None, 4).await, [3, 6].map(id));
    assert_eq!(page("odd", None, 2).await, [1, 4].map(id));
    assert_eq!(page("odd", Some(4), 2).await, [id(7)]);
    assert_eq!(page("odd", Some(7), 2).await, []);
    for account in ["over", "nobody's"] {
        assert_eq!(page(account, None, 4).await, []);
    }
}
