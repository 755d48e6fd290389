//! Requests that the service refuses: each refusal says what is wrong, and no provider is asked.

use std::collections::HashMap;

use prost_types::Duration;
use sha2::{Digest as _, Sha256};
use tillwatch::Refusal;
use tillwatch_proto::v1::{
    CreatePurchaseRequest, DevdraftOrder, DevdraftReference, GetStatusRequest, ListAccountsRequest,
    ListPurchasesRequest, MasumiOrder, ProviderReference, PurchaseFilter, RefreshStatusRequest,
    ResolvePurchaseRequest, StopTracking, WatchPurchasesRequest, WatchStatusRequest,
    create_purchase_request::Order, get_status_request::Key, provider_reference::Reference,
    resolve_purchase_request::Resolution,
};
use tillwatch_sandbox::{PROVIDERS, Scenario};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    house::{House, SECOND_DEVDRAFT, Settings, account, refusal, token},
    orders::{minutes_ahead, order, request},
    process::until,
};

/// Asserts that a refusal names this field, with a rule.
fn names(refused: &Refusal, field: &str) {
    assert_eq!(refused.reason, "INVALID_REQUEST", "{field}: {refused:?}");
    assert_eq!(refused.code, Code::InvalidArgument);
    let named = refused.violations.iter().find(|one| one.field == field);
    let named = named.unwrap_or_else(|| panic!("{field} is not named: {refused:?}"));
    assert!(!named.rule.is_empty(), "{field}");
    assert!(refused.message.contains(field), "for a person: {refused:?}");
}

fn ordered(order: Order, provider: &str) -> CreatePurchaseRequest {
    CreatePurchaseRequest {
        order: Some(order),
        ..request("key", provider, Scenario::Paid)
    }
}

#[tokio::test]
async fn a_bad_create_names_the_field_and_the_rule_and_nothing_is_sent() {
    let house = House::still().await;
    let good = request("key", "devdraft", Scenario::Paid);
    let labels = |labels: Vec<(String, String)>| CreatePurchaseRequest {
        labels: labels.into_iter().collect(),
        ..good.clone()
    };
    let keyed = |key: &str| CreatePurchaseRequest {
        idempotency_key: key.to_owned(),
        ..good.clone()
    };
    let times = |change: fn(&mut MasumiOrder)| {
        let mut order = order("masumi", Scenario::Paid);
        if let Order::Masumi(masumi) = &mut order {
            change(masumi);
        }
        ordered(order, "masumi")
    };
    let fiat = |amount: &str| {
        let mut order = order("inabit", Scenario::Paid);
        if let Order::Inabit(inabit) = &mut order {
            inabit.fiat_amount = amount.to_owned();
        }
        ordered(order, "inabit")
    };
    let charge = |amount: &str| {
        let mut order = order("carbon", Scenario::Paid);
        if let Order::Carbon(carbon) = &mut order {
            carbon.fiat_charge_amount = amount.to_owned();
        }
        ordered(order, "carbon")
    };
    let many = (0..17).map(|number| (number.to_string(), String::new()));
    let no_order = CreatePurchaseRequest {
        order: None,
        ..good.clone()
    };
    let foreign_account = CreatePurchaseRequest {
        account: account("carbon"),
        ..good.clone()
    };
    let nameless = ProviderReference {
        reference: Some(Reference::Devdraft(DevdraftReference::default())),
    };
    let intentless = DevdraftOrder::default();
    let table = [
        (no_order, "order"),
        (keyed(""), "idempotency_key"),
        (keyed(&"k".repeat(256)), "idempotency_key"),
        (keyed("schlüssel"), "idempotency_key"),
        (labels(many.collect()), "labels"),
        (labels(vec![("k".repeat(64), String::new())]), "labels"),
        (labels(vec![("k".to_owned(), "v".repeat(256))]), "labels"),
        (foreign_account, "account"),
        (
            times(|order| order.submit_result_time = Some(minutes_ahead(14))),
            "masumi.submit_result_time",
        ),
        (
            times(|order| order.unlock_time = order.submit_result_time),
            "masumi.submit_result_time",
        ),
        (
            times(|order| order.external_dispute_unlock_time = order.unlock_time),
            "masumi.external_dispute_unlock_time",
        ),
        (
            times(|order| order.pay_by_time = Some(minutes_ahead(-6))),
            "masumi.pay_by_time",
        ),
        (
            times(|order| order.unlock_time = None),
            "masumi.unlock_time",
        ),
        (fiat("two"), "inabit.fiat_amount"),
        (fiat("-1"), "inabit.fiat_amount"),
        (fiat(""), "inabit.fiat_amount"),
        (
            ordered(Order::Existing(ProviderReference::default()), "devdraft"),
            "existing",
        ),
        (
            ordered(Order::Existing(nameless), "devdraft"),
            "existing.devdraft.transaction_id",
        ),
        (
            ordered(Order::Devdraft(intentless), "devdraft"),
            "devdraft.intent",
        ),
        (charge("10.391"), "carbon.fiat_charge_amount"),
        (charge("1e3"), "carbon.fiat_charge_amount"),
    ];
    for (bad, field) in table {
        names(&house.refused("shop", bad).await, field);
    }
    for provider in PROVIDERS {
        assert_eq!(house.sandbox.calls(provider), 0, "{provider}");
    }
    // The key is still free: the refused creates have written nothing.
    house.create("shop", good).await;
}

#[tokio::test]
async fn an_account_is_named_where_there_is_a_choice_and_must_be_known() {
    let narrow = r#"
[callers.narrow]
token_sha256 = ["0000000000000000000000000000000000000000000000000000000000000000"]
accounts = ["devdraft-second"]
scopes = ["create"]
"#;
    let house = House::start(Settings {
        more: format!("{SECOND_DEVDRAFT}{narrow}"),
        ..Settings::default()
    })
    .await;
    let unnamed = |provider: &str| CreatePurchaseRequest {
        account: String::new(),
        ..request(provider, provider, Scenario::Stuck)
    };
    names(&house.refused("shop", unnamed("devdraft")).await, "account");
    let only = house.create("shop", unnamed("carbon")).await;
    assert_eq!(only.account, account("carbon"));
    let unknown = CreatePurchaseRequest {
        account: "nobody".to_owned(),
        ..unnamed("devdraft")
    };
    let unknown = house.refused("shop", unknown).await;
    assert_eq!(unknown.reason, "ACCOUNT_UNKNOWN");
    assert_eq!(unknown.code, Code::NotFound);
}

#[tokio::test]
async fn a_bad_read_names_the_field_and_the_rule() {
    let house = House::still().await;
    let id = house
        .create("shop", request("key", "devdraft", Scenario::Stuck))
        .await
        .id;
    let mut shop = house.stub("shop").await;
    for page_size in [-1, 1001] {
        let list = ListPurchasesRequest {
            page_size,
            ..ListPurchasesRequest::default()
        };
        names(&refusal(shop.list_purchases(list).await), "page_size");
    }
    let list = ListPurchasesRequest {
        filter: Some(PurchaseFilter {
            states: vec![99],
            ..PurchaseFilter::default()
        }),
        ..ListPurchasesRequest::default()
    };
    names(&refusal(shop.list_purchases(list).await), "filter.states");
    let watch = |seconds, nanos| WatchStatusRequest {
        purchase_id: id.clone(),
        heartbeat_interval: Some(Duration { seconds, nanos }),
        ..WatchStatusRequest::default()
    };
    for (seconds, nanos) in [(4, 999_999_999), (120, 1), (0, 0), (-5, 0)] {
        let refused = refusal(shop.watch_status(watch(seconds, nanos)).await);
        names(&refused, "heartbeat_interval");
    }
    let until = WatchStatusRequest {
        purchase_id: id.clone(),
        until: 9,
        ..WatchStatusRequest::default()
    };
    names(&refusal(shop.watch_status(until).await), "until");
    let wait = GetStatusRequest {
        key: Some(Key::PurchaseId(id.clone())),
        after_revision: Some(1),
        max_wait: Some(Duration {
            seconds: 61,
            nanos: 0,
        }),
    };
    names(&refusal(shop.get_status(wait).await), "max_wait");
    let nothing = GetStatusRequest::default();
    names(&refusal(shop.get_status(nothing).await), "key");
    let ahead = WatchStatusRequest {
        purchase_id: id.clone(),
        after_revision: Some(1000),
        ..WatchStatusRequest::default()
    };
    let ahead = refusal(shop.watch_status(ahead).await);
    assert_eq!(ahead.reason, "REVISION_AHEAD");
    assert_eq!(ahead.code, Code::OutOfRange);
    let both = WatchPurchasesRequest {
        resume_token: "x".to_owned(),
        from_beginning: true,
        ..WatchPurchasesRequest::default()
    };
    names(&refusal(shop.watch_purchases(both).await), "from_beginning");
    let decision = ResolvePurchaseRequest {
        purchase_id: id,
        ..ResolvePurchaseRequest::default()
    };
    let refused = refusal(house.stub("desk").await.resolve_purchase(decision).await);
    names(&refused, "expected_revision");
    names(&refused, "resolution");
}

#[tokio::test]
async fn foreign_and_damaged_tokens_are_refused() {
    let house = House::still().await;
    for number in 0..3 {
        for caller in ["shop", "rival"] {
            let order = request(&number.to_string(), "carbon", Scenario::Stuck);
            house.create(caller, order).await;
        }
    }
    let first_page = |filter| ListPurchasesRequest {
        page_size: 1,
        filter,
        ..ListPurchasesRequest::default()
    };
    let mut shop = house.stub("shop").await;
    let mut rival = house.stub("rival").await;
    let own = shop
        .list_purchases(first_page(None))
        .await
        .unwrap()
        .into_inner();
    let foreign = rival
        .list_purchases(first_page(None))
        .await
        .unwrap()
        .into_inner();
    let page = |page_token: &str, filter| ListPurchasesRequest {
        page_token: page_token.to_owned(),
        ..first_page(filter)
    };
    let other = Some(PurchaseFilter {
        needs_attention: true,
        ..PurchaseFilter::default()
    });
    let mut damaged = own.next_page_token.clone();
    damaged.pop();
    for (token, filter) in [
        (foreign.next_page_token.as_str(), None),
        (own.next_page_token.as_str(), other),
        (own.resume_token.as_str(), None),
        (damaged.as_str(), None),
        ("nonsense", None),
    ] {
        let refused = refusal(shop.list_purchases(page(token, filter)).await);
        names(&refused, "page_token");
    }
    shop.list_purchases(page(&own.next_page_token, None))
        .await
        .unwrap();
    for token in [foreign.resume_token, own.next_page_token, "x".to_owned()] {
        let watch = WatchPurchasesRequest {
            resume_token: token,
            ..WatchPurchasesRequest::default()
        };
        names(&refusal(shop.watch_purchases(watch).await), "resume_token");
    }
}

#[tokio::test]
async fn nobody_calls_without_a_token_that_is_known() {
    let house = House::still().await;
    let almost = format!("Bearer {}x", token("shop"));
    let basic = format!("Basic {}", token("shop"));
    for authorization in [
        None,
        Some("Bearer"),
        Some(almost.as_str()),
        Some(basic.as_str()),
    ] {
        let mut nobody = house.stranger(authorization).await;
        let answers = [
            refusal(nobody.list_accounts(ListAccountsRequest {}).await),
            refusal(nobody.list_purchases(ListPurchasesRequest::default()).await),
            refusal(
                nobody
                    .create_purchase(request("a", "carbon", Scenario::Paid))
                    .await,
            ),
            refusal(
                nobody
                    .watch_purchases(WatchPurchasesRequest::default())
                    .await,
            ),
        ];
        for answer in answers {
            assert_eq!(answer.reason, "UNAUTHENTICATED", "{authorization:?}");
            assert_eq!(answer.code, Code::Unauthenticated);
        }
    }
}

#[tokio::test]
async fn a_caller_does_what_its_scopes_say() {
    let house = House::still().await;
    let id = house
        .create("shop", request("key", "carbon", Scenario::Stuck))
        .await
        .id;
    let existing = CreatePurchaseRequest {
        order: Some(Order::Existing(ProviderReference {
            reference: Some(Reference::Devdraft(DevdraftReference {
                transaction_id: "txn_1".to_owned(),
            })),
        })),
        ..request("key", "devdraft", Scenario::Paid)
    };
    let resolve = ResolvePurchaseRequest {
        purchase_id: id.clone(),
        expected_revision: 1,
        resolution: Some(Resolution::StopTracking(StopTracking {
            note: "stuck".to_owned(),
        })),
    };
    let refresh = RefreshStatusRequest { purchase_id: id };
    for caller in ["reader", "desk"] {
        let mut stub = house.stub(caller).await;
        let create = stub
            .create_purchase(request("b", "carbon", Scenario::Paid))
            .await;
        assert_eq!(refusal(create).reason, "SCOPE_MISSING", "{caller} creates");
        let adopt = refusal(stub.create_purchase(existing.clone()).await);
        assert_eq!(adopt.reason, "SCOPE_MISSING", "{caller} adopts");
        assert_eq!(adopt.code, Code::PermissionDenied);
    }
    for caller in ["reader", "shop"] {
        let refused = house
            .stub(caller)
            .await
            .resolve_purchase(resolve.clone())
            .await;
        assert_eq!(
            refusal(refused).reason,
            "SCOPE_MISSING",
            "{caller} resolves"
        );
    }
    let mut desk = house.stub("desk").await;
    desk.refresh_status(refresh).await.unwrap();
    let accounts = desk.list_accounts(ListAccountsRequest {}).await.unwrap();
    assert_eq!(accounts.into_inner().accounts.len(), PROVIDERS.len());
}

#[tokio::test]
async fn another_callers_purchase_is_not_there() {
    let house = House::still().await;
    let id = house
        .create("shop", request("key", "carbon", Scenario::Stuck))
        .await
        .id;
    let mut rival = house.stub("rival").await;
    let get = |key| GetStatusRequest {
        key: Some(key),
        ..GetStatusRequest::default()
    };
    let watch = WatchStatusRequest {
        purchase_id: id.clone(),
        ..WatchStatusRequest::default()
    };
    let refresh = RefreshStatusRequest {
        purchase_id: id.clone(),
    };
    let answers = [
        refusal(rival.get_status(get(Key::PurchaseId(id.clone()))).await),
        refusal(
            rival
                .get_status(get(Key::IdempotencyKey("key".to_owned())))
                .await,
        ),
        refusal(rival.watch_status(watch).await),
        refusal(rival.refresh_status(refresh).await),
    ];
    for answer in answers {
        assert_eq!(answer.reason, "PURCHASE_NOT_FOUND");
        assert_eq!(answer.code, Code::NotFound);
    }
    let list = rival.list_purchases(ListPurchasesRequest::default()).await;
    assert!(list.unwrap().into_inner().purchases.is_empty());
    // The operator also sees the owner. The owner's answer does not name the owner.
    let mut desk = house.stub("desk").await;
    let seen = desk
        .get_status(get(Key::PurchaseId(id.clone())))
        .await
        .unwrap();
    assert_eq!(seen.into_inner().purchase.unwrap().caller, "shop");
    let mut shop = house.stub("shop").await;
    let own = shop.get_status(get(Key::PurchaseId(id))).await.unwrap();
    assert_eq!(own.into_inner().purchase.unwrap().caller, "");
    assert_eq!(HashMap::from([("key".to_owned(), "key".to_owned())]), {
        let list = shop.list_purchases(ListPurchasesRequest::default()).await;
        list.unwrap().into_inner().purchases[0].labels.clone()
    });
}

#[tokio::test]
async fn operate_alone_lists_the_accounts_that_a_caller_may_use_and_create_alone_does_not() {
    let callers = [
        ("everywhere", r#"["*"]"#, r#"["operate"]"#),
        ("somewhere", r#"["carbon-main"]"#, r#"["operate"]"#),
        ("buyer", r#"["*"]"#, r#"["create"]"#),
    ];
    let mut more = String::new();
    for (name, accounts, scopes) in callers {
        let hash = hex::encode(Sha256::digest(token(name)));
        more.push_str(&format!(
            "\n[callers.{name}]\ntoken_sha256 = [\"{hash}\"]\naccounts = {accounts}\nscopes = {scopes}\n"
        ));
    }
    let house = House::start(Settings {
        more,
        ..Settings::default()
    })
    .await;
    let mut all: Vec<String> = PROVIDERS.into_iter().map(account).collect();
    all.sort_unstable();
    for (name, expected) in [("everywhere", all), ("somewhere", vec![account("carbon")])] {
        let mut stub = house.stub(name).await;
        let listed = stub.list_accounts(ListAccountsRequest {}).await.unwrap();
        let accounts = listed.into_inner().accounts.into_iter();
        let names: Vec<String> = accounts.map(|account| account.name).collect();
        assert_eq!(names, expected, "{name}");
    }
    let mut buyer = house.stub("buyer").await;
    let refused = refusal(buyer.list_accounts(ListAccountsRequest {}).await);
    assert_eq!(refused.reason, "SCOPE_MISSING");
}

#[tokio::test]
async fn who_has_too_many_streams_open_is_told_when_to_come_back() {
    let house = House::start(Settings {
        more: "[limits]\nstreams = 3\nstreams_per_caller = 2\n".to_owned(),
        ..Settings::default()
    })
    .await;
    house.sandbox.pause();
    let id = house
        .create("shop", request("key", "carbon", Scenario::Stuck))
        .await
        .id;
    let watch = || WatchStatusRequest {
        purchase_id: id.clone(),
        ..WatchStatusRequest::default()
    };
    let wait = |seconds| GetStatusRequest {
        key: Some(Key::PurchaseId(id.clone())),
        after_revision: Some(100),
        max_wait: Some(Duration { seconds, nanos: 0 }),
    };
    let feed = WatchPurchasesRequest::default;
    let (mut shop, mut desk) = (house.stub("shop").await, house.stub("desk").await);
    let first = shop.watch_status(watch()).await.unwrap();
    let second = shop.watch_purchases(feed()).await.unwrap();
    let of_shop = [
        shop.watch_status(watch()).await.map(drop),
        shop.watch_purchases(feed()).await.map(drop),
        // A wait for a status takes a place of a stream; a read without a wait takes none.
        shop.get_status(wait(60)).await.map(drop),
    ];
    shop.get_status(wait(0)).await.unwrap();
    let third = desk.watch_purchases(feed()).await.unwrap();
    let over_all = desk.watch_status(watch()).await.map(drop);
    for refused in of_shop.into_iter().chain([over_all]) {
        let status = refused.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "LIMIT_EXCEEDED");
        assert!(details.retry_info().unwrap().retry_delay.is_some());
        assert_eq!(details.quota_failure().unwrap().violations.len(), 1);
    }
    drop((first, second, third));
    // The server hears of it a moment later.
    until("a place is free again", async || {
        desk.watch_status(watch()).await.is_ok()
    })
    .await;
}
