//! The sample of Inabit.

use serde_json::json;
use tillwatch::proto::v1::{
    InabitOrder, InabitReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference,
};

use crate::sample::{Recipe, Sample};

const PURCHASE: &str = "0b7a1c9e-1111-4222-8333-000000000001";

pub(crate) fn sample(recipe: &Recipe<'_>) -> Sample {
    Sample {
        order: Order::Inabit(InabitOrder {
            title: recipe.text("Order 3001"),
            sub_title: recipe.text("One espresso machine"),
            site_name: recipe.text("shop.example.test"),
            purchase_identifier: recipe.mark.unwrap_or_default().to_owned(),
            fiat_amount: format!("12.{}", recipe.scenario.cents()),
            fiat_currency: "USD".to_owned(),
        }),
        other_orders: Vec::new(),
        scenario_field: "fiat_amount",
        mark_field: "purchaseIdentifier",
        reference: ProviderReference {
            reference: Some(Reference::Inabit(InabitReference {
                purchase_id: PURCHASE.to_owned(),
            })),
        },
        accepted: (201, json!({ "data": { "id": PURCHASE } })),
        refusal: "Bad Request",
        refused: (400, json!({ "error": { "message": "Bad Request" } })),
        missing: (201, json!({ "data": { "purchases": [], "total": 0 } })),
        shown: (
            200,
            json!({ "data": { "id": PURCHASE, "status": "Initiated" } }),
        ),
    }
}
