//! The sample of Phygitals.

use serde_json::json;
use tillwatch::proto::v1::{
    PhygitalsOrder, PhygitalsReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference,
};

use crate::sample::{Recipe, Sample};

const CLAW: &str = "CLaw111111111111111111111111111111111111111";
const SESSION: &str = "6f1c2a5e-2b3d-4e0f-9a01-000000000001";

pub(crate) fn sample(recipe: &Recipe<'_>) -> Sample {
    let mut order = PhygitalsOrder {
        claw_id: format!("{}{}", recipe.mark.unwrap_or(CLAW), recipe.planted),
        amount: 1,
        currency: "usdc".to_owned(),
        chain: "solana".to_owned(),
        txs: vec!["AQIDBAUGBwg=".to_owned()],
        extra_data_json: json!({ "note": recipe.note() }).to_string(),
        ..PhygitalsOrder::default()
    };
    if !recipe.planted.is_empty() {
        order.buyer_wallet = recipe.text("");
        order.voucher_id = recipe.text("");
        order.permit_data_json = json!({ "owner": recipe.planted }).to_string();
    }
    Sample {
        order: Order::Phygitals(order),
        other_orders: Vec::new(),
        scenario_field: "extra_data_json",
        mark_field: "claw_id",
        reference: ProviderReference {
            reference: Some(Reference::Phygitals(PhygitalsReference {
                session_id: SESSION.to_owned(),
            })),
        },
        accepted: (
            200,
            json!({ "result": { "session_id": SESSION, "public_id": "_1a2b3c4d", "nfts": [] } }),
        ),
        refusal: "Transaction failed",
        refused: (400, json!({ "error": "Transaction failed" })),
        missing: (400, json!({ "error": "Session not found" })),
        shown: (200, json!({ "status": "pending" })),
    }
}
