//! A purchase that a caller names by an id of no shape that its provider is known to have.

use serde_json::{Value, json};
use tillwatch_proto::v1::{
    CarbonReference, DevdraftReference, InabitReference, MasumiReference, PhygitalsReference,
    ProviderReference, provider_reference::Reference as Named,
};

use super::reading::said;
use crate::{
    provider::REGISTRY,
    purchase::{Timestamp, UnreadId},
    testing::provider,
    upstream::{Request, scripted::json_response},
};

const CONTACT: &str = "7c4a8d09-ca37-62af-a9e5-20943dc26494";
/// Each fits the shape of an id that is kept, and none is of its provider's own.
const IDS: [&str; 4] = [
    "01J8ZK3V9QW4RX5T6Y7U8I9O0P",
    "12345",
    "ORD:2026+11|a=b;c\"<>&",
    "...",
];

fn named(name: &str, id: &str) -> ProviderReference {
    let id = id.to_owned();
    let reference = match name {
        "phygitals" => Named::Phygitals(PhygitalsReference { session_id: id }),
        "masumi" => Named::Masumi(MasumiReference {
            blockchain_identifier: id,
            network: "Preprod".to_owned(),
        }),
        "inabit" => Named::Inabit(InabitReference { purchase_id: id }),
        "carbon" => Named::Carbon(CarbonReference {
            order_id: id,
            contact_id: CONTACT.to_owned(),
        }),
        "devdraft" => Named::Devdraft(DevdraftReference { transaction_id: id }),
        _ => panic!("{name} has no sample"),
    };
    ProviderReference {
        reference: Some(reference),
    }
}

/// A status answer that names the purchase.
fn shown(name: &str, id: &str) -> Value {
    match name {
        "phygitals" => json!({ "status": "pending", "result": { "session_id": id } }),
        "masumi" => json!({ "status": "success", "data": {
            "id": "row",
            "blockchainIdentifier": id,
            "onChainState": "FundsLocked",
            "NextAction": { "requestedAction": "None" },
        } }),
        "inabit" => json!({ "data": { "id": id, "status": "Initiated" } }),
        "carbon" => json!({ "details": { "uuid": id, "status": "-1" } }),
        "devdraft" => json!({ "id": id, "status": "AWAITING_FUNDS" }),
        _ => panic!("{name} has no sample"),
    }
}

/// True if a request has this text in a place of its own, which is encoded when it is sent.
fn carries(request: &Request, id: &str) -> bool {
    let body: Value = (request.body.as_ref())
        .and_then(|body| serde_json::from_slice(body).ok())
        .unwrap_or_default();
    let in_body = (body.as_object().into_iter().flatten()).any(|(_, value)| value == id);
    request.path.iter().any(|segment| segment == id)
        || request.query.iter().any(|(_, value)| value == id)
        || in_body
}

#[test]
fn a_purchase_is_named_and_asked_by_an_id_of_an_unknown_shape() {
    for row in REGISTRY {
        let provider = provider(row.name);
        for id in IDS {
            let case = format!("{} {id}", row.name);
            assert!(UnreadId::has_shape(id), "{case}");
            let reference = provider.reference(&named(row.name, id)).expect(&case);
            let message = (row.reference_message)(&reference);
            assert_eq!(message, named(row.name, id), "{case}: as it was named");
            assert!(carries(&provider.status_request(&reference), id), "{case}");
            let now = Timestamp::default();
            let answer = json_response(200, &shown(row.name, id));
            let read = provider.read_status(&reference, &answer, now);
            assert_ne!(said(&read), "unreadable", "{case}: {read:?}");
            let other = json_response(200, &shown(row.name, &format!("{id}x")));
            let read = provider.read_status(&reference, &other, now);
            assert_eq!(said(&read), "unreadable", "{case}: about another purchase");
        }
        for id in [
            "", ".", "..", "a/b", "a?b", "a#b", "a%b", "a\\b", "a b", "é",
        ] {
            // Masumi's identifier is the order's own, in any visible characters, and in no path.
            let is_identifier = row.name == "masumi" && !id.contains([' ', 'é']) && !id.is_empty();
            let taken = provider.reference(&named(row.name, id)).is_ok();
            assert_eq!(taken, is_identifier, "{} {id:?}", row.name);
        }
    }
}

#[test]
fn an_id_of_an_unknown_shape_stays_one_part_of_a_web_address() {
    let provider = provider("inabit");
    let reference = provider.reference(&named("inabit", "a&b=c+d")).unwrap();
    let answer = json_response(200, &shown("inabit", "a&b=c+d"));
    let read = provider.read_status(&reference, &answer, Timestamp::default());
    let text = format!("{read:?}");
    assert!(text.contains("purchaseId=a%26b%3Dc%2Bd"), "{text}");
}
