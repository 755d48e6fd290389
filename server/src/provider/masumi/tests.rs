//! The provider's requests and answers, held to its fixtures.

mod answers;
mod on_file;
mod orders;
mod pages;
mod statuses;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tillwatch_proto::v1::{MasumiAmount, MasumiOrder, create_purchase_request::Order};

use super::REGISTERED;
use crate::{
    observation::{Answer, Observation, Submitted},
    provider::{
        Intent, Provider, Recovery,
        tests::{
            fixture::{self, answer_of, at},
            reading::{answer_line, submit_line},
        },
    },
    purchase::{PurchaseId, Reference, Secret, Timestamp},
    upstream::Response,
};

/// The fixtures were made by hand for this time, and recorded around that one.
const HAND_MADE_CLOCK: &str = "2026-07-01T10:10:00Z";
const RECORDED_CLOCK: &str = "2026-11-20T12:00:00Z";

const TOKEN: &str = "masumi-payment-TESTONLY0000";

fn provider() -> std::sync::Arc<dyn Provider> {
    let secrets = BTreeMap::from([("token".to_owned(), Secret::new(TOKEN))]);
    (REGISTERED.build)(&secrets).unwrap()
}

/// The intent behind an order with this identifier and input hash.
fn with_intent<T>(
    identifier: &str,
    network: &str,
    input_hash: &str,
    then: impl FnOnce(&Intent<'_>) -> T,
) -> T {
    let recovery = Recovery::from([
        ("blockchain_identifier".to_owned(), identifier.to_owned()),
        ("network".to_owned(), network.to_owned()),
    ]);
    let matches = |field: &str, text: &str| field == "input_hash" && text == input_hash;
    then(&Intent {
        purchase: PurchaseId::from_u128(1),
        create_time: at(HAND_MADE_CLOCK),
        recovery: &recovery,
        matches: &matches,
    })
}

fn submit(intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Submitted {
    let order = MasumiOrder {
        blockchain_identifier: intent.recovery["blockchain_identifier"].clone(),
        network: intent.recovery["network"].clone(),
        ..order()
    };
    fixture::placed(&provider(), Order::Masumi(order)).read(intent, answer, now)
}

/// The way in which a file is read.
#[derive(Clone, Copy, PartialEq)]
enum Read {
    /// As the answer to the request that it was the answer to.
    AsSent,
    /// As the answer to a create, whatever it was.
    Submit,
}

/// The meaning of a file's answer for the sender of its request, in one line. The hand-made files name no
/// request: theirs are the fixtures' one purchase.
fn read_file(of: &str, name: &str, clock: &str, read: Read) -> String {
    let file = fixture::file(of, name);
    let answer = fixture::answer(of, name);
    let now = at(clock);
    let request = file.get("request");
    let submitted = match request {
        Some(request) => request["method"] == "POST" && request["path"] == "/api/v1/purchase",
        None => name.contains("create"),
    };
    let object = [&file["body"]["data"], &file["body"]["object"]];
    let fallback = object.into_iter().find(|object| object.is_object());
    let asked = request.map_or(fallback.unwrap_or(&Value::Null), |request| &request["body"]);
    let text = |field: &str, or: &str| asked[field].as_str().unwrap_or(or).to_owned();
    let identifier = text("blockchainIdentifier", "TEST_blockchain_identifier_0001");
    let network = text("network", "Preprod");
    if submitted || read == Read::Submit {
        return with_intent(&identifier, &network, &text("inputHash", "aa"), |intent| {
            submit_line(&submit(intent, &answer, now))
        });
    }
    let reference = reference(&identifier, &network);
    answer_line(&provider().read_status(&reference, &answer, now))
}

fn reference(identifier: &str, network: &str) -> Reference {
    Reference::new([("blockchain_identifier", identifier), ("network", network)])
}

/// The fixtures' purchase.
fn asked() -> Reference {
    reference("TEST_blockchain_identifier_0001", "Preprod")
}

const INPUT_HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

/// An answer in the envelope of a success.
fn success(data: &Value) -> Response {
    let body = json!({ "status": "success", "data": data });
    answer_of(200, body.to_string().as_bytes())
}

/// The fixtures' purchase in a state, with other fields set on top.
fn purchase(on_chain_state: Value, action: Value, others: Value) -> Value {
    let mut data = fixture::file("masumi", "create_response_200")["body"]["data"].take();
    data["onChainState"] = on_chain_state;
    data["NextAction"]["requestedAction"] = action;
    for (field, value) in others.as_object().unwrap() {
        data[field] = value.clone();
    }
    data
}

fn read_at(data: &Value, now: Timestamp) -> Answer {
    provider().read_status(&asked(), &success(data), now)
}

fn read(data: &Value) -> Answer {
    read_at(data, at(HAND_MADE_CLOCK))
}

fn observed(data: &Value) -> Observation {
    match read(data) {
        Answer::Observed(observation) => *observation,
        other => panic!("{other:?}"),
    }
}

/// A create's answer for the fixtures' order.
fn submitted(answer: &Response) -> Submitted {
    with_intent(
        "TEST_blockchain_identifier_0001",
        "Preprod",
        INPUT_HASH,
        |intent| submit(intent, answer, at(HAND_MADE_CLOCK)),
    )
}

/// A look-up of the fixtures' order, with this input hash.
fn looked_up(data: &Value, input_hash: &str) -> Answer {
    let identifier = "TEST_blockchain_identifier_0001";
    with_intent(identifier, "Preprod", input_hash, |intent| {
        provider().read_look_up(intent, &success(data), at(HAND_MADE_CLOCK))
    })
}

/// The order that a create's body came from.
fn order_of(body: &Value) -> MasumiOrder {
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let time = |field: &str| {
        let millis: i64 = body[field].as_str()?.parse().ok()?;
        Some(prost_types::Timestamp {
            seconds: millis / 1_000,
            nanos: i32::try_from(millis % 1_000).ok()? * 1_000_000,
        })
    };
    let amounts = body["Amounts"].as_array().into_iter().flatten();
    MasumiOrder {
        blockchain_identifier: text("blockchainIdentifier"),
        network: text("network"),
        input_hash: text("inputHash"),
        seller_vkey: text("sellerVkey"),
        agent_identifier: text("agentIdentifier"),
        identifier_from_purchaser: text("identifierFromPurchaser"),
        pay_by_time: time("payByTime"),
        submit_result_time: time("submitResultTime"),
        unlock_time: time("unlockTime"),
        external_dispute_unlock_time: time("externalDisputeUnlockTime"),
        amounts: amounts
            .map(|amount| MasumiAmount {
                amount: amount["amount"].as_str().unwrap().to_owned(),
                unit: amount["unit"].as_str().unwrap().to_owned(),
            })
            .collect(),
        metadata: text("metadata"),
        payment_source_type: text("paymentSourceType"),
        smart_contract_address: text("smartContractAddress"),
        supported_payment_source_index: body["supportedPaymentSourceIndex"]
            .as_u64()
            .map(|index| u32::try_from(index).unwrap()),
        buyer_return_address: text("buyerReturnAddress"),
        seller_return_address: text("sellerReturnAddress"),
    }
}

/// The fixtures' order.
fn order() -> MasumiOrder {
    order_of(&fixture::file("masumi", "create_request")["body"])
}

fn submit_body(order: MasumiOrder) -> Value {
    let order = Order::Masumi(order);
    let request = with_intent("x", "Preprod", "", |intent| {
        fixture::placed(&provider(), order).request(intent)
    });
    serde_json::from_slice(&request.body.unwrap()).unwrap()
}
