//! A watcher sees each provider's purchases from the create to the end.

use std::time::Duration;

use tillwatch::{WatchEvent, WatchOptions};
use tillwatch_proto::v1::{Finality, PurchaseState, PurchaseStatus, WatchUntil};
use tillwatch_sandbox::{PROVIDERS, Scenario};

use crate::{house::House, orders::request, process::within};

/// The longest time that a scenario but `slow` holds one word at speed 1, in seconds.
const STEP_SECONDS_MAX: u32 = 60;

/// Follows a purchase to its end. Each time the newest word arrives, the provider goes one further.
async fn walk(house: &House, provider: &str, id: &str, until: WatchUntil) -> Vec<PurchaseStatus> {
    let options = WatchOptions {
        after_revision: Some(0),
        until,
        ..WatchOptions::default()
    };
    let mut watch = house.client("shop").watch(id, options);
    let mut seen: Vec<PurchaseStatus> = Vec::new();
    while let Some(event) = watch.next().await {
        let WatchEvent::Transition(step) = event.unwrap() else {
            continue;
        };
        let status = step.status.unwrap();
        let before = seen
            .last()
            .map_or(PurchaseState::Unspecified, PurchaseStatus::state);
        assert_eq!(step.from_state, i32::from(before), "{provider}");
        assert_eq!(status.purchase_id, id);
        let code = status.provider_status.clone().unwrap_or_default().code;
        let is_over = match until {
            WatchUntil::Final => status.finality() == Finality::Final,
            _ => status.finality() != Finality::Open,
        };
        seen.push(status);
        let codes = codes(house, provider);
        if !is_over && codes.last() == Some(&code) {
            for _ in 0..STEP_SECONDS_MAX {
                house.sandbox.advance(Duration::from_secs(1));
                if self::codes(house, provider).len() > codes.len() {
                    break;
                }
            }
        }
    }
    seen
}

/// The states and words that a caller should have seen so far, for the only purchase.
fn codes(house: &House, provider: &str) -> Vec<String> {
    let references = house.sandbox.references(provider);
    let [reference] = &references[..] else {
        panic!("{provider}: not one purchase, but {references:?}");
    };
    let words = house.sandbox.history(provider, reference).into_iter();
    // Devdraft's creates have other words than its reads.
    let created = (provider == "devdraft").then(|| "pending".to_owned());
    let mut codes: Vec<String> = created
        .into_iter()
        .chain(words)
        .map(|word| match word.as_str() {
            // The answer has no word of its own: its result has nothing in it yet.
            "processing" => "pending".to_owned(),
            _ => word,
        })
        .collect();
    codes.dedup();
    codes
}

async fn check(
    provider: &str,
    scenario: Scenario,
    until: WatchUntil,
    expected: (PurchaseState, Finality),
) -> Vec<PurchaseStatus> {
    let house = House::still().await;
    let mut shop = house.stub("shop").await;
    let created = shop
        .create_purchase(request("walk", provider, scenario))
        .await;
    let created = created.unwrap().into_inner();
    assert!(!created.replayed);
    let id = created.purchase.unwrap().id;
    let seen = walk(&house, provider, &id, until);
    let seen = within("the end", seen).await;
    let revisions: Vec<u32> = seen.iter().map(|status| status.revision).collect();
    let dense: Vec<u32> = (1..).take(seen.len()).collect();
    assert_eq!(revisions, dense, "{provider}: {seen:#?}");
    let mut seen_codes: Vec<String> = seen
        .iter()
        .map(|status| status.provider_status.clone().unwrap_or_default().code)
        .filter(|code| !code.is_empty())
        .collect();
    seen_codes.dedup();
    assert_eq!(seen_codes, codes(&house, provider), "{provider}");
    assert_eq!(seen[0].state(), PurchaseState::Pending);
    let last = seen.last().unwrap();
    assert_eq!((last.state(), last.finality()), expected, "{provider}");
    assert_eq!(house.sandbox.created(provider), 1);
    seen
}

#[tokio::test]
async fn a_watcher_of_each_provider_sees_every_revision_in_the_providers_order() {
    for provider in PROVIDERS {
        let end = match provider {
            "phygitals" | "carbon" => Finality::Final,
            "masumi" | "inabit" | "devdraft" => Finality::Terminal,
            _ => panic!("{provider} is not in this table"),
        };
        let end = (PurchaseState::Completed, end);
        check(provider, Scenario::Paid, WatchUntil::Terminal, end).await;
    }
}

#[tokio::test]
async fn a_watcher_until_final_sees_what_follows_a_terminal_status() {
    let swept = (PurchaseState::Completed, Finality::Final);
    let seen = check("inabit", Scenario::Paid, WatchUntil::Final, swept).await;
    let completed = seen
        .iter()
        .filter(|one| one.state() == PurchaseState::Completed);
    let finalities: Vec<Finality> = completed.map(PurchaseStatus::finality).collect();
    assert_eq!(finalities, [Finality::Terminal, Finality::Final]);
}

#[tokio::test]
async fn each_end_is_told_in_the_words_of_all_providers() {
    let (terminal, last) = (Finality::Terminal, Finality::Final);
    let table = [
        ("phygitals", Scenario::Declined, PurchaseState::Failed, last),
        (
            "masumi",
            Scenario::Declined,
            PurchaseState::Canceled,
            terminal,
        ),
        (
            "masumi",
            Scenario::Refunded,
            PurchaseState::Refunded,
            terminal,
        ),
        (
            "masumi",
            Scenario::Disputed,
            PurchaseState::DisputeSettled,
            terminal,
        ),
        (
            "inabit",
            Scenario::Declined,
            PurchaseState::Failed,
            terminal,
        ),
        (
            "inabit",
            Scenario::Expired,
            PurchaseState::Expired,
            terminal,
        ),
        (
            "inabit",
            Scenario::Underpaid,
            PurchaseState::Expired,
            terminal,
        ),
        ("carbon", Scenario::Declined, PurchaseState::Failed, last),
        ("carbon", Scenario::Expired, PurchaseState::Canceled, last),
        (
            "devdraft",
            Scenario::Declined,
            PurchaseState::Failed,
            terminal,
        ),
        ("devdraft", Scenario::Expired, PurchaseState::Canceled, last),
        (
            "devdraft",
            Scenario::Refunded,
            PurchaseState::Returned,
            terminal,
        ),
    ];
    for (provider, scenario, state, finality) in table {
        let end = (state, finality);
        let seen = check(provider, scenario, WatchUntil::Terminal, end).await;
        let failure = seen.last().unwrap().failure.clone();
        let fails = !matches!(
            state,
            PurchaseState::Refunded | PurchaseState::DisputeSettled
        );
        assert_eq!(failure.is_some(), fails, "{provider} {scenario:?}");
    }
}

#[tokio::test]
async fn a_word_that_nobody_knows_keeps_the_state_and_is_no_end() {
    // At any other word of Phygitals the pieces beside it decide.
    for provider in PROVIDERS.into_iter().filter(|name| *name != "phygitals") {
        let end = match provider {
            "carbon" => Finality::Final,
            "masumi" | "inabit" | "devdraft" => Finality::Terminal,
            _ => panic!("{provider} is not in this table"),
        };
        let end = (PurchaseState::Completed, end);
        let seen = check(provider, Scenario::Unknown, WatchUntil::Terminal, end).await;
        let unknown = |status: &PurchaseStatus| {
            let words = status.provider_status.clone().unwrap_or_default();
            words.code == "SANDBOX_UNKNOWN"
        };
        let at = seen
            .iter()
            .position(unknown)
            .expect("the word itself is told");
        assert!(seen[at].provider_status.as_ref().unwrap().unmapped);
        assert_eq!(seen[at].state(), seen[at - 1].state(), "{provider}");
        assert_eq!(seen[at].finality(), Finality::Open, "{provider}");
        assert_eq!(
            seen[at].attention.as_ref().unwrap().reason,
            "UNMAPPED_STATUS"
        );
    }
}
