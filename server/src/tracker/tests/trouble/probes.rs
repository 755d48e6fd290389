//! Probes of an account in trouble: no purchase that is itself bad may keep the account closed.

use std::collections::BTreeSet;

use super::*;

/// The trouble of an account, and the same trouble of one purchase.
const PAIRS: [(Mode, One); 4] = [
    (Mode::Unauthorized, One::Status(401)),
    (Mode::ServerError, One::Status(500)),
    (Mode::Hangs, One::Hangs),
    (Mode::TooLarge, One::Hangs),
];

/// Buys `LAST` and the purchases before it, beginning with this one, and lets all be answered.
async fn answered_from(house: &House, first: u128) {
    for step in 0..=LAST {
        house.buy((first + step) % (LAST + 1), NAMES[0]).await;
    }
    seconds(30).await;
}

#[tokio::test(start_paused = true)]
async fn probes_take_turns_among_the_purchases_of_an_account() {
    for (trouble, _) in PAIRS {
        let house = House::new().await;
        let told = async {
            answered_from(&house, 0).await;
            *lock(&house.mode) = trouble;
            seconds(120).await;
            assert!(house.account(0).is_held(), "{trouble:?}");
            lock(&house.asked).clear();
            seconds(20 * 60).await;
            let asked = std::mem::take(&mut *lock(&house.asked));
            let distinct: BTreeSet<&String> = asked.iter().collect();
            assert_eq!(distinct.len(), 6, "{trouble:?}: {asked:?}");
            let most = distinct.iter().map(|name| {
                let same = asked.iter().filter(|other| other == name);
                same.count()
            });
            let most = most.max().unwrap();
            assert!(most * 3 <= asked.len(), "{trouble:?}: {asked:?}");
        };
        tokio::select! {
            biased;
            () = house.tracker.run() => panic!("the tracker stopped by itself"),
            () = told => {}
        }
    }
}

/// A probe prefers the purchase that was answered last, so each was once, the bad one too.
#[tokio::test(start_paused = true)]
async fn a_purchase_that_fails_for_ever_does_not_keep_its_account_closed() {
    for (trouble, one) in PAIRS {
        for first in 0..=LAST {
            let house = House::new().await;
            let told = async {
                answered_from(&house, first).await;
                *lock(&house.mode) = trouble;
                seconds(180).await;
                assert!(house.account(0).is_held(), "{trouble:?}");
                *lock(&house.mode) = Mode::One(one);
                // Two probes, if the bad purchase has the first.
                seconds(150).await;
                let snapshot = house.account(0).snapshot();
                assert_eq!(snapshot.health, Health::Ok, "{trouble:?}, {first}");
                for number in 0..LAST {
                    let fresh = house.tracker.freshness(&house.purchase(number).await);
                    let age = house.clock.now().since(fresh.last_answer_time.unwrap());
                    assert!(
                        age < Duration::from_secs(15),
                        "{trouble:?}, {first}: {age:?}"
                    );
                }
            };
            tokio::select! {
                biased;
                () = house.tracker.run() => panic!("the tracker stopped by itself"),
                () = told => {}
            }
        }
    }
}
