//! The sample of Devdraft.

use serde_json::json;
use tillwatch::proto::v1::{
    DevdraftBankIntent, DevdraftCustomer, DevdraftOrder, DevdraftReference,
    DevdraftStablecoinIntent, ProviderReference, create_purchase_request::Order,
    devdraft_order::Intent, provider_reference::Reference,
};

use crate::sample::{Recipe, Sample};

const TRANSACTION: &str = "txn_01TEST0000000000000000000A";

pub(crate) fn sample(recipe: &Recipe<'_>) -> Sample {
    let address = recipe
        .mark
        .unwrap_or("0x0000000000000000000000000000000000000001");
    let mut customer = DevdraftCustomer {
        first_name: recipe.text("Test"),
        last_name: recipe.text("Person"),
        email: format!("{}@example.test", recipe.text("t")),
        ..DevdraftCustomer::default()
    };
    if !recipe.planted.is_empty() {
        customer.address = recipe.text("");
        customer.country = recipe.text("");
        customer.country_iso = recipe.text("");
        customer.province = recipe.text("");
        customer.province_iso = recipe.text("");
        customer.phone_number = recipe.text("");
    }
    let stablecoin = Intent::Stablecoin(DevdraftStablecoinIntent {
        source_currency: "usdc".to_owned(),
        source_network: "ethereum".to_owned(),
        destination_currency: "eurc".to_owned(),
        destination_network: "base".to_owned(),
        destination_address: format!("{address}{}", recipe.planted),
        amount: format!("100.{}", recipe.scenario.cents()),
    });
    let bank = Intent::Bank(DevdraftBankIntent {
        source_payment_rail: "wire".to_owned(),
        source_currency: "usd".to_owned(),
        destination_currency: "usdc".to_owned(),
        destination_network: "base".to_owned(),
        destination_address: format!("{address}{}", recipe.planted),
        amount: format!("100.{}", recipe.scenario.cents()),
        ..DevdraftBankIntent::default()
    });
    let order = |intent| {
        Order::Devdraft(DevdraftOrder {
            intent: Some(intent),
            customer: Some(customer.clone()),
        })
    };
    Sample {
        order: order(stablecoin),
        other_orders: vec![order(bank)],
        scenario_field: "stablecoin.amount",
        mark_field: "destinationAddress",
        reference: ProviderReference {
            reference: Some(Reference::Devdraft(DevdraftReference {
                transaction_id: TRANSACTION.to_owned(),
            })),
        },
        accepted: (201, json!({ "id": TRANSACTION, "state": "pending" })),
        refusal: "amount is not accepted",
        refused: (
            400,
            json!({ "statusCode": 400, "message": ["amount is not accepted"] }),
        ),
        missing: (
            404,
            json!({ "statusCode": 404, "message": "Transaction not found", "error": "Not Found" }),
        ),
        shown: (
            200,
            json!({ "id": TRANSACTION, "status": "AWAITING_FUNDS" }),
        ),
    }
}
