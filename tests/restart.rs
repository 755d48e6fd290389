//! A server is killed in the middle of its work, and another starts over the same store.

use std::collections::BTreeMap;

use tillwatch::{FeedEvent, FeedOptions, FeedStart, WatchEvent, WatchOptions};
use tillwatch_proto::v1::{Finality, PurchaseFilter, PurchaseStatus};
use tillwatch_sandbox::{Options, PROVIDERS, Scenario};

use crate::{
    house::{House, Settings},
    orders::request,
    process::{until, within},
    store::Store,
};

/// Follows a purchase by the client library, over any restart of the server.
async fn follow(client: tillwatch::Client, id: String) -> (Vec<PurchaseStatus>, u32) {
    let options = WatchOptions {
        after_revision: Some(0),
        ..WatchOptions::default()
    };
    let mut watch = client.watch(id, options);
    let (mut seen, mut interruptions) = (Vec::new(), 0);
    while let Some(event) = watch.next().await {
        match event.unwrap() {
            WatchEvent::Transition(step) => seen.push(step.status.unwrap()),
            WatchEvent::Interrupted { .. } => interruptions += 1,
            WatchEvent::Heartbeat(_) => {}
            other => panic!("not asked for: {other:?}"),
        }
    }
    (seen, interruptions)
}

#[tokio::test]
async fn a_killed_server_goes_on_where_it_was_and_watchers_miss_and_repeat_nothing() {
    goes_on(Store::Sqlite).await;
}

#[tokio::test]
async fn a_killed_server_goes_on_where_it_was_on_postgresql() {
    goes_on(Store::postgres()).await;
}

async fn goes_on(store: Store) {
    let mut house = House::start(Settings {
        store,
        sandbox: Options {
            speed: 4.0,
            ..Settings::default().sandbox
        },
        ..Settings::default()
    })
    .await;
    let mut ids = BTreeMap::new();
    for provider in PROVIDERS {
        let order = request(provider, provider, Scenario::Paid);
        ids.insert(provider, house.create("shop", order).await.id);
    }
    let watchers = ids.iter().map(|(provider, id)| {
        let watching = follow(house.client("shop"), id.clone());
        (*provider, tokio::spawn(watching))
    });
    let watchers: Vec<_> = watchers.collect();
    let mut feed = house.client("shop").watch_purchases(
        PurchaseFilter::default(),
        FeedOptions {
            start: FeedStart::Beginning,
            ..FeedOptions::default()
        },
    );
    // All purchases are under way, and none is over.
    until("every purchase has moved", async || {
        PROVIDERS.iter().all(|provider| {
            let references = house.sandbox.references(provider);
            house.sandbox.history(provider, &references[0]).len() > 1
        })
    })
    .await;
    house.server.kill().await;
    house.restart().await;
    let mut interruptions = 0;
    for (provider, watcher) in watchers {
        let (seen, interrupted) = within(provider, watcher).await.unwrap();
        let revisions: Vec<u32> = seen.iter().map(|status| status.revision).collect();
        let dense: Vec<u32> = (1..).take(seen.len()).collect();
        assert_eq!(revisions, dense, "{provider}: {seen:#?}");
        let last = seen.last().unwrap();
        assert_ne!(last.finality(), Finality::Open, "{provider}");
        assert_eq!(house.sandbox.created(provider), 1, "{provider}");
        interruptions += interrupted;
    }
    assert!(interruptions > 0, "nobody noticed the kill");
    // The feed of all purchases has shown the same revisions, each once.
    let mut revisions: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let all_over = async {
        let mut over = std::collections::BTreeSet::new();
        while over.len() < PROVIDERS.len() {
            let FeedEvent::Transition { transition, .. } = feed.next().await.unwrap().unwrap()
            else {
                continue;
            };
            let purchase = transition.purchase.unwrap();
            let status = purchase.status.unwrap();
            if status.finality() != Finality::Open {
                over.insert(purchase.id.clone());
            }
            revisions
                .entry(purchase.id)
                .or_default()
                .push(status.revision);
        }
    };
    within("the feed has them all", all_over).await;
    for (id, revisions) in revisions {
        let dense: Vec<u32> = (1..).take(revisions.len()).collect();
        assert_eq!(revisions, dense, "{id}");
    }
}

#[tokio::test]
async fn a_create_that_was_under_way_when_the_server_was_killed_is_settled_and_not_repeated() {
    let mut house = House::start(Settings::default().polled("timeout", "\"1s\"")).await;
    house.sandbox.pause();
    for provider in PROVIDERS {
        let sandbox = &house.sandbox;
        sandbox.fault_on(
            provider,
            tillwatch_sandbox::Target::Create,
            tillwatch_sandbox::Fault::Hang,
            1,
        );
        let order = request(provider, provider, Scenario::Stuck);
        let mut stub = house.stub("shop").await;
        tokio::spawn(async move { stub.create_purchase(order).await });
    }
    until("every create has arrived", async || {
        PROVIDERS
            .iter()
            .all(|provider| house.sandbox.calls(provider) == 1)
    })
    .await;
    house.server.kill().await;
    house.restart().await;
    let shop = house.client("shop");
    for provider in PROVIDERS {
        let key = tillwatch_proto::v1::get_status_request::Key::IdempotencyKey(provider.to_owned());
        let found = shop.get(key).await.unwrap().purchase.unwrap();
        let wanted = |status: &PurchaseStatus| status.attention.is_some();
        let status = house.settled("it is unclear", &found.id, wanted).await;
        let reason = status.attention.clone().unwrap().reason;
        match provider {
            // The caller's repeat sends again, with the provider's own key.
            "devdraft" => assert_eq!(reason, "REPEAT_WANTED"),
            "phygitals" | "masumi" | "inabit" | "carbon" => {
                assert_eq!(reason, "OUTCOME_UNKNOWN", "{provider}");
            }
            _ => panic!("{provider} is not in this table"),
        }
        assert_eq!(house.sandbox.created(provider), 0, "{provider}");
    }
    let order = request("devdraft", "devdraft", Scenario::Stuck);
    let again = house.stub("shop").await.create_purchase(order).await;
    let purchase = again.unwrap().into_inner().purchase.unwrap();
    let status = purchase.status.unwrap();
    assert!(status.reference.is_some());
    assert_eq!(house.sandbox.created("devdraft"), 1);
}
