//! The task that tells other processes of a store what this one has learned of an account, and gives back
//! the places in flight that it does not use.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::Account;

/// The wait after a word that the store did not take.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Begins to tell. It ends with its account.
pub(super) fn begin(account: &Arc<Account>) {
    let (news, account) = (Arc::clone(&account.news), Arc::downgrade(account));
    tokio::spawn(async move {
        while let Some(wait) = tell(&account).await {
            let waited = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The same seed is the same run.
                biased;
                () = news.notified() => {}
                () = waited => {}
            }
        }
    });
}

/// Tells what there is to tell. Returns the time until there may be more, if nothing is learned before;
/// `None` if the account is gone.
async fn tell(account: &Weak<Account>) -> Option<Option<Duration>> {
    let account = account.upgrade()?;
    let _taking = account.taking.lock().await;
    let now = account.clock.moment();
    let word = account.lock().word(now);
    if let Some(word) = word {
        match account.budgets.tell(&account.name, &word).await {
            Ok(heard) => account.lock().heard(heard, account.clock.moment()),
            Err(_) => {
                account.lock().unheard();
                return Some(Some(AGAIN_AFTER));
            }
        }
    }
    let returns_at = account.lock().returns_at();
    Some(returns_at.map(|at| at.since(account.clock.moment())))
}
