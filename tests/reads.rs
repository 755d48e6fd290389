//! Reads: waits for a status, pages under change, and the feed that goes on after them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use tillwatch::{Client, Feed, FeedEvent, FeedOptions, FeedStart};
use tillwatch_proto::v1::{
    Finality, ListPurchasesRequest, Purchase, PurchaseFilter, PurchaseState, WatchPurchasesRequest,
    get_status_request::Key,
};
use tillwatch_sandbox::{PROVIDERS, Scenario};
use tokio::time::Instant;

use crate::{
    house::{House, refusal},
    orders::request,
    process::within,
};

#[tokio::test]
async fn get_status_waits_for_a_newer_revision_and_no_longer() {
    let house = House::still().await;
    let id = house
        .create("shop", request("key", "devdraft", Scenario::Paid))
        .await
        .id;
    let first = house
        .settled("awaits funds", &id, |status| {
            status.state() == PurchaseState::AwaitingPayment
        })
        .await;
    let shop = house.client("shop");
    let key = || Key::PurchaseId(id.clone());
    // Nothing changes: once the time has passed, the answer is the newest status.
    let begun = Instant::now();
    let wait = Duration::from_millis(500);
    let same = shop.get_after(key(), first.revision, wait).await.unwrap();
    assert_eq!(
        same.purchase.unwrap().status.unwrap().revision,
        first.revision
    );
    assert!(begun.elapsed() >= wait);
    assert!(same.freshness.unwrap().last_answer_time.is_some());
    // A change ends the wait.
    let waiting = shop.get_after(key(), first.revision, Duration::from_secs(60));
    let moving = async {
        house.sandbox.advance(Duration::from_secs(4));
        Ok::<_, tillwatch::Error>(())
    };
    let (newer, _) = within("a newer revision", async {
        tokio::try_join!(waiting, moving).unwrap()
    })
    .await;
    let status = newer.purchase.unwrap().status.unwrap();
    assert_eq!(status.revision, first.revision + 1);
    assert_eq!(status.state(), PurchaseState::Paid);
    // The wait is over at once if the revision is there already. A key finds the purchase too.
    let begun = Instant::now();
    let key = Key::IdempotencyKey("key".to_owned());
    shop.get_after(key, 1, Duration::from_secs(60))
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30));
}

async fn listed(client: &Client, filter: PurchaseFilter, page_size: i32) -> Vec<Purchase> {
    let mut pages = client.list(filter, page_size);
    let mut found = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        found.extend(page.purchases);
    }
    found
}

#[tokio::test]
async fn a_list_shows_what_its_filter_admits_newest_first() {
    let house = House::still().await;
    for provider in PROVIDERS {
        let order = request(provider, provider, Scenario::Stuck);
        house.create("shop", order).await;
        let refused = request(&format!("{provider} no"), provider, Scenario::Refused);
        house.refused("shop", refused).await;
    }
    let shop = house.client("shop");
    let everything = listed(&shop, PurchaseFilter::default(), 3).await;
    assert_eq!(everything.len(), 2 * PROVIDERS.len());
    let times = everything.iter().map(|one| {
        let time = one.create_time.unwrap();
        (time.seconds, time.nanos)
    });
    assert!(times.is_sorted_by(|newer, older| newer >= older));
    let filter = PurchaseFilter::default;
    let carbon = PurchaseFilter {
        providers: vec!["carbon".to_owned()],
        ..filter()
    };
    let two = PurchaseFilter {
        accounts: vec!["masumi-main".to_owned(), "inabit-main".to_owned()],
        ..filter()
    };
    let failed = PurchaseFilter {
        states: vec![PurchaseState::Failed.into()],
        ..filter()
    };
    let open = PurchaseFilter {
        finalities: vec![Finality::Open.into()],
        ..filter()
    };
    let labelled = PurchaseFilter {
        labels: [("key".to_owned(), "inabit".to_owned())].into(),
        ..filter()
    };
    let attention = PurchaseFilter {
        needs_attention: true,
        ..filter()
    };
    let middle = everything[5].create_time;
    let since = PurchaseFilter {
        created_from: middle,
        ..filter()
    };
    let before = PurchaseFilter {
        created_before: middle,
        ..filter()
    };
    let table = [
        (carbon, 2),
        (two, 4),
        (failed, 5),
        (open, 5),
        (labelled, 1),
        (attention, 0),
    ];
    for (filter, expected) in table {
        let found = listed(&shop, filter.clone(), 1).await;
        assert_eq!(found.len(), expected, "{filter:?}");
    }
    let (since, before) = (
        listed(&shop, since, 0).await,
        listed(&shop, before, 0).await,
    );
    assert_eq!(since.len() + before.len(), everything.len());
    assert!(since.len() >= 6);
}

/// Reads a feed until it has shown the wanted purchases. Returns the revisions of each.
async fn follow(feed: &mut Feed, wanted: &BTreeSet<String>) -> BTreeMap<String, Vec<u32>> {
    let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    while !wanted
        .iter()
        .all(|id| seen.get(id).is_some_and(|all| all.len() > 1))
    {
        let event = within("the next of the feed", feed.next()).await;
        if let FeedEvent::Transition { transition, .. } = event.unwrap().unwrap() {
            let purchase = transition.purchase.unwrap();
            let revision = purchase.status.unwrap().revision;
            seen.entry(purchase.id).or_default().push(revision);
        }
    }
    seen
}

#[tokio::test]
async fn pages_under_creates_skip_and_repeat_nothing_and_hand_over_to_the_feed() {
    let house = House::still().await;
    let shop = house.stub("shop").await;
    let created = |range: std::ops::Range<u32>| {
        let shop = shop.clone();
        async move {
            let mut ids = BTreeSet::new();
            for number in range {
                let order = request(&number.to_string(), "carbon", Scenario::Stuck);
                let answer = shop.clone().create_purchase(order).await.unwrap();
                ids.insert(answer.into_inner().purchase.unwrap().id);
            }
            ids
        }
    };
    let before = created(0..25).await;
    let mut listing = house.stub("shop").await;
    let list = async {
        let mut request = ListPurchasesRequest {
            page_size: 2,
            ..ListPurchasesRequest::default()
        };
        let (mut found, mut tokens) = (Vec::new(), BTreeSet::new());
        loop {
            let page = listing.list_purchases(request.clone()).await.unwrap();
            let page = page.into_inner();
            found.extend(page.purchases.into_iter().map(|purchase| purchase.id));
            tokens.insert(page.resume_token);
            if page.next_page_token.is_empty() {
                return (found, tokens);
            }
            request.page_token = page.next_page_token;
        }
    };
    let (during, (found, tokens)) = tokio::join!(created(25..50), list);
    let once: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(once.len(), found.len(), "a purchase was listed twice");
    assert!(before.is_subset(&once), "a purchase was skipped");
    assert_eq!(tokens.len(), 1, "every page hands over at the same place");
    let after = created(50..60).await;
    let start = FeedStart::After(tokens.into_iter().next().unwrap());
    let options = FeedOptions {
        start,
        ..FeedOptions::default()
    };
    let mut feed = house
        .client("shop")
        .watch_purchases(PurchaseFilter::default(), options);
    let wanted: BTreeSet<String> = during.union(&after).cloned().collect();
    let missing: BTreeSet<String> = wanted.difference(&once).cloned().collect();
    let seen = follow(&mut feed, &missing).await;
    for id in missing {
        assert_eq!(seen[&id][..2], [1, 2], "{id}");
    }
}

#[tokio::test]
async fn a_feed_tells_everything_from_the_beginning_and_resumes_anywhere() {
    let house = House::still().await;
    let mut wanted = BTreeSet::new();
    for number in 0..5 {
        let order = request(&number.to_string(), "devdraft", Scenario::Stuck);
        wanted.insert(house.create("shop", order).await.id);
    }
    house
        .create("rival", request("own", "devdraft", Scenario::Stuck))
        .await;
    for id in &wanted {
        let moved = |status: &tillwatch_proto::v1::PurchaseStatus| status.revision == 3;
        house.settled("awaits funds", id, moved).await;
    }
    let shop = house.client("shop");
    let options = |start| FeedOptions {
        start,
        ..FeedOptions::default()
    };
    let mut feed = shop.watch_purchases(PurchaseFilter::default(), options(FeedStart::Beginning));
    let mut all: Vec<(String, u32, String)> = Vec::new();
    while all.len() < 15 {
        let event = within("the next of the feed", feed.next())
            .await
            .unwrap()
            .unwrap();
        let FeedEvent::Transition {
            transition,
            resume_token,
        } = event
        else {
            panic!("news before all was told");
        };
        let purchase = transition.purchase.unwrap();
        assert!(wanted.contains(&purchase.id), "another caller's purchase");
        all.push((purchase.id, purchase.status.unwrap().revision, resume_token));
    }
    let event = within("a heartbeat follows", feed.next())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(event, FeedEvent::Heartbeat { .. }), "{event:?}");
    for (place, (_, _, token)) in all.iter().enumerate().take(14) {
        let start = FeedStart::After(token.clone());
        let mut resumed = shop.watch_purchases(PurchaseFilter::default(), options(start));
        let event = within("the resumed feed", resumed.next())
            .await
            .unwrap()
            .unwrap();
        let FeedEvent::Transition { transition, .. } = event else {
            panic!("news before all was told");
        };
        let purchase = transition.purchase.unwrap();
        let next = &all[place + 1];
        assert_eq!(
            (&purchase.id, purchase.status.unwrap().revision),
            (&next.0, next.1)
        );
    }
}

/// A stream from such a token would miss transitions until the journal has caught up with it.
#[tokio::test]
async fn a_token_from_after_a_backup_is_refused_once_that_is_restored() {
    let mut house = House::still().await;
    let create = |key: &'static str| request(key, "carbon", Scenario::Stuck);
    let list = async |house: &House| {
        let mut shop = house.stub("shop").await;
        let page = shop.list_purchases(ListPurchasesRequest::default()).await;
        page.unwrap().into_inner().resume_token
    };
    house.create("shop", create("one")).await;
    let before = list(&house).await;
    let stop = async |house: &mut House| {
        house.server.signal("TERM").await;
        assert!(house.server.exit().await.success());
    };
    stop(&mut house).await;
    let (journal, backup) = (house.folder().join("tillwatch.db"), "backup");
    let backup = house.folder().join(backup);
    fs::copy(&journal, &backup).unwrap();
    house.restart().await;
    house.create("shop", create("two")).await;
    let after = list(&house).await;
    stop(&mut house).await;
    fs::copy(&backup, &journal).unwrap();
    house.restart().await;
    let mut shop = house.stub("shop").await;
    let mut watch = async |token: &str| {
        let request = WatchPurchasesRequest {
            resume_token: token.to_owned(),
            ..WatchPurchasesRequest::default()
        };
        shop.watch_purchases(request).await
    };
    let refused = refusal(watch(&after).await.map(drop));
    assert_eq!(refused.reason, "RESUME_TOKEN_EXPIRED", "{refused:?}");
    assert_eq!(refused.code, tonic::Code::OutOfRange);
    let mut feed = watch(&before).await.unwrap().into_inner();
    within("the first of the feed", feed.message())
        .await
        .unwrap()
        .unwrap();
}
