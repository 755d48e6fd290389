//! The real server reads many purchases by one request.

use tillwatch_proto::v1::{Finality, PurchaseState};
use tillwatch_sandbox::Scenario;

use crate::{
    house::{House, Settings},
    orders::request,
};

/// Purchases of each account.
const PURCHASES: usize = 20;

/// The numbers of requests to a provider for pages, and for single purchases.
#[derive(Debug)]
struct Reads {
    pages: usize,
    singles: usize,
}

fn reads(house: &House, provider: &str) -> Reads {
    let (page, single) = match provider {
        "masumi" => ("/purchase/diff", "/resolve-blockchain-identifier"),
        "inabit" => ("/merchant/purchase/search", "/merchant/purchase/"),
        _ => panic!("{provider} has no list"),
    };
    let requests = house.sandbox.requests();
    let of = |part: &str| {
        let of_part = requests.iter().filter(|call| call.path.contains(part));
        of_part.count()
    };
    let pages = of(page);
    // A longer path is no single read's.
    let singles = of(single) - if single.ends_with('/') { pages } else { 0 };
    Reads { pages, singles }
}

/// Follows purchases to their ends. Returns the requests that this took.
async fn followed(provider: &str, sweeps: bool) -> Reads {
    let settings = Settings::default().polled("after_terminal", r#"[{ every = "1h" }]"#);
    let settings = match sweeps {
        true => settings.swept(),
        false => settings.polled("sweep", "false"),
    };
    let house = House::start(settings).await;
    let mut ids = Vec::new();
    for number in 0..PURCHASES {
        let order = request(&format!("key-{number}"), provider, Scenario::Paid);
        ids.push(house.create("shop", order).await.id);
    }
    for id in &ids {
        let ended = house
            .settled("an end", id, |status| status.finality() != Finality::Open)
            .await;
        assert_eq!(ended.state(), PurchaseState::Completed, "{provider}");
    }
    reads(&house, provider)
}

#[tokio::test]
async fn a_sweep_brings_purchases_to_their_ends_with_fewer_requests_than_polls() {
    for provider in ["masumi", "inabit"] {
        let swept = followed(provider, true).await;
        let polled = followed(provider, false).await;
        assert_eq!(polled.pages, 0, "{provider}: {polled:?}");
        assert!(swept.pages > 1, "{provider}: {swept:?}");
        assert!(swept.singles <= 2 * PURCHASES, "{provider}: {swept:?}");
        let all = swept.pages + swept.singles;
        assert!(all * 3 < polled.singles, "{provider}: {swept:?} {polled:?}");
    }
}
