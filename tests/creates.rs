//! The answers to creates, and the number of creates that providers see.

use std::time::Duration;

use tillwatch_proto::v1::{
    CreatePurchaseRequest, Finality, PurchaseState, create_purchase_request::Order,
    devdraft_order::Intent,
};
use tillwatch_sandbox::{Fault, Options, PROVIDERS, Sandbox, Scenario, Target};
use tonic::Code;

use crate::{
    house::{House, SECOND_DEVDRAFT, Settings},
    orders::{order, request},
    process::{until, within},
    store::Store,
};

#[tokio::test]
async fn a_new_key_has_no_blanks_around_it_and_a_stored_one_is_found_as_before() {
    let house = House::still().await;
    for key in [" order-1", "order-1 ", " "] {
        let refused = house.refused("shop", request(key, "devdraft", Scenario::Paid));
        let refused = refused.await;
        assert_eq!(refused.reason, "INVALID_REQUEST", "{key:?}");
        assert_eq!(refused.violations[0].field, "idempotency_key", "{key:?}");
    }
    assert_eq!(house.sandbox.created("devdraft"), 0);
    // An older release has stored such a key.
    let first = request("order-1", "devdraft", Scenario::Paid);
    let id = house.create("shop", first).await.id;
    let file = house.folder().join("tillwatch.db");
    let database = rusqlite::Connection::open(&file).unwrap();
    let sql = "UPDATE purchase SET key = 'order-1 '";
    assert_eq!(database.execute(sql, []).unwrap(), 1);
    let mut shop = house.stub("shop").await;
    let again = shop.create_purchase(request("order-1 ", "devdraft", Scenario::Paid));
    let again = again.await.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(again.purchase.unwrap().id, id);
    let get = tillwatch_proto::v1::GetStatusRequest {
        key: Some(
            tillwatch_proto::v1::get_status_request::Key::IdempotencyKey("order-1 ".to_owned()),
        ),
        ..Default::default()
    };
    let found = shop.get_status(get).await.unwrap().into_inner();
    assert_eq!(found.purchase.unwrap().id, id);
    assert_eq!(house.sandbox.created("devdraft"), 1);
}

#[tokio::test]
async fn a_repeated_create_returns_the_first_purchase() {
    repeats(Store::Sqlite).await;
}

#[tokio::test]
async fn a_repeated_create_returns_the_first_purchase_on_postgresql() {
    repeats(Store::postgres()).await;
}

async fn repeats(store: Store) {
    let house = House::still_on(store).await;
    let mut shop = house.stub("shop").await;
    for provider in PROVIDERS {
        let order = request(provider, provider, Scenario::Stuck);
        let first = shop.create_purchase(order.clone()).await.unwrap();
        let first = first.into_inner();
        assert!(!first.replayed, "{provider}");
        let mut again = order.clone();
        again.labels.clear();
        let again = shop.create_purchase(again).await.unwrap().into_inner();
        assert!(again.replayed, "{provider}");
        let (first, again) = (first.purchase.unwrap(), again.purchase.unwrap());
        assert_eq!(first.id, again.id);
        assert_eq!(first.labels, again.labels, "labels are those of the first");
        // Another caller's purchase has the same key.
        let other = house.create("rival", request(provider, provider, Scenario::Stuck));
        assert_ne!(other.await.id, first.id);
        assert_eq!(house.sandbox.created(provider), 2, "{provider}");
    }
}

#[tokio::test]
async fn concurrent_duplicates_create_once_and_one_is_first() {
    duplicates(Store::Sqlite).await;
}

#[tokio::test]
async fn concurrent_duplicates_create_once_and_one_is_first_on_postgresql() {
    duplicates(Store::postgres()).await;
}

async fn duplicates(store: Store) {
    let house = House::still_on(store).await;
    let shop = house.stub("shop").await;
    let order = request("same", "devdraft", Scenario::Stuck);
    let calls = (0..1_000).map(|_| {
        let (mut shop, order) = (shop.clone(), order.clone());
        async move { shop.create_purchase(order).await.unwrap().into_inner() }
    });
    let answers = within("all answers", futures_util::future::join_all(calls)).await;
    let firsts = answers.iter().filter(|answer| !answer.replayed).count();
    assert_eq!(firsts, 1);
    let id =
        |answer: &tillwatch_proto::v1::CreatePurchaseResponse| answer.purchase.clone().unwrap().id;
    assert!(answers.iter().all(|answer| id(answer) == id(&answers[0])));
    assert_eq!(house.sandbox.created("devdraft"), 1);
}

#[tokio::test]
async fn a_caller_that_cancels_does_not_stop_its_create() {
    let house = House::start(Settings::default().polled("timeout", r#""20s""#)).await;
    house.sandbox.pause();
    for provider in PROVIDERS {
        // The answer takes long enough to be cut, and far less than the timeout.
        let slow = Fault::SlowDrip(Duration::from_millis(1));
        house.sandbox.fault_on(provider, Target::Create, slow, 1);
        let order = request(provider, provider, Scenario::Stuck);
        let (mut shop, first) = (house.stub("shop").await, order.clone());
        let call = tokio::spawn(async move { shop.create_purchase(first).await });
        until("the provider has the order", async || {
            house.sandbox.calls(provider) == 1
        })
        .await;
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled(), "{provider}");
        // A repeat joins the attempt under way and hears its answer.
        let again = house.stub("shop").await.create_purchase(order).await;
        let again = again.unwrap().into_inner();
        assert!(again.replayed, "{provider}");
        let status = again.purchase.unwrap().status.unwrap();
        assert!(status.reference.is_some(), "{provider}: {status:?}");
        assert_eq!(house.sandbox.created(provider), 1, "{provider}");
    }
}

#[tokio::test]
async fn a_repeat_names_no_account_although_there_is_a_choice_by_now() {
    let mut house = House::still().await;
    let order = CreatePurchaseRequest {
        account: String::new(),
        ..request("key", "devdraft", Scenario::Stuck)
    };
    let first = house.create("shop", order.clone()).await;
    house.server.kill().await;
    house.settings.more = SECOND_DEVDRAFT.to_owned();
    house.restart().await;
    let again = house
        .stub("shop")
        .await
        .create_purchase(order.clone())
        .await;
    let again = again.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(again.purchase.unwrap().id, first.id);
    let new = CreatePurchaseRequest {
        idempotency_key: "new".to_owned(),
        ..order
    };
    let refused = house.refused("shop", new).await;
    assert_eq!(
        refused.reason, "INVALID_REQUEST",
        "a new one has to name it"
    );
}

#[tokio::test]
async fn another_order_under_a_key_is_refused_and_names_the_fields() {
    let house = House::still().await;
    let first = request("key", "devdraft", Scenario::Stuck);
    let id = house.create("shop", first.clone()).await.id;
    let Order::Devdraft(mut changed) = order("devdraft", Scenario::Paid) else {
        panic!("an order at Devdraft");
    };
    changed.customer.as_mut().unwrap().email = "secret-address@example.test".to_owned();
    let Some(Intent::Stablecoin(intent)) = &mut changed.intent else {
        panic!("a stablecoin");
    };
    intent.destination_network = "solana".to_owned();
    let other = CreatePurchaseRequest {
        order: Some(Order::Devdraft(changed)),
        ..first.clone()
    };
    let refused = house.refused("shop", other).await;
    assert_eq!(refused.code, Code::AlreadyExists);
    assert_eq!(refused.reason, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(refused.purchase_id.as_deref(), Some(id.as_str()));
    let mut fields = refused.differing_fields.clone();
    fields.sort();
    let expected = [
        "customer.email",
        "stablecoin.amount",
        "stablecoin.destination_network",
    ];
    assert_eq!(fields, expected);
    assert!(!format!("{refused:?}").contains("secret-address"));
    // The same amount in other digits is the same order.
    let Order::Devdraft(mut changed) = order("devdraft", Scenario::Stuck) else {
        panic!("an order at Devdraft");
    };
    let Some(Intent::Stablecoin(intent)) = &mut changed.intent else {
        panic!("a stablecoin");
    };
    intent.amount = format!("0{}0", intent.amount);
    let same = CreatePurchaseRequest {
        order: Some(Order::Devdraft(changed)),
        ..first
    };
    let again = house.stub("shop").await.create_purchase(same).await;
    assert!(again.unwrap().into_inner().replayed);
    assert_eq!(house.sandbox.created("devdraft"), 1);
}

#[tokio::test]
async fn a_refused_order_says_so_now_and_on_each_repeat() {
    let house = House::still().await;
    for provider in PROVIDERS {
        let order = request(provider, provider, Scenario::Refused);
        let refused = house.refused("shop", order.clone()).await;
        assert_eq!(refused.reason, "PROVIDER_REJECTED", "{provider}");
        assert_eq!(refused.code, Code::FailedPrecondition);
        let id = refused.purchase_id.expect("the purchase's id");
        let again = house.refused("shop", order).await;
        assert_eq!(again.reason, "PROVIDER_REJECTED", "{provider}");
        assert_eq!(again.purchase_id, Some(id.clone()));
        let status = house.settled("FAILED", &id, |_| true).await;
        assert_eq!(status.state(), PurchaseState::Failed, "{provider}");
        assert_eq!(status.finality(), Finality::Final);
        assert_eq!(status.failure.unwrap().reason, "REJECTED");
        assert_eq!(house.sandbox.created(provider), 0);
        assert_eq!(house.sandbox.calls(provider), 1, "{provider}");
    }
}

#[tokio::test]
async fn an_order_that_could_not_be_sent_is_sent_once_when_repeated() {
    let mut house = House::still().await;
    let address = house.sandbox.address();
    let away = Sandbox::start(Options::default()).await.unwrap();
    std::mem::replace(&mut house.sandbox, away).stop().await;
    let orders: Vec<_> = PROVIDERS
        .map(|provider| (provider, request(provider, provider, Scenario::Stuck)))
        .into();
    let mut waiting = Vec::new();
    for (provider, order) in &orders {
        let refused = house.refused("shop", order.clone()).await;
        assert_eq!(refused.reason, "PROVIDER_UNREACHABLE", "{provider}");
        assert_eq!(refused.code, Code::Unavailable);
        assert!(refused.retry_after.is_some_and(|wait| !wait.is_zero()));
        let id = refused.purchase_id.expect("the purchase's id");
        let status = house.settled("waits", &id, |_| true).await;
        assert_eq!(status.state(), PurchaseState::Pending, "{provider}");
        assert_eq!(status.attention.unwrap().reason, "REPEAT_WANTED");
        waiting.push(id);
    }
    let back = Options {
        listen: address,
        ..Settings::default().sandbox
    };
    house.sandbox = Sandbox::start(back).await.unwrap();
    house.sandbox.pause();
    for ((provider, order), id) in orders.into_iter().zip(waiting) {
        let answer = house.stub("shop").await.create_purchase(order).await;
        let answer = answer.unwrap().into_inner();
        assert!(!answer.replayed, "nobody was told of it: {provider}");
        let purchase = answer.purchase.unwrap();
        assert_eq!(purchase.id, id);
        assert!(purchase.status.unwrap().reference.is_some(), "{provider}");
        assert_eq!(house.sandbox.created(provider), 1, "{provider}");
    }
}

#[tokio::test]
async fn refused_credentials_and_throttling_are_told_and_the_order_may_be_repeated() {
    let house = House::still().await;
    let table = [
        (
            Fault::Unauthorized,
            "ACCOUNT_UNAUTHORIZED",
            Code::FailedPrecondition,
            Duration::from_secs(1),
        ),
        (
            Fault::Throttled(1),
            "ACCOUNT_THROTTLED",
            Code::ResourceExhausted,
            Duration::from_millis(500),
        ),
    ];
    for provider in PROVIDERS {
        for (number, (fault, reason, code, wait)) in table.into_iter().enumerate() {
            let sandbox = &house.sandbox;
            sandbox.fault_on(provider, Target::Create, fault, 1);
            let order = request(&format!("{provider} {number}"), provider, Scenario::Stuck);
            let refused = house.refused("shop", order.clone()).await;
            assert_eq!(
                (refused.reason.as_str(), refused.code),
                (reason, code),
                "{provider}"
            );
            let after = refused.retry_after.expect("a time to repeat");
            assert!(after >= wait, "{provider}: {after:?}");
            let id = refused.purchase_id.expect("the purchase's id");
            // The library waits as it is told, and repeats with the same key.
            let answer = house.client("shop").create(order).await.unwrap();
            let purchase = answer.purchase.unwrap();
            assert_eq!(purchase.id, id, "{provider}");
            assert!(purchase.status.unwrap().reference.is_some(), "{provider}");
        }
        assert_eq!(house.sandbox.created(provider), 2, "{provider}");
    }
}
