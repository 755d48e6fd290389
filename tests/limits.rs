//! The limits of callers: a caller that wants too much is told so, and no other caller feels it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tillwatch_proto::v1::{Finality, PurchaseStatus};
use tillwatch_sandbox::Scenario;
use tonic::Code;

use crate::{
    house::{House, Settings, refusal},
    orders::request,
    process::within,
};

/// A house with these lines at the end of its configuration, whose sandbox stands still.
async fn house(lines: &str) -> House {
    let house = House::start(Settings {
        more: format!("\n{lines}\n"),
        ..Settings::default()
    })
    .await;
    house.sandbox.pause();
    house
}

#[tokio::test]
async fn a_caller_has_its_limit_of_open_purchases_also_after_a_restart() {
    let mut house = house("[callers.shop.limits]\nopen_purchases_per_caller = 2").await;
    let order = |key: &str| request(key, "carbon", Scenario::Declined);
    let first = house.create("shop", order("one")).await;
    house.create("shop", order("two")).await;
    for _ in 0..2 {
        let refused = house.refused("shop", order("three")).await;
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::ResourceExhausted, "LIMIT_EXCEEDED")
        );
        assert!(refused.message.contains("it may have 2"), "{refused:?}");
        assert!(refused.retry_after.is_some());
        assert_eq!(refused.purchase_id, None);
        let again = house.create("shop", order("one")).await;
        assert_eq!(again.id, first.id, "a repeat makes no purchase");
        for key in ["one", "two", "three"] {
            house.create("rival", order(key)).await;
        }
        house.server.kill().await;
        house.restart().await;
    }
    assert_eq!(house.sandbox.created("carbon"), 5);
    house.sandbox.resume();
    let over = |status: &PurchaseStatus| status.finality() != Finality::Open;
    house.settled("carbon", &first.id, over).await;
    house.create("shop", order("three")).await;
}

#[tokio::test]
async fn a_caller_has_its_rate_of_creates_and_is_told_when_the_next_may_come() {
    let house = house("[limits]\ncreates_per_second_per_caller = 1").await;
    let order = |key: &str| request(key, "carbon", Scenario::Stuck);
    let stub = house.stub("shop").await;
    let begun = Instant::now();
    let at_once = (0..8).map(async |number| {
        let mut stub = stub.clone();
        let created = stub.create_purchase(order(&format!("key {number}")));
        within("an answer", created).await
    });
    let (made, refused): (Vec<_>, Vec<_>) =
        join_all(at_once).await.into_iter().partition(Result::is_ok);
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!((1..=1 + seconds).contains(&made.len()), "{}", made.len());
    let met = refused.len();
    let first = refusal(refused.into_iter().next().expect("a refusal"));
    assert_eq!(
        (first.code, first.reason.as_str()),
        (Code::ResourceExhausted, "LIMIT_EXCEEDED")
    );
    let wait = first.retry_after.expect("a time");
    assert!(
        !wait.is_zero() && wait <= Duration::from_secs(1),
        "{wait:?}"
    );
    house.create("rival", order("one")).await;
    tokio::time::sleep_until((Instant::now() + wait).into()).await;
    house.create("shop", order("later")).await;
    let metrics = house.metrics().await;
    let met =
        format!("tillwatch_limits_met_total{{limit=\"creates_per_second_per_caller\"}} {met}\n");
    assert!(metrics.contains(&met), "{metrics}");
}
