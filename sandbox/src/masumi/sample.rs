//! The sample of Masumi.

use serde_json::{Value, json};
use tillwatch::proto::v1::{
    MasumiAmount, MasumiOrder, MasumiReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference,
};

use crate::sample::{Recipe, Sample};

const IDENTIFIER: &str = "TEST_blockchain_identifier_0001";
const INPUT_HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

pub(crate) fn sample(recipe: &Recipe<'_>) -> Sample {
    let identifier = recipe.mark.unwrap_or(IDENTIFIER);
    let order = MasumiOrder {
        blockchain_identifier: identifier.to_owned(),
        network: "Preprod".to_owned(),
        input_hash: INPUT_HASH.to_owned(),
        seller_vkey: recipe.text(&"c".repeat(56)),
        agent_identifier: "ab".repeat(44),
        identifier_from_purchaser: "aabbaabb11221122aabb".to_owned(),
        pay_by_time: recipe.minutes(60),
        submit_result_time: recipe.minutes(120),
        unlock_time: recipe.minutes(180),
        external_dispute_unlock_time: recipe.minutes(240),
        amounts: vec![MasumiAmount {
            amount: "10000000".to_owned(),
            unit: String::new(),
        }],
        metadata: recipe.note(),
        buyer_return_address: recipe.text(""),
        ..MasumiOrder::default()
    };
    let row = json!({ "status": "success", "data": row(identifier, INPUT_HASH) });
    let error = |text: &str| json!({ "status": "error", "error": { "message": text } });
    Sample {
        order: Order::Masumi(order),
        other_orders: Vec::new(),
        scenario_field: "metadata",
        mark_field: "blockchainIdentifier",
        reference: ProviderReference {
            reference: Some(Reference::Masumi(MasumiReference {
                blockchain_identifier: identifier.to_owned(),
                network: "Preprod".to_owned(),
            })),
        },
        accepted: (200, row.clone()),
        refusal: "Insufficient funds",
        refused: (400, error("Insufficient funds")),
        missing: (404, error("Purchase not found")),
        shown: (200, row),
    }
}

/// As much of a purchase in its first word as names it.
fn row(identifier: &str, input_hash: &str) -> Value {
    json!({
        "id": "cmsb000000000001",
        "blockchainIdentifier": identifier,
        "inputHash": input_hash,
        "onChainState": null,
        "NextAction": { "requestedAction": "FundsLockingRequested" },
    })
}
