//! One order for each provider, and what each answers about it.

use tillwatch_proto::v1::{
    CarbonOrder, CarbonReference, DevdraftCustomer, DevdraftOrder, DevdraftReference,
    DevdraftStablecoinIntent, InabitOrder, InabitReference, MasumiOrder, MasumiReference,
    PhygitalsOrder, PhygitalsReference, ProviderReference, devdraft_order,
    provider_reference::Reference as Named,
};

use super::*;

pub(super) const UUID: &str = "0f9c2f5e-9d8e-4f6b-9a53-3a5b0f9e6d11";
const CONTACT: &str = "7c4a8d09-ca37-62af-a9e5-20943dc26494";
pub(super) const IDENTIFIER: &str = "7b22c0ffee";
pub(super) const HASH: &str = "ab12cd";

/// A text that no store may hold.
pub(super) const CANARY: &str = "canary-of-the-order";

pub(super) fn order(provider: &str) -> Order {
    match provider {
        "phygitals" => Order::Phygitals(PhygitalsOrder {
            claw_id: CANARY.to_owned(),
            amount: 1,
            currency: "USDC".to_owned(),
            chain: "solana".to_owned(),
            txs: vec!["AQID".to_owned()],
            ..PhygitalsOrder::default()
        }),
        "masumi" => Order::Masumi(MasumiOrder {
            blockchain_identifier: IDENTIFIER.to_owned(),
            network: "Preprod".to_owned(),
            input_hash: HASH.to_owned(),
            metadata: CANARY.to_owned(),
            ..MasumiOrder::default()
        }),
        "inabit" => Order::Inabit(InabitOrder {
            title: CANARY.to_owned(),
            purchase_identifier: "order-1".to_owned(),
            fiat_amount: "2.50".to_owned(),
            fiat_currency: "USD".to_owned(),
            ..InabitOrder::default()
        }),
        "carbon" => Order::Carbon(CarbonOrder {
            contact_id: CONTACT.to_owned(),
            credit_debit_id: "1".to_owned(),
            fiat_charge_amount: "10.39".to_owned(),
            cryptocurrency_symbol: "ETH".to_owned(),
            receive_address: CANARY.to_owned(),
            ..CarbonOrder::default()
        }),
        _ => Order::Devdraft(DevdraftOrder {
            intent: Some(devdraft_order::Intent::Stablecoin(
                DevdraftStablecoinIntent {
                    source_currency: "usdc".to_owned(),
                    amount: "12.50".to_owned(),
                    ..DevdraftStablecoinIntent::default()
                },
            )),
            customer: Some(DevdraftCustomer {
                email: CANARY.to_owned(),
                ..DevdraftCustomer::default()
            }),
        }),
    }
}

/// The same order with another value in one field, and that field's name.
pub(super) fn other(provider: &str) -> (Order, &'static str) {
    let mut order = order(provider);
    let field = match &mut order {
        Order::Phygitals(order) => {
            order.amount = 2;
            "amount"
        }
        Order::Masumi(order) => {
            order.input_hash = "ff".to_owned();
            "input_hash"
        }
        Order::Inabit(order) => {
            order.fiat_amount = "2.51".to_owned();
            "fiat_amount"
        }
        Order::Carbon(order) => {
            order.memo = "new".to_owned();
            "memo"
        }
        Order::Devdraft(order) => {
            order.customer.as_mut().unwrap().email = "other".to_owned();
            "customer.email"
        }
        Order::Existing(_) => unreachable!("no test asks for it"),
    };
    (order, field)
}

pub(super) fn masumi_row(hash: &str) -> Value {
    json!({
        "id": "row",
        "blockchainIdentifier": IDENTIFIER,
        "inputHash": hash,
        "onChainState": null,
        "NextAction": { "requestedAction": "FundsLockingRequested" },
    })
}

/// An answer to a create that names the purchase.
pub(super) fn accepted(provider: &str) -> Reply {
    let body = match provider {
        "phygitals" => json!({ "result": { "session_id": "s-1", "nfts": [] } }),
        "masumi" => json!({ "status": "success", "data": masumi_row(HASH) }),
        "inabit" => json!({ "data": { "id": UUID } }),
        "carbon" => json!({ "details": { "charge3denrolled": "Y", "orderId": UUID } }),
        _ => json!({ "id": "txn_1", "state": "pending" }),
    };
    Reply::Json(200, body)
}

/// The state after [`accepted`].
pub(super) fn accepted_state(provider: &str) -> &'static str {
    match provider {
        "phygitals" => "PROCESSING",
        _ => "CREATED",
    }
}

/// An answer by which the provider will not have this order.
pub(super) fn refused(provider: &str) -> Reply {
    let body = match provider {
        "phygitals" => json!({ "error": "no such claw" }),
        "masumi" => json!({ "status": "error", "error": { "message": "no such claw" } }),
        "inabit" => json!({ "error": { "message": "no such claw" } }),
        "carbon" => json!({ "code": 400, "message": "no such claw" }),
        _ => json!({ "statusCode": 400, "message": "no such claw" }),
    };
    Reply::Json(400, body)
}

/// An answer to a read by which the provider does not know the purchase.
pub(super) fn missing(provider: &str) -> Reply {
    match provider {
        "masumi" => Reply::Json(
            404,
            json!({ "status": "error", "error": { "message": "Purchase not found" } }),
        ),
        "inabit" => Reply::Json(201, json!({ "data": { "purchases": [] } })),
        "carbon" => Reply::Json(400, json!({ "code": 400, "message": "No order found" })),
        "devdraft" => Reply::Json(404, json!({ "statusCode": 404, "message": "not found" })),
        _ => Reply::Json(400, json!({ "error": "unknown session" })),
    }
}

/// The reference that [`accepted`] gives, as a caller names it.
pub(super) fn reference(provider: &str) -> ProviderReference {
    let named = match provider {
        "phygitals" => Named::Phygitals(PhygitalsReference {
            session_id: "s-1".to_owned(),
        }),
        "masumi" => Named::Masumi(MasumiReference {
            blockchain_identifier: IDENTIFIER.to_owned(),
            network: "Preprod".to_owned(),
        }),
        "inabit" => Named::Inabit(InabitReference {
            purchase_id: UUID.to_owned(),
        }),
        "carbon" => Named::Carbon(CarbonReference {
            order_id: UUID.to_owned(),
            contact_id: CONTACT.to_owned(),
        }),
        _ => Named::Devdraft(DevdraftReference {
            transaction_id: "txn_1".to_owned(),
        }),
    };
    ProviderReference {
        reference: Some(named),
    }
}

/// An answer to a status read about the purchase of [`reference`].
pub(super) fn shown(provider: &str) -> Reply {
    let body = match provider {
        "phygitals" => json!({ "status": "pending" }),
        "masumi" => json!({ "status": "success", "data": masumi_row(HASH) }),
        "inabit" => json!({ "data": { "id": UUID, "status": "Initiated" } }),
        "carbon" => json!({ "details": { "uuid": UUID, "status": "-1" } }),
        _ => json!({ "id": "txn_1", "status": "AWAITING_FUNDS" }),
    };
    Reply::Json(200, body)
}
