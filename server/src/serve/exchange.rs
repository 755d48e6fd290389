//! The exchange between the rooms of this process and the other replicas.

use async_trait::async_trait;

use super::loops::Loops;
use crate::{
    exchange::{AccountView, Answers, Exchange},
    feed::{Feed, Watching},
    grpc::Rooms,
    journal::Outcome,
    purchase::{AccountName, Freshness, Moment, PurchaseId},
    tracker::{self, Tracker},
};

/// Lets the exchange hear of this process's watchers, and the tracker of all.
pub(super) fn join(exchange: &Exchange, feed: &Feed, tracker: &Tracker) {
    let here = feed.clone();
    tracker.count_watchers(Box::new(move |purchase| here.watchers(purchase)));
    let watched = exchange.clone();
    feed.tell_watches(Box::new(move |watching| match watching {
        Watching::Begins(purchase) => watched.watch(purchase),
        Watching::Ends(purchase) => watched.unwatch(purchase),
    }));
    tracker.talk_over(exchange.clone());
}

/// Begins to talk to the other replicas, if the store can have any.
pub(super) fn begin(work: &Loops, exchange: &Exchange, rooms: &Rooms) {
    if exchange.is_shared() {
        let talking = (exchange.clone(), Here(rooms.clone()));
        work.begin(
            exchange.progress(),
            talking,
            |(exchange, here)| async move {
                exchange.run(&here).await;
            },
        );
    }
}

/// The rooms, as they answer others.
#[derive(Clone)]
struct Here(Rooms);

#[async_trait]
impl Answers for Here {
    fn freshness(&self, account: &AccountName, purchase: PurchaseId) -> Freshness {
        let known = self.0.tracker.freshness_here(account, purchase);
        known.unwrap_or_default()
    }

    async fn refresh(&self, purchase: PurchaseId) -> (Outcome, Option<Moment>) {
        let record = self.0.journal.record(purchase).await;
        let result = match record {
            Ok(Some(record)) => self.0.refresh_here(&record.purchase).await,
            // Its end is committed, and retention has taken it.
            Ok(None) => Ok(()),
            Err(error) => Err(error.into()),
        };
        tracker::ended(&result)
    }

    fn accounts(&self) -> Vec<AccountName> {
        self.0.accounts.all().keys().cloned().collect()
    }

    fn view(&self, account: &AccountName) -> Option<AccountView> {
        let account = self.0.accounts.get(account)?;
        Some(self.0.tracker.view_here(&account))
    }
}
