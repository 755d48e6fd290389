//! Callers that create: they repeat, hang up, wait too little, and never give up before the end.

use std::{sync::Arc, time::Duration};

use tillwatch_proto::v1::{CreatePurchaseRequest, create_purchase_request::Order};
use tillwatch_sandbox::{Recipe, simulated};
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

/// Spawns the buyers of a run: some at each provider, or all of them at one whose lists are swept,
/// since a list is read only if it is worth it.
pub fn spawn_all(world: &Arc<World>) {
    let crowded = match world.number(5) {
        0 => Some("masumi"),
        1 => Some("inabit"),
        _everywhere => None,
    };
    let first = world.number(5);
    for number in 0..4 + world.number(6) {
        let place = (first + number) as usize % PROVIDERS.len();
        let provider = crowded.unwrap_or(PROVIDERS[place]);
        world.spawn(buy(Arc::clone(world), provider, number));
    }
}

/// Creates one purchase by as many calls as it takes, and watches it from the first answer on.
async fn buy(world: Arc<World>, provider: &'static str, number: u64) {
    let begin = world.number(1_200_000);
    tokio::time::sleep(Duration::from_millis(begin)).await;
    let key = format!("key{number:04}");
    let order = order(&world, provider, &key);
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

/// Calls until an answer names the purchase. `None` if it was refused.
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
                if world.has_wrong_clock()
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
                    // The transport's, if a connection breaks under a call; the service's own
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

/// An order whose mark at the provider is its key.
fn order(world: &World, provider: &str, key: &str) -> Order {
    let now = jiff::Timestamp::from_millisecond(world.clock.now().as_millis()).unwrap();
    let recipe = Recipe::at(now).marked(key);
    let mut order = (simulated(provider).unwrap().sample)(&recipe).order;
    if let Order::Masumi(order) = &mut order
        && world.number(4) == 0
    {
        // Some have little time to pay, so that it passes.
        order.pay_by_time = Some(prost_types::Timestamp {
            seconds: now.as_second() + 600,
            nanos: 0,
        });
    }
    order
}
