//! Callers that create: they repeat, hang up, wait too little, and never give up before the end.

use std::{sync::Arc, time::Duration};

use tillwatch_proto::v1::{
    CarbonOrder, CreatePurchaseRequest, DevdraftCustomer, DevdraftOrder, DevdraftStablecoinIntent,
    InabitOrder, MasumiAmount, MasumiOrder, PhygitalsOrder, create_purchase_request::Order,
    devdraft_order::Intent,
};
use tillwatch_server::purchase::Timestamp;
use tonic::{Code, Status};

use crate::{World, watcher, words::PROVIDERS};

/// A create that was answered.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// Its idempotency key.
    pub key: String,
    /// The purchase.
    pub purchase: String,
    /// The newest revision that the answer showed.
    pub revision: u32,
    /// True if the answer said that the key was known.
    pub replayed: bool,
}

/// Creates one purchase by as many calls as it takes, and watches it from the first answer on.
pub async fn buy(world: Arc<World>, number: u64) {
    let begin = world.number(1_200_000);
    tokio::time::sleep(Duration::from_millis(begin)).await;
    let key = format!("key{number:04}");
    let order = order(&world, &key, number);
    let copies = if world.number(3) == 0 { 3 } else { 1 };
    let calls = (0..copies).map(|_| call_until_known(&world, &key, &order));
    let purchases = futures_util::future::join_all(calls).await;
    let Some(purchase) = purchases.into_iter().flatten().next() else {
        return;
    };
    let watchers = 1 + world.number(3);
    for _ in 0..watchers {
        let task = watcher::watch(Arc::clone(&world), purchase.clone());
        world.spawn(task);
    }
    // Once more when all is quiet: what waits for a repeat gets one, and every repeat is replayed.
    world.quiet().await;
    call_until_known(&world, &key, &order).await;
}

/// Calls until an answer names the purchase. Nothing where it was refused.
async fn call_until_known(world: &Arc<World>, key: &str, order: &Order) -> Option<String> {
    for attempt in 0..400_u32 {
        match call(world, key, order).await {
            Ok(acknowledged) => {
                let purchase = acknowledged.purchase.clone();
                world.acknowledged(acknowledged);
                return Some(purchase);
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                // The account was refused; that passes.
                if says(&status, "PROVIDER_REJECTED") {
                    return None;
                }
            }
            // The server's clock says that it is too late to pay.
            Err(status)
                if world.sets_clock()
                    && status.code() == Code::InvalidArgument
                    && says(&status, "_time") =>
            {
                return None;
            }
            Err(status) => {
                let expected = match status.code() {
                    Code::Unavailable
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
                    | Code::Cancelled
                    | Code::Unknown => true,
                    // The transport's, where a connection breaks under a call; the service's own
                    // has details, and is a defect.
                    Code::Internal => status.details().is_empty(),
                    _ => false,
                };
                if !expected {
                    world.violation(format!("create of {key} ended with {status:?}"));
                    return None;
                }
            }
        }
        let wait = 500 + world.number(2_000) * u64::from(attempt.min(10) + 1);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    world.violation(format!("create of {key} was never answered"));
    None
}

/// True if an error carries this reason.
fn says(status: &Status, reason: &str) -> bool {
    let details = status.details();
    (details.windows(reason.len())).any(|window| window == reason.as_bytes())
}

async fn call(world: &Arc<World>, key: &str, order: &Order) -> Result<Acknowledged, Status> {
    let request = CreatePurchaseRequest {
        idempotency_key: key.to_owned(),
        order: Some(order.clone()),
        ..CreatePurchaseRequest::default()
    };
    let mut request = tonic::Request::new(request);
    let calm = world.is_quiet();
    if !calm && world.number(5) == 0 {
        request.set_timeout(Duration::from_millis(50 + world.number(3_000)));
    }
    let mut client = world.client();
    let answer = client.create_purchase(request);
    // Some hang up.
    let hang_up = if !calm && world.number(5) == 0 {
        Duration::from_millis(world.number(2_000))
    } else {
        Duration::from_secs(90)
    };
    let Ok(answer) = tokio::time::timeout(hang_up, answer).await else {
        return Err(Status::cancelled("hung up"));
    };
    let answer = answer?.into_inner();
    let purchase = answer.purchase.unwrap_or_default();
    Ok(Acknowledged {
        key: key.to_owned(),
        purchase: purchase.id,
        revision: purchase.status.unwrap_or_default().revision,
        replayed: answer.replayed,
    })
}

fn proto_time(time: Timestamp) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: time.as_millis() / 1_000,
        nanos: 0,
    })
}

/// An order whose mark at the provider is its key.
fn order(world: &World, key: &str, number: u64) -> Order {
    match PROVIDERS[number as usize % PROVIDERS.len()] {
        "phygitals" => Order::Phygitals(PhygitalsOrder {
            claw_id: key.to_owned(),
            amount: 1,
            currency: "usdc".to_owned(),
            chain: "solana".to_owned(),
            txs: vec!["AQIDBAUGBwg=".to_owned()],
            ..PhygitalsOrder::default()
        }),
        "masumi" => masumi(world, key),
        "inabit" => Order::Inabit(InabitOrder {
            purchase_identifier: key.to_owned(),
            fiat_amount: "2.50".to_owned(),
            fiat_currency: "USD".to_owned(),
            ..InabitOrder::default()
        }),
        "carbon" => Order::Carbon(CarbonOrder {
            contact_id: "ab5b0000-0000-4000-8000-000000000001".to_owned(),
            credit_debit_id: "0f610000-0000-4000-8000-000000000001".to_owned(),
            fiat_charge_amount: "10.39".to_owned(),
            cryptocurrency_symbol: "eth".to_owned(),
            receive_address: "0x0000000000000000000000000000000000000001".to_owned(),
            memo: key.to_owned(),
            confirmation_url: "https://shop.example.test/confirm".to_owned(),
            success_redirect_url: "https://shop.example.test/ok".to_owned(),
            error_redirect_url: "https://shop.example.test/err".to_owned(),
            ..CarbonOrder::default()
        }),
        "devdraft" => Order::Devdraft(DevdraftOrder {
            intent: Some(Intent::Stablecoin(DevdraftStablecoinIntent {
                source_currency: "usdc".to_owned(),
                source_network: "ethereum".to_owned(),
                destination_currency: "eurc".to_owned(),
                destination_network: "base".to_owned(),
                destination_address: key.to_owned(),
                amount: "100.00".to_owned(),
            })),
            customer: Some(DevdraftCustomer::default()),
        }),
        other => panic!("{other} is not simulated"),
    }
}

fn masumi(world: &World, key: &str) -> Order {
    let hour = Duration::from_secs(3_600);
    let now = world.clock.now();
    // Some have little time to pay, so that it passes.
    let pay_by = now.plus(if world.number(4) == 0 { hour / 6 } else { hour });
    let later = |hours: u32| proto_time(pay_by.plus(hour * hours));
    Order::Masumi(MasumiOrder {
        blockchain_identifier: key.to_owned(),
        network: "Preprod".to_owned(),
        input_hash: "9f86d081884c7d659a2feaa0c55ad015".to_owned(),
        seller_vkey: "cccccccccccccccccccccccccccccccccccccccc".to_owned(),
        agent_identifier: "ab".repeat(43),
        identifier_from_purchaser: "aabbaabb11221122aabb".to_owned(),
        pay_by_time: proto_time(pay_by),
        submit_result_time: later(1),
        unlock_time: later(2),
        external_dispute_unlock_time: later(3),
        amounts: vec![MasumiAmount {
            amount: "10000000".to_owned(),
            unit: String::new(),
        }],
        ..MasumiOrder::default()
    })
}
