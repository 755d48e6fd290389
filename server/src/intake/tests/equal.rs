//! Equal fingerprints are equal requests: a repeat that the service takes for the same order sends
//! the same bytes.

use proptest::prelude::*;
use tillwatch_proto::v1::{DevdraftBankIntent, MasumiAmount, devdraft_order::Intent as Devdraft};

use super::{orders::order, *};
use crate::{provider::Recovery, purchase::PurchaseId, testing};

/// The amounts that orders are drawn with, in their shortest form.
const AMOUNTS: [&str; 5] = ["1", "12.5", "10.39", "100", "0.07"];

/// An amount of [`AMOUNTS`], and how it is written: zeros before and behind it, and a point.
type Spelled = (usize, usize, usize);

fn spelled() -> impl Strategy<Value = Spelled> {
    (0..AMOUNTS.len(), 0..4_usize, 0..4_usize)
}

fn text((place, before, behind): Spelled) -> String {
    let shortest = AMOUNTS[place];
    let point = if shortest.contains('.') || behind == 0 {
        ""
    } else {
        "."
    };
    let (before, behind) = ("0".repeat(before), "0".repeat(behind));
    format!("{before}{shortest}{point}{behind}")
}

/// An order of a provider: its kind, its amount, and a word of another field.
fn drawn(provider: &str, is_bank: bool, amount: Spelled, word: &str) -> Order {
    let (amount, word) = (text(amount), word.to_owned());
    let mut order = order(provider);
    match &mut order {
        Order::Phygitals(order) => {
            order.extra_data_json = format!("{{\"total\": {}}}", amount.trim_start_matches('0'));
            order.voucher_id = word;
        }
        Order::Masumi(order) => {
            order.amounts = vec![MasumiAmount {
                amount: amount.replace('.', ""),
                unit: word,
            }];
        }
        Order::Inabit(order) => {
            order.fiat_amount = amount;
            order.sub_title = word;
        }
        Order::Carbon(order) => {
            order.fiat_charge_amount = amount;
            order.memo = word;
        }
        Order::Devdraft(order) if is_bank => {
            order.intent = Some(Devdraft::Bank(DevdraftBankIntent {
                amount,
                wire_message: word,
                ..DevdraftBankIntent::default()
            }));
        }
        Order::Devdraft(order) => {
            if let Some(Devdraft::Stablecoin(intent)) = &mut order.intent {
                intent.amount = amount;
                intent.destination_address = word;
            }
        }
        Order::Existing(_) => unreachable!("no provider has it"),
    }
    order
}

/// Everything that a provider gets of an order.
fn sent(provider: &dyn provider::Provider, order: &Order, recovery: &Recovery) -> String {
    let placed = provider.order(order).unwrap();
    let request = placed.request(&provider::Intent {
        purchase: PurchaseId::from_u128(7),
        create_time: Timestamp::default(),
        recovery,
        matches: &|_, _| false,
    });
    let body = request.body.map(|body| body.to_vec()).unwrap_or_default();
    let body = String::from_utf8(body).unwrap();
    format!(
        "{} {:?} {:?} {body}",
        request.method, request.path, request.query
    )
}

proptest! {
    #[test]
    fn c2_equal_fingerprints_are_equal_requests(
        place in 0..PROVIDERS.len(),
        banks in (any::<bool>(), any::<bool>()),
        amounts in (spelled(), spelled()),
        words in ("[ab]", "[ab]"),
    ) {
        let name = PROVIDERS[place];
        let provider = testing::provider(name);
        let keyring = keyring("k");
        let fingerprints = |order: &Order| {
            keyring.fingerprints("k", "main", order, provider.decimal_fields()).unwrap()
        };
        let first = drawn(name, banks.0, amounts.0, &words.0);
        let again = drawn(name, banks.1, amounts.1, &words.1);
        let is_respelled = banks.0 == banks.1 && amounts.0.0 == amounts.1.0 && words.0 == words.1;
        let is_equal = fingerprints(&first) == fingerprints(&again);
        if is_respelled && !provider.decimal_fields().is_empty() {
            prop_assert!(is_equal, "{} compares amounts by value", name);
        }
        if is_equal {
            let placed = provider.order(&first).unwrap();
            let recovery = placed.recovery(PurchaseId::from_u128(7), uuid::Uuid::nil());
            prop_assert_eq!(
                sent(&*provider, &first, &recovery),
                sent(&*provider, &again, &recovery)
            );
        }
    }
}
