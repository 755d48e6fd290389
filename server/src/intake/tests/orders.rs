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

/// Everything that these tests need to know of a provider.
struct Sample {
    order: Order,
    /// The reference that `accepted` gives, as a caller names it.
    reference: Named,
    /// An answer to a create that names the purchase, and the state after it.
    accepted: (Value, &'static str),
    /// An answer by which the provider will not have the order.
    refused: Value,
    /// An answer to a read by which the provider does not know the purchase.
    missing: (u16, Value),
    /// An answer to a status read about the purchase of `reference`.
    shown: Value,
}

/// The end of a test that meets a provider without a sample: a new provider needs one here.
pub(super) fn without_sample(provider: &str) -> ! {
    panic!("{provider} has no sample in intake/tests/orders.rs");
}

fn sample(provider: &str) -> Sample {
    match provider {
        "phygitals" => phygitals(),
        "masumi" => masumi(),
        "inabit" => inabit(),
        "carbon" => carbon(),
        "devdraft" => devdraft(),
        _ => without_sample(provider),
    }
}

fn phygitals() -> Sample {
    Sample {
        order: Order::Phygitals(PhygitalsOrder {
            claw_id: CANARY.to_owned(),
            amount: 1,
            currency: "USDC".to_owned(),
            chain: "solana".to_owned(),
            txs: vec!["AQID".to_owned()],
            ..PhygitalsOrder::default()
        }),
        reference: Named::Phygitals(PhygitalsReference {
            session_id: "s-1".to_owned(),
        }),
        accepted: (
            json!({ "result": { "session_id": "s-1", "nfts": [] } }),
            "PROCESSING",
        ),
        refused: json!({ "error": "no such claw" }),
        missing: (400, json!({ "error": "unknown session" })),
        shown: json!({ "status": "pending" }),
    }
}

fn masumi() -> Sample {
    let row = json!({ "status": "success", "data": masumi_row(HASH) });
    let error = |message: &str| json!({ "status": "error", "error": { "message": message } });
    Sample {
        order: Order::Masumi(MasumiOrder {
            blockchain_identifier: IDENTIFIER.to_owned(),
            network: "Preprod".to_owned(),
            input_hash: HASH.to_owned(),
            metadata: CANARY.to_owned(),
            ..MasumiOrder::default()
        }),
        reference: Named::Masumi(MasumiReference {
            blockchain_identifier: IDENTIFIER.to_owned(),
            network: "Preprod".to_owned(),
        }),
        accepted: (row.clone(), "CREATED"),
        refused: error("no such claw"),
        missing: (404, error("Purchase not found")),
        shown: row,
    }
}

fn inabit() -> Sample {
    Sample {
        order: Order::Inabit(InabitOrder {
            title: CANARY.to_owned(),
            purchase_identifier: "order-1".to_owned(),
            fiat_amount: "2.50".to_owned(),
            fiat_currency: "USD".to_owned(),
            ..InabitOrder::default()
        }),
        reference: Named::Inabit(InabitReference {
            purchase_id: UUID.to_owned(),
        }),
        accepted: (json!({ "data": { "id": UUID } }), "CREATED"),
        refused: json!({ "error": { "message": "no such claw" } }),
        missing: (201, json!({ "data": { "purchases": [] } })),
        shown: json!({ "data": { "id": UUID, "status": "Initiated" } }),
    }
}

fn carbon() -> Sample {
    let enrolled = json!({ "details": { "charge3denrolled": "Y", "orderId": UUID } });
    Sample {
        order: Order::Carbon(CarbonOrder {
            contact_id: CONTACT.to_owned(),
            credit_debit_id: "1".to_owned(),
            fiat_charge_amount: "10.39".to_owned(),
            cryptocurrency_symbol: "ETH".to_owned(),
            receive_address: CANARY.to_owned(),
            ..CarbonOrder::default()
        }),
        reference: Named::Carbon(CarbonReference {
            order_id: UUID.to_owned(),
            contact_id: CONTACT.to_owned(),
        }),
        accepted: (enrolled, "CREATED"),
        refused: json!({ "code": 400, "message": "no such claw" }),
        missing: (400, json!({ "code": 400, "message": "No order found" })),
        shown: json!({ "details": { "uuid": UUID, "status": "-1" } }),
    }
}

fn devdraft() -> Sample {
    let intent = devdraft_order::Intent::Stablecoin(DevdraftStablecoinIntent {
        source_currency: "usdc".to_owned(),
        amount: "12.50".to_owned(),
        ..DevdraftStablecoinIntent::default()
    });
    Sample {
        order: Order::Devdraft(DevdraftOrder {
            intent: Some(intent),
            customer: Some(DevdraftCustomer {
                email: CANARY.to_owned(),
                ..DevdraftCustomer::default()
            }),
        }),
        reference: Named::Devdraft(DevdraftReference {
            transaction_id: "txn_1".to_owned(),
        }),
        accepted: (json!({ "id": "txn_1", "state": "pending" }), "CREATED"),
        refused: json!({ "statusCode": 400, "message": "no such claw" }),
        missing: (404, json!({ "statusCode": 404, "message": "not found" })),
        shown: json!({ "id": "txn_1", "status": "AWAITING_FUNDS" }),
    }
}

pub(super) fn order(provider: &str) -> Order {
    sample(provider).order
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
    Reply::Json(200, sample(provider).accepted.0)
}

/// The state after [`accepted`].
pub(super) fn accepted_state(provider: &str) -> &'static str {
    sample(provider).accepted.1
}

/// An answer by which the provider will not have this order.
pub(super) fn refused(provider: &str) -> Reply {
    Reply::Json(400, sample(provider).refused)
}

/// An answer to a read by which the provider does not know the purchase.
pub(super) fn missing(provider: &str) -> Reply {
    let (status, body) = sample(provider).missing;
    Reply::Json(status, body)
}

/// The reference that [`accepted`] gives, as a caller names it.
pub(super) fn reference(provider: &str) -> ProviderReference {
    ProviderReference {
        reference: Some(sample(provider).reference),
    }
}

/// An answer to a status read about the purchase of [`reference`].
pub(super) fn shown(provider: &str) -> Reply {
    Reply::Json(200, sample(provider).shown)
}
