//! The sample of Carbon.

use serde_json::json;
use tillwatch::proto::v1::{
    CarbonOrder, CarbonReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference,
};

use crate::sample::{Recipe, Sample};

const ORDER: &str = "7c0e0000-0000-4000-8000-000000000001";
const CONTACT: &str = "ab5b0000-0000-4000-8000-000000000001";

pub(crate) fn sample(recipe: &Recipe<'_>) -> Sample {
    let address = "0x0000000000000000000000000000000000000001";
    Sample {
        order: Order::Carbon(CarbonOrder {
            contact_id: CONTACT.to_owned(),
            credit_debit_id: "0f610000-0000-4000-8000-000000000001".to_owned(),
            fiat_charge_amount: format!("49.{}", recipe.scenario.cents()),
            cryptocurrency_symbol: "eth".to_owned(),
            receive_address: recipe.text(address),
            memo: format!("{}{}", recipe.mark.unwrap_or_default(), recipe.planted),
            rate_signature: recipe.text(""),
            confirmation_url: "https://shop.example.test/confirm".to_owned(),
            success_redirect_url: format!("https://shop.example.test/{}", recipe.text("done")),
            error_redirect_url: "https://shop.example.test/error".to_owned(),
            ..CarbonOrder::default()
        }),
        other_orders: Vec::new(),
        scenario_field: "fiat_charge_amount",
        mark_field: "memo",
        reference: ProviderReference {
            reference: Some(Reference::Carbon(CarbonReference {
                order_id: ORDER.to_owned(),
                contact_id: CONTACT.to_owned(),
            })),
        },
        accepted: (
            200,
            json!({ "code": 200, "charge3denrolled": "Y", "orderId": ORDER }),
        ),
        refusal: "fiatChargeAmount must be in minor units",
        refused: (
            400,
            json!({ "code": 400, "message": "fiatChargeAmount must be in minor units" }),
        ),
        missing: (400, json!({ "code": 400, "message": "no order found" })),
        shown: (
            200,
            json!({ "code": 200, "details": { "uuid": ORDER, "status": "-1" } }),
        ),
    }
}
